//! Matrix products on the CPU, straight from the packed blocks.
//!
//! Two kernels: [`matmul_exact`] is the meaning of a product (weights expanded to f32, f32
//! arithmetic), [`matmul_fast`] trades the activations' precision for int8 dot products. Both find
//! the machine's vector instructions at run time and spread rows over rayon's threads.
//!
//! A caller that makes many small products should itself run on one of rayon's threads (inside
//! `rayon::scope`, say): it then works along instead of sleeping and being woken once a product.
//!
//! Always holds: a row's result depends neither on the rows beside it nor on the number of threads. All of the crate's `unsafe` is
//! below this module: vector intrinsics, and one output shared by threads that own disjoint rows.

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_floats;
#[cfg(target_arch = "x86_64")]
mod avx2_gemm;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_floats;
#[cfg(target_arch = "x86_64")]
mod avx512_gemm;
#[cfg(target_arch = "x86_64")]
mod avx512_gemv;
#[cfg(target_arch = "x86_64")]
mod avx512_mxfp4;
#[cfg(target_arch = "x86_64")]
mod avx512_quantize;
#[cfg(target_arch = "x86_64")]
mod avx512_rows;
#[cfg(target_arch = "x86_64")]
mod bodies;
mod exact;
mod expand;
mod fast;
mod floats;
mod isa;
mod outliers;
mod panel;
mod parallel;
mod portable;
#[cfg(target_arch = "x86_64")]
mod prompt;
mod small_gemm;
#[cfg(test)]
mod tests;
mod unpack;

use crate::Matrix;
use isa::Isa;

pub use activations::rounded_to_bytes;
pub use floats::{
    StridedRows, StridedRowsMut, accumulate, gelu_mul, silu_mul, softmax, sum_squares,
};

/// `out = x * wᵀ` with `w` `[rows, cols]` expanded to f32, `x` `[n, cols]` and `out` `[n, rows]`,
/// all row-major.
///
/// Sums are f32, in a fixed order over several partial sums (normalised squared error against f64
/// below 1e-10). The values for one row of `x` do not depend on `n`, nor on the number of threads;
/// they may differ in the last bits between instruction sets (see [`isa`]).
///
/// # Panics
/// When `x` or `out` has another length than the shapes say, or `w` was not built by
/// [`Matrix::new`] and its data is too short.
pub fn matmul_exact(w: &Matrix<'_>, x: &[f32], n: usize, out: &mut [f32]) {
    check(w, x, n, out);
    if w.cols == 0 {
        return out.fill(0.0);
    }
    exact::matmul(Isa::detect(), w, x, n, out);
}

/// [`matmul_exact`] with activations quantised to int8, for block formats; float weights are
/// multiplied in f32.
///
/// Each 32 activations share a scale, their largest magnitude over 127. On normally distributed
/// activations the normalised squared error of the result is below 1e-4. A row of `x` in which a few
/// values are so large that little is left of the others of their blocks is multiplied as
/// [`matmul_exact`] does it. A NaN or an infinity in `x` makes the outputs of its row NaN. The values
/// for one row of `x` depend neither on `n` nor on the number of threads, and those of block formats
/// not even on the instruction set, unless they are of such a row.
///
/// # Panics
/// As [`matmul_exact`].
pub fn matmul_fast(w: &Matrix<'_>, x: &[f32], n: usize, out: &mut [f32]) {
    matmul_fast_each(&mut [Product { w: *w, out }], x, n);
}

/// A matrix to multiply with, and where the result goes.
#[derive(Debug)]
pub struct Product<'a> {
    /// `[rows, cols]`.
    pub w: Matrix<'a>,
    /// `[n, rows]`.
    pub out: &'a mut [f32],
}

/// [`matmul_fast`] of several matrices with one `x`: the same results, with `x` quantised once and
/// all rows spread over the threads together.
///
/// # Panics
/// As [`matmul_exact`], for each of the products.
pub fn matmul_fast_each(products: &mut [Product<'_>], x: &[f32], n: usize) {
    for Product { w, out } in products.iter_mut() {
        check(w, x, n, out);
        if w.cols == 0 {
            out.fill(0.0);
        }
    }
    if !x.is_empty() {
        fast::matmul_each(Isa::detect(), products, x, n);
    }
}

/// The vector instructions in use: `avx512+vnni`, `avx2+fma` or `portable`.
pub fn isa() -> &'static str {
    Isa::detect().name()
}

fn check(w: &Matrix<'_>, x: &[f32], n: usize, out: &[f32]) {
    let row_bytes = w.format.row_bytes(w.cols);
    assert!(
        row_bytes.and_then(|b| b.checked_mul(w.rows)) == Some(w.data.len()),
        "weights are [{}, {}] in {}, but have {} bytes",
        w.rows,
        w.cols,
        w.format.name(),
        w.data.len()
    );
    let (inputs, outputs) = (n.checked_mul(w.cols), n.checked_mul(w.rows));
    assert!(
        inputs == Some(x.len()),
        "x is [{n}, {}], but has {} values",
        w.cols,
        x.len()
    );
    assert!(
        outputs == Some(out.len()),
        "out is [{n}, {}], but has {} values",
        w.rows,
        out.len()
    );
}
