//! Parity finds a launch that is left out on a GPU, however launches reach it.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/omitted.rs"]
mod omitted;

use std::path::Path;
use std::sync::Arc;

use common::{gpu, model, shared};
use gannet_engine::device::make_executor;
use gannet_engine::exec::{Buffers, Executor, Faults};
use gannet_engine::parity::{Mode, Tolerance};
use gannet_engine::{Config, DeviceChoice, ExecutorChoice, Model, SessionOptions};
use omitted::{Prompt, check, places, spread, table};

/// Rows of the steps that are scanned, each in a slot of its own: a token is replayed, a prompt is
/// not.
const STEPS: [u32; 2] = [1, 40];

/// Places in each list.
const PLACES: usize = 20;

fn executor(
    model: &Arc<Model>,
    choice: ExecutorChoice,
    omit_launch: Option<usize>,
    cache: &Path,
) -> Box<dyn Executor> {
    let options = SessionOptions {
        device: DeviceChoice::Cuda(0),
        executor: choice,
        // Enough for decode attention to be split, and merged by a launch of its own.
        context: Some(1024),
        slots: Some(STEPS.len()),
        buffers: Buffers::Distinct,
        faults: Faults {
            omit_launch,
            ..Faults::default()
        },
        config: Config {
            cache_dir: Some(cache.to_owned()),
            gate: false,
            ..Config::default()
        },
        ..SessionOptions::default()
    };
    make_executor(model, &options).unwrap().executor
}

fn scan(choice: ExecutorChoice, name: &str) {
    let test = format!("omitted launches on {name}");
    if !gpu(&test) {
        return;
    }
    let Some(path) = shared(&test, "models/rustdoc-tiny-Q4_K_M.gguf") else {
        return;
    };
    let model = model(&path);
    let vocab_size = model.plan().vocab_size;
    // Compiled once, not once an executor.
    let cache = tempfile::tempdir().unwrap();
    let make = |choice, omit| executor(&model, choice, omit, cache.path());
    for (slot, rows) in STEPS.into_iter().enumerate() {
        let mut healthy = make(ExecutorChoice::Eager, None);
        let table = table(healthy.as_ref());
        let prompt = Prompt::new(rows, slot as u32, vocab_size);
        let step = prompt.step(&table);
        let all = places(healthy.as_mut(), &step).unwrap();
        let count = all.len();
        let chosen = spread(all, PLACES);
        assert!(chosen.len() >= PLACES, "{} of {count}", chosen.len());
        for place in &chosen {
            let mut faulty = make(choice, Some(place.launch));
            assert_eq!(faulty.name(), name);
            let free = (Mode::Free, Tolerance::BitEqual);
            check(healthy.as_mut(), faulty.as_mut(), &step, free, place);
        }
        println!("{name}, {rows} rows: found {} of {count}", chosen.len());
    }
}

#[test]
fn gpu_eager_without_a_launch() {
    scan(ExecutorChoice::Eager, "cuda-eager");
}

#[test]
fn gpu_graph_without_a_launch() {
    scan(ExecutorChoice::Graph, "cuda-graph");
}

#[test]
fn gpu_capture_without_a_launch() {
    scan(ExecutorChoice::Capture, "cuda-capture");
}
