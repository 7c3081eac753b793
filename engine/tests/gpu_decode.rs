//! Decoding on a GPU: the same tokens however launches reach it, alone or in a batch, chosen there
//! or on the CPU, and no host in the loop.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/queue.rs"]
mod queue;

use std::ops::ControlFlow;
use std::sync::Arc;

use common::{gpu, model, shared};
use gannet_engine::internals::exec::sample::argmax;
use gannet_engine::internals::exec::{DecodeStart, Executor, ExecutorKind, StepRows};
use gannet_engine::internals::kv::{BlockTable, KvType};
use gannet_engine::internals::plan::StepRow;
use gannet_engine::settings::{Faults, Precision};
use gannet_engine::tools::make_executor;
use gannet_engine::tools::parity::{MARGIN, ParityOptions, Side, compare, prompts};
use gannet_engine::{DeviceChoice, Error, ExecutorChoice, Model, SamplerOn, Sampling, Settings};

/// Makes a test of each check for each file, so that one without its file is skipped alone.
macro_rules! files {
    ($($module:ident: $part:literal,)*) => {
        $(mod $module {
            files! { @ $part
                gpu_tokens_do_not_depend_on_the_executor: the_same_tokens_from_every_executor,
                gpu_slots_give_what_each_gives_alone: slots_give_what_each_gives_alone,
                gpu_rows_of_a_batch_may_change_places: rows_of_a_batch_may_change_places,
                gpu_sequences_end_at_their_limits: sequences_end_at_their_limits,
                gpu_queued_steps_mix: queued_steps_mix,
                gpu_sampled_text_is_that_of_the_cpu: sampled_text_is_that_of_the_cpu,
                gpu_sampled_text_is_that_of_a_batch: sampled_text_is_that_of_a_batch,
            }
        })*
    };
    (@ $part:literal $($test:ident: $check:ident,)*) => {
        $(#[test]
        fn $test() {
            super::$check($part);
        })*
    };
}

files! {
    q4_k_m: "models/rustdoc-tiny-Q4_K_M.gguf",
    q8_0: "models/rustdoc-tiny-Q8_0.gguf",
    f16: "models/rustdoc-tiny-F16.gguf",
}

/// A file's model, where there is a GPU to run it on.
fn on_gpu(test: &str, part: &str) -> Option<Arc<Model>> {
    if !gpu(test) {
        return None;
    }
    Some(model(&shared(test, part)?))
}

fn tiny(test: &str) -> Option<Arc<Model>> {
    on_gpu(test, "models/rustdoc-tiny-Q4_K_M.gguf")
}

fn options(executor: ExecutorChoice, slots: usize) -> Settings {
    Settings {
        device: DeviceChoice::Cuda(0),
        executor,
        context: Some(384),
        max_rows: Some(64),
        slots: Some(slots),
        ..Settings::default()
    }
}

/// Tokens of a prompt, the same for every test.
fn prompt(vocab_size: usize) -> Vec<u32> {
    let token = |i: u32| (i * i * 7 + 3 * i + 11) % vocab_size as u32;
    (0..40).map(token).collect()
}

/// An executor with a sequence in each slot.
struct Rig {
    executor: Box<dyn Executor>,
    table: BlockTable,
    sequences: Vec<Vec<u32>>,
}

impl Rig {
    /// Feeds a prompt to each slot, all but its last token.
    fn new(model: &Arc<Model>, options: &Settings) -> Rig {
        let mut executor = make_executor(model, options).unwrap().executor;
        let limits = executor.limits();
        let mut table = BlockTable::new(limits.num_slots, limits.context, limits.cache_blocks);
        let sequences = prompts(&prompt(model.plan().vocab_size), limits.num_slots);
        for (slot, tokens) in sequences.iter().enumerate() {
            table.reserve(slot, limits.context).unwrap();
            let rows = tokens.len() - 1;
            let rows = StepRows::prompt(&tokens[..rows], slot, 0);
            executor.run(&rows.step(&table)).unwrap();
        }
        Rig {
            executor,
            table,
            sequences,
        }
    }

    /// Decodes some slots together, each with its own sampling, until `keep` ends a sequence.
    fn decode_while(
        &mut self,
        slots: &[usize],
        sampling: &[Sampling],
        steps: usize,
        mut keep: impl FnMut(usize, &[u32]) -> bool,
    ) -> Result<Vec<Vec<u32>>, Error> {
        let start = |&slot: &usize| DecodeStart {
            row: StepRow::last(&self.sequences[slot], slot),
            sampling: &sampling[slot],
            history: &self.sequences[slot],
            draws: 0,
        };
        let starts: Vec<DecodeStart<'_>> = slots.iter().map(start).collect();
        let mut found = vec![Vec::new(); slots.len()];
        let mut on_token = |i: usize, token: u32| {
            found[i].push(token);
            match keep(i, &found[i]) {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        };
        (self.executor).decode(&starts, steps, &self.table, &mut on_token)?;
        Ok(found)
    }

    /// Decodes every slot greedily, each for so many steps of its own.
    fn decode_own(&mut self, own: &[usize]) -> Vec<Vec<u32>> {
        let sampling = Sampling::default();
        let start = |(slot, own): (usize, &usize)| {
            let mut start = DecodeStart::after(slot, &self.sequences[slot], &sampling);
            start.row.limit = (self.sequences[slot].len() + own - 1) as u32;
            start
        };
        let starts: Vec<DecodeStart<'_>> = own.iter().enumerate().map(start).collect();
        let mut found = vec![Vec::new(); own.len()];
        let mut on_token = |i: usize, token: u32| {
            found[i].push(token);
            ControlFlow::Continue(())
        };
        let steps = own.iter().copied().max().unwrap();
        (self.executor)
            .decode(&starts, steps, &self.table, &mut on_token)
            .unwrap();
        found
    }

    fn decode(&mut self, slots: &[usize], sampling: &[Sampling], steps: usize) -> Vec<Vec<u32>> {
        self.decode_while(slots, sampling, steps, |_, _| true)
            .unwrap()
    }

    /// Greedy tokens of a slot alone, step by step, and each one's margin over the next best.
    fn alone(&mut self, slot: usize, steps: usize) -> Vec<(u32, f32)> {
        let mut token = *self.sequences[slot].last().unwrap();
        let first = self.sequences[slot].len() as u32;
        (first..)
            .take(steps)
            .map(|length| {
                let rows = StepRows::batch([StepRow::new(token, length, slot as u32)]);
                self.executor.run(&rows.step(&self.table)).unwrap();
                let logits = self.executor.logits().unwrap();
                token = argmax(logits);
                let others = (0..).zip(logits).filter(|&(i, _)| i != token);
                let second = others.map(|(_, &l)| l).fold(f32::NEG_INFINITY, f32::max);
                (token, logits[token as usize] - second)
            })
            .collect()
    }
}

fn the_same_tokens_from_every_executor(part: &str) {
    let Some(model) = on_gpu("tokens of every executor", part) else {
        return;
    };
    let greedy = [Sampling::default()];
    let tokens = |choice| Rig::new(&model, &options(choice, 1)).decode(&[0], &greedy, 256);
    let eager = tokens(ExecutorChoice::Eager);
    assert_eq!(eager[0].len(), 256);
    assert_eq!(tokens(ExecutorChoice::Graph), eager);
    assert_eq!(tokens(ExecutorChoice::Capture), eager);
}

fn slots_give_what_each_gives_alone(part: &str) {
    const SLOTS: usize = 32;
    const STEPS: usize = 64;
    let Some(model) = on_gpu("slots of a batch", part) else {
        return;
    };
    let greedy = vec![Sampling::default(); SLOTS];
    let mut rig = Rig::new(&model, &options(ExecutorChoice::Graph, SLOTS));
    let stepped: Vec<_> = (0..SLOTS).map(|slot| rig.alone(slot, STEPS)).collect();
    for slot in [0, 1, SLOTS - 1] {
        let expected: Vec<u32> = stepped[slot].iter().map(|s| s.0).collect();
        assert_eq!(rig.decode(&[slot], &greedy, STEPS)[0], expected, "{slot}");
    }
    let all: Vec<usize> = (0..SLOTS).collect();
    let together = rig.decode(&all, &greedy, STEPS);
    let mut compared = 0;
    for (slot, (found, alone)) in together.iter().zip(&stepped).enumerate() {
        let sure = alone.iter().position(|&(_, margin)| margin < MARGIN);
        let sure = sure.unwrap_or(STEPS);
        let expected: Vec<u32> = alone.iter().map(|s| s.0).collect();
        assert_eq!(found.len(), STEPS, "slot {slot}");
        assert_eq!(found[..sure], expected[..sure], "slot {slot}");
        compared += sure;
    }
    println!(
        "{compared} of {} tokens before a close choice",
        SLOTS * STEPS
    );
    assert!(compared >= SLOTS, "{compared}");
    // The logits of every step, not just the choices.
    let reports = compare(
        &model,
        &ParityOptions {
            right: Side::CudaGraph,
            tokens: prompt(model.plan().vocab_size),
            generate: 4,
            batch: SLOTS,
            alone: true,
            ..ParityOptions::default()
        },
    );
    for report in reports.unwrap() {
        assert!(
            report.passes(),
            "{}: {:?}",
            report.step,
            report.first_failure()
        );
        println!("{}: worst {:?}", report.step, report.worst());
    }
}

/// A sequence whose limit is reached does nothing more on the device; the others go on as without it.
fn sequences_end_at_their_limits(part: &str) {
    let Some(model) = on_gpu("limits of sequences", part) else {
        return;
    };
    for choice in [ExecutorChoice::Eager, ExecutorChoice::Graph] {
        let mut rig = Rig::new(&model, &options(choice, 4));
        let free = rig.decode_own(&[48; 4]);
        let own = [1, 48, 9, 30];
        let limited = rig.decode_own(&own);
        for (slot, own) in own.into_iter().enumerate() {
            assert_eq!(limited[slot], free[slot][..own], "slot {slot}");
        }
    }
}

/// Sequences that share steps which queue, against each alone; in f32 throughout, so that no choice is
/// close enough to depend on which kernels a step of so many rows takes.
fn queued_steps_mix(part: &str) {
    let Some(model) = on_gpu("queued steps", part) else {
        return;
    };
    let vocab_size = model.plan().vocab_size;
    for choice in [ExecutorChoice::Eager, ExecutorChoice::Graph] {
        let options = Settings {
            precision: Precision::Exact,
            kv_type: KvType::F32,
            ..options(choice, 4)
        };
        let mut executor = make_executor(&model, &options).unwrap().executor;
        for drawn in [false, true] {
            let all = queue::sequences(vocab_size, drawn);
            let alone = all.iter().map(|s| {
                let one = std::slice::from_ref(s);
                queue::together(executor.as_mut(), one, 24, 0).remove(0)
            });
            let alone: Vec<_> = alone.collect();
            for ahead in [0, 5] {
                let found = queue::together(executor.as_mut(), &all, 24, ahead);
                assert_eq!(found, alone, "{choice:?}, drawn {drawn}, {ahead} ahead");
            }
            // Nothing waits but for tokens.
            let before = executor.stats();
            queue::together(executor.as_mut(), &all, 24, 5);
            assert_eq!(executor.stats().synchronizations, before.synchronizations);
        }
    }
}

/// The same kernels run for every row of a batch: a sequence's logits do not depend on its row.
fn rows_of_a_batch_may_change_places(part: &str) {
    let Some(model) = on_gpu("rows of a batch", part) else {
        return;
    };
    let vocab_size = model.plan().vocab_size;
    for slots in [8u32, 32] {
        let mut rig = Rig::new(&model, &options(ExecutorChoice::Graph, slots as usize));
        let mut logits = |order: Vec<u32>| -> Vec<f32> {
            let of = |slot: u32| rig.sequences[slot as usize].as_slice();
            let rows = StepRows::batch(order.into_iter().map(|slot| {
                let length = of(slot).len() as u32;
                StepRow::new(of(slot)[0], length, slot)
            }));
            rig.executor.run(&rows.step(&rig.table)).unwrap();
            rig.executor.logits().unwrap().to_vec()
        };
        let straight = logits((0..slots).collect());
        let reversed = logits((0..slots).rev().collect());
        assert!(straight.iter().all(|l| l.is_finite()));
        let rows = reversed.chunks_exact(vocab_size).rev();
        for (slot, (a, b)) in straight.chunks_exact(vocab_size).zip(rows).enumerate() {
            let bits = |row: &[f32]| row.iter().map(|l| l.to_bits()).collect::<Vec<_>>();
            assert!(bits(a) == bits(b), "slot {slot} of {slots}");
        }
    }
}

/// Settings that use every step of sampling, other ones for every slot.
fn samplings(count: usize) -> Vec<Sampling> {
    let sampling = |i: usize| Sampling {
        temperature: 0.7 + 0.05 * (i % 8) as f32,
        top_k: [40, 0, 8][i % 3],
        top_p: [0.95, 1.0, 0.8][i % 3],
        min_p: [0.0, 0.05][i % 2],
        repetition_penalty: [1.0, 1.1][i % 2],
        seed: 1000 + 17 * i as u64,
        ..Sampling::default()
    };
    (0..count).map(sampling).collect()
}

fn sampled_text_is_that_of_the_cpu(part: &str) {
    const SLOTS: usize = 3;
    let Some(model) = on_gpu("sampled text on the GPU and the CPU", part) else {
        return;
    };
    let sampling = samplings(SLOTS);
    let text = |device, sampler_on| {
        let options = Settings {
            device,
            sampler_on,
            precision: Precision::Exact,
            // As on the CPU: a cache of f16 moves logits by 1e-3, which decides near ties.
            kv_type: KvType::F32,
            ..options(ExecutorChoice::Auto, SLOTS)
        };
        let mut rig = Rig::new(&model, &options);
        let alone = |slot| rig.decode(&[slot], &sampling, 128).remove(0);
        (0..SLOTS).map(alone).collect::<Vec<Vec<u32>>>()
    };
    let cpu = text(DeviceChoice::Cpu, SamplerOn::Device);
    assert!(cpu.iter().all(|tokens| tokens.len() == 128));
    assert!(cpu[0] != cpu[1] && cpu[1] != cpu[2]);
    assert_eq!(text(DeviceChoice::Cuda(0), SamplerOn::Cpu), cpu);
    assert_eq!(text(DeviceChoice::Cuda(0), SamplerOn::Device), cpu);
}

fn sampled_text_is_that_of_a_batch(part: &str) {
    const SLOTS: usize = 8;
    let Some(model) = on_gpu("sampled text of a batch", part) else {
        return;
    };
    let sampling = samplings(SLOTS);
    let options = Settings {
        precision: Precision::Exact,
        ..options(ExecutorChoice::Graph, SLOTS)
    };
    let mut rig = Rig::new(&model, &options);
    let alone: Vec<Vec<u32>> = (0..SLOTS)
        .map(|slot| rig.decode(&[slot], &sampling, 128).remove(0))
        .collect();
    // Five of them leave dead rows beside.
    for slots in [vec![0, 1, 2, 3, 4, 5, 6, 7], vec![6, 2, 7, 0, 4]] {
        let together = rig.decode(&slots, &sampling, 128);
        for (slot, found) in slots.iter().zip(together) {
            assert_eq!(found, alone[*slot], "slot {slot} of {slots:?}");
        }
    }
}

#[test]
fn gpu_sequences_that_end_give_nothing_more() {
    let Some(model) = tiny("sequences that end") else {
        return;
    };
    let greedy = vec![Sampling::default(); 4];
    let mut rig = Rig::new(&model, &options(ExecutorChoice::Graph, 4));
    let slots = [0, 1, 2, 3];
    let whole = rig.decode(&slots, &greedy, 40);
    // Each ends after another number of tokens, the last one never.
    let ends = [1, 7, 20, 100];
    let found = rig.decode_while(&slots, &greedy, 40, |i, tokens| tokens.len() < ends[i]);
    for ((found, whole), end) in found.unwrap().iter().zip(&whole).zip(ends) {
        assert_eq!(found[..], whole[..end.min(40)]);
    }
}

#[test]
fn gpu_graphs_that_are_refused_are_replaced_or_reported() {
    let Some(model) = tiny("refused graphs") else {
        return;
    };
    let greedy = [Sampling::default()];
    let refused = |executor| Settings {
        faults: Faults {
            refuse_graphs: true,
            ..Faults::default()
        },
        ..options(executor, 1)
    };
    let mut eager = Rig::new(&model, &options(ExecutorChoice::Eager, 1));
    let expected = eager.decode(&[0], &greedy, 24);
    assert_eq!(eager.executor.stats().fallbacks, 0);
    assert_eq!(eager.executor.notice(), None);

    let mut rig = Rig::new(&model, &refused(ExecutorChoice::Auto));
    let before = rig.executor.stats();
    assert_eq!(rig.decode(&[0], &greedy, 24), expected);
    let after = rig.executor.stats();
    assert_eq!(after.fallbacks - before.fallbacks, 24);
    assert_eq!(after.graph_launches, before.graph_launches);
    assert_eq!(rig.executor.kind(), ExecutorKind::CudaEager);
    let notice = rig.executor.notice().unwrap();
    assert!(
        notice.contains("planted fault") && !notice.contains('\n'),
        "{notice}"
    );

    for by_name in [ExecutorChoice::Graph, ExecutorChoice::Capture] {
        // The gate replays a token: where it looks, it is the first to find out.
        let found = make_executor(&model, &refused(by_name));
        let why = found.err().unwrap_or_else(|| panic!("{by_name:?} is made"));
        assert!(matches!(why, Error::Internal { .. }), "{by_name:?}: {why}");
        let mut unseen = refused(by_name);
        unseen.gate = false;
        let mut rig = Rig::new(&model, &unseen);
        let found = rig.decode_while(&[0], &greedy, 24, |_, _| true);
        assert!(
            matches!(found, Err(Error::Internal { .. })),
            "{by_name:?}: {found:?}"
        );
        assert_eq!(rig.executor.stats().fallbacks, 0);
    }
}

#[test]
fn gpu_decoding_does_not_wait_for_the_host() {
    let Some(model) = tiny("synchronisations of a decode") else {
        return;
    };
    for (slots, executor) in [
        (1, ExecutorChoice::Graph),
        (1, ExecutorChoice::Capture),
        (4, ExecutorChoice::Graph),
    ] {
        let all: Vec<usize> = (0..slots).collect();
        for sampling in [vec![Sampling::default(); slots], samplings(slots)] {
            let mut rig = Rig::new(&model, &options(executor, slots));
            // Records what is replayed.
            rig.decode(&all, &sampling, 2);
            let mut spent = |steps| {
                let before = rig.executor.stats();
                let found = rig.decode(&all, &sampling, steps);
                assert!(found.iter().all(|tokens| tokens.len() == steps));
                let after = rig.executor.stats();
                assert_eq!(after.steps - before.steps, steps as u64);
                (
                    after.synchronizations - before.synchronizations,
                    after.launches - before.launches,
                    after.graph_launches - before.graph_launches,
                )
            };
            let (few, many) = (spent(64), spent(128));
            println!("{executor:?}, {slots} slots: {few:?} for 64 steps, {many:?} for 128");
            assert_eq!(few.0, many.0, "{executor:?}, {slots} slots");
            assert_eq!(few.1, many.1, "{executor:?}, {slots} slots");
            assert_eq!((few.2, many.2), (64, 128), "{executor:?}, {slots} slots");
        }
    }
}
