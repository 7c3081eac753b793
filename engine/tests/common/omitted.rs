//! A launch left out must be found: for each place in a step's list, parity with a healthy executor
//! fails first at a buffer that the launch should have written.

#![allow(dead_code, unreachable_pub, reason = "each test target uses its part")]

use gannet_engine::Error;
use gannet_engine::internals::exec::{Executor, Inspect, Step, StepRows};
use gannet_engine::internals::kv::BlockTable;
use gannet_engine::tools::parity::{Mode, Report, Tolerance, diff};

/// A launch, by its index in the list of a step, and the buffers that show its absence.
#[derive(Debug)]
pub struct Place {
    pub launch: usize,
    pub unit: String,
    pub buffers: Vec<String>,
}

/// A step of `rows` tokens of a slot, at its first positions.
pub struct Prompt(StepRows);

impl Prompt {
    pub fn new(rows: u32, slot: u32, vocab_size: usize) -> Prompt {
        let token = |i: u32| (i * i * 7 + 3 * i + slot + 11) % vocab_size as u32;
        let tokens: Vec<u32> = (0..rows).map(token).collect();
        Prompt(StepRows::of_slot(&tokens, slot as usize, 0..tokens.len()))
    }

    pub fn step<'a>(&'a self, table: &'a BlockTable) -> Step<'a> {
        self.0.step(table)
    }
}

/// A table of the executor's slots, each with its first block.
pub fn table(executor: &dyn Executor) -> BlockTable {
    let limits = executor.limits();
    let mut table = BlockTable::new(limits.num_slots, limits.context, limits.cache_blocks);
    for slot in 0..limits.num_slots {
        table
            .reserve(slot, 32)
            .unwrap_or_else(|e| panic!("a block for each slot: {e}"));
    }
    table
}

/// Every launch of a step, counted while a healthy executor runs it unit by unit.
pub fn places(executor: &mut dyn Inspect, step: &Step<'_>) -> Result<Vec<Place>, Error> {
    executor.begin(step)?;
    let units = executor.units(step.shape())?;
    let mut places = Vec::new();
    for (i, unit) in units.iter().enumerate() {
        let before = executor.stats().launches;
        executor.run_unit(step, i)?;
        // What a write to the cache makes is seen by the attention that follows.
        let attention = || units[i..].iter().find(|u| u.name.contains("attention "));
        let seen = if unit.writes.is_empty() {
            attention()
        } else {
            Some(unit)
        };
        let writes = seen.map_or(&[][..], |u| &u.writes);
        let plan = executor.plan();
        let names: Vec<String> = (writes.iter().map(|&b| plan.buffer(b).name.clone())).collect();
        for _ in before..executor.stats().launches {
            places.push(Place {
                launch: places.len(),
                unit: unit.name.clone(),
                buffers: names.clone(),
            });
        }
    }
    Ok(places)
}

/// About `count` of the places, spread evenly, the first and the last among them.
pub fn spread(places: Vec<Place>, count: usize) -> Vec<Place> {
    let every = places.len().saturating_sub(1) / count.saturating_sub(1).max(1);
    let last = places.len().saturating_sub(1);
    let chosen = |place: &Place| place.launch.is_multiple_of(every.max(1)) || place.launch == last;
    places.into_iter().filter(chosen).collect()
}

/// Scans a step on which `faulty` leaves out the launch of a place.
pub fn check(
    healthy: &mut dyn Inspect,
    faulty: &mut dyn Inspect,
    step: &Step<'_>,
    (mode, tolerance): (Mode, Tolerance),
    place: &Place,
) {
    let report = diff(healthy, faulty, step, mode, tolerance)
        .unwrap_or_else(|e| panic!("{mode:?}, without {place:?}: {e}"));
    found(&report, place);
}

/// That a report names a buffer of the place that was left out.
pub fn found(report: &Report, place: &Place) {
    let failure = report.first_failure();
    let failure = failure.unwrap_or_else(|| panic!("{place:?} is not missed: {}", report.right));
    assert!(
        place.buffers.contains(&failure.buffer),
        "without {place:?} the first failure is {failure:?}"
    );
}
