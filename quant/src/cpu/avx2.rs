//! The kernels for AVX2, FMA and F16C.
//!
//! Most are the portable bodies compiled again with wider vectors; what the compiler does not
//! find by itself is written with intrinsics. Every function needs the features of
//! [`Isa::Avx2`](super::isa::Isa::Avx2), which its caller has checked by holding that value.

#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::activations::{Token, quantize_blocks};
use super::exact::{MAX_TILE_TOKENS, TILE_ROWS};
use super::portable::{self, Row};
use super::unpack::{self, Shape, Unpacked};
use crate::Format;

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn quantize(block: usize, x: &[f32], q: &mut [i8], d: &mut [f32], s: &mut [i32]) {
    quantize_blocks(block, x, q, d, s);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn unpack_row(format: Format, row: &[u8], out: Unpacked<'_>) {
    unpack::unpack_row(format, row, out);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn expand_row(format: Format, row: &[u8], parts: Unpacked<'_>, out: &mut [f32]) {
    unpack::expand_row(format, row, parts, out);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot_groups(shape: Shape, row: Row<'_>, x: Token<'_>) -> f32 {
    portable::dot_groups(shape, row, x)
}

/// The tile of [`super::exact`] for up to four rows and two tokens.
///
/// # Safety
/// `w` holds `rows` and `x` holds `tokens` rows of `cols` values.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn tile(
    w: &[f32],
    x: &[f32],
    cols: usize,
    (rows, tokens): (usize, usize),
    values: &mut [f32; TILE_ROWS * MAX_TILE_TOKENS],
) {
    let mut r = 0;
    while r < rows {
        let (w, out) = (&w[r * cols..], &mut values[r * MAX_TILE_TOKENS..]);
        // SAFETY: `r + R <= rows` and `T <= tokens`, so the caller's promise covers the reads.
        unsafe {
            match (rows - r, tokens) {
                (4, 2) => sub_tile::<4, 2>(w, x, cols, out),
                (4, _) => sub_tile::<4, 1>(w, x, cols, out),
                (_, 2) => sub_tile::<1, 2>(w, x, cols, out),
                _ => sub_tile::<1, 1>(w, x, cols, out),
            }
        }
        r += if rows - r == 4 { 4 } else { 1 };
    }
}

/// # Safety
/// `w` holds `R` and `x` holds `T` rows of `cols` values.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn sub_tile<const R: usize, const T: usize>(
    w: &[f32],
    x: &[f32],
    cols: usize,
    out: &mut [f32],
) {
    let mut acc = [[_mm256_setzero_ps(); T]; R];
    let whole = cols - cols % 8;
    let (wp, xp) = (w.as_ptr(), x.as_ptr());
    for k in (0..whole).step_by(8) {
        // SAFETY: `k + 8 <= cols`, and rows up to `R` and `T` exist.
        unsafe {
            let mut xs = [_mm256_setzero_ps(); T];
            for t in 0..T {
                xs[t] = _mm256_loadu_ps(xp.add(t * cols + k));
            }
            for r in 0..R {
                let w = _mm256_loadu_ps(wp.add(r * cols + k));
                for t in 0..T {
                    acc[r][t] = _mm256_fmadd_ps(w, xs[t], acc[r][t]);
                }
            }
        }
    }
    for r in 0..R {
        for t in 0..T {
            let mut lanes = [0.0f32; 8];
            // SAFETY: `lanes` holds eight f32.
            unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), acc[r][t]) };
            for (l, k) in (whole..cols).enumerate() {
                lanes[l] = w[r * cols + k].mul_add(x[t * cols + k], lanes[l]);
            }
            let [a, b, c, d, e, f, g, h] = lanes;
            out[r * MAX_TILE_TOKENS + t] = ((a + e) + (c + g)) + ((b + f) + (d + h));
        }
    }
}
