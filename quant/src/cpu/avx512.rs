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
use std::mem::transmute;

use super::bodies::portable_bodies;
use super::exact::{MAX_TILE_TOKENS, TILE_ROWS};
use super::expand;
use super::unpack::{self, Shape, Unpacked};
use crate::Format;

portable_bodies!("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni");

/// Expands an unpacked row. Product and difference are rounded one after the other, as
/// [`Format::dequantize`] does it.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn expand(shape: Shape, row: Unpacked<'_>, out: &mut [f32]) {
    let offset = _mm512_set1_epi32(shape.offset);
    let groups = row.q.chunks_exact(shape.group);
    for (g, (q, y)) in groups.zip(out.chunks_exact_mut(shape.group)).enumerate() {
        let scale = _mm512_set1_ps(row.scales[g * row.stride]);
        let min = _mm512_set1_ps(if shape.mins {
            row.mins[g * row.stride]
        } else {
            0.0
        });
        for (q, y) in q.as_chunks().0.iter().zip(y.as_chunks_mut().0) {
            // SAFETY: a vector is 16 bytes, and every pattern of bits is one.
            let q = _mm512_cvtepu8_epi32(unsafe { transmute::<[u8; 16], __m128i>(*q) });
            let q = _mm512_cvtepi32_ps(_mm512_sub_epi32(q, offset));
            let mut v = _mm512_mul_ps(q, scale);
            if shape.mins {
                v = _mm512_sub_ps(v, min);
            }
            // SAFETY: a vector is 16 f32.
            *y = unsafe { transmute::<__m512, [f32; 16]>(v) };
        }
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
    expand::expand_floats(Format::F16, rest, tail);
}

/// The vector of 16 values. By value: a load through a pointer is tested in builds with assertions,
/// and its vector goes through memory there.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn load(line: &[f32; 16]) -> __m512 {
    // SAFETY: a vector is 16 f32, and every pattern of bits is one.
    unsafe { transmute(*line) }
}

/// The first `count` times 16 values. Slices that say one length are indexed below it unchecked.
#[inline(always)]
fn lines(values: &[f32], count: usize) -> &[[f32; 16]] {
    &values.as_chunks().0[..count]
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
    let mut w_lines: [&[_]; R] = [&[]; R];
    for r in 0..R {
        w_lines[r] = lines(&w[r * cols..], whole / 16);
    }
    let mut x_lines: [&[_]; T] = [&[]; T];
    for t in 0..T {
        x_lines[t] = lines(&x[t * cols..], whole / 16);
    }
    for k in 0..whole / 16 {
        let mut xs = [_mm512_setzero_ps(); T];
        for t in 0..T {
            xs[t] = load(&x_lines[t][k]);
        }
        for r in 0..R {
            let w = load(&w_lines[r][k]);
            for t in 0..T {
                acc[r][t] = _mm512_fmadd_ps(w, xs[t], acc[r][t]);
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
