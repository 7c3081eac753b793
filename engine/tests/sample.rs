//! The sampler on the CPU and the sampling kernels, interpreted, choose the same tokens: as drawn one
//! after the other, with a history that grows, alone and in a batch.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

use gannet_engine::Sampling;
use gannet_engine::internals::exec::sample::{MAX_WINDOW, Sampler};
use gannet_ptx_gen::interp::{LaunchArg, Memory, Options, Prepared};
use gannet_ptx_gen::kernels::sample_math::random_words;
use gannet_ptx_gen::kernels::{SampleParams, SampleSpec};
use gannet_ptx_gen::target::Target;

/// Numbers from -1 to 1, always the same.
fn noise(seed: u64, n: usize) -> Vec<f32> {
    (0..n as u32)
        .map(|i| random_words(seed, 0, i)[0] as i32 as f32 / 2_147_483_648.0)
        .collect()
}

/// A sequence before its next token.
struct Sequence {
    settings: Sampling,
    history: Vec<u32>,
    draws: u64,
    logits: Vec<f32>,
}

/// Tokens that the kernels choose in `turns` steps in a row, for each sequence.
fn on_the_kernels(vocab_size: u32, sequences: &[Sequence], turns: usize) -> Vec<Vec<u32>> {
    let spec = SampleSpec {
        target: Target::Sm80,
        vocab_size,
        window_max: MAX_WINDOW as u32,
    };
    let rows = sequences.len();
    let (mut params, mut rings) = (Vec::new(), Vec::new());
    // Slots in the other order than rows.
    for sequence in sequences.iter().rev() {
        let (slot, ring) = sequence.settings.slot(&sequence.history, sequence.draws);
        params.extend(slot.words());
        rings.extend(ring);
    }
    assert_eq!(params.len(), rows * SampleParams::WORDS);
    let logits: Vec<f32> = sequences.iter().flat_map(|s| s.logits.clone()).collect();
    let mut memory = Memory::new();
    let slots: Vec<u32> = (0..rows as u32).rev().collect();
    let lengths = LaunchArg::U64(memory.alloc_from(&vec![1u32; rows]));
    let slots = LaunchArg::U64(memory.alloc_from(&slots));
    let params = LaunchArg::U64(memory.alloc_from(&params));
    let rings = LaunchArg::U64(memory.alloc_from(&rings));
    let scratch =
        [0; 2].map(|_| LaunchArg::U64(memory.alloc_poisoned(4 * spec.scratch(rows) as u64)));
    let arrived = LaunchArg::U64(memory.alloc_from(&vec![0u32; rows]));
    let found = LaunchArg::U64(memory.alloc_poisoned(16 * rows as u64));
    let out = memory.alloc_from(&vec![u32::MAX; rows]);
    let filter = Prepared::new(&spec.filter_kernel()).unwrap();
    let draw = Prepared::new(&spec.draw_kernel()).unwrap();
    // The kernels' own tests look for races.
    let options = Options {
        races: false,
        track_shared: false,
        ..Options::default()
    };
    let mut tokens = vec![Vec::new(); rows];
    for _ in 0..turns {
        // A step of the model writes new logits.
        let logits = LaunchArg::U64(memory.alloc_from(&logits));
        let row = [logits, lengths, slots, params, rings];
        let parts = [scratch[0], scratch[1], arrived];
        let filters = [&row[..], &parts[..], &[found]].concat();
        filter
            .launch(spec.filter_grid(rows as u32), &filters, &memory, &options)
            .unwrap();
        let draws = [&row[..], &[found], &parts[..], &[LaunchArg::U64(out)]].concat();
        draw.launch(spec.draw_grid(rows as u32), &draws, &memory, &options)
            .unwrap();
        for (tokens, token) in tokens
            .iter_mut()
            .zip(memory.read::<u32>(out, rows).unwrap())
        {
            tokens.push(token);
        }
    }
    tokens
}

/// What the CPU chooses.
fn on_the_cpu(sequence: &Sequence, turns: usize) -> Vec<u32> {
    let mut sampler = Sampler::with_draws(sequence.settings.clone(), sequence.draws);
    let mut history = sequence.history.clone();
    for _ in 0..turns {
        let token = sampler.sample(&sequence.logits, &history);
        history.push(token);
    }
    history.split_off(sequence.history.len())
}

/// Settings that differ in everything from one `i` to the next.
fn sequence(i: u64, vocab_size: usize, scale: f32) -> Sequence {
    let pick = |salt: u64, of: &[f32]| {
        let word = random_words(i, salt, 7)[0];
        of[word as usize % of.len()]
    };
    let settings = Sampling {
        temperature: pick(1, &[0.0, 0.3, 0.8, 1.0, 1.0, 2.5, 40.0]),
        top_k: pick(2, &[0.0, 0.0, 1.0, 5.0, 40.0, 1e6]) as usize,
        top_p: pick(3, &[1.0, 1.0, 0.95, 0.5, 0.999, 1e-12]),
        min_p: pick(4, &[0.0, 0.0, 0.05, 0.5, 1.0]),
        repetition_penalty: pick(5, &[1.0, 1.0, 1.3, 0.8]),
        presence_penalty: pick(6, &[0.0, 0.0, 1.0, -0.5]),
        frequency_penalty: pick(7, &[0.0, 0.0, 0.7]),
        repetition_window: pick(8, &[64.0, 256.0, 3.0, 0.0]) as usize,
        seed: i.wrapping_mul(0x9E37_79B9_7F4A_7C15),
    };
    settings.check().unwrap();
    let logits = noise(i, vocab_size).into_iter().map(|v| v * v * v * scale);
    // Every third row has ties.
    let logits = logits.map(|v| {
        if i.is_multiple_of(3) {
            (v * 2.0).round() / 2.0
        } else {
            v
        }
    });
    let len = pick(9, &[0.0, 1.0, 60.0, 250.0, 256.0, 300.0]) as usize;
    let history = noise(!i, len).into_iter().map(|v| (v.abs() * 30.0) as u32);
    Sequence {
        settings,
        history: history.collect(),
        draws: i * 3,
        logits: logits.collect(),
    }
}

#[test]
fn the_kernels_and_the_cpu_choose_the_same_tokens() {
    let mut different = 0;
    for (vocab_size, batches, turns) in [(331, 10, 6), (8192, 4, 2), (40_001, 1, 2)] {
        for batch in 0..batches {
            let sequences: Vec<Sequence> = (0..12)
                .map(|i| {
                    let scale = [2.0, 12.0, 60.0, 600.0][i as usize % 4];
                    sequence(100 * batch + i, vocab_size as usize, scale)
                })
                .collect();
            let found = on_the_kernels(vocab_size, &sequences, turns);
            for (i, (sequence, found)) in sequences.iter().zip(&found).enumerate() {
                let expected = on_the_cpu(sequence, turns);
                assert_eq!(
                    *found, expected,
                    "row {i} of batch {batch}, {:?}",
                    sequence.settings
                );
                different += usize::from(found.iter().any(|t| *t != found[0]));
            }
        }
    }
    // Not all of it was the largest logit.
    assert!(different > 50, "only {different} sequences varied");
}

#[test]
fn a_sequence_draws_the_same_alone_and_in_a_batch() {
    let batch: Vec<Sequence> = (0..6).map(|i| sequence(i + 40, 331, 9.0)).collect();
    let together = on_the_kernels(331, &batch, 6);
    for (sequence, together) in batch.into_iter().zip(together) {
        assert_eq!(on_the_kernels(331, &[sequence], 6)[0], together);
    }
}
