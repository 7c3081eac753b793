//! Sessions and measurements on a GPU: where tokens are chosen, and what a report tells.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

#[path = "common/chooses.rs"]
mod chooses;
mod common;
#[path = "common/omitted.rs"]
mod omitted;

use std::sync::Arc;

use chooses::the_cpu_chooses_alone;
use common::{gpu, model, shared};
use gannet_engine::settings::{Faults, Precision};
use gannet_engine::tools::bench::{self, BenchOptions};
use gannet_engine::{DeviceChoice, ExecutorKind, Model, Settings};

fn tiny(test: &str) -> Option<Arc<Model>> {
    if !gpu(test) {
        return None;
    }
    shared(test, "models/rustdoc-tiny-Q4_K_M.gguf").map(|path| model(&path))
}

#[test]
fn gpu_greedy_tokens_are_chosen_on_the_cpu_where_that_is_asked_for() {
    let Some(model) = tiny("tokens chosen on the CPU") else {
        return;
    };
    let options = Settings {
        device: DeviceChoice::Cuda(0),
        ..Settings::default()
    };
    the_cpu_chooses_alone(&model, options);
}

/// What only running could show is in the report: graphs that could not be built, and how often
/// that mattered.
#[test]
fn gpu_bench_tells_of_graphs_that_could_not_be_built() {
    let Some(model) = tiny("bench without graphs") else {
        return;
    };
    let settings = Settings {
        faults: Faults {
            refuse_graphs: true,
            ..Faults::default()
        },
        device: DeviceChoice::Cuda(0),
        precision: Precision::Exact,
        ..Settings::default()
    };
    let what = BenchOptions {
        prompts: vec![16],
        generate: 8,
        repeats: 1,
        ..BenchOptions::default()
    };
    let report = bench::run(&model, &settings, &what, &mut |_| {}).unwrap();
    assert!(report.notice.unwrap().contains("no graph could be built"));
    assert!(report.fallbacks >= 8, "{}", report.fallbacks);
    assert_eq!(report.executor, ExecutorKind::CudaEager);
}
