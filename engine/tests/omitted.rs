//! Parity finds every launch that is left out, on interpreted kernels: free against a healthy twin,
//! and in lockstep with the CPU.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/omitted.rs"]
mod omitted;

use std::sync::Arc;

use common::{model, shared};
use gannet_engine::Model;
use gannet_engine::internals::exec::cpu::CpuExecutor;
use gannet_engine::internals::exec::interp::InterpExecutor;
use gannet_engine::internals::exec::{Inspect, Limits};
use gannet_engine::internals::kv::KvType;
use gannet_engine::settings::{Buffers, Faults, Precision};
use gannet_engine::tools::parity::{Mode, Tolerance};
use gannet_ptx_gen::target::Target;
use omitted::{Prompt, check, places, spread, table};

const FREE: (Mode, Tolerance) = (Mode::Free, Tolerance::BitEqual);
const LOCKSTEP: (Mode, Tolerance) = (Mode::Lockstep, Tolerance::PerOperation);

/// A slot for every scan, so that each finds positions that nobody wrote.
const LIMITS: Limits = Limits {
    max_rows: 16,
    max_outputs: 1,
    // Enough for decode attention to be split, and merged by a launch of its own.
    context: 128,
    num_slots: 400,
    cache_blocks: 400,
    saved_blocks: 0,
    kv_type: KvType::F16,
};

fn interp(model: &Arc<Model>) -> InterpExecutor {
    let (target, precision) = (Target::Sm80, Precision::Fast);
    let made = InterpExecutor::new(
        Arc::clone(model),
        target,
        precision,
        LIMITS,
        Buffers::Distinct,
    );
    made.unwrap()
}

/// Leaves out about `count` launches of a step of `rows` tokens, one at a time, and returns how many
/// that were.
fn scan(model: &Arc<Model>, rows: u32, count: usize, modes: &[(Mode, Tolerance)]) -> usize {
    let vocab_size = model.plan().vocab_size;
    let (mut healthy, mut faulty) = (interp(model), interp(model));
    let mut cpu = CpuExecutor::new(
        Arc::clone(model),
        Precision::Exact,
        LIMITS,
        Buffers::Distinct,
    )
    .unwrap();
    let table = table(&healthy);
    let first = Prompt::new(rows, 0, vocab_size);
    let all = places(&mut healthy, &first.step(&table)).unwrap();
    let chosen = spread(all, count);
    let mut slots = 1..;
    for place in &chosen {
        faulty.set_faults(Faults {
            omit_launch: Some(place.launch),
            ..Faults::default()
        });
        for &mode in modes {
            let prompt = Prompt::new(rows, slots.next().unwrap(), vocab_size);
            let left: &mut dyn Inspect = if mode == FREE { &mut healthy } else { &mut cpu };
            check(left, &mut faulty, &prompt.step(&table), mode, place);
        }
    }
    chosen.len()
}

#[test]
fn any_launch_of_a_micro_model() {
    for family in ["llama", "qwen2", "qwen3"] {
        let part = format!("golden/arch/{family}/{family}.gguf");
        let Some(path) = shared("omitted launches", &part) else {
            continue;
        };
        let model = model(&path);
        for rows in [1, 12] {
            let found = scan(&model, rows, usize::MAX, &[FREE, LOCKSTEP]);
            println!("{family}, {rows} rows: {found} launches");
            assert!(found >= 20, "{family}: {found}");
        }
    }
}

#[test]
fn launches_of_the_trained_model() {
    let Some(path) = shared("omitted launches", "models/rustdoc-tiny-Q4_K_M.gguf") else {
        return;
    };
    let model = model(&path);
    assert!(scan(&model, 1, 21, &[FREE]) >= 20);
    assert!(scan(&model, 9, 3, &[FREE]) >= 3);
}
