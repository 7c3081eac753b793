//! The kernels for AVX-512 with VNNI.
//!
//! As [`super::avx2`], with vectors twice as wide, masked tails, and `vpdpbusd`, which multiplies
//! and sums 64 pairs of bytes. Every function needs the features of
//! [`Isa::Avx512`](super::isa::Isa::Avx512), which its caller has checked by holding that value.

#![allow(unsafe_code)]
#![allow(
    clippy::needless_range_loop,
    reason = "registers are named by their index"
)]

use std::arch::x86_64::*;

use super::bodies::portable_bodies;
use super::exact::{MAX_TILE_TOKENS, TILE_ROWS};
use super::unpack::{self, Shape, Unpacked};
use crate::Format;

portable_bodies!("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni");

/// Expands an unpacked row. Product and difference are rounded one after the other, as
/// [`Format::dequantize`] does it.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn expand(shape: Shape, row: Unpacked<'_>, out: &mut [f32]) {
    let offset = _mm512_set1_epi32(shape.offset);
    let per_group = shape.group / 16;
    let lines = row
        .q
        .as_chunks::<16>()
        .0
        .iter()
        .zip(out.as_chunks_mut::<16>().0);
    for (i, (q, y)) in lines.enumerate() {
        let at = i / per_group * row.stride;
        // SAFETY: `q` holds 16 bytes.
        let q = unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(q.as_ptr().cast())) };
        let q = _mm512_cvtepi32_ps(_mm512_sub_epi32(q, offset));
        let mut v = _mm512_mul_ps(q, _mm512_set1_ps(row.scales[at]));
        if shape.mins {
            v = _mm512_sub_ps(v, _mm512_set1_ps(row.mins[at]));
        }
        // SAFETY: `y` holds 16 f32.
        unsafe { _mm512_storeu_ps(y.as_mut_ptr(), v) };
    }
}

/// Expands f16.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn expand_halves(row: &[u8], out: &mut [f32]) {
    let (halves, rest) = row.as_chunks::<32>();
    let (values, tail) = out.as_chunks_mut::<16>();
    for (h, v) in halves.iter().zip(values) {
        // SAFETY: `h` holds 16 f16 and `v` 16 f32.
        unsafe {
            let h = _mm256_loadu_si256(h.as_ptr().cast());
            _mm512_storeu_ps(v.as_mut_ptr(), _mm512_cvtph_ps(h));
        }
    }
    unpack::expand_floats(Format::F16, rest, tail);
}

/// The tile of [`super::exact`] for up to four rows and six tokens.
///
/// # Safety
/// `w` holds `rows` and `x` holds `tokens` rows of `cols` values.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
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
            if rows - r == 4 {
                by_tokens::<4>(w, x, cols, tokens, out);
                r += 4;
            } else {
                by_tokens::<1>(w, x, cols, tokens, out);
                r += 1;
            }
        }
    }
}

/// # Safety
/// `w` holds `R` and `x` holds `tokens` rows of `cols` values.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn by_tokens<const R: usize>(
    w: &[f32],
    x: &[f32],
    cols: usize,
    tokens: usize,
    out: &mut [f32],
) {
    // SAFETY: each arm reads as many rows of `x` as there are tokens.
    unsafe {
        match tokens {
            6 => sub_tile::<R, 6>(w, x, cols, out),
            5 => sub_tile::<R, 5>(w, x, cols, out),
            4 => sub_tile::<R, 4>(w, x, cols, out),
            3 => sub_tile::<R, 3>(w, x, cols, out),
            2 => sub_tile::<R, 2>(w, x, cols, out),
            _ => sub_tile::<R, 1>(w, x, cols, out),
        }
    }
}

/// # Safety
/// `w` holds `R` and `x` holds `T` rows of `cols` values.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn sub_tile<const R: usize, const T: usize>(
    w: &[f32],
    x: &[f32],
    cols: usize,
    out: &mut [f32],
) {
    let mut acc = [[_mm512_setzero_ps(); T]; R];
    let whole = cols - cols % 16;
    let (wp, xp) = (w.as_ptr(), x.as_ptr());
    for k in (0..whole).step_by(16) {
        // SAFETY: `k + 16 <= cols`, and rows up to `R` and `T` exist.
        unsafe {
            let mut xs = [_mm512_setzero_ps(); T];
            for t in 0..T {
                xs[t] = _mm512_loadu_ps(xp.add(t * cols + k));
            }
            for r in 0..R {
                let w = _mm512_loadu_ps(wp.add(r * cols + k));
                for t in 0..T {
                    acc[r][t] = _mm512_fmadd_ps(w, xs[t], acc[r][t]);
                }
            }
        }
    }
    if whole < cols {
        let mask = (1u16 << (cols - whole)) - 1;
        for r in 0..R {
            for t in 0..T {
                // SAFETY: the mask keeps the loads below `cols`.
                unsafe {
                    let w = _mm512_maskz_loadu_ps(mask, wp.add(r * cols + whole));
                    let x = _mm512_maskz_loadu_ps(mask, xp.add(t * cols + whole));
                    acc[r][t] = _mm512_fmadd_ps(w, x, acc[r][t]);
                }
            }
        }
    }
    for r in 0..R {
        for t in 0..T {
            out[r * MAX_TILE_TOKENS + t] = _mm512_reduce_add_ps(acc[r][t]);
        }
    }
}
