//! The parity gate: before a GPU first serves a model, it is held against the CPU, and what it
//! serves against itself.
//!
//! A short prompt and a token after it run unit by unit, and every unit is held against what the CPU
//! computes from the same inputs: all of its output, but of matrix products a sample of the output
//! features, so that every weight matrix is looked at and the whole takes a fraction of a second.
//! Products run once more with a row beyond f16 (`beyond`). Where the CPU computes what is not finite, too,
//! the model is at fault and not the device (`numbers`). Buffers may share memory: a unit's output is
//! read before the next unit runs. Then `served` runs whole steps the way they are served, which no CPU
//! needs to compute again:
//!
//! - the next token decoded as it is served (a graph where one is replayed), bit by bit against its
//!   launches one after the other;
//! - a chunk on the kernels of long prompts, against the same tokens in short steps;
//! - with several slots, a batch of all of them: replayed against launch by launch, and two of its
//!   sequences against themselves alone.
//!
//! What does not fit the context or the rows of a step is left out. Not looked at: drawn tokens,
//! batches of fewer sequences than there are slots, long contexts.
//!
//! A pass is remembered in the cache folder under the model and all that decides what runs (file, GPU,
//! driver, build, precision, type of the cache, variants, executor, what was looked at), and
//! nothing runs the next time; without a folder it runs every time. A failure is an error that names
//! the unit and the buffer; it is not remembered, and neither is a model that gives no numbers.

mod beyond;
mod numbers;
mod record;
mod reference;
mod served;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use numbers::Watch;
pub(crate) use record::{Identity, Serving};
pub use record::{Passed, passed};

pub(crate) use reference::Reference;

use crate::Error;
use crate::error::GateFailure;
use crate::exec::trace::is_idle;
use crate::exec::{Inspect, Limits, Step, StepRows};
use crate::kv::{BLOCK_TOKENS, BlockTable};
use crate::lower::Unit;
use crate::lower::{BATCH_MAX_ROWS, GEMV_MAX_ROWS};
use crate::model::Model;
use crate::plan::{Buf, Plan};
use crate::tools::parity::{Made, Report, Tolerance, Written};

/// Tokens of the prompt: more rows than matrix-vector kernels take.
const PROMPT: usize = GEMV_MAX_ROWS + 4;

/// Tokens of the chunk: enough for the kernels of many rows.
const CHUNK: usize = BATCH_MAX_ROWS + 8;

/// Steps of the batch: what the last one reads, others have written.
const BATCH_STEPS: usize = 2;

/// How far past the limits of parity an error may be. A sample of a buffer strays further than the
/// whole, and what is wrong is wrong by orders of magnitude; nobody should lose a GPU to rounding.
const SLACK: f64 = 8.0;

/// What of a prompt's and a batch's steps is checked, by the sizes of an executor. Each step has
/// positions of its own: what a launch that is missing should have written to the cache must not be
/// there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Coverage {
    /// Tokens of the prompt; a token follows that is a step of its own.
    prompt: usize,
    /// Whether the token after that is decoded as it is served.
    decoded: bool,
    /// Tokens of a chunk of the prompt that runs on the kernels for many rows; 0: none.
    chunk: usize,
    /// Sequences of a batch; 0: none.
    batch: usize,
}

impl Coverage {
    /// What an executor has room for.
    pub(crate) fn of(limits: Limits) -> Coverage {
        let context = limits.context.min(limits.cache_blocks * BLOCK_TOKENS);
        let room = |from: usize| context.saturating_sub(from);
        let prompt = PROMPT.min(limits.max_rows).min(room(2));
        let decoded = room(prompt) >= 2;
        let before_chunk = prompt + 2;
        let chunk = CHUNK.min(limits.max_rows).min(room(before_chunk));
        let chunk = if chunk > BATCH_MAX_ROWS { chunk } else { 0 };
        let before_batch = before_chunk + chunk;
        let blocks = (before_batch + BATCH_STEPS).div_ceil(BLOCK_TOKENS);
        let batch = limits
            .num_slots
            .min(limits.cache_blocks.saturating_sub(blocks) + 1);
        // Steps of a batch have a power of two of rows, each with its logits.
        let rows = limits.max_rows.min(limits.max_outputs);
        let fits =
            batch > 1 && batch.next_power_of_two() <= rows && room(before_batch) >= BATCH_STEPS;
        Coverage {
            prompt,
            decoded,
            chunk,
            batch: if fits { batch } else { 0 },
        }
    }

    /// Positions of the first sequence that are written.
    fn positions(self) -> usize {
        let batch = if self.batch > 0 { BATCH_STEPS } else { 0 };
        self.prompt + 1 + usize::from(self.decoded) + self.chunk + batch
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Coverage {
            prompt,
            decoded,
            chunk,
            batch,
        } = self;
        let decoded = if *decoded { ", a decoded token" } else { "" };
        write!(
            f,
            "a prompt of {prompt}, a token{decoded}, a chunk of {chunk}, a batch of {batch}"
        )
    }
}

/// The tokens of a slot: any do; these differ from each other and between slots.
fn tokens(slot: usize, count: usize, vocab_size: usize) -> Vec<u32> {
    let token = |i: usize| ((i * 37 + slot * 5 + 11) % vocab_size) as u32;
    (0..count).map(token).collect()
}

/// Holds an executor against the CPU on a prompt and on the token after it, and then what it serves
/// against that (`served`), unless the CPU found something; a report of each step. Writes the
/// first positions of the executor's cache.
///
/// # Errors
/// The device failed, or the plan has something that cannot be computed apart.
pub fn check(model: &Arc<Model>, device: &mut dyn Inspect) -> Result<Vec<Report>, Error> {
    let limits = device.limits();
    let coverage = Coverage::of(limits);
    let prompt = coverage.prompt;
    let mut table = BlockTable::new(limits.num_slots, limits.context, limits.cache_blocks);
    table.reserve(0, coverage.positions())?;
    let mut reference = Reference::new(model, prompt + 1)?;
    let tokens = tokens(0, coverage.positions(), model.plan().vocab_size);
    let mut reports = Vec::new();
    for rows in [0..prompt, prompt..prompt + 1] {
        if rows.is_empty() {
            continue;
        }
        let rows = StepRows::of_slot(&tokens, 0, rows);
        // What is no number is handed on through the cache, too.
        let watch = Watch::new(reports.iter().all(Report::passes));
        let step = rows.step(&table);
        reports.push(check_step(device, &mut reference, &step, watch)?);
    }
    if reports.iter().all(Report::passes) {
        reports.extend(served::check(device, coverage, &mut table)?);
    }
    Ok(reports)
}

/// Holds a step against the CPU.
///
/// # Errors
/// [`Error::NotFinite`] where nobody can compute the model, or the device failed.
fn check_step(
    device: &mut dyn Inspect,
    reference: &mut Reference,
    step: &Step<'_>,
    mut watch: Watch,
) -> Result<Report, Error> {
    let plan = device.plan().clone();
    let units = device.units(step.shape())?;
    let readers = last_readers(&units);
    device.begin(step)?;
    device.poison()?;
    reference.begin(step)?;
    let mut report = Report {
        left: "the CPU".to_owned(),
        right: device.kind().to_string(),
        step: format!("first use, step of {}", step.rows()),
        position: step.lengths()[0] as usize - 1,
        rows: step.rows(),
        buffers: Vec::new(),
    };
    // What the device computed and a later unit reads. A unit that spoils another's output fails
    // where that is read.
    let mut made: HashMap<Buf, Vec<f32>> = HashMap::new();
    let mut beside = None;
    for (i, unit) in units.iter().enumerate() {
        if is_idle(&plan, unit, step) {
            continue;
        }
        device.run_unit(step, i)?;
        let place = Place {
            plan: &plan,
            units: &units,
            index: i,
            step,
        };
        let computed = reference.unit(unit, &made, step)?;
        if !computed.stored.is_empty() {
            beside = watch.stored(&place, &computed.stored, device)?;
        }
        let mut unit_watch = watch;
        for expected in computed.expected {
            let Some(found) = device.read(expected.buffer)? else {
                continue;
            };
            watch.computed(&place, &expected)?;
            watch.attended(&place, &found, &mut beside)?;
            let strays = expected.strays(&plan, &found);
            let strays = reference.at(unit, &made, expected.buffer, strays);
            let written = Written {
                unit: &unit.name,
                buffer: expected.buffer,
                made: &Made::of(&plan, expected.buffer, device.limits().kv_type, &[&units]),
                tolerance: Tolerance::PerOperation,
            };
            for expected in [Some(expected), strays].into_iter().flatten() {
                watch.computed(&place, &expected)?;
                let sampled = expected.pick(&plan, &found);
                let mut row = written.compare(&plan, &expected.values, &sampled);
                row.limit *= SLACK;
                row.pass = row.nmse <= row.limit;
                report.buffers.push(row);
            }
            unit_watch.found(&found);
            made.insert(written.buffer, found);
        }
        watch = unit_watch;
        let beyond = beyond::check(device, reference, &place, &made)?;
        report.buffers.extend(beyond);
        made.retain(|b, _| readers.get(b).is_some_and(|&last| last > i));
    }
    Ok(report)
}

/// A unit in a step.
struct Place<'a> {
    plan: &'a Plan,
    units: &'a [Unit],
    index: usize,
    step: &'a Step<'a>,
}

impl<'a> Place<'a> {
    fn unit(&self) -> &'a Unit {
        &self.units[self.index]
    }
}

/// The last unit that reads each buffer.
fn last_readers(units: &[Unit]) -> HashMap<Buf, usize> {
    let read = |(i, unit): (usize, &Unit)| unit.reads.iter().map(move |&b| (b, i)).collect();
    units
        .iter()
        .enumerate()
        .flat_map::<Vec<_>, _>(read)
        .collect()
}

/// Checks an executor called `name`, unless what it is to be remembered under has passed before.
///
/// # Errors
/// [`Error::Gate`] with the unit and the buffer, or the device failed.
pub(crate) fn at_first_use(
    model: &Arc<Model>,
    device: &mut dyn Inspect,
    name: &str,
    identity: Option<&Identity>,
) -> Result<(), Error> {
    if identity.is_some_and(Identity::has_passed) {
        return Ok(());
    }
    for report in check(model, device)? {
        if let Some(row) = report.first_failure() {
            return Err(Error::Gate(Box::new(GateFailure {
                device: name.to_owned(),
                unit: row.unit.clone(),
                buffer: row.buffer.clone(),
                step: report.step.clone(),
                against: report.left.clone(),
                nmse: row.nmse,
                limit: row.limit,
            })));
        }
    }
    tracing::debug!(device = name, "the gate has passed");
    if let Some(identity) = identity {
        identity.remember();
    }
    Ok(())
}

#[cfg(all(test, feature = "interp"))]
mod tests {
    use super::*;
    use crate::exec::interp::InterpExecutor;
    use crate::settings::{Buffers, Faults, Precision};

    #[test]
    fn a_device_that_computes_wrongly_is_an_error_of_its_own_kind() {
        let file = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../cli/models/rustdoc-tiny-Q4_K_M.gguf"
        );
        let model = Arc::new(Model::open(file).unwrap());
        let target = gannet_ptx_gen::target::Target::Sm80;
        let (limits, shared) = (Limits::new(1, 16), Buffers::Shared);
        let of = Arc::clone(&model);
        let mut device = InterpExecutor::new(of, target, Precision::Fast, limits, shared).unwrap();
        // The second launch: the first norm, which every later unit reads from.
        device.set_faults(Faults {
            omit_launch: Some(1),
            ..Faults::default()
        });
        match at_first_use(&model, &mut device, "a GPU", None) {
            Err(Error::Gate(failure)) => {
                let line = failure.to_string();
                assert!(
                    line.starts_with("a GPU computes this model wrongly"),
                    "{line}"
                );
                for way_out in ["--device cpu", "--no-gate"] {
                    assert!(line.contains(way_out) && !line.contains('\n'), "{line}");
                }
            }
            other => panic!("{other:?}"),
        }
    }
}
