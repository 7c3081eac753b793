//! Matrix-vector products and embeddings in the interpreter, against f64 over dequantised weights.

#![allow(clippy::unwrap_used)]

mod common;

use common::products::{Part, embed, gemv, gemv_glu, quant_format};
use gannet_ptx_gen::interp::{LaunchArg, Memory, Options, launch};
use gannet_ptx_gen::kernels::{
    Activation, EmbedSpec, Epilogue, GemvGluSpec, GemvSpec, WeightFormat, planes,
};
use gannet_ptx_gen::target::Target;
use gannet_quant::repack;

const TARGET: Target = Target::Sm80;

fn spec(format: WeightFormat, rows: u32, cols: u32, tokens_per_block: u32) -> GemvSpec {
    GemvSpec {
        target: TARGET,
        format,
        rows,
        cols,
        tokens_per_block,
        epilogue: Epilogue::default(),
        hands_over: false,
        variant: None,
    }
}

/// Columns to try: the least, ragged ones, those of small models, and a few real ones.
fn columns(format: WeightFormat) -> Vec<u32> {
    match format.block_len() {
        1 => vec![4, 12, 64, 112, 144, 160, 1000, 1536],
        32 => vec![32, 64, 160, 896, 1536, 4096],
        _ => vec![256, 768, 1536, 2304, 4096],
    }
}

#[test]
fn planes_are_those_that_weights_are_packed_in() {
    for format in WeightFormat::ALL {
        for (rows, cols) in [(1, 256), (7, 512), (33, 768)] {
            let packed = repack::planes(quant_format(format), rows, cols).unwrap();
            let ours = planes(format, rows as u32, cols as u32);
            assert_eq!(ours.len(), packed.planes.len());
            for (a, b) in ours.iter().zip(&packed.planes) {
                assert_eq!(a.name, b.name);
                assert_eq!(
                    (a.offset, a.row_bytes),
                    (b.offset as u64, b.bytes_per_row as u32)
                );
            }
            let block = (format.block_len() as usize, format.block_bytes() as usize);
            let quant = quant_format(format);
            assert_eq!(block, (quant.block_len(), quant.block_bytes()));
        }
    }
}

#[test]
fn one_token_of_every_format_and_shape() {
    for format in WeightFormat::ALL {
        for cols in columns(format) {
            // One product alone may cancel out; of three tokens not all do.
            for (rows, tokens) in [(1, 3), (37, 1)] {
                gemv(spec(format, rows, cols, 1), &[tokens], Part::All).pass();
            }
        }
    }
}

#[test]
fn long_rows_are_staged_in_chunks() {
    for format in WeightFormat::ALL {
        for (cols, tokens) in [(14336, 1), (8960, 1), (14336, 2), (5632, 8)] {
            gemv(spec(format, 19, cols, tokens), &[tokens], Part::All).pass();
        }
    }
}

#[test]
fn tall_matrices_take_several_rows_a_slot() {
    for format in WeightFormat::ALL {
        gemv(spec(format, 17001, 256, 1), &[1], Part::All).pass();
    }
}

/// The first blocks of rows of the layers of a tiny, a 1.5B and an 8B model.
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
        for format in WeightFormat::ALL {
            // The large ones in the formats that such models come in.
            if matches!(format, WeightFormat::Q4K | WeightFormat::Q6K) || rows.max(cols) < 14336 {
                gemv(spec(format, rows, cols, 1), &[1], Part::Blocks(2)).pass();
            }
        }
        if rows < cols {
            let several = spec(WeightFormat::Q4K, rows, cols, 4);
            gemv(several, &[5], Part::Blocks(1)).pass();
            continue;
        }
        let spec = GemvGluSpec {
            target: TARGET,
            gate: WeightFormat::Q4K,
            up: WeightFormat::Q6K,
            rows,
            cols,
            tokens_per_block: 1,
            activation: Activation::Silu,
            variant: None,
        };
        gemv_glu(spec, &[1], Part::Blocks(2)).pass();
    }
}

#[test]
fn a_tokens_result_depends_on_it_alone() {
    for format in WeightFormat::ALL {
        let (rows, cols) = (45, 1536);
        let alone = gemv(spec(format, rows, cols, 1), &[9], Part::All);
        alone.pass();
        let alone = &alone.results(2)[0];
        for tokens_per_block in [1, 2, 4, 8] {
            let tokens: Vec<u32> = (1..=9).collect();
            let spec = spec(format, rows, cols, tokens_per_block);
            let results = gemv(spec, &tokens, Part::All).results(2);
            for (n, found) in tokens.iter().zip(results) {
                let same = (found.iter().zip(alone)).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{} n {n}, {tokens_per_block} a block", format.name());
            }
        }
    }
}

#[test]
fn bias_and_residual_are_added() {
    for tokens_per_block in [1, 4] {
        for (bias, residual) in [(true, false), (false, true), (true, true)] {
            let spec = GemvSpec {
                epilogue: Epilogue { bias, residual },
                ..spec(WeightFormat::Q4K, 37, 512, tokens_per_block)
            };
            gemv(spec, &[3], Part::All).pass();
        }
    }
}

#[test]
fn gated_unit_multiplies_the_two_products() {
    let formats = [
        (WeightFormat::Q4K, WeightFormat::Q4K),
        (WeightFormat::Q4K, WeightFormat::Q6K),
        (WeightFormat::F16, WeightFormat::Q8_0),
        (WeightFormat::F32, WeightFormat::F32),
        (WeightFormat::Q6K, WeightFormat::Q6K),
    ];
    for (gate, up) in formats {
        for (rows, cols, n, tokens_per_block) in [
            (61, 768, 1, 1),
            (2, 256, 3, 2),
            (45, 1536, 11, 8),
            (21, 14336, 1, 1),
        ] {
            for activation in [Activation::Silu, Activation::Gelu] {
                let spec = GemvGluSpec {
                    target: TARGET,
                    gate,
                    up,
                    rows,
                    cols,
                    tokens_per_block,
                    activation,
                    variant: None,
                };
                gemv_glu(spec, &[n], Part::All).pass();
            }
        }
    }
}

#[test]
fn embedding_gives_the_exact_weights() {
    for format in WeightFormat::ALL {
        for cols in columns(format).into_iter().chain([8960]) {
            for vocab_size in [1, 9] {
                let spec = EmbedSpec {
                    target: TARGET,
                    format,
                    vocab_size,
                    hidden_size: cols,
                    scale: None,
                };
                let scaled = EmbedSpec {
                    scale: Some(22.6),
                    ..spec.clone()
                };
                embed(spec).pass();
                embed(scaled).pass();
            }
        }
    }
}

/// Instructions a weight, everything included; the documentation of the kernel states them.
#[test]
fn instructions_a_weight_are_few() {
    let budget = [3.0, 3.4, 3.9, 5.0, 5.5, 6.1, 6.9, 6.3];
    for (format, budget) in WeightFormat::ALL.into_iter().zip(budget) {
        let spec = spec(format, 4096, 4096, 1);
        let bytes = planes(format, spec.rows, spec.cols).last().unwrap().offset as usize
            + format.bytes(spec.rows, spec.cols) as usize;
        let mut memory = Memory::new();
        let (w, x) = (
            memory.alloc_from(&vec![0u8; bytes]),
            memory.alloc_from(&vec![0f32; 4096]),
        );
        let out = memory.alloc(4 * 4096);
        let args = [
            LaunchArg::U64(w),
            LaunchArg::U64(x),
            LaunchArg::U64(out),
            LaunchArg::U32(1),
        ];
        let stats = launch(
            &spec.kernel(),
            [1, 1, 1],
            &args,
            &memory,
            &Options::default(),
        )
        .unwrap();
        let weights = 4096 / spec.grid(1)[0] * 4096;
        let found = stats.lane_instructions as f64 / f64::from(weights);
        assert!(
            found <= budget,
            "{}: {found:.2} instructions a weight",
            format.name()
        );
    }
}

#[test]
fn unsupported_shapes_are_refused() {
    assert!(spec(WeightFormat::Q4K, 4, 128, 1).check().is_err());
    assert!(spec(WeightFormat::F16, 4, 6, 1).check().is_err());
    assert!(spec(WeightFormat::F16, 4, 8, 3).check().is_err());
    assert!(spec(WeightFormat::F16, 0, 8, 1).check().is_err());
    assert!(spec(WeightFormat::Q8_0, u32::MAX, 32, 1).check().is_err());
}
