//! Attention of few queries on tensor cores, in the interpreter, against f64 softmaxes over the same
//! rounded keys and values.

#![allow(clippy::unwrap_used)]

mod common;

use common::attention::{Attention, Case, packed_decode, packed_merged, spec};
use gannet_ptx_gen::kernels::{KvType, RopeKind};
use gannet_ptx_gen::target::Target;

/// What f32 leaves of the sums.
const NMSE: f64 = 1e-12;

fn pass(case: &Case, nmse: f64) {
    packed_decode(std::slice::from_ref(case), nmse).pass();
}

#[test]
fn heads_in_groups_of_every_dimension() {
    for (group, dim) in [
        (1, 16),
        (2, 32),
        (3, 48),
        (4, 64),
        (5, 80),
        (7, 96),
        (8, 112),
        (6, 128),
        (2, 256),
        (9, 64),
        (16, 128),
        (12, 256),
        (17, 32),
        (40, 80),
    ] {
        let kv_heads = if group < 5 { 2 } else { 1 };
        let spec = spec(group * kv_heads, kv_heads, dim);
        pass(&Case::new(spec, &[101, 0, 17], &[0, 1, 1]), NMSE);
    }
}

/// Heads that are no multiples of 16, whose last step of a product is half empty, in caches of every
/// type.
#[test]
fn heads_of_odd_sizes() {
    for dim in [8, 24, 40, 56, 72, 88, 104, 120, 136, 168, 200, 248] {
        for (kv_type, nmse) in [
            (KvType::F16, NMSE),
            (KvType::BF16, 1e-10),
            (KvType::Int8, NMSE),
        ] {
            for (group, splits, window, softcap) in
                [(3, 1, None, None), (10, 3, Some(50), Some(3.0))]
            {
                let spec = Attention {
                    kv_type,
                    splits,
                    window,
                    softcap,
                    ..spec(group, 1, dim)
                };
                let case = Case::new(spec, &[101, 0, 17, 65], &[0, 1, 1, 2]);
                packed_merged(&case, nmse);
            }
        }
    }
}

/// The heads of layers of a tiny, a 1.5B and an 8B model.
#[test]
fn layers_of_models() {
    for (heads, kv_heads, dim) in [(8, 4, 32), (12, 2, 128), (32, 8, 128)] {
        let spec = spec(heads, kv_heads, dim);
        pass(&Case::new(spec, &[1, 130], &[0, 1]), NMSE);
        let split = Attention { splits: 8, ..spec };
        pass(&Case::new(split, &[200], &[0]), NMSE);
    }
}

#[test]
fn lengths_around_tiles_and_blocks() {
    for splits in [1, 2, 8] {
        for (group, dim) in [(2, 64), (9, 16), (2, 144)] {
            let spec = Attention {
                splits,
                target: Target::Sm90a,
                ..spec(group * 2, 2, dim)
            };
            let lengths = [0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 256, 0];
            let slots = [0, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 6, 7, 2];
            pass(&Case::new(spec, &lengths, &slots), NMSE);
        }
    }
}

#[test]
fn splits_windows_and_caps_together() {
    for group in [3, 10] {
        for splits in [1, 2, 8] {
            for (window, softcap) in [
                (Some(40), None),
                (None, Some(5.0)),
                (Some(33), Some(2.0)),
                (Some(1), None),
            ] {
                let spec = Attention {
                    splits,
                    window,
                    softcap,
                    ..spec(group, 1, 32)
                };
                pass(&Case::new(spec, &[150, 40, 7], &[0, 1, 2]), NMSE);
            }
        }
    }
}

#[test]
fn large_and_tiny_scores_keep_their_precision() {
    for group in [2, 9] {
        for scale in [30.0, 1e-30, 1e-5] {
            let spec = Attention {
                scale,
                splits: 3,
                ..spec(group, 1, 64)
            };
            pass(&Case::new(spec, &[90], &[0]), NMSE);
        }
    }
}

/// Rows share nothing: alone they give the bits that they give together.
#[test]
fn a_row_does_not_depend_on_the_others() {
    let spec = Attention {
        splits: 4,
        ..spec(6, 2, 64)
    };
    let together = Case::new(spec, &[100, 77], &[0, 1]);
    // Bits, since what nobody writes are NaN.
    let results = |case: &Case| -> Vec<u32> {
        let results = packed_decode(std::slice::from_ref(case), 1.0).results(6);
        results[0].iter().map(|v| v.to_bits()).collect()
    };
    let mut one = results(&together);
    let other = results(&Case::new(spec, &[100, 0], &[0, 1]));
    one.truncate(one.len() / 2);
    assert_eq!(one, other[..other.len() / 2]);
}

/// Heads of every width of pieces, alone and in rows of two sums, and what their merge gives.
#[test]
fn caches_of_every_type() {
    // Eight bits of a bf16 operand twice leave 2^-16 of a query or weight.
    for (kv_type, nmse) in [
        (KvType::F16, NMSE),
        (KvType::BF16, 1e-10),
        (KvType::Int8, NMSE),
    ] {
        for (group, dim) in [
            (3, 16),
            (2, 48),
            (9, 64),
            (4, 80),
            (12, 96),
            (6, 128),
            (2, 256),
        ] {
            for (splits, window, softcap) in
                [(1, None, None), (3, Some(50), None), (4, None, Some(3.0))]
            {
                let spec = Attention {
                    kv_type,
                    splits,
                    window,
                    softcap,
                    ..spec(group, 1, dim)
                };
                let case = Case::new(spec, &[101, 0, 17, 65], &[0, 1, 1, 2]);
                packed_merged(&case, nmse);
            }
        }
    }
}

/// What the types cost: attention against the same over the unrounded keys and values.
#[test]
fn types_of_caches_keep_what_they_promise() {
    for (kv_type, nmse) in [
        (KvType::F16, 2e-7),
        (KvType::BF16, 1e-5),
        (KvType::Int8, 2e-4),
    ] {
        let spec = Attention {
            kv_type,
            splits: 2,
            ..spec(8, 2, 128)
        };
        packed_merged(&Case::unrounded(spec, &[200, 90], &[0, 1]), nmse);
    }
}

/// Queries that come as they were made, turned to the bit as a rotation of their own turns them, where
/// the launch in front may still write them and where it may not.
#[test]
fn queries_rotated_on_their_way() {
    for target in [Target::Sm80, Target::Sm90a] {
        for kind in [RopeKind::Interleaved, RopeKind::Neox] {
            for (kv_type, group, dim) in [
                (KvType::F16, 4, 64),
                (KvType::F16, 6, 128),
                (KvType::F16, 12, 128),
                (KvType::F16, 2, 256),
                (KvType::Int8, 6, 128),
                // Each half of a head divided for itself, into pieces of every width.
                (KvType::F16, 3, 8),
                (KvType::Int8, 2, 24),
                (KvType::BF16, 10, 40),
                (KvType::Int8, 3, 64),
                (KvType::F16, 3, 72),
                (KvType::F16, 2, 96),
                (KvType::Int8, 3, 96),
                (KvType::F16, 2, 104),
                (KvType::F16, 3, 168),
            ] {
                let nmse = match kv_type {
                    KvType::BF16 => 1e-10,
                    _ => NMSE,
                };
                for splits in [1, 3] {
                    let spec = Attention {
                        target,
                        kv_type,
                        splits,
                        ..spec(2 * group, 2, dim)
                    };
                    let case = Case::new(spec, &[101, 0, 17, 65, 64], &[0, 1, 1, 2, 3]);
                    packed_merged(&case.rotated(kind), nmse);
                }
            }
        }
    }
}
