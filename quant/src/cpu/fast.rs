//! `matmul_fast`: activations quantised to int8, integer dot products.
//!
//! Few tokens: each packed row is multiplied as it is read, for the formats that have a kernel for
//! it. Otherwise a panel of rows is unpacked once and multiplied with all tokens.
//!
//! Always holds: all of them add up in the order of
//! [`portable::dot_groups`], and the integer parts are exact: the value
//! of one (row, token) pair is the same bits whatever `n`, the thread that computes it, or the
//! instruction set.

#![allow(unsafe_code)]

use std::ops::Range;
use std::sync::Arc;

use super::Product;
use super::activations::Activations;
#[cfg(target_arch = "x86_64")]
use super::avx512_gemv::{self, Lanes, PackedRows};
use super::exact;
use super::isa::Isa;
#[cfg(target_arch = "x86_64")]
use super::panel::GroupTerms;
use super::parallel::{self, Output};
use super::portable::{self, Row};
#[cfg(target_arch = "x86_64")]
use super::prompt::Panels;
use super::unpack::{self, Shape, Unpacked};
use crate::{Format, Matrix};

/// From this many tokens on, unpacking rows first pays, whatever the format (for some it does not
/// before a dozen).
#[cfg(target_arch = "x86_64")]
const MIN_GEMM_TOKENS: usize = 9;

/// One product, spread over threads.
#[cfg(test)]
pub(super) fn matmul(isa: Isa, w: &Matrix<'_>, x: &[f32], n: usize, out: &mut [f32]) {
    let w = *w;
    matmul_each(isa, &mut [Product { w, out }], x, n);
}

/// Products of one `x`, spread over threads together.
pub(super) fn matmul_each(isa: Isa, products: &mut [Product<'_>], x: &[f32], n: usize) {
    let (mut blocks, mut floats) = (Vec::with_capacity(products.len()), Vec::new());
    for Product { w, out } in products.iter_mut() {
        // Float weights have no integer form: their fast path is the f32 one.
        let kind = match Shape::of(w.format) {
            Some(_) => &mut blocks,
            None => &mut floats,
        };
        kind.push(Product { w: *w, out });
    }
    if !floats.is_empty() {
        exact::matmul_each(isa, &mut floats, x, n);
    }
    let products = &mut blocks;
    let inputs = Inputs::of_each(isa, products, x, n);
    let mut jobs = Vec::with_capacity(products.len());
    for Product { w, out } in products.iter_mut() {
        jobs.push(Job {
            shape: Shape::of(w.format).expect("floats were multiplied above"),
            w,
            input: inputs.of(w.format),
            n,
            out: Output::new(out, w.rows),
        });
    }
    let rows: Vec<usize> = jobs.iter().map(|job| job.w.rows).collect();
    let ns = jobs.iter().map(Job::ns).sum();
    parallel::for_rows_of_each(&rows, ns, |i, rows| jobs[i].multiply_rows(rows));
    drop(jobs);
    if let Some((_, input)) = inputs.inputs.first() {
        mend_coarse(isa, products, x, &input.x.is_coarse);
    }
}

/// Multiplies rows of `x` as f32 of which 8 bits hold too little.
fn mend_coarse(isa: Isa, products: &mut [Product<'_>], x: &[f32], is_coarse: &[bool]) {
    let rows = (0..).zip(is_coarse).filter_map(|(t, &is)| is.then_some(t));
    let rows: Vec<usize> = rows.collect();
    if rows.is_empty() {
        return;
    }
    let cols = x.len() / is_coarse.len();
    let x = rows.iter().flat_map(|&t| &x[t * cols..][..cols]);
    let x: Vec<f32> = x.copied().collect();
    for Product { w, out } in products {
        if Shape::of(w.format).is_none() || w.rows == 0 {
            continue;
        }
        let mut mended = vec![0.0; rows.len() * w.rows];
        exact::matmul(isa, w, &x, rows.len(), &mut mended);
        for (&t, mended) in rows.iter().zip(mended.chunks_exact(w.rows)) {
            out[t * w.rows..][..w.rows].copy_from_slice(mended);
        }
    }
}

/// What the products of one `x` read: quantised once, and laid out once for each format.
struct Inputs {
    inputs: Vec<(Format, Input)>,
}

/// `x` as the kernel of a format reads it.
struct Input {
    x: Arc<Activations>,
    layout: Layout,
}

/// What a kernel reads beside the quantised activations, or instead of them.
///
/// Always holds: the machine has the features of the kernel.
enum Layout {
    /// For packed rows and few tokens with AVX-512.
    #[cfg(target_arch = "x86_64")]
    Lanes(Vec<Lanes>),
    /// For panels with AVX2, or AVX-512 if `wide`.
    #[cfg(target_arch = "x86_64")]
    Terms { wide: bool, terms: GroupTerms },
    /// Nothing: for plain Rust.
    Plain,
}

impl Inputs {
    fn of_each(isa: Isa, products: &[Product<'_>], x: &[f32], n: usize) -> Inputs {
        let mut inputs: Vec<(Format, Input)> = Vec::with_capacity(products.len());
        for Product { w, .. } in products {
            let Some(shape) = Shape::of(w.format) else {
                continue;
            };
            if inputs.iter().any(|&(format, _)| format == w.format) {
                continue;
            }
            let x = match inputs.first() {
                Some((_, input)) => Arc::clone(&input.x),
                None => Arc::new(Activations::quantize(isa, x, n, w.cols)),
            };
            let layout = Layout::new(isa, w.format, shape, &x, n);
            inputs.push((w.format, Input { x, layout }));
        }
        Inputs { inputs }
    }

    fn of(&self, format: Format) -> &Input {
        let found = self.inputs.iter().find(|&&(f, _)| f == format);
        &found.expect("made for each of the products' formats").1
    }
}

impl Layout {
    #[cfg(target_arch = "x86_64")]
    fn new(isa: Isa, format: Format, shape: Shape, x: &Activations, n: usize) -> Layout {
        if isa == Isa::Avx512 && n < MIN_GEMM_TOKENS && avx512_gemv::supports(format) {
            Layout::Lanes((0..n).map(|t| Lanes::new(format, shape, x, t)).collect())
        } else if isa != Isa::Portable {
            Layout::Terms {
                wide: isa == Isa::Avx512,
                terms: GroupTerms::new(shape, x),
            }
        } else {
            Layout::Plain
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn new(_: Isa, _: Format, _: Shape, _: &Activations, _: usize) -> Layout {
        Layout::Plain
    }
}

/// Rows `rows` times few tokens with a kernel that reads packed rows.
#[cfg(target_arch = "x86_64")]
fn packed_gemv(w: &Matrix<'_>, x: &[Lanes], rows: Range<usize>, out: &Output<'_>) {
    let bytes = w.row_bytes();
    let mut values = [0.0f32; avx512_gemv::ROWS];
    for first in rows.clone().step_by(avx512_gemv::ROWS) {
        let last = rows.end.min(first + avx512_gemv::ROWS);
        let packed = PackedRows::new(&w.data[first * bytes..last * bytes], bytes);
        for (t, x) in x.iter().enumerate() {
            // SAFETY: `Lanes` are only laid out where the machine has the features.
            unsafe { avx512_gemv::gemv(w.format, packed, x, &mut values) }
            for (row, &value) in (first..last).zip(&values) {
                // SAFETY: rows of this range belong to this call alone.
                unsafe { out.set(row, t, value) }
            }
        }
    }
}

/// What the threads of one product share.
struct Job<'a> {
    shape: Shape,
    w: &'a Matrix<'a>,
    input: &'a Input,
    n: usize,
    out: Output<'a>,
}

impl Job<'_> {
    /// Estimated time on one thread.
    fn ns(&self) -> usize {
        match self.input.layout {
            // A core reads and multiplies about 16 bytes of packed weights a nanosecond.
            #[cfg(target_arch = "x86_64")]
            Layout::Lanes(_) => (self.w.data.len() / 16).saturating_mul(self.n),
            // About 64 multiply-adds a nanosecond; unpacking costs as much as four tokens.
            _ => (self.w.rows * self.w.cols / 64).saturating_mul(self.n + 4),
        }
    }

    /// Rows `rows` of the product.
    fn multiply_rows(&self, rows: Range<usize>) {
        match &self.input.layout {
            #[cfg(target_arch = "x86_64")]
            Layout::Lanes(x) => packed_gemv(self.w, x, rows, &self.out),
            #[cfg(target_arch = "x86_64")]
            Layout::Terms { wide, terms } => {
                let panels = Panels {
                    wide: *wide,
                    shape: self.shape,
                    w: self.w,
                    x: &self.input.x,
                    n: self.n,
                    terms,
                    out: &self.out,
                };
                panels.multiply_rows(rows);
            }
            Layout::Plain => self.multiply_plainly(rows),
        }
    }

    /// Rows `rows`, one unpacked after the other, in plain Rust.
    fn multiply_plainly(&self, rows: Range<usize>) {
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
                let value = portable::dot_groups(self.shape, unpacked, self.input.x.token(t));
                // SAFETY: rows of this range belong to this call alone.
                unsafe { self.out.set(row, t, value) }
            }
        }
    }
}
