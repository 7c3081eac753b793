//! The kernels for AVX2, FMA and F16C.
//!
//! Most are the portable bodies compiled again with wider vectors; what the compiler does not
//! find by itself is written with intrinsics. Every function needs the features of
//! [`Isa::Avx2`](super::isa::Isa::Avx2), which its caller has checked by holding that value.

#![allow(unsafe_code)]
#![allow(
    clippy::needless_range_loop,
    reason = "registers are named by their index"
)]

use std::arch::x86_64::*;

use super::bodies::portable_bodies;
use super::exact::{MAX_TILE_TOKENS, TILE_ROWS};
use super::expand;
use super::unpack::{self, Shape, Unpacked};
use crate::Format;

portable_bodies!("avx2,fma,f16c");

/// Expands an unpacked row. Product and difference are rounded one after the other, as
/// [`Format::dequantize`] does it.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn expand(shape: Shape, row: Unpacked<'_>, out: &mut [f32]) {
    let offset = _mm256_set1_epi32(shape.offset);
    let per_group = shape.group / 8;
    let lines = row
        .q
        .as_chunks::<8>()
        .0
        .iter()
        .zip(out.as_chunks_mut::<8>().0);
    for (i, (q, y)) in lines.enumerate() {
        let at = i / per_group * row.stride;
        // SAFETY: `q` holds 8 bytes.
        let q = unsafe { _mm256_cvtepu8_epi32(_mm_loadl_epi64(q.as_ptr().cast())) };
        let q = _mm256_cvtepi32_ps(_mm256_sub_epi32(q, offset));
        let mut v = _mm256_mul_ps(q, _mm256_set1_ps(row.scales[at]));
        if shape.mins {
            v = _mm256_sub_ps(v, _mm256_set1_ps(row.mins[at]));
        }
        // SAFETY: `y` holds 8 f32.
        unsafe { _mm256_storeu_ps(y.as_mut_ptr(), v) };
    }
}

/// Expands f16.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn expand_halves(row: &[u8], out: &mut [f32]) {
    let (halves, rest) = row.as_chunks::<16>();
    let (values, tail) = out.as_chunks_mut::<8>();
    for (h, v) in halves.iter().zip(values) {
        // SAFETY: `h` holds 8 f16 and `v` 8 f32.
        unsafe {
            let h = _mm_loadu_si128(h.as_ptr().cast());
            _mm256_storeu_ps(v.as_mut_ptr(), _mm256_cvtph_ps(h));
        }
    }
    expand::expand_floats(Format::F16, rest, tail);
}

/// The sum of eight lanes, pairwise.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sum(v: __m256) -> f32 {
    let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
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
    rows: usize,
    tokens: usize,
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
            let mut total = sum(acc[r][t]);
            for k in whole..cols {
                total = w[r * cols + k].mul_add(x[t * cols + k], total);
            }
            out[r * MAX_TILE_TOKENS + t] = total;
        }
    }
}
