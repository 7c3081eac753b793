//! Steps that queue: sequences that share steps give what each gives alone, whatever is mixed.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/queue.rs"]
mod queue;

use std::sync::Arc;

use common::{model, shared};
use gannet_engine::internals::exec::cpu::CpuExecutor;
use gannet_engine::internals::exec::interp::InterpExecutor;
use gannet_engine::internals::exec::{Executor, Limits};
use gannet_engine::settings::{Buffers, Precision};
use gannet_ptx_gen::target::Target;
use queue::{sequences, together};

const TOKENS: usize = 7;

fn limits() -> Limits {
    Limits {
        max_rows: 40,
        ..Limits::new(4, 64)
    }
}

fn steps_that_mix(mut make: impl FnMut() -> Box<dyn Executor>) {
    for drawn in [false, true] {
        let vocab_size = make().plan().vocab_size;
        let all = sequences(vocab_size, drawn);
        let alone: Vec<Vec<u32>> = all
            .iter()
            .map(|s| {
                let one = std::slice::from_ref(s);
                together(make().as_mut(), one, TOKENS, 0).remove(0)
            })
            .collect();
        assert!(alone.iter().all(|tokens| tokens.len() == TOKENS));
        for ahead in [0, 3] {
            assert_eq!(together(make().as_mut(), &all, TOKENS, ahead), alone);
        }
    }
}

#[test]
fn steps_mix_on_the_cpu() {
    for part in ["arch/qwen3/qwen3", "arch2/gpt2/gpt2"] {
        let Some(path) = shared("queued steps", &format!("golden/{part}.gguf")) else {
            continue;
        };
        let model = model(&path);
        let make = || {
            CpuExecutor::new(
                Arc::clone(&model),
                Precision::Exact,
                limits(),
                Buffers::Shared,
            )
        };
        steps_that_mix(|| Box::new(make().unwrap()));
    }
}

#[test]
fn steps_mix_on_interpreted_kernels() {
    let Some(path) = shared("queued steps", "golden/arch/llama/llama.gguf") else {
        return;
    };
    let model = model(&path);
    let make = || {
        let (target, exact) = (Target::Sm90a, Precision::Exact);
        InterpExecutor::new(Arc::clone(&model), target, exact, limits(), Buffers::Shared)
    };
    steps_that_mix(|| Box::new(make().unwrap()));
}
