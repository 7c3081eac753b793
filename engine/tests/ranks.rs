//! Ranks on executors that need no GPU: a plan cut for several gives what the whole gives, as far as
//! sums in another order allow, and the same bits every time.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

mod common;

use std::ops::ControlFlow;
use std::sync::Arc;

use common::{Divergence, micro_file, model, shared};
use gannet_engine::internals::exec::cpu::CpuExecutor;
use gannet_engine::internals::exec::interp::InterpExecutor;
use gannet_engine::internals::exec::{DecodeStart, Executor, Limits, RankedExecutor, StepRows};
use gannet_engine::internals::kv::{BlockTable, KvType};
use gannet_engine::internals::plan::{Plan, StepRow, partition};
use gannet_engine::settings::{Buffers, Precision};
use gannet_engine::tools::gate;
use gannet_engine::tools::parity::{Mode, Report, Tolerance, diff};
use gannet_engine::tools::synth::{self, ShapeName, SynthOptions, TypeMix};
use gannet_engine::{Error, Model, Sampling};
use gannet_ptx_gen::target::Target;

/// Micro-models of F32 weights, each with something that a cut must get right, and numbers of ranks.
const MODELS: &[(&str, &[usize])] = &[
    // A head of its own; four ranks are more than its two key/value heads.
    ("golden/arch/llama", &[2, 4]),
    // Biases of queries, keys and values; a head that is the embedding.
    ("golden/arch/qwen2", &[2, 4]),
    // Norms of single heads.
    ("golden/arch/qwen3", &[2, 4]),
    // Norms behind sums, a window, and caps on scores and on logits.
    ("golden/arch/gemma2", &[2, 4]),
    // Two rotations, windows in most layers.
    ("golden/arch/gemma3", &[2]),
    // Fused tensors.
    ("golden/arch/phi3", &[2, 4]),
    // Rows by position, biases of norms and of terms, a unit without a gate.
    ("golden/arch2/gpt2", &[2, 4]),
];

/// The cache of keys is exact, so that only sums differ.
const LIMITS: Limits = Limits {
    max_rows: 32,
    max_outputs: 32,
    context: 64,
    num_slots: 3,
    cache_blocks: 6,
    saved_blocks: 2,
    kv_type: KvType::F32,
};

/// Largest divergence of logits: far above what the order of sums does in f32, far below what a
/// missing term does.
const NMSE: f64 = 1e-10;
const KLD: f64 = 1e-9;

type Make = fn(Arc<Model>, Buffers) -> Box<dyn Executor>;

fn cpu(model: Arc<Model>, buffers: Buffers) -> Box<dyn Executor> {
    let made = CpuExecutor::new(model, Precision::Exact, LIMITS, buffers);
    Box::new(made.unwrap())
}

fn interp(model: Arc<Model>, buffers: Buffers) -> Box<dyn Executor> {
    let (target, precision) = (Target::Sm90a, Precision::Exact);
    let made = InterpExecutor::new(model, target, precision, LIMITS, buffers);
    Box::new(made.unwrap())
}

const EXECUTORS: &[(&str, Make)] = &[("cpu", cpu), ("interp", interp)];

fn ranked(model: &Arc<Model>, ranks: usize, make: Make, buffers: Buffers) -> RankedExecutor {
    RankedExecutor::new(model, ranks, |share| Ok(make(share, buffers))).unwrap()
}

fn micro(test: &str, folder: &str) -> Option<Arc<Model>> {
    let path = shared(test, &micro_file(folder))?;
    Some(model(&path))
}

fn table() -> BlockTable {
    let mut table = BlockTable::new(LIMITS.num_slots, LIMITS.context, LIMITS.cache_blocks);
    // Interleaved, so that no slot's blocks are neighbours.
    for positions in [32, 64] {
        for slot in 0..LIMITS.num_slots {
            table.reserve(slot, positions).unwrap();
        }
    }
    table
}

/// Tokens of a slot.
fn tokens(slot: u32, count: u32, vocab_size: usize) -> Vec<u32> {
    let token = |i| (i * i * 7 + 3 * i + slot * 5 + 11) % vocab_size as u32;
    (0..count).map(token).collect()
}

/// Logits of a prompt, of a batch of all slots with a dead row, and the tokens that decoding gives
/// behind them.
fn logits_and_tokens(executor: &mut dyn Executor) -> (Vec<f32>, Vec<Vec<u32>>) {
    let (table, vocab_size) = (table(), executor.plan().vocab_size);
    let mut logits = Vec::new();
    let prompts: Vec<Vec<u32>> = (0..3).map(|s| tokens(s, 9 + 6 * s, vocab_size)).collect();
    for (slot, prompt) in (0..).zip(&prompts) {
        let rows = prompt.len() as u32;
        let step = StepRows::prompt(prompt, slot, 0).with_outputs([0, rows / 2, rows - 1]);
        executor.run(&step.step(&table)).unwrap();
        logits.extend_from_slice(executor.logits().unwrap());
    }
    let row = StepRow::new;
    let rows = [
        row(5, 22, 2),
        StepRow::default(),
        row(6, 10, 0),
        row(7, 16, 1),
    ];
    let batch = StepRows::new(rows).with_outputs([0, 2, 3]);
    executor.run(&batch.step(&table)).unwrap();
    logits.extend_from_slice(executor.logits().unwrap());
    let greedy = Sampling::default();
    let starts: Vec<DecodeStart<'_>> = (prompts.iter().enumerate())
        .map(|(slot, prompt)| DecodeStart::after(slot, prompt, &greedy))
        .collect();
    let mut decoded = vec![Vec::new(); starts.len()];
    executor
        .decode(&starts, 3, &table, &mut |i, token| {
            decoded[i].push(token);
            ControlFlow::Continue(())
        })
        .unwrap();
    (logits, decoded)
}

fn nmse(expected: &[f32], found: &[f32]) -> f64 {
    assert_eq!(expected.len(), found.len());
    let square = |x: f64| x * x;
    let pairs = expected.iter().zip(found);
    let difference: f64 = pairs
        .map(|(&e, &f)| square(f64::from(e) - f64::from(f)))
        .sum();
    difference / expected.iter().map(|&e| square(f64::from(e))).sum::<f64>()
}

#[test]
fn several_ranks_give_what_one_gives() {
    for &(name, counts) in MODELS {
        let Some(model) = micro("ranks", name) else {
            continue;
        };
        let vocab_size = model.plan().vocab_size;
        for &(executor, make) in EXECUTORS {
            let mut one = make(Arc::clone(&model), Buffers::Shared);
            let (expected, tokens) = logits_and_tokens(one.as_mut());
            for &ranks in counts {
                let run = || {
                    let mut several = ranked(&model, ranks, make, Buffers::Shared);
                    logits_and_tokens(&mut several)
                };
                let (found, decoded) = run();
                let mut divergence = Divergence::default();
                let rows = expected.chunks(vocab_size).zip(found.chunks(vocab_size));
                rows.for_each(|(e, f)| divergence.add(e, f));
                let error = nmse(&expected, &found);
                let (worst, what) = (divergence.max, format!("{name}, {ranks} ranks, {executor}"));
                println!("{what}: NMSE {error:.1e}, KLD at most {worst:.1e}");
                assert!(
                    error <= NMSE && worst <= KLD,
                    "{what}: {error:e}, {worst:e}"
                );
                assert!(error > 0.0, "{what}: nothing was summed in another order");
                assert_eq!(decoded, tokens, "{what}");
                // The same bits from run to run.
                let again = run();
                let bits = |logits: &[f32]| logits.iter().map(|l| l.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&again.0), bits(&found), "{what}");
                assert_eq!(again.1, decoded, "{what}");
            }
        }
    }
}

/// Columns of quantised matrices are cut in whole blocks, and no longer lie together in the file.
#[test]
fn ranks_share_quantised_matrices() {
    for mix in [TypeMix::Q8_0, TypeMix::Q4_1] {
        let options = SynthOptions {
            shape: ShapeName::Tiny,
            mix,
            seed: 3,
            vocab_from: None,
        };
        let mut file = tempfile::NamedTempFile::new().unwrap();
        synth::write(&options, &mut file, &mut |_, _| {}).unwrap();
        let model = model(file.path());
        let (expected, tokens) = logits_and_tokens(cpu(model.clone(), Buffers::Shared).as_mut());
        for ranks in [2, 4] {
            let mut several = ranked(&model, ranks, cpu, Buffers::Shared);
            let (found, decoded) = logits_and_tokens(&mut several);
            let error = nmse(&expected, &found);
            println!("{mix}, {ranks} ranks: NMSE {error:.1e}");
            assert!(
                error > 0.0 && error <= NMSE,
                "{mix}, {ranks} ranks: {error:e}"
            );
            assert_eq!(decoded, tokens, "{mix}, {ranks} ranks");
        }
    }
}

/// Every operation of the whole plan, on what ranks hold of its buffers.
#[test]
fn ranks_agree_with_the_cpu_buffer_by_buffer() {
    for &(name, counts) in MODELS {
        let Some(model) = micro("parity of ranks", name) else {
            continue;
        };
        // What ranks hold apart of a feed-forward unit, with a gate or without.
        let hidden = match model.plan().find("blk.1.ffn_up.act") {
            Some(_) => "blk.1.ffn_up.act",
            None => "blk.1.ffn_gate.glu",
        };
        for &ranks in counts {
            let mut one = cpu(Arc::clone(&model), Buffers::Distinct);
            let mut several = ranked(&model, ranks, interp, Buffers::Distinct);
            let table = table();
            let tokens = tokens(0, 13, model.plan().vocab_size);
            let rows = StepRows::of_slot(&tokens, 1, 0..13);
            let step = rows.step(&table);
            let (lockstep, limits) = (Mode::Lockstep, Tolerance::PerOperation);
            let report = diff(one.inspect(), several.inspect(), &step, lockstep, limits).unwrap();
            let failure = report.first_failure();
            assert!(report.passes(), "{name}, {ranks} ranks: {failure:?}");
            let compared: Vec<&str> = report.buffers.iter().map(|r| r.buffer.as_str()).collect();
            for layer in ["blk.0.attention", hidden, "logits", "next"] {
                assert!(compared.contains(&layer), "{layer}: {compared:?}");
            }
        }
    }
}

/// The check before first use takes several ranks for one executor.
#[test]
fn the_gate_passes_ranks() {
    let Some(model) = micro("the gate on ranks", "golden/arch/qwen2") else {
        return;
    };
    let mut several = ranked(&model, 2, interp, Buffers::Shared);
    let reports = gate::check(&model, several.inspect()).unwrap();
    assert!(!reports.is_empty() && reports.iter().all(Report::passes));
}

#[test]
fn prefixes_are_copied_on_every_rank() {
    let Some(model) = micro("copies of ranks", "golden/arch/llama") else {
        return;
    };
    let vocab_size = model.plan().vocab_size;
    let mut several = ranked(&model, 2, cpu, Buffers::Shared);
    let table = table();
    let prompt = tokens(0, 9, vocab_size);
    let mut step = |slot: usize, range: std::ops::Range<usize>, copied: Option<(u32, u32)>| {
        if let Some(pair) = copied {
            several.copy_blocks(&[pair]).unwrap();
        }
        let rows = StepRows::of_slot(&prompt, slot, range);
        several.run(&rows.step(&table)).unwrap();
        several.logits().unwrap().to_vec()
    };
    step(0, 0..8, None);
    let expected = step(0, 8..9, None);
    let first_blocks = (table.entries()[0], table.entries()[2]);
    assert_eq!(step(1, 8..9, Some(first_blocks)), expected);
}

/// A sequence of two blocks goes to the host, its place is taken, and it goes on elsewhere.
fn goes_on_where_it_is_restored(executor: &mut dyn Executor, vocab_size: usize) {
    let table = table();
    let (prompt, other) = (tokens(0, 41, vocab_size), tokens(9, 41, vocab_size));
    let run = |executor: &mut dyn Executor, tokens: &[u32], slot, range| {
        let rows = StepRows::of_slot(tokens, slot, range);
        executor.run(&rows.step(&table)).unwrap();
        executor.logits().unwrap().to_vec()
    };
    run(executor, &prompt, 0, 0..32);
    run(executor, &prompt, 0, 32..40);
    let expected = run(executor, &prompt, 0, 40..41);
    let blocks = |slot: usize| [0, 1].map(|i| table.entries()[slot * 2 + i]);
    let saves: Vec<(u32, u32)> = blocks(0).into_iter().zip([1, 0]).collect();
    executor.save_blocks(&saves).unwrap();
    run(executor, &other, 0, 0..32);
    run(executor, &other, 0, 32..40);
    let of_other = run(executor, &other, 0, 40..41);
    executor.save_blocks(&[(0, 2)]).unwrap_err();
    executor.save_blocks(&[(6, 0)]).unwrap_err();
    executor.restore_blocks(&[(2, 0)]).unwrap_err();
    let restores: Vec<(u32, u32)> = [1, 0].into_iter().zip(blocks(1)).collect();
    executor.restore_blocks(&restores).unwrap();
    assert_eq!(run(executor, &prompt, 1, 40..41), expected);
    // Nothing else has moved.
    assert_eq!(run(executor, &other, 0, 40..41), of_other);
}

#[test]
fn saved_sequences_go_on_where_they_are_restored() {
    let Some(model) = micro("saved sequences", "golden/arch/llama") else {
        return;
    };
    let vocab_size = model.plan().vocab_size;
    let alone = cpu(Arc::clone(&model), Buffers::Shared);
    let interpreted = interp(Arc::clone(&model), Buffers::Shared);
    let several = Box::new(ranked(&model, 2, cpu, Buffers::Shared));
    let executors: [Box<dyn Executor>; 3] = [alone, interpreted, several];
    for mut executor in executors {
        goes_on_where_it_is_restored(executor.as_mut(), vocab_size);
    }
}

#[test]
fn numbers_of_ranks_that_do_not_fit_are_refused_with_those_that_do() {
    let refused = |plan: &Plan, ranks| match partition(plan, ranks) {
        Err(Error::Request(line)) => line,
        other => panic!("{ranks} ranks: {:?}", other.map(|_| ())),
    };
    if let Some(model) = micro("ranks that do not fit", "golden/arch/llama") {
        let three = refused(model.plan(), 3);
        assert!(
            three.contains("3 ranks do not divide 4 query heads"),
            "{three}"
        );
        assert!(
            three.ends_with("ranks that fit this model: 1, 2, 4"),
            "{three}"
        );
        refused(model.plan(), 0);
        refused(&partition(model.plan(), 2).unwrap().plans()[0], 2);
    }
    // Blocks of 256 elements are not cut.
    if let Some(path) = shared("ranks within a block", "models/rustdoc-tiny-Q4_K_M.gguf") {
        let model = model(&path);
        let counts: Vec<usize> = (1..=16)
            .filter(|&n| partition(model.plan(), n).is_ok())
            .collect();
        let line = refused(model.plan(), 16);
        println!("rustdoc-tiny: {counts:?}; {line}");
        assert!(line.contains(" of 256"), "{line}");
    }
}

/// One rank alone has terms of sums, and no logits.
#[test]
fn a_share_does_not_run_alone() {
    let Some(model) = micro("a rank alone", "golden/arch/llama") else {
        return;
    };
    let plan = Arc::clone(&partition(model.plan(), 2).unwrap().plans()[1]);
    let share = Arc::new(model.of_rank(plan));
    let table = table();
    let rows = StepRows::of_slot(&[1], 0, 0..1);
    let step = rows.step(&table);
    for &(name, make) in EXECUTORS {
        let found = make(Arc::clone(&share), Buffers::Shared).run(&step);
        assert!(matches!(found, Err(Error::Request(_))), "{name}: {found:?}");
    }
}
