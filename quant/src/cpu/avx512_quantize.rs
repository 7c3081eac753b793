//! Activations to bytes for AVX-512 with VNNI: four blocks at a time.
//!
//! The largest magnitudes of four blocks become the lanes of one vector by a tree of shuffles, so that
//! both divisions of a block cost a lane each. Packed bytes lie four of each line of sixteen next to each
//! other at first, which is how `vpdpbusd` sums them.
//!
//! Always holds: the same bits as [`quantize_blocks`](super::activations::quantize_blocks), which has
//! the blocks that hold no ordinary numbers, and those that are left over.

#![allow(unsafe_code)]

use std::arch::x86_64::*;
use std::mem::transmute;

use super::activations::{BLOCK, BLOCK_SUMS};
use super::avx512::{self, load};

/// Blocks at a time.
const FOUR: usize = 4;

/// Values of so many blocks.
const VALUES: usize = FOUR * BLOCK;

/// As [`quantize_blocks`](super::activations::quantize_blocks).
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn quantize(
    x: &[f32],
    q: &mut [i8],
    scales: &mut [f32],
    sums: &mut [[i32; BLOCK_SUMS]],
) {
    let (x, x_rest) = x.as_chunks::<VALUES>();
    let (q, q_rest) = q.as_chunks_mut::<VALUES>();
    let (scales, scales_rest) = scales.as_chunks_mut::<FOUR>();
    let (sums, sums_rest) = sums.as_chunks_mut::<FOUR>();
    for ((x, q), (scales, sums)) in x.iter().zip(q).zip(scales.iter_mut().zip(sums)) {
        if !four_blocks(x, q, scales, sums) {
            avx512::quantize(x, q, scales, sums);
        }
    }
    avx512::quantize(x_rest, q_rest, scales_rest, sums_rest);
}

/// Quantises four blocks, unless one is of nothing, next to nothing, or holds what is no number.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn four_blocks(
    x: &[f32; VALUES],
    q: &mut [i8; VALUES],
    scales: &mut [f32; FOUR],
    sums: &mut [[i32; BLOCK_SUMS]; FOUR],
) -> bool {
    let mut lines = [_mm512_setzero_ps(); VALUES / 16];
    for (line, x) in lines.iter_mut().zip(x.as_chunks().0) {
        *line = load(x);
    }
    let most = largest(lines);
    let (least, infinity) = (_mm_set1_ps(1e-35), _mm_set1_ps(f32::INFINITY));
    let is_ordinary =
        _mm_cmp_ps_mask::<_CMP_GE_OQ>(most, least) & _mm_cmp_ps_mask::<_CMP_LT_OQ>(most, infinity);
    if is_ordinary != 0b1111 {
        return false;
    }
    let steps = _mm_set1_ps(127.0);
    // SAFETY: a vector is four f32.
    *scales = unsafe { transmute::<__m128, [f32; 4]>(_mm_div_ps(most, steps)) };
    let inverses = _mm512_broadcast_f32x4(_mm_div_ps(steps, most));
    let inverses = [
        _mm512_permute_ps::<0x00>(inverses),
        _mm512_permute_ps::<0x55>(inverses),
        _mm512_permute_ps::<0xaa>(inverses),
        _mm512_permute_ps::<0xff>(inverses),
    ];
    let mut bytes = [_mm512_setzero_si512(); 2];
    let mut line_sums = [_mm_setzero_si128(); 2];
    for i in 0..2 {
        let mut whole = [_mm512_setzero_si512(); 4];
        for (j, whole) in whole.iter_mut().enumerate() {
            let scaled = _mm512_mul_ps(lines[4 * i + j], inverses[2 * i + j / 2]);
            *whole = _mm512_cvtps_epi32(scaled);
        }
        let [a, b, c, d] = whole;
        let packed = _mm512_packs_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
        line_sums[i] = sums_of_lines(packed);
        // Part `l` holds values `4 l..4 l + 4` of the four lines.
        let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        bytes[i] = _mm512_permutexvar_epi32(order, packed);
    }
    // SAFETY: two vectors are 128 bytes, and two small ones eight sums.
    unsafe {
        *q = transmute::<[__m512i; 2], [i8; VALUES]>(bytes);
        *sums = transmute::<[__m128i; 2], [[i32; BLOCK_SUMS]; FOUR]>(line_sums);
    }
    true
}

/// The largest magnitude of each block, which is two lines; NaN is larger than any.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn largest(lines: [__m512; VALUES / 16]) -> __m128 {
    // Magnitudes compare like their bits.
    let magnitude = |line| {
        let bits = _mm512_castps_si512(line);
        _mm512_and_si512(bits, _mm512_set1_epi32(0x7fff_ffff))
    };
    let mut blocks = [_mm512_setzero_si512(); FOUR];
    for (block, lines) in blocks.iter_mut().zip(lines.as_chunks::<2>().0) {
        *block = _mm512_max_epu32(magnitude(lines[0]), magnitude(lines[1]));
    }
    let [a, b, c, d] = blocks;
    let ab = _mm512_max_epu32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let cd = _mm512_max_epu32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    let four = _mm512_max_epu32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    let half = _mm256_max_epu32(
        _mm512_castsi512_si256(four),
        _mm512_extracti64x4_epi64::<1>(four),
    );
    let quarter = _mm_max_epu32(
        _mm256_castsi256_si128(half),
        _mm256_extracti128_si256::<1>(half),
    );
    _mm_castsi128_ps(quarter)
}

/// The sums of four lines of bytes, of which each part of `packed` holds four of each.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn sums_of_lines(packed: __m512i) -> __m128i {
    let ones = _mm512_set1_epi8(1);
    let fours = _mm512_dpbusd_epi32(_mm512_setzero_si512(), ones, packed);
    let half = _mm256_add_epi32(
        _mm512_castsi512_si256(fours),
        _mm512_extracti64x4_epi64::<1>(fours),
    );
    _mm_add_epi32(
        _mm256_castsi256_si128(half),
        _mm256_extracti128_si256::<1>(half),
    )
}
