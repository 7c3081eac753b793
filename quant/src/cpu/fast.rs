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
use super::parallel::{self, Output};
use super::portable::{self, Row};
#[cfg(target_arch = "x86_64")]
use super::prompt::Panels;
use super::unpack::{self, Shape, Unpacked};
use crate::Matrix;

/// From this many tokens on, unpacking rows first pays.
#[cfg(target_arch = "x86_64")]
const MIN_GEMM_TOKENS: usize = 4;

/// Packed rows that are multiplied with one token before the next token has its turn.
#[cfg(target_arch = "x86_64")]
const GEMV_ROWS: usize = 32;

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
    let job = Job {
        shape,
        w,
        x,
        n,
        out,
    };
    #[cfg(target_arch = "x86_64")]
    if let Some(panels) = Panels::new(isa, &job) {
        return parallel::for_rows(w.rows, ns, |rows| panels.multiply_rows(rows));
    }
    parallel::for_rows(w.rows, ns, |rows| job.multiply_rows(rows));
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
pub(super) struct Job<'a> {
    pub(super) shape: Shape,
    pub(super) w: &'a Matrix<'a>,
    pub(super) x: &'a Activations,
    pub(super) n: usize,
    pub(super) out: &'a Output<'a>,
}

impl Job<'_> {
    /// Rows `rows`, one unpacked after the other, in plain Rust.
    fn multiply_rows(&self, rows: Range<usize>) {
        let (cols, groups) = (self.w.cols, self.w.cols / self.shape.group);
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
            let unpacked = Row {
                q: &q,
                scales: &scales,
                mins: &mins,
            };
            for t in 0..self.n {
                let value = portable::dot_groups(self.shape, unpacked, self.x.token(t));
                // SAFETY: rows of this range belong to this call alone.
                unsafe { self.out.set(row, t, value) }
            }
        }
    }
}
