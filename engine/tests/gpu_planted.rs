//! Values that are no numbers, or too large or small, in place of a weight, on a GPU: its logits are those
//! of the reference or an error that names the operation.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/plants.rs"]
mod plants;
mod reference;

use common::{gpu, shared};
use gannet_engine::settings::Precision;
use gannet_engine::{DeviceChoice, ExecutorChoice};
use plants::{generates_nothing, plant_everywhere, runner, with_a_nan_in_down};

#[test]
fn gpu_weights() {
    if !gpu("planted weights") {
        return;
    }
    let on_gpu = (DeviceChoice::Cuda(0), Precision::Fast);
    let mut runners = vec![runner("cuda", on_gpu, 1e-3, 1.0 / 1024.0)];
    runners[0].settings.executor = ExecutorChoice::Graph;
    for name in ["Q4_K_M", "F16"] {
        let part = format!("models/rustdoc-tiny-{name}.gguf");
        if let Some(file) = shared("planted weights", &part) {
            plant_everywhere(&file, &runners, 1e-2);
        }
    }
}

#[test]
fn gpu_generation_ends_with_the_operation() {
    if gpu("generation of no numbers")
        && let Some(model) = with_a_nan_in_down("generation of no numbers")
    {
        generates_nothing(&model, DeviceChoice::Cuda(0));
    }
}
