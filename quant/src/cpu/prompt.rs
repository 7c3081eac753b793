//! The panel path of `matmul_fast`: rows unpacked once, multiplied with every token.
//!
//! Always holds: a panel belongs to one thread; rows past the end of the matrix are computed with
//! stale bytes and never stored.

#![allow(unsafe_code)]

use std::ops::Range;

use super::activations::Activations;
use super::panel::{GroupTerms, PANEL_ROWS, Panel, TILE_TOKENS, Tile, TileValues};
use super::parallel::Output;
use super::unpack::{Shape, Unpacked};
use super::{avx2, avx2_gemm, avx512, avx512_gemm};
use crate::Matrix;

/// Bytes of activations that panels are multiplied with before the next ones: what fits the
/// second-level cache beside a panel.
const RESIDENT_BYTES: usize = 1 << 20;

/// A product through panels, as its threads share it.
///
/// Always holds: the machine has the features of [`Isa::Avx2`](super::isa::Isa::Avx2), and of
/// [`Isa::Avx512`](super::isa::Isa::Avx512) if `wide`.
pub(super) struct Panels<'a> {
    pub(super) wide: bool,
    pub(super) shape: Shape,
    pub(super) w: &'a Matrix<'a>,
    pub(super) x: &'a Activations,
    pub(super) terms: &'a GroupTerms,
    pub(super) n: usize,
    pub(super) out: &'a Output<'a>,
}

impl Panels<'_> {
    /// Rows `rows` of the product.
    pub(super) fn multiply_rows(&self, rows: Range<usize>) {
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
        // SAFETY: `Panels` only exists where the machine has the features; see there.
        unsafe {
            if self.wide {
                avx512_gemm::interleave(panel)
            } else {
                avx2_gemm::interleave(panel)
            }
        }
    }

    /// How many of `left` tokens the next tile takes: a size that the kernel has.
    fn tile_tokens(&self, left: usize) -> usize {
        let largest = if self.wide {
            TILE_TOKENS
        } else {
            TILE_TOKENS / 2
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
        // SAFETY: `Panels` only exists where the machine has the features; see there.
        unsafe {
            if self.wide {
                avx512_gemm::multiply(panel, tile, tokens, out)
            } else {
                avx2_gemm::multiply(panel, tile, tokens, out)
            }
        }
    }

    /// Unpacks row `row`.
    fn unpack(&self, row: usize, parts: Unpacked<'_>) {
        let (format, row) = (self.w.format, self.w.row(row));
        // SAFETY: `Panels` only exists where the machine has the features; see there.
        unsafe {
            if self.wide {
                avx512::unpack_row(format, row, parts)
            } else {
                avx2::unpack_row(format, row, parts)
            }
        }
    }
}
