//! Every format, shape and instruction set against f64 and against each other.

use super::activations::{Activations, BLOCK};
use super::isa::Isa;
use super::unpack::{Shape, f16_to_f32};
use super::*;
use crate::Format;
use crate::random::Words;

/// Rows, columns in units of the format's (super-)block, tokens.
const SHAPES: [(usize, usize, usize); 8] = [
    (1, 1, 1),
    (5, 1, 1),
    (1, 3, 17),
    (19, 1, 3),
    (33, 2, 17),
    (48, 5, 4),
    (16, 1, 8),
    (70, 3, 1),
];

struct Case {
    format: Format,
    rows: usize,
    cols: usize,
    n: usize,
    data: Vec<u8>,
    dense: Vec<f32>,
    x: Vec<f32>,
}

impl Case {
    fn new(format: Format, rows: usize, blocks: usize, n: usize) -> Case {
        // Float formats get a length that no vector width divides.
        let cols = if format.block_len() == 1 {
            blocks * 37
        } else {
            blocks * format.block_len()
        };
        let mut data = vec![0; rows * format.row_bytes(cols).unwrap()];
        format.random(7 + cols as u64, 0.3, &mut data);
        let mut dense = vec![0.0; rows * cols];
        format.dequantize(&data, &mut dense).unwrap();
        Case {
            format,
            rows,
            cols,
            n,
            data,
            dense,
            x: gaussian(n * cols),
        }
    }

    fn matrix(&self) -> Matrix<'_> {
        Matrix::new(self.format, self.rows, self.cols, &self.data).unwrap()
    }

    /// Normalised squared error that f32 rounding may cause. One output can be small by
    /// cancellation, which magnifies its relative error; many together can not.
    fn limit(&self) -> f64 {
        if self.rows * self.n < 16 { 1e-9 } else { 1e-11 }
    }

    /// The product in f64 with the given activations.
    fn reference(&self, x: &[f64]) -> Vec<f64> {
        let mut out = Vec::new();
        for x in x.chunks(self.cols) {
            for w in self.dense.chunks(self.cols) {
                out.push(w.iter().zip(x).map(|(&w, &x)| f64::from(w) * x).sum());
            }
        }
        out
    }

    fn run(&self, isa: Isa, product: Product) -> Vec<f32> {
        let mut out = vec![f32::NAN; self.rows * self.n];
        product(isa, &self.matrix(), &self.x, self.n, &mut out);
        out
    }
}

type Product = fn(Isa, &Matrix<'_>, &[f32], usize, &mut [f32]);

/// Normally distributed by summing twelve uniform numbers.
pub(super) fn gaussian(len: usize) -> Vec<f32> {
    let uniform = |w: &mut Words| (w.word() >> 40) as f32 / (1u64 << 24) as f32;
    (0..len as u64)
        .map(|i| {
            let mut words = Words::for_block(99, i);
            (0..12).map(|_| uniform(&mut words)).sum::<f32>() - 6.0
        })
        .collect()
}

/// Squared error over squared magnitude.
fn nmse(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let error: f64 = got
        .iter()
        .zip(want)
        .map(|(&g, w)| (f64::from(g) - w).powi(2))
        .sum();
    let power: f64 = want.iter().map(|w| w * w).sum();
    error / power.max(f64::MIN_POSITIVE)
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// Calls `check` for every format, shape and instruction set.
fn for_all(check: impl Fn(&Case, Isa)) {
    for &format in Format::ALL {
        for (rows, blocks, n) in SHAPES {
            let case = Case::new(format, rows, blocks, n);
            Isa::available()
                .into_iter()
                .for_each(|isa| check(&case, isa));
        }
    }
}

#[test]
fn exact_is_within_f32_rounding_of_f64() {
    for_all(|case, isa| {
        let error = nmse(
            &case.run(isa, exact::matmul),
            &case.reference(&wide(&case.x)),
        );
        assert!(error <= case.limit(), "{} {isa:?}: {error:e}", case.format);
    });
}

/// Products of a token, alone and with a few and with many others.
fn company_changes_nothing(case: &Case, isa: Isa, product: Product) {
    let all = bits(&case.run(isa, product));
    for together in [1, 2, 3, 4, 5, 7] {
        let parts = case.x.chunks(together * case.cols);
        for (x, want) in parts.zip(all.chunks(together * case.rows)) {
            let mut out = vec![0.0; want.len()];
            product(isa, &case.matrix(), x, x.len() / case.cols, &mut out);
            let (rows, cols) = (case.rows, case.cols);
            assert_eq!(
                bits(&out),
                want,
                "{} {isa:?} {rows}x{cols} by {together}",
                case.format
            );
        }
    }
}

pub(super) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn a_token_does_not_depend_on_its_company() {
    for_all(|case, isa| {
        company_changes_nothing(case, isa, exact::matmul);
        company_changes_nothing(case, isa, fast::matmul);
    });
}

/// Several blocks of columns, of rows and of tokens, the last of each cut short.
#[test]
fn float_products_do_not_depend_on_how_they_are_cut() {
    for format in [Format::F32, Format::F16, Format::BF16, Format::Q8_0] {
        let blocks = |cols: usize| match format.block_len() {
            1 => cols / 37,
            len => cols / len,
        };
        for (rows, cols, n) in [(70, 37 * 40, 9), (5, 37 * 9600, 13)] {
            let case = Case::new(format, rows, blocks(cols), n);
            for isa in Isa::available() {
                company_changes_nothing(&case, isa, exact::matmul);
                let error = nmse(
                    &case.run(isa, exact::matmul),
                    &case.reference(&wide(&case.x)),
                );
                assert!(error <= 1e-10, "{format} {isa:?}: {error:e}");
            }
        }
    }
}

#[test]
fn a_token_does_not_depend_on_its_company_at_any_size() {
    // More rows than a thread has at once, last vectors that are half full, codes at their extremes.
    for &format in Format::ALL {
        for (rows, blocks, n) in [(131, 9, 19), (1, 7, 4), (64, 11, 9), (15, 35, 5)] {
            let mut case = Case::new(format, rows, blocks, n);
            for isa in Isa::available() {
                company_changes_nothing(&case, isa, fast::matmul);
            }
            // Weights as any bytes may spell them, finite ones.
            let mut words = Words::for_block(3, rows as u64);
            for byte in &mut case.data {
                *byte = words.word() as u8;
            }
            for block in case.data.chunks_exact_mut(format.block_bytes()) {
                let mut value = vec![0.0; format.block_len()];
                format.dequantize(block, &mut value).unwrap();
                if value.iter().any(|v| !v.is_finite()) {
                    block.fill(0x11);
                }
            }
            for isa in Isa::available() {
                company_changes_nothing(&case, isa, fast::matmul);
            }
        }
    }
}

#[test]
fn fast_products_of_blocks_are_the_same_bits_on_every_instruction_set() {
    for_all(|case, isa| {
        if Shape::of(case.format).is_some() {
            let want = bits(&case.run(Isa::Portable, fast::matmul));
            assert_eq!(
                bits(&case.run(isa, fast::matmul)),
                want,
                "{} {isa:?}",
                case.format
            );
        }
    });
}

#[test]
fn fast_matches_f64_with_the_same_quantised_activations() {
    for_all(|case, isa| {
        if Shape::of(case.format).is_none() {
            return;
        }
        let q = Activations::quantize(isa, &case.x, case.n, case.cols);
        let scale = |i: usize| f64::from(q.scales[i / BLOCK]);
        let x: Vec<f64> =
            q.q.iter()
                .enumerate()
                .map(|(i, &q)| f64::from(q) * scale(i))
                .collect();
        let error = nmse(&case.run(isa, fast::matmul), &case.reference(&x));
        assert!(
            error <= 1e-9,
            "{} {isa:?} {}x{}: {error:e}",
            case.format,
            case.rows,
            case.cols
        );
    });
}

#[test]
fn long_prompts_pass_in_parts() {
    // 8192 columns and 130 tokens are more than stays in the cache at once.
    let case = Case::new(Format::Q4_K, 17, 32, 130);
    for isa in Isa::available() {
        let together = case.run(isa, fast::matmul);
        let tokens = case
            .x
            .chunks(12 * case.cols)
            .zip(together.chunks(12 * case.rows));
        for (x, want) in tokens {
            // A dozen at a time go through panels as well.
            let n = x.len() / case.cols;
            let mut out = vec![0.0; want.len()];
            fast::matmul(isa, &case.matrix(), x, n, &mut out);
            assert_eq!(bits(&out), bits(want), "{isa:?}");
        }
    }
}

#[test]
fn products_together_are_the_products_alone() {
    let formats = [
        Format::Q4_K,
        Format::F16,
        Format::Q8_0,
        Format::Q4_K,
        Format::Q6_K,
    ];
    for n in [1, 9] {
        let x = gaussian(n * 512);
        let row_counts = [96, 10, 400, 1024, 33];
        let data: Vec<Vec<u8>> = formats
            .iter()
            .zip(row_counts)
            .map(|(format, rows)| {
                let mut data = vec![0; rows * format.row_bytes(512).unwrap()];
                format.random(rows as u64, 0.1, &mut data);
                data
            })
            .collect();
        for isa in Isa::available() {
            let mut alone: Vec<Vec<f32>> = Vec::new();
            let mut outs: Vec<Vec<f32>> = row_counts.map(|rows| vec![f32::NAN; n * rows]).into();
            let mut products = Vec::new();
            let parts = formats.iter().zip(row_counts).zip(&data);
            for (((&format, rows), data), out) in parts.zip(&mut outs) {
                let w = Matrix::new(format, rows, 512, data).unwrap();
                let mut single = vec![f32::NAN; n * rows];
                fast::matmul(isa, &w, &x, n, &mut single);
                alone.push(single);
                products.push(super::Product { w, out });
            }
            fast::matmul_each(isa, &mut products, &x, n);
            assert_eq!(outs, alone, "{isa:?} with {n} tokens");
        }
    }
}

#[test]
fn fast_is_close_to_f64() {
    for &format in Format::ALL {
        let case = Case::new(format, 64, 4, 5);
        for isa in Isa::available() {
            let error = nmse(
                &case.run(isa, fast::matmul),
                &case.reference(&wide(&case.x)),
            );
            assert!(error <= 1e-4, "{format} {isa:?}: {error:e}");
        }
    }
}

#[test]
fn instruction_sets_agree() {
    for product in [exact::matmul as Product, fast::matmul] {
        for_all(|case, isa| {
            let error = nmse(
                &case.run(isa, product),
                &wide(&case.run(Isa::Portable, product)),
            );
            assert!(
                error <= case.limit(),
                "{} {isa:?} {}x{}: {error:e}",
                case.format,
                case.rows,
                case.cols
            );
        });
    }
}

#[test]
fn threads_do_not_change_results() {
    let case = Case::new(Format::Q4_K, 1000, 2, 7);
    for product in [exact::matmul as Product, fast::matmul] {
        let want = case.run(Isa::detect(), product);
        for threads in [1, 2, 3, 5] {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            assert_eq!(pool.install(|| case.run(Isa::detect(), product)), want);
        }
    }
}

#[test]
fn expanded_rows_are_bit_exact() {
    // A unit vector picks one column out of the weights.
    for &format in Format::ALL {
        let case = Case::new(format, 3, 2, 1);
        for isa in Isa::available() {
            for col in [0, 1, case.cols / 2, case.cols - 1] {
                let mut unit = vec![0.0; case.cols];
                unit[col] = 1.0;
                let mut out = [0.0; 3];
                exact::matmul(isa, &case.matrix(), &unit, 1, &mut out);
                for (row, got) in out.into_iter().enumerate() {
                    let want = case.dense[row * case.cols + col];
                    assert!(
                        got == want,
                        "{format} {isa:?} [{row}, {col}]: {got} for {want}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_nan_poisons_its_own_row_only() {
    for &format in Format::ALL {
        let mut case = Case::new(format, 17, 2, 6);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            case.x = gaussian(case.n * case.cols);
            case.x[2 * case.cols + 3] = bad;
            for isa in Isa::available() {
                for product in [exact::matmul as Product, fast::matmul] {
                    let out = case.run(isa, product);
                    for (token, row) in out.chunks(case.rows).enumerate() {
                        // A weight of zero times infinity is NaN too; any other stays infinite.
                        assert!(
                            row.iter().all(|v| v.is_finite() != (token == 2)),
                            "{format} {isa:?}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn zeros_and_extremes_stay_finite() {
    for &format in Format::ALL {
        let mut case = Case::new(format, 17, 1, 5);
        for value in [0.0, 1e-40, -1e-36, 1e30] {
            case.x.fill(value);
            for isa in Isa::available() {
                assert!(
                    case.run(isa, fast::matmul).iter().all(|v| v.is_finite()),
                    "{format}"
                );
            }
        }
    }
}

#[test]
fn extreme_codes_do_not_overflow() {
    // The largest codes and scales of a block, all activations at 127 or -127.
    let extremes = [
        (Format::Q8_0, 2..34, 0x80),
        (Format::Q8_0, 2..34, 0x7f),
        (Format::Q4_K, 4..144, 0xff),
        (Format::Q5_K, 4..176, 0xff),
        (Format::Q6_K, 0..192, 0xff),
        (Format::Q6_K, 192..208, 0x80),
        (Format::Q5_0, 2..22, 0xff),
        (Format::Q8_K, 4..260, 0x80),
        (Format::IQ4_XS, 8..136, 0xff),
    ];
    for (format, bytes, value) in extremes {
        let mut case = Case::new(format, 17, 4, 5);
        for block in case.data.chunks_exact_mut(format.block_bytes()) {
            block[bytes.clone()].fill(value);
        }
        format.dequantize(&case.data, &mut case.dense).unwrap();
        for x in [1.0, -1.0] {
            case.x.fill(x);
            let want = case.reference(&wide(&case.x));
            for isa in Isa::available() {
                for n in [1, 5] {
                    let mut out = vec![0.0; n * case.rows];
                    fast::matmul(isa, &case.matrix(), &case.x[..n * case.cols], n, &mut out);
                    let error = nmse(&out, &want[..n * case.rows]);
                    assert!(error < 1e-10, "{format} {isa:?}: {error:e}");
                }
            }
        }
    }
}

#[test]
fn every_half_converts_as_the_half_crate_does() {
    for bits in 0..=u16::MAX {
        let (got, want) = (f16_to_f32(bits), half::f16::from_bits(bits).to_f32());
        assert!(
            got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
            "{bits:#x}"
        );
    }
}

#[test]
fn empty_shapes_are_fine() {
    let empty = Matrix::new(Format::Q4_K, 0, 256, &[]).unwrap();
    matmul_fast(&empty, &[1.0; 256], 1, &mut []);
    matmul_exact(&empty, &[1.0; 256], 1, &mut []);
    let case = Case::new(Format::Q8_0, 4, 1, 0);
    matmul_fast(&case.matrix(), &[], 0, &mut []);
    matmul_exact(&case.matrix(), &[], 0, &mut []);
    let mut out = [1.0; 2];
    matmul_fast(
        &Matrix::new(Format::Q4_0, 2, 0, &[]).unwrap(),
        &[],
        1,
        &mut out,
    );
    assert_eq!(out, [0.0; 2]);
}
