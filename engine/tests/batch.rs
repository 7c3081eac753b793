//! Batch is a dimension of the one plan: sequences in several slots give what each gives alone.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

mod common;

use std::ops::ControlFlow;
use std::sync::Arc;

use common::{model, shared};
use gannet_engine::Model;
use gannet_engine::internals::exec::cpu::CpuExecutor;
use gannet_engine::internals::exec::interp::InterpExecutor;
use gannet_engine::internals::exec::sample::Sampling;
use gannet_engine::internals::exec::{DecodeStart, Executor, Limits, StepRows};
use gannet_engine::internals::kv::{BlockTable, KvType};
use gannet_engine::internals::plan::StepRow;
use gannet_engine::settings::{Buffers, Precision};
use gannet_ptx_gen::target::Target;

const LIMITS: Limits = Limits {
    max_rows: 16,
    max_outputs: 4,
    context: 70,
    num_slots: 3,
    cache_blocks: 9,
    saved_blocks: 0,
    kv_type: KvType::F16,
};

const PROMPTS: [&[u32]; 3] = [&[3, 141, 59, 26, 5], &[35, 89, 79], &[1; 40]];

fn executors(model: &Arc<Model>) -> Vec<Box<dyn Executor>> {
    let interp = InterpExecutor::new(
        Arc::clone(model),
        Target::Sm90a,
        Precision::Exact,
        LIMITS,
        Buffers::Shared,
    );
    let cpu = CpuExecutor::new(Arc::clone(model), Precision::Exact, LIMITS, Buffers::Shared);
    vec![
        Box::new(cpu.unwrap_or_else(|e| panic!("{e}"))),
        Box::new(interp.unwrap_or_else(|e| panic!("{e}"))),
    ]
}

/// Feeds a prompt to a slot, in chunks that fit.
fn feed(executor: &mut dyn Executor, table: &BlockTable, slot: u32, prompt: &[u32]) {
    for (i, chunk) in prompt.chunks(LIMITS.max_rows).enumerate() {
        let rows = StepRows::prompt(chunk, slot as usize, i * LIMITS.max_rows);
        executor.run(&rows.step(table)).unwrap();
    }
}

fn table() -> BlockTable {
    let blocks = BlockTable::blocks_for(LIMITS.num_slots, LIMITS.context);
    let mut table = BlockTable::new(LIMITS.num_slots, LIMITS.context, blocks);
    // Interleaved, so that no slot's blocks are neighbours.
    for positions in [32, 64] {
        for slot in 0..LIMITS.num_slots {
            table.reserve(slot, positions).unwrap();
        }
    }
    table
}

#[test]
fn slots_in_one_step_give_what_each_gives_alone() {
    for name in ["llama", "qwen3"] {
        let part = format!("golden/arch/{name}/{name}.gguf");
        let Some(path) = shared("batch", &part) else {
            continue;
        };
        let model = model(&path);
        let vocab = model.plan().vocab_size;
        for mut executor in executors(&model) {
            let executor = executor.as_mut();
            let table = table();
            for (slot, prompt) in (0..).zip(PROMPTS) {
                feed(executor, &table, slot, prompt);
            }
            let next = [7u32, 8, 9];
            let lengths: Vec<u32> = PROMPTS.iter().map(|p| p.len() as u32 + 1).collect();
            let row = |slot: usize| StepRow::new(next[slot], lengths[slot], slot as u32);
            let mut alone = Vec::new();
            for slot in 0..3 {
                let rows = StepRows::batch([row(slot)]);
                executor.run(&rows.step(&table)).unwrap();
                alone.extend_from_slice(executor.logits().unwrap());
            }
            // Together, in another order, with a row that does nothing between them.
            let rows = [row(2), StepRow::default(), row(0), row(1)];
            let rows = StepRows::new(rows).with_outputs([0, 2, 3]);
            executor.run(&rows.step(&table)).unwrap();
            let together = executor.logits().unwrap().to_vec();
            for (row, slot) in [(0, 2), (1, 0), (2, 1)] {
                assert_eq!(
                    together[row * vocab..][..vocab],
                    alone[slot * vocab..][..vocab],
                    "{name}, slot {slot}, {}",
                    executor.kind()
                );
            }
        }
    }
}

/// Sequences that end before others do leave them what they give alone.
#[test]
fn sequences_end_at_their_limits() {
    const STEPS: usize = 6;
    let Some(path) = shared("limits", "golden/arch/llama/llama.gguf") else {
        return;
    };
    let model = model(&path);
    let sampling = Sampling::default();
    for mut executor in executors(&model) {
        let executor = executor.as_mut();
        let table = table();
        for (slot, prompt) in (0..).zip(PROMPTS) {
            feed(executor, &table, slot, &prompt[..prompt.len() - 1]);
        }
        let mut decode = |own: [u32; 3]| {
            let start = |slot: usize| {
                let mut start = DecodeStart::after(slot, PROMPTS[slot], &sampling);
                start.row.limit = match own[slot] {
                    0 => 0,
                    own => PROMPTS[slot].len() as u32 + own - 1,
                };
                start
            };
            let starts = [0, 1, 2].map(start);
            let mut found = vec![Vec::new(); 3];
            let ended = executor.decode(&starts, STEPS, &table, &mut |i, token| {
                found[i].push(token);
                ControlFlow::Continue(())
            });
            ended.map(|()| found)
        };
        let free = decode([0, 0, 0]).unwrap();
        let limited = decode([2, 0, 5]).unwrap();
        for (slot, own) in [(0, 2), (1, STEPS), (2, 5)] {
            assert_eq!(limited[slot], free[slot][..own], "slot {slot}");
        }
        let all = decode([1, 1, 1]).unwrap();
        assert!(all.iter().zip(&free).all(|(one, free)| *one == free[..1]));
    }
}

#[test]
fn a_sequence_at_its_limit_is_refused() {
    let Some(path) = shared("limits", "golden/arch/llama/llama.gguf") else {
        return;
    };
    let sampling = Sampling::default();
    let mut start = DecodeStart::after(0, PROMPTS[0], &sampling);
    start.row.limit = PROMPTS[0].len() as u32 - 1;
    for mut executor in executors(&model(&path)) {
        let on_token = &mut |_, _| ControlFlow::Continue(());
        let refused = executor.decode(&[start], 3, &table(), on_token);
        let why = refused.unwrap_err().to_string();
        assert!(why.contains("at its limit"), "{why}");
    }
}
