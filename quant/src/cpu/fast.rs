//! `matmul_fast`: activations quantised to int8, integer dot products.
//!
//! Few tokens: each packed row is multiplied as it is read, for the formats that have a kernel for
//! it. Otherwise a panel of rows is unpacked once and multiplied with all tokens.
//!
//! Always holds: a row's value does not depend on the thread that computes it; the integer parts
//! are exact, so instruction sets differ by f32 rounding at most.

#![allow(unsafe_code)]

use std::ops::Range;

use super::activations::Activations;
#[cfg(target_arch = "x86_64")]
use super::avx512_gemv::{self, Lanes};
use super::exact;
use super::isa::Isa;
use super::panel::{GroupTerms, PANEL_ROWS, Panel, TILE_TOKENS, Tile, TileValues};
use super::parallel::{self, Output};
use super::portable::{self, Row};
use super::unpack::{self, Shape, Unpacked};
use crate::Matrix;

/// From this many tokens on, unpacking rows first pays.
#[cfg(target_arch = "x86_64")]
const MIN_GEMM_TOKENS: usize = 4;

/// Packed rows that are multiplied with one token before the next token has its turn.
#[cfg(target_arch = "x86_64")]
const GEMV_ROWS: usize = 32;

/// Bytes of activations that panels are multiplied with before the next ones: what fits the
/// second-level cache beside a panel.
const RESIDENT_BYTES: usize = 1 << 20;

/// One product, spread over threads.
pub(super) fn matmul(isa: Isa, w: &Matrix<'_>, x: &[f32], n: usize, out: &mut [f32]) {
    let Some(shape) = Shape::of(w.format) else {
        // Float weights have no integer form: their fast path is the f32 one.
        return exact::matmul(isa, w, x, n, out);
    };
    let x = &Activations::quantize(isa, x, n, w.cols, shape.act_block);
    let out = &Output::new(out, w.rows);
    // About 64 multiply-adds a nanosecond; unpacking costs as much as four tokens.
    let ns = (w.rows * w.cols / 64).saturating_mul(n + 4);

    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx512 && n < MIN_GEMM_TOKENS && avx512_gemv::supports(w.format) {
        // A core reads and multiplies about 16 bytes of packed weights a nanosecond.
        let ns = (w.data.len() / 16).saturating_mul(n);
        let x: Vec<Lanes> = (0..n).map(|t| Lanes::new(w.format, x.token(t))).collect();
        return parallel::for_rows(w.rows, ns, |rows| packed_gemv(w, &x, rows, out));
    }
    let terms = &GroupTerms::new(shape, x);
    let product = Product {
        isa,
        shape,
        w,
        x,
        terms,
        n,
        out,
    };
    if isa == Isa::Portable {
        parallel::for_rows(w.rows, ns, |rows| product.portable(rows));
    } else {
        parallel::for_rows(w.rows, ns, |rows| product.panels(rows));
    }
}

/// Rows `rows` times few tokens with a kernel that reads packed rows.
#[cfg(target_arch = "x86_64")]
fn packed_gemv(w: &Matrix<'_>, x: &[Lanes], rows: Range<usize>, out: &Output<'_>) {
    let bytes = w.row_bytes();
    let mut values = [0.0f32; GEMV_ROWS];
    for first in rows.clone().step_by(GEMV_ROWS) {
        let last = rows.end.min(first + GEMV_ROWS);
        let packed = &w.data[first * bytes..last * bytes];
        for (t, x) in x.iter().enumerate() {
            // SAFETY: only called for `Isa::Avx512`, which the machine then has.
            unsafe { avx512_gemv::gemv(w.format, packed, bytes, x, &mut values) }
            for (row, &value) in (first..last).zip(&values) {
                // SAFETY: rows of this range belong to this call alone.
                unsafe { out.set(row, t, value) }
            }
        }
    }
}

/// What the threads of one product share.
struct Product<'a> {
    isa: Isa,
    shape: Shape,
    w: &'a Matrix<'a>,
    x: &'a Activations,
    terms: &'a GroupTerms,
    n: usize,
    out: &'a Output<'a>,
}

impl Product<'_> {
    /// Rows `rows`, one unpacked after the other, in plain Rust.
    fn portable(&self, rows: Range<usize>) {
        let (cols, groups) = (self.w.cols, self.terms.groups);
        let mut q = vec![0; cols];
        let (mut scales, mut mins) = (vec![0.0; groups], vec![0.0; groups]);
        for row in rows {
            let parts = Unpacked {
                q: &mut q,
                scales: &mut scales,
                mins: &mut mins,
                stride: 1,
            };
            unpack::unpack_row(self.w.format, self.w.row(row), parts);
            for t in 0..self.n {
                let unpacked = Row {
                    q: &q,
                    scales: &scales,
                    mins: &mins,
                };
                let value = portable::dot_groups(self.shape, unpacked, self.x.token(t));
                // SAFETY: rows of this range belong to this call alone.
                unsafe { self.out.set(row, t, value) }
            }
        }
    }

    /// Rows `rows`, through panels.
    fn panels(&self, rows: Range<usize>) {
        let (n, cols) = (self.n, self.w.cols);
        let mut panel = Panel::new(self.shape, cols);
        let mut values: TileValues = Default::default();
        // Tokens that stay in the second-level cache while the panels pass by.
        let resident = (RESIDENT_BYTES / cols).max(1).next_multiple_of(TILE_TOKENS);
        for begin in (0..n).step_by(resident) {
            let end = n.min(begin + resident);
            for first in rows.clone().step_by(PANEL_ROWS) {
                let count = PANEL_ROWS.min(rows.end - first);
                self.fill(&mut panel, first, count);
                let mut token = begin;
                while token < end {
                    let tokens = self.tile_tokens(end - token);
                    self.multiply(&panel, token, tokens, &mut values);
                    for (t, values) in values.iter().take(tokens).enumerate() {
                        for (r, &value) in values.iter().take(count).enumerate() {
                            // SAFETY: rows of this range belong to this call alone.
                            unsafe { self.out.set(first + r, token + t, value) }
                        }
                    }
                    token += tokens;
                }
            }
        }
    }

    /// Unpacks `count` rows from `first` on and interleaves them.
    fn fill(&self, panel: &mut Panel, first: usize, count: usize) {
        let cols = self.w.cols;
        for r in 0..count {
            let parts = Unpacked {
                q: &mut panel.rows[r * cols..(r + 1) * cols],
                scales: &mut panel.scales[r..],
                mins: &mut panel.mins[r..],
                stride: PANEL_ROWS,
            };
            self.unpack(first + r, parts);
        }
        match self.isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the machine has the features of its `Isa`.
            Isa::Avx512 => unsafe { super::avx512_gemm::interleave(panel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx2 => unsafe { super::avx2_gemm::interleave(panel) },
            Isa::Portable => panel.interleave(),
        }
    }

    /// How many of `left` tokens the next tile takes: a size that the kernel has.
    fn tile_tokens(&self, left: usize) -> usize {
        let largest = match self.isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => TILE_TOKENS,
            _ => TILE_TOKENS / 2,
        };
        largest.min(1 << left.ilog2())
    }

    /// The products of a panel with `tokens` tokens from `first` on.
    fn multiply(&self, panel: &Panel, first: usize, tokens: usize, out: &mut TileValues) {
        let tile = Tile {
            x: self.x,
            terms: self.terms,
            first,
        };
        match self.isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the machine has the features of its `Isa`.
            Isa::Avx512 => unsafe { super::avx512_gemm::multiply(panel, tile, tokens, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx2 => unsafe { super::avx2_gemm::multiply(panel, tile, tokens, out) },
            Isa::Portable => unreachable!("portable products unpack single rows"),
        }
    }

    /// Unpacks row `row`.
    fn unpack(&self, row: usize, parts: Unpacked<'_>) {
        let (format, row) = (self.w.format, self.w.row(row));
        match self.isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the machine has the features of its `Isa`.
            Isa::Avx512 => unsafe { super::avx512::unpack_row(format, row, parts) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx2 => unsafe { super::avx2::unpack_row(format, row, parts) },
            Isa::Portable => unpack::unpack_row(format, row, parts),
        }
    }
}
