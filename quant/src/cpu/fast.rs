//! `matmul_fast`: activations quantised to int8, integer dot products.
//!
//! Few tokens: each packed row is multiplied as it is read. Many tokens: a panel of rows is
//! unpacked once and multiplied with all of them.
//!
//! Always holds: a row's value does not depend on the thread that computes it; the integer parts
//! are exact, so instruction sets differ by f32 rounding at most.

#![allow(unsafe_code)]

use std::ops::Range;

use super::activations::{Activations, Token};
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
    let x = Activations::quantize(isa, x, n, w.cols, shape.act_block);
    let out = Output::new(out, w.rows);
    if n < MIN_GEMM_TOKENS {
        // A core reads about 16 bytes of packed weights a nanosecond.
        let ns = w.data.len() * n / 16;
        #[cfg(target_arch = "x86_64")]
        if isa == Isa::Avx512 && avx512_gemv::supports(w.format) {
            let x: Vec<Lanes> = (0..n).map(|t| Lanes::new(w.format, x.token(t))).collect();
            return parallel::for_rows(w.rows, ns, |rows| gemv_packed(w, &x, rows, &out));
        }
        parallel::for_rows(w.rows, ns, |rows| {
            gemv_rows(isa, shape, w, &x, n, rows, &out)
        });
    } else {
        let ns = w.rows * w.cols * (n + 4) / 64;
        let terms = GroupTerms::new(shape, &x);
        parallel::for_rows(w.rows, ns, |rows| {
            gemm_rows(isa, shape, w, &x, &terms, n, rows, &out);
        });
    }
}

/// Rows `rows` times few tokens.
fn gemv_rows(
    isa: Isa,
    shape: Shape,
    w: &Matrix<'_>,
    x: &Activations,
    n: usize,
    rows: Range<usize>,
    out: &Output<'_>,
) {
    let mut scratch = Scratch::new(shape, w.cols);
    for row in rows {
        let unpacked = scratch.unpack(isa, w, row);
        for t in 0..n {
            let value = dot_unpacked(isa, shape, unpacked, x.token(t));
            // SAFETY: rows of this range belong to this call alone.
            unsafe { out.set(row, t, value) }
        }
    }
}

/// Rows `rows` times few tokens with a kernel that reads packed rows.
#[cfg(target_arch = "x86_64")]
fn gemv_packed(w: &Matrix<'_>, x: &[Lanes], rows: Range<usize>, out: &Output<'_>) {
    let bytes = w.row_bytes();
    let mut values = [0.0f32; GEMV_ROWS];
    for first in rows.clone().step_by(GEMV_ROWS) {
        let last = rows.end.min(first + GEMV_ROWS);
        let packed = &w.data[first * bytes..last * bytes];
        for (t, x) in x.iter().enumerate() {
            // SAFETY: the caller holds `Isa::Avx512`.
            unsafe { avx512_gemv::gemv(w.format, packed, bytes, x, &mut values) }
            for (row, &value) in (first..last).zip(&values) {
                // SAFETY: rows of this range belong to this call alone.
                unsafe { out.set(row, t, value) }
            }
        }
    }
}

/// Rows `rows` times many tokens, through panels where there is a kernel for them.
fn gemm_rows(
    isa: Isa,
    shape: Shape,
    w: &Matrix<'_>,
    x: &Activations,
    terms: &GroupTerms,
    n: usize,
    rows: Range<usize>,
    out: &Output<'_>,
) {
    if isa == Isa::Portable {
        return gemv_rows(isa, shape, w, x, n, rows, out);
    }
    let mut panel = Panel::new(shape, w.cols);
    let mut values: TileValues = Default::default();
    // Tokens that stay in the second-level cache while the panels pass by.
    let resident = (RESIDENT_BYTES / w.cols).next_multiple_of(TILE_TOKENS);
    for begin in (0..n).step_by(resident) {
        let end = n.min(begin + resident);
        for first in rows.clone().step_by(PANEL_ROWS) {
            let count = PANEL_ROWS.min(rows.end - first);
            fill_panel(isa, w, first, count, &mut panel);
            let mut token = begin;
            while token < end {
                let tokens = tile_tokens(isa, end - token);
                multiply_panel(
                    isa,
                    &panel,
                    Tile {
                        x,
                        terms,
                        first: token,
                    },
                    tokens,
                    &mut values,
                );
                for (t, values) in values.iter().take(tokens).enumerate() {
                    for (r, &value) in values.iter().take(count).enumerate() {
                        // SAFETY: rows of this range belong to this call alone.
                        unsafe { out.set(first + r, token + t, value) }
                    }
                }
                token += tokens;
            }
        }
    }
}

/// Unpacks `count` rows from `first` on and interleaves them.
fn fill_panel(isa: Isa, w: &Matrix<'_>, first: usize, count: usize, panel: &mut Panel) {
    for r in 0..count {
        let parts = Unpacked {
            q: &mut panel.rows[r * w.cols..(r + 1) * w.cols],
            scales: &mut panel.scales[r..],
            mins: &mut panel.mins[r..],
            stride: PANEL_ROWS,
        };
        unpack_with(isa, w, first + r, parts);
    }
    match isa {
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
fn tile_tokens(isa: Isa, left: usize) -> usize {
    let largest = match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => TILE_TOKENS,
        _ => TILE_TOKENS / 2,
    };
    largest.min(1 << left.ilog2())
}

/// The products of a panel with a tile of tokens.
fn multiply_panel(isa: Isa, panel: &Panel, tile: Tile<'_>, tokens: usize, out: &mut TileValues) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has the features of its `Isa`.
        Isa::Avx512 => unsafe { super::avx512_gemm::multiply(panel, tile, tokens, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { super::avx2_gemm::multiply(panel, tile, tokens, out) },
        // Portable products unpack single rows.
        Isa::Portable => {}
    }
}

/// Buffers for one unpacked row.
struct Scratch {
    q: Vec<u8>,
    scales: Vec<f32>,
    mins: Vec<f32>,
}

impl Scratch {
    fn new(shape: Shape, cols: usize) -> Scratch {
        let groups = cols / shape.group;
        Scratch {
            q: vec![0; cols],
            scales: vec![0.0; groups],
            mins: vec![0.0; groups],
        }
    }

    fn unpack(&mut self, isa: Isa, w: &Matrix<'_>, row: usize) -> Row<'_> {
        let parts = Unpacked {
            q: &mut self.q,
            scales: &mut self.scales,
            mins: &mut self.mins,
            stride: 1,
        };
        unpack_with(isa, w, row, parts);
        Row {
            q: &self.q,
            scales: &self.scales,
            mins: &self.mins,
        }
    }
}

/// [`unpack::unpack_row`] with the instructions of `isa`.
pub(super) fn unpack_with(isa: Isa, w: &Matrix<'_>, row: usize, parts: Unpacked<'_>) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has the features of its `Isa`.
        Isa::Avx512 => unsafe { super::avx512::unpack_row(w.format, w.row(row), parts) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { super::avx2::unpack_row(w.format, w.row(row), parts) },
        Isa::Portable => unpack::unpack_row(w.format, w.row(row), parts),
    }
}

/// [`portable::dot_groups`] with the instructions of `isa`.
fn dot_unpacked(isa: Isa, shape: Shape, row: Row<'_>, x: Token<'_>) -> f32 {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has the features of its `Isa`.
        Isa::Avx512 => unsafe { super::avx512::dot_groups(shape, row, x) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { super::avx2::dot_groups(shape, row, x) },
        Isa::Portable => portable::dot_groups(shape, row, x),
    }
}
