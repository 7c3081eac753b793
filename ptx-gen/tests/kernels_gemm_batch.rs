//! Products of batches on tensor cores in the interpreter, against f64 over dequantised weights.

mod common;

use common::products::{Part, gemm_batch, gemm_batch_of_outliers};
use gannet_ptx_gen::kernels::{Epilogue, GemmBatchSpec, WeightFormat};
use gannet_ptx_gen::target::Target;

fn spec(format: WeightFormat, rows: u32, cols: u32, tokens: u32) -> GemmBatchSpec {
    GemmBatchSpec {
        target: Target::Sm80,
        format,
        rows,
        cols,
        tokens,
        splits: 1,
        epilogue: Epilogue::default(),
    }
}

#[test]
fn every_format_with_ragged_tokens_and_rows() {
    for format in WeightFormat::ALL {
        let cols = format.block_len().max(64);
        for (rows, tokens, n) in [(128, 8, 7), (65, 32, 33), (1, 16, 17), (130, 64, 1)] {
            let spec = spec(format, rows, 2 * cols, tokens);
            gemm_batch(spec, &[n], Part::All).pass();
        }
    }
}

#[test]
fn parts_of_columns() {
    for format in WeightFormat::ALL {
        for (cols, blocks) in [(1280, 3), (768, 2), (2048, 16)] {
            let spec = spec(format, 100, cols, 16).splits_for(blocks);
            gemm_batch(spec, &[9, 20], Part::All).pass();
        }
    }
}

#[test]
fn columns_that_fill_no_turn() {
    let formats = [
        WeightFormat::F32,
        WeightFormat::F16,
        WeightFormat::BF16,
        WeightFormat::Q4_0,
        WeightFormat::Q8_0,
    ];
    for format in formats {
        for cols in [32, 96, 416] {
            let spec = spec(format, 70, cols, 8).splits_for(2);
            gemm_batch(spec, &[5], Part::All).pass();
        }
    }
}

/// The first block of rows of the layers of a tiny, a 1.5B and an 8B model, divided as for 132
/// multiprocessors.
#[test]
fn layers_of_models() {
    let shapes = [
        (1024, 256),
        (256, 1024),
        (8960, 1536),
        (1536, 8960),
        (14336, 4096),
        (4096, 14336),
    ];
    for (rows, cols) in shapes {
        for format in [
            WeightFormat::F16,
            WeightFormat::Q8_0,
            WeightFormat::Q4K,
            WeightFormat::Q6K,
        ] {
            let spec = spec(format, rows, cols, 32).splits_for(264);
            gemm_batch(spec, &[9], Part::Blocks(1)).pass();
        }
    }
}

#[test]
fn bias_and_residual_in_place() {
    for (rows, cols) in [(64, 256), (65, 1024)] {
        for (bias, residual) in [(true, false), (false, true), (true, true)] {
            let spec = GemmBatchSpec {
                epilogue: Epilogue { bias, residual },
                ..spec(WeightFormat::Q8_0, rows, cols, 8).splits_for(4)
            };
            gemm_batch(spec, &[9], Part::All).pass();
        }
    }
}

#[test]
fn a_tokens_result_depends_on_it_alone() {
    let spec = spec(WeightFormat::Q5K, 80, 1280, 8).splits_for(3);
    let n = [65, 1, 9, 17, 64];
    let of = |tokens| {
        let spec = GemmBatchSpec { tokens, ..spec };
        gemm_batch(spec, &n, Part::All).results(2)
    };
    let all = of(64).remove(0);
    for tokens in [8, 16, 32, 64] {
        for (n, some) in n.iter().zip(of(tokens)) {
            let same = some
                .iter()
                .zip(&all)
                .all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{n} tokens, {tokens} a block");
        }
    }
}

#[test]
fn what_exceeds_f16_is_computed_in_f32() {
    for format in WeightFormat::ALL {
        // One block a tile and several, ragged rows, a ragged turn of the warp that computes again.
        for (rows, cols, tokens) in [(64, 256, 8), (75, 768, 16), (133, 1280, 64)] {
            let whole = spec(format, rows, cols, tokens);
            gemm_batch_of_outliers(whole).pass();
            let epilogue = Epilogue {
                bias: true,
                residual: true,
            };
            let parts = GemmBatchSpec { epilogue, ..whole }.splits_for(8);
            gemm_batch_of_outliers(parts).pass();
        }
    }
}

#[test]
fn columns_are_divided_to_fill_a_gpu() {
    for (rows, cols, splits) in [
        (14336, 4096, 2),
        (4096, 14336, 7),
        (4096, 4096, 8),
        (1024, 4096, 8),
        (128_256, 4096, 1),
        (256, 1536, 3),
    ] {
        let spec = spec(WeightFormat::Q4K, rows, cols, 32).splits_for(264);
        assert_eq!(spec.splits, splits, "{rows} x {cols}");
        assert_eq!(spec.check(), Ok(()));
    }
}

#[test]
fn unsupported_shapes_are_refused() {
    let ok = spec(WeightFormat::F16, 64, 64, 8);
    let refused = [
        GemmBatchSpec { cols: 48, ..ok },
        GemmBatchSpec { rows: 0, ..ok },
        GemmBatchSpec { tokens: 12, ..ok },
        GemmBatchSpec { splits: 0, ..ok },
        GemmBatchSpec { splits: 2, ..ok },
        GemmBatchSpec {
            target: Target::Sm75,
            ..ok
        },
    ];
    assert_eq!(ok.check(), Ok(()));
    for spec in refused {
        assert!(spec.check().is_err(), "{spec:?}");
    }
}
