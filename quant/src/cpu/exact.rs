//! `matmul_exact`: weights expanded to f32, products and sums in f32.
//!
//! Always holds: the value of one (row, token) pair is computed by the same instructions in the
//! same order whatever `n`, the tile it falls into, or the number of threads.

#![allow(unsafe_code)]

use std::ops::Range;

use super::expand;
use super::isa::Isa;
use super::parallel::{self, Output};
use super::portable;
use super::unpack::{Shape, Unpacked};
use crate::{Format, Matrix};

/// Rows that are expanded together and share loads of the activations.
pub(super) const TILE_ROWS: usize = 4;

/// One product, spread over threads.
pub(super) fn matmul(isa: Isa, w: &Matrix<'_>, x: &[f32], n: usize, out: &mut [f32]) {
    let out = Output::new(out, w.rows);
    // About 8 multiply-adds a nanosecond; expanding a weight costs as much as four.
    let ns = w.rows * w.cols * (n + 4) / 8;
    parallel::for_rows(w.rows, ns, |rows| rows_of(isa, w, x, n, rows, &out));
}

/// The rows `rows` of a product.
fn rows_of(isa: Isa, w: &Matrix<'_>, x: &[f32], n: usize, rows: Range<usize>, out: &Output<'_>) {
    let mut scratch = Scratch::new(w);
    let mut values = [0.0f32; TILE_ROWS * MAX_TILE_TOKENS];
    let tokens = tile_tokens(isa);
    for first in rows.clone().step_by(TILE_ROWS) {
        let count = TILE_ROWS.min(rows.end - first);
        let tile = scratch.expand(isa, w, first, count);
        for t in (0..n).step_by(tokens) {
            let tokens = tokens.min(n - t);
            let x = &x[t * w.cols..(t + tokens) * w.cols];
            tile_product(isa, tile, x, w.cols, count, tokens, &mut values);
            for r in 0..count {
                for i in 0..tokens {
                    // SAFETY: rows of this range belong to this call alone.
                    unsafe { out.set(first + r, t + i, values[r * MAX_TILE_TOKENS + i]) }
                }
            }
        }
    }
}

/// The most tokens any instruction set puts in a tile.
pub(super) const MAX_TILE_TOKENS: usize = 6;

fn tile_tokens(isa: Isa) -> usize {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => 6,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => 2,
        Isa::Portable => 1,
    }
}

/// `values[r * MAX_TILE_TOKENS + t]` = row `r` of `w` times row `t` of `x`, both `[_, cols]`.
fn tile_product(
    isa: Isa,
    w: &[f32],
    x: &[f32],
    cols: usize,
    rows: usize,
    tokens: usize,
    values: &mut [f32; TILE_ROWS * MAX_TILE_TOKENS],
) {
    assert!(
        w.len() >= rows * cols && x.len() >= tokens * cols,
        "tile covers rows and tokens"
    );
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has the features of its `Isa`; the lengths are checked above.
        Isa::Avx512 => unsafe { super::avx512::tile(w, x, cols, rows, tokens, values) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { super::avx2::tile(w, x, cols, rows, tokens, values) },
        Isa::Portable => {
            for r in 0..rows {
                for t in 0..tokens {
                    let (w, x) = (&w[r * cols..(r + 1) * cols], &x[t * cols..(t + 1) * cols]);
                    values[r * MAX_TILE_TOKENS + t] = portable::dot_f32(w, x);
                }
            }
        }
    }
}

/// Buffers for expanded rows, reused from tile to tile.
struct Scratch {
    f32s: Vec<f32>,
    q: Vec<u8>,
    scales: Vec<f32>,
    mins: Vec<f32>,
}

impl Scratch {
    fn new(w: &Matrix<'_>) -> Scratch {
        let (q, groups) = Shape::of(w.format).map_or((0, 0), |s| (w.cols, w.cols / s.group));
        Scratch {
            f32s: vec![0.0; TILE_ROWS * w.cols],
            q: vec![0; q],
            scales: vec![0.0; groups],
            mins: vec![0.0; groups],
        }
    }

    /// Rows `first..first + count` of `w` as f32, exactly as [`Format::dequantize`] gives them.
    fn expand<'s>(&'s mut self, isa: Isa, w: &Matrix<'s>, first: usize, count: usize) -> &'s [f32] {
        let bytes = w.row_bytes();
        let rows = &w.data[first * bytes..(first + count) * bytes];
        if w.format == Format::F32
            && cfg!(target_endian = "little")
            && let Ok(f32s) = bytemuck::try_cast_slice(rows)
        {
            return f32s;
        }
        for (r, out) in self.f32s.chunks_exact_mut(w.cols).take(count).enumerate() {
            let row = &rows[r * bytes..(r + 1) * bytes];
            let parts = Unpacked {
                q: &mut self.q,
                scales: &mut self.scales,
                mins: &mut self.mins,
                stride: 1,
            };
            match isa {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the machine has the features of its `Isa`.
                Isa::Avx512 => unsafe { super::avx512::expand_row(w.format, row, parts, out) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                Isa::Avx2 => unsafe { super::avx2::expand_row(w.format, row, parts, out) },
                Isa::Portable => expand::expand_row(w.format, row, parts, out),
            }
        }
        &self.f32s
    }
}
