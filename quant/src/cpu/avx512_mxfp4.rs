//! How the decode kernels of [`super::avx512_gemv`] read MXFP4: codes by a table, scales that are powers
//! of two.

#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::avx512_gemv::PackedRows;
use super::avx512_rows::{Block, nibble_pair, words};
use super::unpack::MXFP4_BYTES;

pub(super) struct Mxfp4;

impl Block for Mxfp4 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn pair(a: *const u8, b: *const u8) -> __m512i {
        // SAFETY: 16 bytes follow the scale of each block; the table holds 16 bytes.
        unsafe {
            let table = _mm_loadu_si128(MXFP4_BYTES.as_ptr().cast());
            _mm512_shuffle_epi8(
                _mm512_broadcast_i32x4(table),
                nibble_pair(a.add(1), b.add(1)),
            )
        }
    }

    /// As `half_scale` of the format: the exponent moved to its place, subnormal for the two smallest.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn scales(rows: PackedRows<'_>, at: usize) -> __m512 {
        // SAFETY: a block has 17 bytes.
        let first = unsafe { words(rows, at)[0] };
        let e = _mm512_and_si512(first, _mm512_set1_epi32(0xff));
        let normal = _mm512_slli_epi32::<23>(_mm512_sub_epi32(e, _mm512_set1_epi32(1)));
        let subnormal = _mm512_sllv_epi32(_mm512_set1_epi32(1 << 21), e);
        let is_small = _mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2));
        _mm512_castsi512_ps(_mm512_mask_mov_epi32(normal, is_small, subnormal))
    }
}
