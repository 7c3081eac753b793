//! Many sequences on a GPU: what they have in common is held and computed once, blocks are copied
//! when somebody writes, and whoever had to give way gives the same text later.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/sequences.rs"]
mod sequences;

use std::collections::BTreeSet;
use std::sync::Arc;

use common::{gpu, model, shared};
use gannet_engine::internals::exec::{Executor, StepRows};
use gannet_engine::internals::kv::{BlockTable, KvType};
use gannet_engine::internals::plan::StepRow;
use gannet_engine::settings::Precision;
use gannet_engine::tools::make_executor;
use gannet_engine::{Batch, DeviceChoice, GenerateOptions, Model, Settings};
use sequences::{add_known, known_prefix, out_of_blocks, prompt, run_all};

fn tiny(test: &str) -> Option<Arc<Model>> {
    if !gpu(test) {
        return None;
    }
    Some(model(&shared(test, "models/rustdoc-tiny-Q4_K_M.gguf")?))
}

fn options(slots: usize, context: usize) -> Settings {
    Settings {
        device: DeviceChoice::Cuda(0),
        context: Some(context),
        slots: Some(slots),
        gate: false,
        ..Settings::default()
    }
}

/// Arithmetic that hardly depends on the rows of a step: texts alone and in a batch are the same.
fn exact(slots: usize, context: usize) -> Settings {
    Settings {
        precision: Precision::Exact,
        kv_type: KvType::F32,
        ..options(slots, context)
    }
}

#[test]
fn gpu_the_same_prompt_is_held_once() {
    if let Some(model) = tiny("a prompt held once") {
        sequences::whole_blocks_in_common(&model, &exact);
    }
}

#[test]
fn gpu_a_block_that_is_not_whole_is_everyones_own() {
    if let Some(model) = tiny("a block in common") {
        sequences::part_of_a_block_in_common(&model, &exact);
    }
}

/// The same as it is served: the kernels of a batch compute every row alike, so that sequences with
/// blocks in common, copied ones and their own give one text.
#[test]
fn gpu_sequences_of_one_prompt_give_one_text() {
    let Some(model) = tiny("one text of one prompt") else {
        return;
    };
    for kv_type in [KvType::F16, KvType::BF16, KvType::Int8] {
        let options = Settings {
            kv_type,
            ..options(32, 128)
        };
        let mut batch = Batch::new(&model, &options).unwrap();
        let prompt = prompt(&model, 0, 64);
        let greedy = GenerateOptions {
            max_tokens: 40,
            ignore_eog: true,
            ..GenerateOptions::default()
        };
        add_known(&mut batch, &prompt, &greedy, 32);
        let finished = run_all(&mut batch);
        assert!(finished.iter().all(|(_, g)| g.tokens.len() == 40));
        let texts: BTreeSet<_> = finished.into_iter().map(|(_, g)| g.tokens).collect();
        assert_eq!(texts.len(), 1, "{kv_type:?}");
        assert_eq!(batch.stats().copied_blocks, 32);
    }
}

#[test]
fn gpu_a_known_prefix_is_not_computed_again() {
    if let Some(model) = tiny("a known prefix") {
        known_prefix(&model, &exact);
    }
}

#[test]
fn gpu_sequences_that_run_out_of_blocks_give_the_same_text_later() {
    if let Some(model) = tiny("sequences without blocks") {
        out_of_blocks(&model, &exact);
    }
}

/// The logits of one token of a slot behind `length - 1` others.
fn logits(executor: &mut dyn Executor, table: &BlockTable, slot: u32, length: u32) -> Vec<u32> {
    let rows = StepRows::batch([StepRow::new(7, length, slot)]);
    executor.run(&rows.step(table)).unwrap();
    let logits = executor.logits().unwrap().iter();
    logits.map(|l| l.to_bits()).collect()
}

#[test]
fn gpu_copied_blocks_hold_what_was_copied() {
    let Some(model) = tiny("copies of blocks") else {
        return;
    };
    let tokens = prompt(&model, 0, 100);
    let kv_types = [KvType::F16, KvType::BF16, KvType::F32, KvType::Int8];
    for kv_type in kv_types {
        let options = Settings {
            kv_type,
            ..options(2, 128)
        };
        let mut executor = make_executor(&model, &options).unwrap().executor;
        let limits = executor.limits();
        let mut table = BlockTable::new(2, limits.context, limits.cache_blocks);
        for slot in 0..2 {
            table.reserve(slot, limits.context).unwrap();
        }
        let rows = StepRows::prompt(&tokens, 0, 0);
        executor.run(&rows.step(&table)).unwrap();
        let executor = executor.as_mut();
        let expected = logits(executor, &table, 0, 101);
        assert_ne!(logits(executor, &table, 1, 101), expected, "{kv_type:?}");
        let blocks = table.entries().len() / 2;
        let (from, to) = table.entries().split_at(blocks);
        let pairs: Vec<(u32, u32)> = from.iter().copied().zip(to.iter().copied()).collect();
        // All but the first: layers, keys and values of each must have been copied.
        executor.copy_blocks(&pairs[1..]).unwrap();
        assert_ne!(logits(executor, &table, 1, 101), expected, "{kv_type:?}");
        executor.copy_blocks(&pairs[..1]).unwrap();
        executor.copy_blocks(&[(to[0], to[0])]).unwrap();
        assert_eq!(logits(executor, &table, 1, 101), expected, "{kv_type:?}");
        // What was copied from is as it was.
        assert_eq!(logits(executor, &table, 0, 101), expected, "{kv_type:?}");
        let outside = limits.cache_blocks as u32;
        executor.copy_blocks(&[(0, outside)]).unwrap_err();
    }
}

#[test]
fn gpu_saved_blocks_come_back_as_they_were() {
    let Some(model) = tiny("blocks on the host") else {
        return;
    };
    let tokens = prompt(&model, 0, 100);
    let kv_types = [KvType::F16, KvType::BF16, KvType::F32, KvType::Int8];
    for kv_type in kv_types {
        let options = Settings {
            kv_type,
            saved_blocks: Some(5),
            ..options(2, 128)
        };
        let mut executor = make_executor(&model, &options).unwrap().executor;
        let limits = executor.limits();
        let mut table = BlockTable::new(2, limits.context, limits.cache_blocks);
        for slot in 0..2 {
            table.reserve(slot, limits.context).unwrap();
        }
        let rows = StepRows::prompt(&tokens, 0, 0);
        executor.run(&rows.step(&table)).unwrap();
        let executor = executor.as_mut();
        let expected = logits(executor, &table, 0, 101);
        let blocks = table.entries().len() / 2;
        let (from, to) = table.entries().split_at(blocks);
        let places = [4, 1, 2, 0];
        let pairs = |of: &[u32]| of.iter().copied().zip(places).collect::<Vec<_>>();
        let waits = executor.stats().synchronizations;
        executor.save_blocks(&pairs(from)).unwrap();
        assert_eq!(executor.stats().synchronizations, waits, "{kv_type:?}");
        // What is saved is what was there before the next step.
        let other = prompt(&model, 1, 100);
        executor
            .run(&StepRows::prompt(&other, 0, 0).step(&table))
            .unwrap();
        let waits = executor.stats().synchronizations;
        let restores: Vec<_> = pairs(to).iter().map(|&(b, p)| (p, b)).collect();
        executor.restore_blocks(&restores[1..]).unwrap();
        assert_eq!(executor.stats().synchronizations, waits, "{kv_type:?}");
        assert_ne!(logits(executor, &table, 1, 101), expected, "{kv_type:?}");
        executor.restore_blocks(&restores[..1]).unwrap();
        assert_eq!(logits(executor, &table, 1, 101), expected, "{kv_type:?}");
        executor.save_blocks(&[(0, 5)]).unwrap_err();
        let outside = limits.cache_blocks as u32;
        executor.restore_blocks(&[(0, outside)]).unwrap_err();
    }
}
