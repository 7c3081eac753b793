//! A launch that is left out on a GPU is found, however launches reach it: parity finds those of a
//! step, and a decode without one of those that choose its tokens gives others or fails.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/omitted.rs"]
mod omitted;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use common::{gpu, model, shared};
use gannet_engine::internals::exec::{DecodeStart, Executor, ExecutorKind, Step, StepRows};
use gannet_engine::internals::kv::BlockTable;
use gannet_engine::internals::plan::StepRow;
use gannet_engine::settings::{Buffers, DiskCache, Faults};
use gannet_engine::tools::make_executor;
use gannet_engine::tools::parity::{Mode, Tolerance};
use gannet_engine::{DeviceChoice, Error, ExecutorChoice, Model, Sampling, Settings};
use omitted::{Prompt, check, places, spread, table};

/// Rows of the steps that are scanned, each in a slot of its own: a token is replayed, a prompt is
/// not.
const STEPS: [u32; 2] = [1, 40];

/// Sequences of a batch: its products run on the kernels for batches.
const TOGETHER: usize = 16;

/// Places in each list.
const PLACES: usize = 20;

/// Tokens of a decode.
const TOKENS: usize = 12;

fn executor(
    model: &Arc<Model>,
    slots: usize,
    choice: ExecutorChoice,
    omit_launch: Option<usize>,
    cache: &Path,
) -> Box<dyn Executor> {
    let options = Settings {
        device: DeviceChoice::Cuda(0),
        executor: choice,
        // Enough for decode attention to be split, and merged by a launch of its own.
        context: Some(1024),
        slots: Some(slots),
        buffers: Buffers::Distinct,
        faults: Faults {
            omit_launch,
            ..Faults::default()
        },
        gate: false,
        disk_cache: DiskCache {
            folder: Some(cache.to_owned()),
            ..DiskCache::default()
        },
        ..Settings::default()
    };
    make_executor(model, &options).unwrap().executor
}

/// The trained model, where there is a GPU to run it on.
fn trained(test: &str) -> Option<Arc<Model>> {
    if !gpu(test) {
        return None;
    }
    Some(model(&shared(test, "models/rustdoc-tiny-Q4_K_M.gguf")?))
}

/// Leaves out launches of a step, one at a time.
fn scan_step(
    make: &dyn Fn(ExecutorChoice, Option<usize>) -> Box<dyn Executor>,
    (choice, kind): (ExecutorChoice, ExecutorKind),
    step: &Step<'_>,
) {
    let mut healthy = make(ExecutorChoice::Eager, None);
    let all = places(healthy.inspect(), step).unwrap();
    let count = all.len();
    let chosen = spread(all, PLACES);
    assert!(chosen.len() >= PLACES, "{} of {count}", chosen.len());
    for place in &chosen {
        let mut faulty = make(choice, Some(place.launch));
        assert_eq!(faulty.kind(), kind);
        let free = (Mode::Free, Tolerance::BitEqual);
        check(healthy.inspect(), faulty.inspect(), step, free, place);
    }
    let rows = step.rows();
    println!("{kind}, {rows} rows: found {} of {count}", chosen.len());
}

fn scan(choice: ExecutorChoice, kind: ExecutorKind) {
    let Some(model) = trained(&format!("omitted launches on {kind}")) else {
        return;
    };
    // Compiled once, not once an executor.
    let cache = tempfile::tempdir().unwrap();
    let make = |choice, omit| executor(&model, STEPS.len(), choice, omit, cache.path());
    for (slot, rows) in STEPS.into_iter().enumerate() {
        let table = table(make(ExecutorChoice::Eager, None).as_ref());
        let prompt = Prompt::new(rows, slot as u32, model.plan().vocab_size);
        scan_step(&make, (choice, kind), &prompt.step(&table));
    }
}

fn scan_batch(choice: ExecutorChoice, kind: ExecutorKind) {
    let Some(model) = trained(&format!("omitted launches of a batch on {kind}")) else {
        return;
    };
    let cache = tempfile::tempdir().unwrap();
    let make = |choice, omit| executor(&model, TOGETHER, choice, omit, cache.path());
    let table = table(make(ExecutorChoice::Eager, None).as_ref());
    // The last two rows are dead.
    let rows = StepRows::batch((0..TOGETHER as u32).map(|slot| {
        let length = u32::from((slot as usize) < TOGETHER - 2);
        StepRow::new(11 + 7 * slot, length, slot)
    }));
    scan_step(&make, (choice, kind), &rows.step(&table));
}

/// Sequences of one token each, all different.
fn starts(sampling: &Sampling) -> Vec<DecodeStart<'_>> {
    let start = |slot: u32| DecodeStart {
        row: StepRow::new(11 + 7 * slot, 1, slot),
        sampling,
        history: &[],
        draws: 0,
    };
    (0..TOGETHER as u32).map(start).collect()
}

/// Tokens that the sequences give.
fn decode(
    executor: &mut dyn Executor,
    table: &BlockTable,
    sampling: &Sampling,
) -> Result<Vec<Vec<u32>>, Error> {
    let starts = starts(sampling);
    let mut found = vec![Vec::new(); TOGETHER];
    executor.decode(&starts, TOKENS, table, &mut |i, token| {
        found[i].push(token);
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// What follows the plan's launches in a decoding step.
fn scan_decode(choice: ExecutorChoice, kind: ExecutorKind) {
    let Some(model) = trained(&format!("omitted launches of a decode on {kind}")) else {
        return;
    };
    let cache = tempfile::tempdir().unwrap();
    let make = |choice, omit| executor(&model, TOGETHER, choice, omit, cache.path());
    let greedy = Sampling::default();
    let drawn = Sampling {
        temperature: 1.0,
        top_k: 20,
        repetition_penalty: 1.2,
        seed: 3,
        ..Sampling::default()
    };
    let mut healthy = make(choice, None);
    let table = table(healthy.as_ref());
    let device = healthy.measure().unwrap();
    let launches = device.launch_times(&starts(&drawn), 1, &table).unwrap();
    let units: Vec<String> = launches.into_iter().map(|l| l.unit).collect();
    let planned = units.len() - 3;
    assert_eq!(units[planned..], ["filter", "draw", "advance"]);
    let behind_drawn = ["filter", "draw", "advance"];
    for (sampling, behind) in [(&greedy, &behind_drawn[2..]), (&drawn, &behind_drawn[..])] {
        let expected = decode(healthy.as_mut(), &table, sampling).unwrap();
        assert_eq!(
            decode(make(choice, None).as_mut(), &table, sampling).unwrap(),
            expected
        );
        for (i, unit) in behind.iter().enumerate() {
            let mut faulty = make(choice, Some(planned + i));
            assert_eq!(faulty.kind(), kind);
            match decode(faulty.as_mut(), &table, sampling) {
                // Nobody says that a step is over.
                Err(Error::Internal { what: why }) => {
                    assert_eq!(*unit, "advance", "{why}");
                    assert!(why.contains("without writing a token"), "{why}");
                }
                Err(other) => panic!("without {unit}: {other}"),
                Ok(found) => {
                    assert_ne!(*unit, "advance");
                    assert_ne!(found, expected, "{kind} without {unit}");
                }
            }
        }
        // One behind them all is nothing to miss.
        let mut whole = make(choice, Some(planned + behind.len()));
        assert_eq!(decode(whole.as_mut(), &table, sampling).unwrap(), expected);
    }
}

#[test]
fn gpu_eager_without_a_launch() {
    scan(ExecutorChoice::Eager, ExecutorKind::CudaEager);
}

#[test]
fn gpu_graph_without_a_launch() {
    scan(ExecutorChoice::Graph, ExecutorKind::CudaGraph);
}

#[test]
fn gpu_capture_without_a_launch() {
    scan(ExecutorChoice::Capture, ExecutorKind::CudaCapture);
}

#[test]
fn gpu_eager_without_a_launch_of_a_batch() {
    scan_batch(ExecutorChoice::Eager, ExecutorKind::CudaEager);
}

#[test]
fn gpu_graph_without_a_launch_of_a_batch() {
    scan_batch(ExecutorChoice::Graph, ExecutorKind::CudaGraph);
}

#[test]
fn gpu_capture_without_a_launch_of_a_batch() {
    scan_batch(ExecutorChoice::Capture, ExecutorKind::CudaCapture);
}

#[test]
fn gpu_eager_without_a_launch_that_chooses() {
    scan_decode(ExecutorChoice::Eager, ExecutorKind::CudaEager);
}

#[test]
fn gpu_graph_without_a_launch_that_chooses() {
    scan_decode(ExecutorChoice::Graph, ExecutorKind::CudaGraph);
}

#[test]
fn gpu_capture_without_a_launch_that_chooses() {
    scan_decode(ExecutorChoice::Capture, ExecutorKind::CudaCapture);
}
