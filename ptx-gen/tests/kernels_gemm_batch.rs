//! Products of a batch on tensor cores in the interpreter, against f64 over dequantised weights.

mod common;

use common::products::{Part, gemm_batch};
use gannet_ptx_gen::kernels::{GemmBatchSpec, WeightFormat};
use gannet_ptx_gen::target::Target;

fn spec(format: WeightFormat, rows: u32, cols: u32, tokens: u32) -> GemmBatchSpec {
    GemmBatchSpec {
        target: Target::Sm80,
        format,
        rows,
        cols,
        tokens,
        splits: 1,
        bias: false,
        residual: false,
    }
}

#[test]
fn every_format_with_ragged_tokens_and_rows() {
    for format in WeightFormat::ALL {
        let cols = format.block_len().max(64);
        for (rows, tokens, n) in [(128, 8, 7), (65, 32, 33), (1, 16, 17), (130, 8, 1)] {
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
