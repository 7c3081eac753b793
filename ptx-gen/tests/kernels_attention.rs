//! Attention in the interpreter, against f64 softmaxes over the same rounded keys and values.

#![allow(clippy::unwrap_used)]

mod common;

use common::attention::{Attention, Case, spec};
use gannet_ptx_gen::kernels::KvType;
use gannet_ptx_gen::target::Target;

#[test]
fn heads_in_groups_of_every_dimension() {
    for (group, dim) in [
        (1, 16),
        (2, 32),
        (4, 64),
        (6, 128),
        (8, 64),
        (3, 80),
        (5, 256),
        (9, 16),
        (48, 32),
    ] {
        let kv_heads = if group < 5 { 2 } else { 1 };
        let spec = spec(group * kv_heads, kv_heads, dim);
        Case::new(spec, &[101], &[0]).pass(1e-10);
    }
}

/// Head sizes that are no multiples of 16, and long ones that are no power of two.
const ODD: [u32; 13] = [8, 24, 40, 56, 72, 88, 96, 104, 120, 136, 168, 200, 248];

#[test]
fn heads_of_odd_sizes() {
    for (i, dim) in ODD.into_iter().enumerate() {
        let kv_type = [KvType::F16, KvType::BF16, KvType::Int8, KvType::F32][i % 4];
        for (splits, window, softcap) in [(1, None, None), (3, Some(50), Some(5.0))] {
            let spec = Attention {
                kv_type,
                splits,
                window,
                softcap,
                ..spec(6, 2, dim)
            };
            Case::new(spec, &[101, 0, 17], &[0, 1, 1]).pass(1e-10);
        }
    }
}

#[test]
fn prompts_of_heads_of_odd_sizes() {
    for target in [Target::Sm75, Target::Sm80] {
        for (i, dim) in ODD.into_iter().enumerate() {
            let kv_type = match target.has_ampere() {
                true => [KvType::F16, KvType::BF16, KvType::Int8][i % 3],
                false => [KvType::F16, KvType::Int8][i % 2],
            };
            let spec = Attention {
                target,
                kv_type,
                ..spec(2, 1, dim)
            };
            if spec.flash().check().is_err() {
                // Two tiles of long heads exceed the shared memory of Turing.
                assert!(!target.has_ampere() && dim > 128, "{target} {dim}");
                continue;
            }
            Case::prompt(spec, 10, 70).pass_flash();
            let window = Attention {
                window: Some(40),
                softcap: Some(3.0),
                ..spec
            };
            Case::prompt(window, 100, 20).pass_flash();
        }
    }
}

/// The heads of layers of a tiny, a 1.5B and an 8B model.
#[test]
fn layers_of_models() {
    for (heads, kv_heads, dim) in [(8, 4, 32), (12, 2, 128), (32, 8, 128)] {
        let spec = spec(heads, kv_heads, dim);
        Case::new(spec, &[1, 130], &[0, 1]).pass(1e-10);
        Case::new(Attention { splits: 8, ..spec }, &[200], &[0]).pass(1e-10);
        Case::prompt(spec, 0, 70).pass_flash();
    }
}

#[test]
fn lengths_around_blocks_and_dead_rows() {
    for splits in [1, 2, 8] {
        for dim in [16, 64] {
            let spec = Attention {
                splits,
                ..spec(4, 2, dim)
            };
            let lengths = [0, 1, 31, 32, 33, 100, 256, 0];
            Case::new(spec, &lengths, &[0, 1, 2, 1, 3, 0, 4, 2]).pass(1e-10);
        }
    }
}

#[test]
fn splits_windows_and_caps_together() {
    for kv_type in [KvType::F16, KvType::F32, KvType::BF16, KvType::Int8] {
        for splits in [1, 2, 8] {
            for (window, softcap) in [
                (Some(40), None),
                (None, Some(5.0)),
                (Some(33), Some(2.0)),
                (Some(1), None),
            ] {
                let spec = Attention {
                    kv_type,
                    splits,
                    window,
                    softcap,
                    ..spec(4, 1, 32)
                };
                Case::new(spec, &[150, 40, 7], &[0, 1, 2]).pass(1e-10);
            }
        }
    }
}

#[test]
fn large_scores_do_not_overflow() {
    for splits in [1, 3] {
        let spec = Attention {
            scale: 30.0,
            splits,
            ..spec(2, 1, 64)
        };
        // Scores of hundreds in f32 leave an error of their rounding.
        Case::new(spec, &[90], &[0]).pass(1e-7);
    }
}

#[test]
fn a_partial_without_keys_says_so() {
    let spec = Attention {
        splits: 8,
        ..spec(2, 1, 16)
    };
    // Row 0 has keys in its first two splits; zeros and infinities are compared exactly.
    Case::new(spec, &[40, 0], &[0, 0]).pass(1e-10);
}

#[test]
fn prompts_of_every_dimension_and_group() {
    for (group, dim) in [
        (1, 16),
        (2, 32),
        (4, 64),
        (6, 128),
        (8, 64),
        (3, 48),
        (1, 80),
        (1, 112),
    ] {
        let kv_heads = if group < 3 { 2 } else { 1 };
        Case::prompt(spec(group * kv_heads, kv_heads, dim), 0, 70).pass_flash();
    }
}

#[test]
fn prompts_over_caches_of_every_type() {
    for kv_type in [KvType::BF16, KvType::Int8] {
        for (group, dim) in [(2, 16), (1, 64), (3, 80), (2, 128), (1, 256)] {
            let spec = Attention {
                kv_type,
                ..spec(group, 1, dim)
            };
            Case::prompt(spec, 21, 70).pass_flash();
            let window = Attention {
                window: Some(40),
                softcap: Some(3.0),
                ..spec
            };
            Case::prompt(window, 100, 64).pass_flash();
        }
    }
}

#[test]
fn prompts_in_chunks_on_old_and_new_targets() {
    for target in [Target::Sm75, Target::Sm80, Target::Sm86, Target::Sm90a] {
        for (start, rows) in [(0, 1), (0, 64), (31, 33), (100, 9), (150, 100)] {
            for dim in [64, 128] {
                let spec = Attention {
                    target,
                    ..spec(2, 1, dim)
                };
                Case::prompt(spec, start, rows).pass_flash();
            }
        }
    }
}

#[test]
fn prompts_of_long_heads() {
    for (target, dim) in [
        (Target::Sm75, 192),
        (Target::Sm80, 144),
        (Target::Sm86, 256),
        (Target::Sm90a, 256),
    ] {
        let spec = Attention {
            target,
            ..spec(2, 1, dim)
        };
        Case::prompt(spec, 10, 70).pass_flash();
    }
}

/// Queries that f16 does not hold: their products with small keys are ordinary.
#[test]
fn prompts_of_queries_beyond_f16() {
    for target in [Target::Sm75, Target::Sm80, Target::Sm90a] {
        for (dim, split_queries) in [(24, false), (64, false), (64, true), (128, false)] {
            for (window, softcap) in [(None, None), (Some(20), None), (Some(33), Some(5.0))] {
                let spec = Attention {
                    target,
                    window,
                    softcap,
                    split_queries,
                    ..spec(2, 1, dim)
                };
                Case::prompt(spec, 30, 70)
                    .with_outliers_of(4.0)
                    .pass_flash();
            }
        }
    }
}

/// Scales and caps that make queries or scores exceed what they are computed in.
#[test]
fn prompts_of_any_scale_and_cap() {
    for (scale, softcap) in [
        (1e6, Some(1.0)),
        (1e-3, None),
        (3.0, Some(1e-3)),
        (0.125, Some(300.0)),
        (0.125, Some(1e4)),
        (0.125, Some(1e9)),
        (30.0, Some(1e3)),
        (100.0, None),
    ] {
        let spec = Attention {
            scale,
            softcap,
            split_queries: true,
            ..spec(2, 1, 64)
        };
        Case::prompt(spec, 30, 70).pass_flash();
        // The first tile has nothing for some rows.
        let window = Some(20);
        Case::prompt(Attention { window, ..spec }, 90, 70).pass_flash();
    }
}

/// Where no score is a number that f32 holds, there is no weighted mean of values.
#[test]
fn rows_without_a_score_are_no_numbers() {
    for splits in [1, 3] {
        let spec = Attention {
            splits,
            ..spec(2, 1, 64)
        };
        let case = Case::of_lowest_score(spec);
        case.with_queries_times(4.0).gives_nan();
    }
}

/// Scores of tens, which of queries rounded once are off by hundredths: an NMSE of 1e-6.
#[test]
fn prompts_of_large_queries_in_two_terms() {
    for target in [Target::Sm75, Target::Sm80, Target::Sm86] {
        for (dim, kv_type) in [
            (24, KvType::F16),
            (64, KvType::F16),
            (128, KvType::F16),
            (128, KvType::BF16),
            (256, KvType::F16),
        ] {
            let spec = Attention {
                target,
                kv_type,
                split_queries: true,
                ..spec(2, 1, dim)
            };
            if spec.flash().check().is_err() {
                assert!(!target.has_ampere(), "{target} {dim}");
                continue;
            }
            let case = Case::prompt(spec, 30, 70);
            case.with_queries_times(30.0).pass_flash();
        }
    }
}

#[test]
fn prompts_with_windows_and_caps() {
    for target in [Target::Sm75, Target::Sm80] {
        for (window, softcap) in [
            (Some(40), None),
            (None, Some(5.0)),
            (Some(1), Some(2.0)),
            (Some(64), None),
            (Some(1000), None),
        ] {
            let spec = Attention {
                target,
                window,
                softcap,
                ..spec(2, 1, 32)
            };
            Case::prompt(spec, 0, 130).pass_flash();
            Case::prompt(spec, 101, 70).pass_flash();
        }
    }
}

#[test]
fn dead_rows_of_a_prompt_are_zeros() {
    for window in [None, Some(20)] {
        let spec = Attention {
            window,
            ..spec(2, 1, 64)
        };
        let mut lengths: Vec<u32> = (1..=70).collect();
        lengths[3] = 0;
        lengths[64..].fill(0);
        Case::new(spec, &lengths, &[0; 70]).pass_flash();
    }
}

#[test]
fn unsupported_shapes_are_refused() {
    for (heads, kv_heads, dim) in [
        (3, 2, 64),
        (4, 0, 64),
        (4, 2, 44),
        (4, 2, 0),
        (4, 2, 272),
        (128, 1, 64),
    ] {
        assert!(spec(heads, kv_heads, dim).plain().check().is_err());
    }
    assert!(spec(4, 2, 76).flash().check().is_err());
    // Two tiles and the queries exceed what a block may have.
    let turing = Attention {
        target: Target::Sm75,
        ..spec(4, 2, 256)
    };
    assert!(turing.flash().check().is_err());
}
