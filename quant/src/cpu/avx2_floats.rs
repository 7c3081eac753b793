//! Products of f32, f16 and bf16 rows for AVX2, converted as they are read.
//!
//! A vector of sums for each row and token: 8 chains of multiply-adds over the columns, which are
//! added up pairwise; columns behind the last whole vector follow one by one. Every function needs
//! the features of [`Isa::Avx2`](super::isa::Isa::Avx2), which its caller has checked by holding
//! that value.

#![allow(unsafe_code)]
#![allow(
    clippy::needless_range_loop,
    reason = "registers are named by their index"
)]

use std::arch::x86_64::*;

use super::exact::{MAX_TILE_TOKENS, TILE_ROWS};
use super::expand;
use crate::Format;

/// A type of weights.
trait Element {
    const FORMAT: Format;
    const BYTES: usize;

    /// Eight of them as f32.
    ///
    /// # Safety
    /// They can be read at `p`, and the machine has the features of this module.
    unsafe fn expand(p: *const u8) -> __m256;
}

struct Single;

impl Element for Single {
    const FORMAT: Format = Format::F32;
    const BYTES: usize = 4;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn expand(p: *const u8) -> __m256 {
        // SAFETY: the caller's.
        unsafe { _mm256_loadu_ps(p.cast()) }
    }
}

struct Half;

impl Element for Half {
    const FORMAT: Format = Format::F16;
    const BYTES: usize = 2;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn expand(p: *const u8) -> __m256 {
        // SAFETY: the caller's.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }
}

struct Brain;

impl Element for Brain {
    const FORMAT: Format = Format::BF16;
    const BYTES: usize = 2;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn expand(p: *const u8) -> __m256 {
        // SAFETY: the caller's.
        let words = unsafe { _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())) };
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words))
    }
}

/// Bytes ahead of its reads for which a kernel asks, behind the end of a row those of the rows that a
/// thread mostly reads next.
const AHEAD: usize = 2048;

/// The sum of eight lanes, pairwise.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sum(v: __m256) -> f32 {
    let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
}

/// `values[r * MAX_TILE_TOKENS + t]` = row `r` of `w`, floats of `format`, times row `t` of `x`.
///
/// # Safety
/// `w` holds up to four rows, `rows`, and `x` up to two, `tokens`, of `cols` values.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn tile(
    format: Format,
    w: &[u8],
    x: &[f32],
    cols: usize,
    rows: usize,
    tokens: usize,
    values: &mut [f32; TILE_ROWS * MAX_TILE_TOKENS],
) {
    // SAFETY: the caller's promise.
    unsafe {
        match format {
            Format::F16 => by_rows::<Half>(w, x, cols, rows, tokens, values),
            Format::BF16 => by_rows::<Brain>(w, x, cols, rows, tokens, values),
            _ => by_rows::<Single>(w, x, cols, rows, tokens, values),
        }
    }
}

/// # Safety
/// `w` holds `rows` and `x` holds `tokens` rows of `cols` values.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn by_rows<E: Element>(
    w: &[u8],
    x: &[f32],
    cols: usize,
    rows: usize,
    tokens: usize,
    values: &mut [f32; TILE_ROWS * MAX_TILE_TOKENS],
) {
    let mut r = 0;
    while r < rows {
        let out = &mut values[r * MAX_TILE_TOKENS..];
        let w = &w[r * cols * E::BYTES..];
        // SAFETY: `r + R <= rows` and `T <= tokens`, so the caller's promise covers the reads.
        unsafe {
            match (rows - r, tokens) {
                (4, 2) => sub_tile::<E, 4, 2>(w, x, cols, out),
                (4, _) => sub_tile::<E, 4, 1>(w, x, cols, out),
                (_, 2) => sub_tile::<E, 1, 2>(w, x, cols, out),
                _ => sub_tile::<E, 1, 1>(w, x, cols, out),
            }
        }
        r += if rows - r == 4 { 4 } else { 1 };
    }
}

/// # Safety
/// `w` holds `R` and `x` holds `T` rows of `cols` values.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn sub_tile<E: Element, const R: usize, const T: usize>(
    w: &[u8],
    x: &[f32],
    cols: usize,
    out: &mut [f32],
) {
    let mut acc = [[_mm256_setzero_ps(); T]; R];
    let (whole, row_bytes) = (cols - cols % 8, cols * E::BYTES);
    let (wp, xp) = (w.as_ptr(), x.as_ptr());
    for k in (0..whole).step_by(8) {
        // SAFETY: `k + 8 <= cols`, and rows up to `R` and `T` exist. Prefetching never faults.
        unsafe {
            let mut ahead = k * E::BYTES + AHEAD.min(row_bytes);
            if ahead >= row_bytes {
                ahead += (R - 1) * row_bytes;
            }
            let mut xs = [_mm256_setzero_ps(); T];
            for t in 0..T {
                xs[t] = _mm256_loadu_ps(xp.add(t * cols + k));
            }
            for r in 0..R {
                if (k * E::BYTES).is_multiple_of(64) {
                    let next = wp.wrapping_add(r * row_bytes + ahead);
                    _mm_prefetch::<_MM_HINT_T0>(next.cast());
                }
                let w = E::expand(wp.add(r * row_bytes + k * E::BYTES));
                for t in 0..T {
                    acc[r][t] = _mm256_fmadd_ps(w, xs[t], acc[r][t]);
                }
            }
        }
    }
    for r in 0..R {
        let mut tail = [0.0; 8];
        let tail = &mut tail[..cols - whole];
        let bytes = &w[r * row_bytes + whole * E::BYTES..(r + 1) * row_bytes];
        expand::expand_floats(E::FORMAT, bytes, tail);
        for t in 0..T {
            let x = &x[t * cols + whole..];
            out[r * MAX_TILE_TOKENS + t] = tail
                .iter()
                .zip(x)
                .fold(sum(acc[r][t]), |total, (&w, &x)| w.mul_add(x, total));
        }
    }
}
