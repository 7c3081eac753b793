//! What the decode kernels of [`super::avx512_gemv`] do with sixteen packed rows: unpack them, add
//! up each group's products, and gather the groups' scales, always with a row in each lane in the
//! end.
//!
//! Always holds: all of it is exact but the products of a scale, each rounded once, as
//! [`super::unpack`] rounds them.

#![allow(unsafe_code)]
#![allow(
    clippy::needless_range_loop,
    reason = "registers are named by their index"
)]

use std::arch::x86_64::*;

use super::avx512_gemv::PackedRows;

/// A format of super-blocks of 256 weights.
pub(super) trait SuperBlock {
    /// 128 weights of the block at `p`, its first or second half, as two vectors of 64.
    ///
    /// # Safety
    /// `p` points to a whole block, `half < 2`, and the machine has the features of this module.
    unsafe fn half(p: *const u8, half: usize) -> [__m512i; 2];
}

/// A format of blocks of 32 weights with one scale in front, an f16 unless it says otherwise.
pub(super) trait Block {
    /// 64 weights of the blocks at `a` and `b`.
    ///
    /// # Safety
    /// Both point to whole blocks, and the machine has the features of this module.
    unsafe fn pair(a: *const u8, b: *const u8) -> __m512i;

    /// The scales of the blocks at `at` of each row.
    ///
    /// # Safety
    /// Every row holds a block at `at`, and the machine has the features of this module.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn scales(rows: PackedRows<'_>, at: usize) -> __m512 {
        // SAFETY: the caller's; a block has more than 16 bytes.
        unsafe { halves(rows, at) }
    }
}

/// The low and the high nibbles of the 64 bytes at `p`.
///
/// # Safety
/// 64 bytes at `p` can be read.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn nibbles(p: *const u8) -> [__m512i; 2] {
    // SAFETY: the caller's.
    let v = unsafe { _mm512_loadu_si512(p.cast()) };
    let mask = _mm512_set1_epi8(15);
    [
        _mm512_and_si512(v, mask),
        _mm512_and_si512(_mm512_srli_epi16::<4>(v), mask),
    ]
}

/// 64-bit lanes `[a; 4]`, then `[b; 4]`: shift counts for the two halves of a vector.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn counts(a: i64, b: i64) -> __m512i {
    _mm512_setr_epi64(a, a, a, a, b, b, b, b)
}

/// `low | (high & mask)`, bit by bit.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn or_masked(low: __m512i, high: __m512i, mask: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<0xf8>(low, high, mask)
}

/// Runs 0 and 2, then 1 and 3 of 32 weights, as the nibbles lie.
pub(super) struct Q4K;

impl SuperBlock for Q4K {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn half(p: *const u8, half: usize) -> [__m512i; 2] {
        // SAFETY: 128 bytes follow the first 16 of the block.
        unsafe { nibbles(p.add(16 + 64 * half)) }
    }
}

/// As [`Q4K`].
pub(super) struct Q5K;

impl SuperBlock for Q5K {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn half(p: *const u8, half: usize) -> [__m512i; 2] {
        // SAFETY: 32 bytes of fifth bits and 128 of nibbles follow the first 16.
        let (high, [low, upper]) = unsafe {
            (
                _mm256_loadu_si256(p.add(16).cast()),
                nibbles(p.add(48 + 64 * half)),
            )
        };
        let high = _mm512_broadcast_i64x4(high);
        // Bit `i` of byte `l` belongs to weight `l` of run `i`; it is moved to bit 4.
        let bits = match half {
            0 => [
                _mm512_sllv_epi64(high, counts(4, 2)),
                _mm512_sllv_epi64(high, counts(3, 1)),
            ],
            _ => [
                _mm512_srlv_epi64(high, counts(0, 2)),
                _mm512_srlv_epi64(high, counts(1, 3)),
            ],
        };
        let mask = _mm512_set1_epi8(16);
        [
            or_masked(low, bits[0], mask),
            or_masked(upper, bits[1], mask),
        ]
    }
}

/// Eight groups of 16 weights in order.
pub(super) struct Q6K;

impl SuperBlock for Q6K {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn half(p: *const u8, half: usize) -> [__m512i; 2] {
        // SAFETY: 128 bytes of nibbles and 64 of upper bits lie in the block.
        let ([low, upper], high) = unsafe {
            let high = _mm256_loadu_si256(p.add(128 + 32 * half).cast());
            (nibbles(p.add(64 * half)), high)
        };
        // Two bits for each of four runs of 32 weights, moved to bits 4 and 5.
        let high = _mm512_broadcast_i64x4(high);
        let mask = _mm512_set1_epi8(0x30);
        [
            or_masked(low, _mm512_sllv_epi64(high, counts(4, 2)), mask),
            or_masked(upper, _mm512_srlv_epi64(high, counts(0, 2)), mask),
        ]
    }
}

/// Nibbles of two blocks: low ones of `a`, high ones of `a`, then `b` likewise.
///
/// # Safety
/// 16 bytes at `a` and `b` can be read.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn nibble_pair(a: *const u8, b: *const u8) -> __m512i {
    // SAFETY: the caller's.
    let (a, b) = unsafe { (_mm_loadu_si128(a.cast()), _mm_loadu_si128(b.cast())) };
    let both = _mm512_mask_broadcast_i32x4(_mm512_broadcast_i32x4(a), 0xff00, b);
    let shifted = _mm512_srlv_epi64(both, _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4));
    _mm512_and_si512(shifted, _mm512_set1_epi8(15))
}

pub(super) struct Q4;

impl Block for Q4 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn pair(a: *const u8, b: *const u8) -> __m512i {
        // SAFETY: the caller's.
        unsafe { nibble_pair(a.add(2), b.add(2)) }
    }
}

pub(super) struct Iq4;

impl Block for Iq4 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn pair(a: *const u8, b: *const u8) -> __m512i {
        // SAFETY: the caller's; the table holds 16 bytes.
        unsafe {
            let table = _mm_loadu_si128(super::unpack::IQ4_BYTES.as_ptr().cast());
            _mm512_shuffle_epi8(
                _mm512_broadcast_i32x4(table),
                nibble_pair(a.add(2), b.add(2)),
            )
        }
    }
}

pub(super) struct Q8;

impl Block for Q8 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn pair(a: *const u8, b: *const u8) -> __m512i {
        // SAFETY: 32 bytes follow the scale of each block.
        let (a, b) = unsafe {
            (
                _mm256_loadu_si256(a.add(2).cast()),
                _mm256_loadu_si256(b.add(2).cast()),
            )
        };
        let both = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(a), b);
        _mm512_xor_si512(both, _mm512_set1_epi8(-128))
    }
}

/// Lanes added in pairs: of each 128 bits `[a0 + a2, b0 + b2, a1 + a3, b1 + b3]`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn pair(a: __m512i, b: __m512i) -> __m512i {
    _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b))
}

/// The sums of the 128-bit parts of four rows: `[a, b, c, d]` of each part.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn four([a, b, c, d]: [__m512i; 4]) -> __m512i {
    let (ab, cd) = (pair(a, b), pair(c, d));
    _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd))
}

/// The same of `V` vectors of the four rows from `first` on, each times its activations.
///
/// # Safety
/// The machine has the features of this module, and `weights` may be called for each row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn four_rows<const V: usize>(
    weights: &impl Fn(usize) -> [__m512i; V],
    first: usize,
    x: [__m512i; V],
) -> [__m512i; V] {
    let zero = _mm512_setzero_si512();
    let mut dots = [[zero; 4]; V];
    for r in 0..4 {
        let w = weights(first + r);
        for v in 0..V {
            dots[v][r] = _mm512_dpbusd_epi32(zero, w[v], x[v]);
        }
    }
    let mut sums = [zero; V];
    for v in 0..V {
        sums[v] = four(dots[v]);
    }
    sums
}

/// For each of `V` vectors of 64 weights a row: the sums of its two groups of 32, a row in each lane.
///
/// # Safety
/// As [`four_rows`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn dots32<const V: usize>(
    weights: impl Fn(usize) -> [__m512i; V],
    x: [__m512i; V],
) -> [[__m512i; 2]; V] {
    let zero = _mm512_setzero_si512();
    let mut eights = [[zero; 2]; V];
    for i in 0..2 {
        // SAFETY: the caller's.
        let (a, b) = unsafe {
            (
                four_rows(&weights, 8 * i, x),
                four_rows(&weights, 8 * i + 4, x),
            )
        };
        for v in 0..V {
            // Parts 0 and 1 are the first group, 2 and 3 the second.
            eights[v][i] = _mm512_add_epi32(
                _mm512_shuffle_i32x4::<0x88>(a[v], b[v]),
                _mm512_shuffle_i32x4::<0xdd>(a[v], b[v]),
            );
        }
    }
    let mut dots = eights;
    for v in 0..V {
        let [a, b] = eights[v];
        dots[v] = [
            _mm512_shuffle_i32x4::<0x88>(a, b),
            _mm512_shuffle_i32x4::<0xdd>(a, b),
        ];
    }
    dots
}

/// For each of two vectors of 64 weights a row: the sums of its four groups of 16, a row in each
/// lane.
///
/// # Safety
/// As [`four_rows`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn dots16(
    weights: impl Fn(usize) -> [__m512i; 2],
    x: [__m512i; 2],
) -> [[__m512i; 4]; 2] {
    let zero = _mm512_setzero_si512();
    let mut fours = [[zero; 4]; 2];
    for i in 0..4 {
        // SAFETY: the caller's.
        let sums = unsafe { four_rows(&weights, 4 * i, x) };
        for v in 0..2 {
            fours[v][i] = sums[v];
        }
    }
    [transpose_parts(fours[0]), transpose_parts(fours[1])]
}

/// The transpose of a 4 x 4 matrix of 128-bit parts.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn transpose_parts([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    let (ab_low, ab_high) = (
        _mm512_shuffle_i32x4::<0x44>(a, b),
        _mm512_shuffle_i32x4::<0xee>(a, b),
    );
    let (cd_low, cd_high) = (
        _mm512_shuffle_i32x4::<0x44>(c, d),
        _mm512_shuffle_i32x4::<0xee>(c, d),
    );
    [
        _mm512_shuffle_i32x4::<0x88>(ab_low, cd_low),
        _mm512_shuffle_i32x4::<0xdd>(ab_low, cd_low),
        _mm512_shuffle_i32x4::<0x88>(ab_high, cd_high),
        _mm512_shuffle_i32x4::<0xdd>(ab_high, cd_high),
    ]
}

/// The 16 bytes at `at` of each row: part `l` of vector `i` is row `4 l + i`.
///
/// # Safety
/// Every row holds 16 bytes at `at`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn parts(rows: PackedRows<'_>, at: usize) -> [__m512i; 4] {
    let mut v = [_mm512_setzero_si512(); 4];
    for i in 0..4 {
        // SAFETY: the caller's.
        let load = |l: usize| unsafe { _mm_loadu_si128(rows.at(4 * l + i, at).cast()) };
        let mut four = _mm512_castsi128_si512(load(0));
        four = _mm512_mask_broadcast_i32x4(four, 0x00f0, load(1));
        four = _mm512_mask_broadcast_i32x4(four, 0x0f00, load(2));
        v[i] = _mm512_mask_broadcast_i32x4(four, 0xf000, load(3));
    }
    v
}

/// The 16 bytes at `at` of each row as four vectors: word `i` of each, a row in each lane.
///
/// # Safety
/// Every row holds 16 bytes at `at`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn words(rows: PackedRows<'_>, at: usize) -> [__m512i; 4] {
    // SAFETY: the caller's.
    let [a, b, c, d] = unsafe { parts(rows, at) };
    let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    [
        _mm512_unpacklo_epi64(ab_low, cd_low),
        _mm512_unpackhi_epi64(ab_low, cd_low),
        _mm512_unpacklo_epi64(ab_high, cd_high),
        _mm512_unpackhi_epi64(ab_high, cd_high),
    ]
}

/// The low halves of 16 words, f16, as f32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn low_halves(words: __m512i) -> __m512 {
    _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words))
}

/// The f16 at `at` of each row, as f32.
///
/// # Safety
/// Every row holds 16 bytes at `at`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn halves(rows: PackedRows<'_>, at: usize) -> __m512 {
    // SAFETY: the caller's.
    let [a, b, c, d] = unsafe { parts(rows, at) };
    let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
    low_halves(_mm512_unpacklo_epi64(ab, cd))
}

/// The last f16 of the 16 bytes at `at` of each row, as f32.
///
/// # Safety
/// As [`halves`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn last_halves(rows: PackedRows<'_>, at: usize) -> __m512 {
    // SAFETY: the caller's.
    let [a, b, c, d] = unsafe { parts(rows, at) };
    let (ab, cd) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
    low_halves(_mm512_srli_epi32::<16>(_mm512_unpackhi_epi64(ab, cd)))
}

/// Scales and minimums of a block of Q4_K or Q5_K of each row: as they are stored in a block, four
/// groups a word.
pub(super) struct K4 {
    d: __m512,
    dmin: __m512,
    scales: [__m512i; 2],
    mins: [__m512i; 2],
}

impl K4 {
    /// Of the blocks at `at`.
    ///
    /// # Safety
    /// Every row holds a block at `at`, and the machine has the features of this module.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) unsafe fn load(rows: PackedRows<'_>, at: usize) -> K4 {
        // SAFETY: a block begins with its 16 bytes of scales.
        let [d, a, b, c] = unsafe { words(rows, at) };
        // As `scales_k4` of `unpack`.
        let (six, four, two) = (
            _mm512_set1_epi32(0x3f3f_3f3f),
            _mm512_set1_epi32(0x0f0f_0f0f),
            _mm512_set1_epi32(0x3030_3030),
        );
        let upper = |low, high: __m512i| {
            or_masked(
                _mm512_and_si512(low, four),
                _mm512_srli_epi32::<2>(high),
                two,
            )
        };
        K4 {
            d: low_halves(d),
            dmin: low_halves(_mm512_srli_epi32::<16>(d)),
            scales: [_mm512_and_si512(a, six), upper(c, a)],
            mins: [
                _mm512_and_si512(b, six),
                upper(_mm512_srli_epi32::<4>(c), b),
            ],
        }
    }

    /// Scale and minimum of group `g`.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn group(&self, g: usize) -> (__m512, __m512) {
        let byte = |words: __m512i| {
            let shifted = _mm512_srlv_epi32(words, _mm512_set1_epi32(8 * (g % 4) as i32));
            _mm512_cvtepi32_ps(_mm512_and_si512(shifted, _mm512_set1_epi32(0xff)))
        };
        (
            _mm512_mul_ps(self.d, byte(self.scales[g / 4])),
            _mm512_mul_ps(self.dmin, byte(self.mins[g / 4])),
        )
    }
}

/// Scales of a block of Q6_K of each row.
pub(super) struct K6 {
    d: __m512,
    scales: [__m512i; 4],
}

impl K6 {
    /// Of the blocks at `at`.
    ///
    /// # Safety
    /// Every row holds a block at `at`, and the machine has the features of this module.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) unsafe fn load(rows: PackedRows<'_>, at: usize) -> K6 {
        // SAFETY: 16 scales and then an f16 end a block.
        unsafe {
            K6 {
                d: last_halves(rows, at + 194),
                scales: words(rows, at + 192),
            }
        }
    }

    /// Scale of group `4 * word + i`.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn group(&self, word: usize, i: usize) -> __m512 {
        let shift = _mm512_set1_epi32(24 - 8 * i as i32);
        let at_top = _mm512_sllv_epi32(self.scales[word], shift);
        let byte = _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(at_top));
        _mm512_mul_ps(self.d, byte)
    }
}
