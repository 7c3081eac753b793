//! Kernels that move or map rows, in the interpreter, against their plain meaning.

mod common;

use common::{simple, steps};
use gannet_ptx_gen::kernels::{
    Activation, AdvanceSpec, ArgmaxSpec, GatherRowsSpec, KvType, KvWriteSpec, LayerNormSpec, Map,
    NormAddNormSpec, RmsNormSpec, RopeKind, RopeSpec,
};
use gannet_ptx_gen::target::Target;

const TARGET: Target = Target::Sm80;

/// Rows of a step: of the layers of a tiny, a 1.5B and an 8B model, and around block sizes.
const LENGTHS: [u32; 11] = [1, 3, 4, 256, 1023, 1024, 1025, 4096, 5000, 8960, 3 * 14336];

#[test]
fn rms_norm_of_rows_and_heads() {
    let shapes = [
        (1, 64),
        (3, 99),
        (5, 256),
        (2, 1536),
        (1, 4096),
        (4, 4096),
        (7, 1),
        (6, 128),
    ];
    for (rows, dim) in shapes {
        let spec = RmsNormSpec {
            target: TARGET,
            dim,
            eps: 1e-5,
            residual: false,
        };
        simple::rms_norm(spec, rows).pass();
        let residual = true;
        simple::rms_norm(RmsNormSpec { residual, ..spec }, rows).pass();
    }
}

#[test]
fn layer_norm_of_rows() {
    for (rows, dim) in [
        (1, 64),
        (3, 99),
        (4, 768),
        (2, 1600),
        (3, 4100),
        (2, 4099),
        (2, 5001),
        (2, 16_384),
        (2, 20_480),
        (7, 1),
    ] {
        for bias in [false, true] {
            let spec = LayerNormSpec {
                target: TARGET,
                dim,
                eps: 1e-5,
                bias,
            };
            simple::layer_norm(spec, rows).pass();
        }
    }
}

#[test]
fn norms_around_a_sum() {
    for (rows, dim) in [
        (1, 4),
        (3, 64),
        (5, 256),
        (2, 2304),
        (1, 2560),
        (2, 4100),
        (1, 16_384),
    ] {
        let spec = NormAddNormSpec {
            target: TARGET,
            dim,
            eps: 1e-6,
        };
        spec.check().unwrap();
        simple::norm_add_norm(spec, rows).pass();
    }
    for dim in [0, 6, 16_388] {
        let (target, eps) = (TARGET, 1e-6);
        assert!(NormAddNormSpec { dim, eps, target }.check().is_err());
    }
}

#[test]
fn sums_of_any_length() {
    simple::add(TARGET, &LENGTHS).pass();
}

#[test]
fn gated_units_of_any_length() {
    for activation in [Activation::Silu, Activation::Gelu] {
        simple::glu(TARGET, activation, &LENGTHS).pass();
    }
}

#[test]
fn functions_of_vectors_of_any_length() {
    for map in [
        Map::Scale(50.596_443),
        Map::Scale(-0.25),
        Map::Softcap(30.0),
        Map::Softcap(1.5),
        Map::Activate(Activation::Silu),
        Map::Activate(Activation::Gelu),
    ] {
        simple::map(TARGET, map, &LENGTHS).pass();
    }
}

#[test]
fn rope_of_both_kinds_in_place_and_partial() {
    let shapes = [
        (4, 64, 64),
        (1, 2, 2),
        (2, 16, 16),
        (12, 128, 128),
        (32, 128, 128),
        (3, 20, 8),
        (9, 128, 64),
    ];
    for kind in [RopeKind::Interleaved, RopeKind::Neox] {
        for (num_heads, head_dim, rot_dim) in shapes {
            let spec = RopeSpec {
                target: TARGET,
                num_heads,
                head_dim,
                rot_dim,
                kind,
            };
            simple::rope(spec).pass();
        }
    }
}

#[test]
fn kv_write_goes_through_the_block_table() {
    for target in [Target::Sm75, Target::Sm80, Target::Sm90a] {
        for (kv_type, num_kv_heads, head_dim, block_tokens) in [
            (KvType::F16, 2u32, 64u32, 32),
            (KvType::F16, 1, 4, 32),
            (KvType::F32, 3, 16, 24),
            (KvType::F16, 2, 128, 32),
            (KvType::F16, 8, 128, 32),
            (KvType::F32, 9, 128, 32),
            (KvType::BF16, 2, 80, 32),
            (KvType::Int8, 1, 16, 32),
            (KvType::Int8, 2, 128, 16),
            (KvType::Int8, 9, 256, 32),
            (KvType::Int8, 3, 80, 24),
        ] {
            let spec = KvWriteSpec {
                target,
                num_kv_heads,
                head_dim,
                block_tokens,
                max_blocks: 3,
                kv_type,
                rope: None,
            };
            for rope in [None, Some(RopeKind::Interleaved), Some(RopeKind::Neox)] {
                let spec = KvWriteSpec { rope, ..spec };
                if spec.check().is_ok() {
                    simple::kv_write(spec).pass();
                }
            }
        }
    }
}

#[test]
fn argmax_takes_the_lowest_of_equals_and_nothing_where_one_is_no_number() {
    for vocab_size in [1u32, 7, 331, 8192, 40_000, 151_936] {
        let spec = ArgmaxSpec {
            target: TARGET,
            vocab_size,
        };
        simple::argmax(spec).pass();
    }
}

#[test]
fn gather_copies_the_rows_named() {
    for dim in [1u32, 33, 256, 1536, 4096] {
        let spec = GatherRowsSpec {
            target: TARGET,
            dim,
        };
        simple::gather_rows(spec).pass();
    }
}

#[test]
fn chosen_tokens_are_fed() {
    steps::feed(TARGET, &LENGTHS).pass();
}

#[test]
fn advance_feeds_tokens_back_and_fills_the_ring() {
    for (num_slots, ring_len) in [(1, 4), (3, 4), (32, 256), (33, 1), (1024, 2)] {
        for (positions, gathers) in [(false, false), (true, false), (false, true), (true, true)] {
            let spec = AdvanceSpec {
                target: TARGET,
                num_slots,
                ring_len,
                context: 10,
                positions,
                gathers,
            };
            steps::advance(spec).pass();
        }
    }
}

#[test]
fn reading_everything_stores_nothing() {
    simple::stream_read(TARGET).pass();
}
