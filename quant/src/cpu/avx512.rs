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
