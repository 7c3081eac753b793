//! The sampler in the interpreter, against its plain meaning: the same tokens, ring and state.

mod common;

use common::Random;
use common::sample::{self, Slot, Step, settings, share};
use gannet_ptx_gen::kernels::sample_math::depth;
use gannet_ptx_gen::kernels::{SampleParams, SampleSpec};
use gannet_ptx_gen::target::Target;

/// Runs both kernels.
fn pass(spec: &SampleSpec, steps: impl IntoIterator<Item = Step>) {
    for trial in sample::trials(spec, steps) {
        trial.pass();
    }
}

fn spec(vocab_size: u32, window_max: u32) -> SampleSpec {
    SampleSpec {
        target: Target::Sm80,
        vocab_size,
        window_max,
    }
}

#[test]
fn settings_and_logits_of_all_kinds() {
    for vocab_size in [1, 7, 331, 1024] {
        let spec = spec(vocab_size, 20);
        let steps = (0..14).flat_map(|i| sample::of_all_kinds(&spec, 13 * i, 12, 1));
        pass(&spec, steps);
    }
}

#[test]
fn scores_that_differ_by_their_rounding() {
    for vocab_size in [40, 331, 332, 4201] {
        let spec = spec(vocab_size, 9);
        pass(&spec, (0..6).map(|i| sample::near(&spec, i)));
    }
}

#[test]
fn filters_that_end_between_equals_and_scores_that_tie() {
    for vocab_size in [331, 4100] {
        let spec = spec(vocab_size, 9);
        pass(&spec, sample::sharp(&spec));
    }
}

#[test]
fn vocabularies_beyond_a_turn_of_the_loop_and_beyond_the_list() {
    for vocab_size in [8192, 17_001, 33_000] {
        let spec = spec(vocab_size, 256);
        let steps = (0..4).flat_map(|i| sample::of_all_kinds(&spec, 13 * i, 12, 1));
        pass(&spec, steps);
    }
}

#[test]
fn the_vocabulary_of_qwen() {
    let spec = spec(151_936, 256);
    pass(&spec, sample::of_all_kinds(&spec, 0, 12, 1));
}

#[test]
fn queued_draws_go_round_the_ring() {
    for window_max in [1, 7, 8] {
        let spec = spec(331, window_max);
        pass(&spec, sample::of_all_kinds(&spec, 3, 12, 20));
    }
}

#[test]
fn many_seeds_of_one_row() {
    let spec = spec(332, 4);
    let mut random = Random::new(1);
    let logits: Vec<f32> = random.gaussians(332).iter().map(|v| v * 2.0).collect();
    let steps = (0..40).flat_map(|i| {
        let params = SampleParams {
            inv_temperature: 0.5 + (i % 5) as f32 / 4.0,
            top_p: if i % 3 == 0 { share(0.9) } else { 0 },
            ..settings(random.bits())
        };
        let history = Vec::new();
        let mut slots = [Slot { params, history }];
        let logits = &logits;
        (0..10).map(move |_| sample::step(&spec, &mut slots, &[Some(0)], logits))
    });
    pass(&spec, steps);
}

/// Without filters a token's share of the draws is its probability; with one, of what is kept.
#[test]
fn draws_follow_the_distribution() {
    // Probabilities 1/2, 1/4, 1/8, 1/8.
    let logits = [8f32, 4.0, 2.0, 2.0].map(f32::ln);
    let base = settings(99);
    let cases = [
        (base, [0.5, 0.25, 0.125, 0.125]),
        (
            SampleParams {
                top_p: share(0.7),
                ..base
            },
            [2.0 / 3.0, 1.0 / 3.0, 0.0, 0.0],
        ),
        // Of the two at the end none comes before the other.
        (SampleParams { top_k: 3, ..base }, [0.5, 0.25, 0.125, 0.125]),
        (
            SampleParams {
                min_p_depth: depth(1.0),
                ..base
            },
            [2.0 / 3.0, 1.0 / 3.0, 0.0, 0.0],
        ),
    ];
    for (params, expected) in cases {
        let mut counts = [0f64; 4];
        for draws in 0..20_000 {
            let params = SampleParams { draws, ..params };
            let history = Vec::new();
            counts[common::sample_model::choose(&Slot { params, history }, &logits) as usize] +=
                1.0 / 20_000.0;
        }
        for (found, expected) in counts.iter().zip(expected) {
            assert!((found - expected).abs() < 0.012, "{counts:?}");
        }
    }
}

#[test]
fn windows_beyond_a_block_are_refused() {
    assert!(spec(100, 256).check().is_ok());
    let why = spec(100, 257).check().unwrap_err();
    assert!(why.contains("257"), "{why}");
}
