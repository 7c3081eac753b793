//! Products on tensor cores in the interpreter, against f64 over dequantised weights.

mod common;

use common::products::{Part, gemm};
use common::trial::Trial;
use gannet_ptx_gen::kernels::{Epilogue, GemmSpec, WeightFormat};
use gannet_ptx_gen::target::Target;

fn spec(target: Target, format: WeightFormat, rows: u32, cols: u32) -> GemmSpec {
    GemmSpec {
        target,
        format,
        rows,
        cols,
        epilogue: Epilogue::default(),
    }
}

fn all(spec: GemmSpec, tokens: u32) -> Trial {
    gemm(spec, &[tokens], Part::All)
}

#[test]
fn every_format_with_ragged_tokens_and_rows() {
    for format in WeightFormat::ALL {
        let cols = format.block_len().max(64);
        for (rows, n) in [(64, 9), (65, 33), (1, 17), (130, 1)] {
            all(spec(Target::Sm80, format, rows, 2 * cols), n).pass();
        }
    }
}

#[test]
fn short_steps() {
    let formats = [
        WeightFormat::F32,
        WeightFormat::F16,
        WeightFormat::BF16,
        WeightFormat::Q4_0,
        WeightFormat::Q8_0,
    ];
    for format in formats {
        for cols in [32, 96] {
            all(spec(Target::Sm80, format, 70, cols), 5).pass();
        }
    }
}

#[test]
fn every_tile_on_old_and_new_targets() {
    for target in [Target::Sm75, Target::Sm80, Target::Sm90a] {
        for rows in [200, 600, 4100] {
            let n = if rows == 600 { 65 } else { 3 };
            all(spec(target, WeightFormat::Q4K, rows, 256), n).pass();
        }
    }
}

#[test]
fn large_tiles_of_every_format() {
    for format in WeightFormat::ALL {
        all(spec(Target::Sm80, format, 4096, 256), 2).pass();
    }
}

#[test]
fn real_columns() {
    for (format, cols) in [
        (WeightFormat::Q4K, 1536),
        (WeightFormat::Q6K, 8960),
        (WeightFormat::Q8_0, 576),
        (WeightFormat::F16, 896),
    ] {
        all(spec(Target::Sm80, format, 64, cols), 20).pass();
    }
}

/// The first block of rows of the layers of a tiny, a 1.5B and an 8B model.
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
            gemm(
                spec(Target::Sm80, format, rows, cols),
                &[5],
                Part::Blocks(1),
            )
            .pass();
        }
    }
}

#[test]
fn bias_and_residual_in_place() {
    for rows in [64, 65, 70] {
        for (bias, residual) in [(true, false), (false, true), (true, true)] {
            let spec = GemmSpec {
                epilogue: Epilogue { bias, residual },
                ..spec(Target::Sm80, WeightFormat::Q8_0, rows, 128)
            };
            all(spec, 9).pass();
        }
    }
}

#[test]
fn a_tokens_result_depends_on_it_alone() {
    let spec = spec(Target::Sm80, WeightFormat::Q5K, 80, 512);
    let tokens = [65, 1, 9, 17, 64];
    let results = gemm(spec, &tokens, Part::All).results(2);
    for (n, some) in tokens.iter().zip(&results) {
        let same = (some.iter().zip(&results[0])).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{n} tokens");
    }
}

#[test]
fn what_exceeds_f16_is_computed_in_f32() {
    for target in [Target::Sm75, Target::Sm80] {
        for format in WeightFormat::ALL {
            // A ragged tile of rows, and a ragged turn of the warp that computes again.
            let ragged = spec(
                target,
                format,
                75,
                if matches!(format, WeightFormat::F16) {
                    96
                } else {
                    768
                },
            );
            common::products::gemm_of_outliers(ragged).pass();
        }
        let epilogue = Epilogue {
            bias: true,
            residual: true,
        };
        // Each of the tiles.
        for (rows, cols) in [(64, 64), (520, 1024), (4100, 64)] {
            let spec = GemmSpec {
                epilogue,
                ..spec(target, WeightFormat::Q8_0, rows, cols)
            };
            common::products::gemm_of_outliers(spec).pass();
        }
    }
}

#[test]
fn unsupported_shapes_are_refused() {
    for (format, rows, cols) in [
        (WeightFormat::F16, 64, 48),
        (WeightFormat::F32, 64, 0),
        (WeightFormat::Q4K, 64, 288),
        (WeightFormat::Q8_0, 0, 64),
    ] {
        assert!(spec(Target::Sm80, format, rows, cols).check().is_err());
    }
}
