//! The parity gate on interpreted kernels: quiet where they are right, loud where one is left out.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/omitted.rs"]
mod omitted;

use std::sync::Arc;

use common::{model, shared};
use gannet_engine::exec::interp::InterpExecutor;
use gannet_engine::exec::{Buffers, Faults, Limits, Precision};
use gannet_engine::{Model, gate};
use gannet_ptx_gen::target::Target;
use omitted::{Prompt, places, table};

/// As it serves: buffers share memory.
fn interp(model: &Arc<Model>, limits: Limits) -> InterpExecutor {
    let (target, precision) = (Target::Sm80, Precision::Fast);
    let made = InterpExecutor::new(
        Arc::clone(model),
        target,
        precision,
        limits,
        Buffers::Shared,
    );
    made.unwrap()
}

fn healthy(part: &str) {
    let Some(path) = shared("the gate on healthy kernels", part) else {
        return;
    };
    let model = model(&path);
    // Room for the prompt, for a part of it, and for a single token.
    for context in [128, 6, 1] {
        let mut executor = interp(&model, Limits::new(1, context));
        let reports = gate::check(&model, &mut executor).unwrap();
        assert_eq!(reports.len(), if context == 1 { 1 } else { 2 });
        for report in reports {
            let failure = report.first_failure();
            assert!(failure.is_none(), "{part}, {}: {failure:?}", report.step);
            assert!(report.passes());
            println!("{part}, {}: worst {:?}", report.step, report.worst());
        }
    }
}

#[test]
fn healthy_micro_models_pass() {
    for family in ["llama", "llama3-scaled", "qwen2", "qwen3"] {
        healthy(&format!("golden/arch/{family}/{family}.gguf"));
    }
}

#[test]
fn the_healthy_trained_model_passes() {
    healthy("models/rustdoc-tiny-Q4_K_M.gguf");
}

#[test]
fn any_launch_that_is_left_out_is_found() {
    for family in ["llama", "qwen2", "qwen3"] {
        let part = format!("golden/arch/{family}/{family}.gguf");
        let Some(path) = shared("the gate on omitted launches", &part) else {
            continue;
        };
        let model = model(&path);
        let vocab_size = model.plan().vocab_size;
        let mut executor = interp(&model, Limits::new(1, 128));
        let table = table(&executor);
        // The lists of the gate's two steps: a prompt, and a token.
        let lists = [12, 1].map(|rows| {
            let prompt = Prompt::new(rows, 0, vocab_size);
            places(&mut executor, &prompt.step(&table)).unwrap()
        });
        let count = lists.iter().map(Vec::len).max().unwrap();
        assert!(count >= 20, "{family}: {count}");
        for launch in 0..count {
            let mut executor = interp(&model, Limits::new(1, 128));
            executor.set_faults(Faults {
                omit_launch: Some(launch),
                ..Faults::default()
            });
            let reports = gate::check(&model, &mut executor).unwrap();
            for (report, list) in reports.iter().zip(&lists) {
                match list.get(launch) {
                    Some(place) => omitted::found(report, place),
                    None => assert!(report.passes(), "{family}, {launch}: {}", report.step),
                }
            }
        }
    }
}
