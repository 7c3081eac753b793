//! The kernels for AVX2, FMA and F16C.
//!
//! Most are the portable bodies compiled again with wider vectors; what the compiler does not
//! find by itself is written with intrinsics. Every function needs the features of
//! [`Isa::Avx2`](super::isa::Isa::Avx2), which its caller has checked by holding that value.

#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::bodies::portable_bodies;
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
