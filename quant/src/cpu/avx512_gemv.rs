//! The decode kernels for AVX-512 with VNNI: packed rows times one token, without unpacking to
//! memory, for the formats that models are usually distributed in.
//!
//! A vector holds 64 unpacked weights; `vpdpbusd` leaves 16 sums of four products, and scales are
//! applied to those, so nothing crosses lanes before the end of a row. Activations are laid out
//! for the purpose ([`Lanes`]): in the order in which the weights unpack, padded with zeros to
//! whole steps of 256.
//!
//! Always holds: integer sums and their products with integer scales are exact in f32; every row
//! is summed in the same order.

#![allow(unsafe_code)]
#![allow(
    clippy::needless_range_loop,
    reason = "registers are named by their index"
)]

use std::arch::x86_64::*;

use super::activations::{SUM_LEN, Token};
use super::unpack::scales_k4;
use crate::Format;

/// Weights that a kernel takes in one step.
const STEP: usize = 256;

/// How far ahead of its reads a kernel asks for weights: the machine's own prefetcher stops at
/// every page and does not keep enough reads under way by itself.
const PREFETCH_BYTES: usize = 2048;

/// One token's activations as these kernels read them.
pub(super) struct Lanes {
    /// `[steps, 256]`
    q: Vec<i8>,
    /// `[steps, 8]`: scale of each 32, or of the step in all eight.
    scales: Vec<[f32; 8]>,
    /// `[steps, 16]`: sums of each 16; or sums of each 32, then zeros.
    sums: Vec<[f32; 16]>,
}

/// Whether there is a kernel for `format`.
pub(super) fn supports(format: Format) -> bool {
    matches!(
        format,
        Format::Q4_0 | Format::Q8_0 | Format::Q4_K | Format::Q5_K | Format::Q6_K | Format::IQ4_NL
    )
}

impl Lanes {
    /// Lays `x` out for the kernel of `format`.
    pub(super) fn new(format: Format, x: Token<'_>) -> Lanes {
        let steps = x.q.len().div_ceil(STEP);
        let mut q = vec![0; steps * STEP];
        q[..x.q.len()].copy_from_slice(x.q);
        if matches!(format, Format::Q4_K | Format::Q5_K) {
            // A vector of nibbles holds runs 0 and 2 (low) or 1 and 3 (high) of 32 weights.
            for half in q.chunks_exact_mut(128) {
                let (a, b) = half.split_at_mut(64);
                a[32..].swap_with_slice(&mut b[..32]);
            }
        }
        let mut scales = vec![[0.0; 8]; steps];
        for (i, &scale) in x.scales.iter().enumerate() {
            if x.block == STEP {
                scales[i] = [scale; 8];
            } else {
                scales[i / 8][i % 8] = scale;
            }
        }
        let per_sum = if format == Format::Q6_K {
            1
        } else {
            32 / SUM_LEN
        };
        let sums_per_step = STEP / SUM_LEN / per_sum;
        let mut sums = vec![[0.0; 16]; steps];
        for (i, sum) in x.sums.chunks_exact(per_sum).enumerate() {
            sums[i / sums_per_step][i % sums_per_step] = sum.iter().sum::<i32>() as f32;
        }
        Lanes { q, scales, sums }
    }
}

/// `out[r]` = row `r` of `rows` (each `row_bytes` long) times `x`.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn gemv(format: Format, rows: &[u8], row_bytes: usize, x: &Lanes, out: &mut [f32]) {
    assert!(
        x.q.len() == x.scales.len() * STEP && x.sums.len() == x.scales.len(),
        "whole steps"
    );
    for (row, out) in rows.chunks_exact(row_bytes).zip(out) {
        *out = match format {
            Format::Q4_K => super_blocks::<144, Q4K>(row, x),
            Format::Q5_K => super_blocks::<176, Q5K>(row, x),
            Format::Q6_K => super_blocks::<210, Q6K>(row, x),
            Format::Q4_0 => blocks::<18, Q4>(row, x),
            Format::IQ4_NL => blocks::<18, Iq4>(row, x),
            _ => blocks::<34, Q8>(row, x),
        };
    }
}

/// Asks for what lies [`PREFETCH_BYTES`] ahead of `BYTES` bytes of weights. Rows lie one after the
/// other, so this is weights as well, except at the end of a thread's rows; prefetching never
/// faults.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn prefetch<const BYTES: usize>(weights: &[u8]) {
    let ahead = weights.as_ptr().wrapping_add(PREFETCH_BYTES);
    for line in (0..BYTES).step_by(64) {
        _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(line).cast());
    }
}

/// The step of a super-block format.
trait SuperBlock {
    /// Adds one block's products to `acc` and what is subtracted from them to `less`.
    ///
    /// # Safety
    /// `x` points to 256 activations, and the machine has the features of this module.
    unsafe fn step(block: &[u8], x: Step<'_>, acc: &mut __m512, less: &mut __m512);
}

/// One step of [`Lanes`].
#[derive(Clone, Copy)]
struct Step<'a> {
    q: *const i8,
    scale: f32,
    sums: &'a [f32; 16],
}

impl Step<'_> {
    /// The `i`-th vector of 64 activations.
    ///
    /// # Safety
    /// `i < 4`, and as [`SuperBlock::step`].
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn vector(&self, i: usize) -> __m512i {
        // SAFETY: the step holds four vectors.
        unsafe { _mm512_loadu_si512(self.q.add(64 * i).cast()) }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn super_blocks<const BYTES: usize, B: SuperBlock>(row: &[u8], x: &Lanes) -> f32 {
    let (mut acc, mut less) = (_mm512_setzero_ps(), _mm512_setzero_ps());
    let steps = x.q.chunks_exact(STEP).zip(&x.scales).zip(&x.sums);
    for (block, ((q, scales), sums)) in row.chunks_exact(BYTES).zip(steps) {
        prefetch::<BYTES>(block);
        let x = Step {
            q: q.as_ptr(),
            scale: scales[0],
            sums,
        };
        // SAFETY: `q` holds 256 activations; this function has the features.
        unsafe { B::step(block, x, &mut acc, &mut less) }
    }
    _mm512_reduce_add_ps(_mm512_sub_ps(acc, less))
}

/// Sum over the four vectors of a step: 16 integer sums each, times their integer scales.
///
/// # Safety
/// As [`SuperBlock::step`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn scaled(w: [__m512i; 4], scales: [__m512; 4], x: &Step<'_>) -> __m512 {
    let mut sum = _mm512_setzero_ps();
    for i in 0..4 {
        // SAFETY: the caller's.
        let x = unsafe { x.vector(i) };
        let dot = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w[i], x);
        sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scales[i], sum);
    }
    sum
}

/// The halves and nibbles of the 128 bytes at `p`: low and high of the first 64, then the next.
///
/// # Safety
/// 128 bytes at `p` can be read.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn nibbles(p: *const u8) -> [__m512i; 4] {
    // SAFETY: the caller's.
    let (a, b) = unsafe {
        (
            _mm512_loadu_si512(p.cast()),
            _mm512_loadu_si512(p.add(64).cast()),
        )
    };
    let mask = _mm512_set1_epi8(15);
    let high = |v| _mm512_and_si512(_mm512_srli_epi16::<4>(v), mask);
    [
        _mm512_and_si512(a, mask),
        high(a),
        _mm512_and_si512(b, mask),
        high(b),
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

/// The scale and minimum work that Q4_K and Q5_K share, for weights already unpacked.
///
/// # Safety
/// As [`SuperBlock::step`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn k4(block: &[u8], w: [__m512i; 4], x: &Step<'_>, acc: &mut __m512, less: &mut __m512) {
    let (scales, mins) = scales_k4(&block[4..16]);
    let widen = |b: [u8; 8]| {
        let b = _mm_cvtsi64_si128(i64::from_le_bytes(b));
        _mm512_castps256_ps512(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(b)))
    };
    let (scales, mins) = (widen(scales), widen(mins));
    // Runs 0 and 2, 1 and 3, 4 and 6, 5 and 7: as the nibbles lie.
    let first = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2);
    let spread = [0, 1, 4, 5]
        .map(|i| _mm512_permutexvar_ps(_mm512_add_epi32(first, _mm512_set1_epi32(i)), scales));
    // SAFETY: the caller's; `sums` holds 16 values.
    let (sum, sums) = unsafe { (scaled(w, spread, x), _mm512_loadu_ps(x.sums.as_ptr())) };
    let d = i32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    let d = _mm_mul_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(d)), _mm_set1_ps(x.scale));
    let (d, dmin) = (
        _mm512_broadcastss_ps(d),
        _mm512_broadcastss_ps(_mm_movehdup_ps(d)),
    );
    *acc = _mm512_fmadd_ps(sum, d, *acc);
    // Only the first eight lanes of `mins` mean anything.
    *less = _mm512_mask3_fmadd_ps(_mm512_mul_ps(mins, sums), dmin, *less, 0xff);
}

struct Q4K;

impl SuperBlock for Q4K {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn step(block: &[u8], x: Step<'_>, acc: &mut __m512, less: &mut __m512) {
        let block = &block[..144];
        // SAFETY: 128 bytes follow the first 16; the rest is the caller's.
        unsafe { k4(block, nibbles(block.as_ptr().add(16)), &x, acc, less) }
    }
}

struct Q5K;

impl SuperBlock for Q5K {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn step(block: &[u8], x: Step<'_>, acc: &mut __m512, less: &mut __m512) {
        let block = &block[..176];
        let p = block.as_ptr();
        // SAFETY: 32 bytes of fifth bits and 128 of nibbles follow the first 16.
        let (high, low) = unsafe { (_mm256_loadu_si256(p.add(16).cast()), nibbles(p.add(48))) };
        let high = _mm512_broadcast_i64x4(high);
        // Bit `i` of byte `l` belongs to weight `l` of run `i`; it is moved to bit 4.
        let bits = [
            _mm512_sllv_epi64(high, counts(4, 2)),
            _mm512_sllv_epi64(high, counts(3, 1)),
            _mm512_srlv_epi64(high, counts(0, 2)),
            _mm512_srlv_epi64(high, counts(1, 3)),
        ];
        let mut w = low;
        for i in 0..4 {
            w[i] = or_masked(low[i], bits[i], _mm512_set1_epi8(16));
        }
        // SAFETY: the caller's.
        unsafe { k4(block, w, &x, acc, less) }
    }
}

struct Q6K;

impl SuperBlock for Q6K {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn step(block: &[u8], x: Step<'_>, acc: &mut __m512, less: &mut __m512) {
        let block = &block[..210];
        let p = block.as_ptr();
        // SAFETY: 128 bytes of nibbles, 64 of upper bits and 16 scales lie in the block.
        let (low, high, scales) = unsafe {
            let high = [128, 160].map(|at| _mm256_loadu_si256(p.add(at).cast()));
            (nibbles(p), high, _mm_loadu_si128(p.add(192).cast()))
        };
        let mut w = low;
        for half in 0..2 {
            // Two bits for each of four runs of 32 weights, moved to bits 4 and 5.
            let high = _mm512_broadcast_i64x4(high[half]);
            let mask = _mm512_set1_epi8(0x30);
            let (a, b) = (
                _mm512_sllv_epi64(high, counts(4, 2)),
                _mm512_srlv_epi64(high, counts(0, 2)),
            );
            w[2 * half] = or_masked(low[2 * half], a, mask);
            w[2 * half + 1] = or_masked(low[2 * half + 1], b, mask);
        }
        let scales = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(scales));
        let first = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
        let spread = [0, 4, 8, 12]
            .map(|i| _mm512_permutexvar_ps(_mm512_add_epi32(first, _mm512_set1_epi32(i)), scales));
        // SAFETY: the caller's; `sums` holds 16 values.
        let (sum, sums) = unsafe { (scaled(w, spread, &x), _mm512_loadu_ps(x.sums.as_ptr())) };
        let d = _mm_cvtsi32_si128(i32::from(u16::from_le_bytes([block[208], block[209]])));
        let d = _mm_cvtss_f32(_mm_cvtph_ps(d)) * x.scale;
        *acc = _mm512_fmadd_ps(sum, _mm512_set1_ps(d), *acc);
        let less_scale = _mm512_set1_ps(32.0 * d);
        *less = _mm512_fmadd_ps(_mm512_mul_ps(scales, sums), less_scale, *less);
    }
}

/// A format of blocks of 32 weights with one f16 scale in front.
trait Block {
    /// What is subtracted from an unpacked byte.
    const OFFSET: f32;

    /// 64 weights of the blocks at `a` and `b`.
    ///
    /// # Safety
    /// Both point to whole blocks, and the machine has the features of this module.
    unsafe fn pair(a: *const u8, b: *const u8) -> __m512i;
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn blocks<const BYTES: usize, B: Block>(row: &[u8], x: &Lanes) -> f32 {
    let (mut acc, mut less) = (_mm512_setzero_ps(), _mm256_setzero_ps());
    let mut steps = x.q.chunks_exact(STEP).zip(&x.scales).zip(&x.sums);
    let whole = row.chunks_exact(8 * BYTES);
    let rest = whole.remainder();
    let mut padded = [0u8; 8 * 34];
    padded[..rest.len()].copy_from_slice(rest);
    let last = (!rest.is_empty()).then_some(&padded[..8 * BYTES]);
    for (eight, ((q, x_scales), sums)) in whole.chain(last).zip(&mut steps) {
        prefetch::<{ 8 * 34 }>(eight);
        let halves: [u16; 8] =
            std::array::from_fn(|i| u16::from_le_bytes([eight[i * BYTES], eight[i * BYTES + 1]]));
        // SAFETY: `halves`, `x_scales` and `sums` hold eight values each.
        let (scales, sums) = unsafe {
            let halves = _mm256_cvtph_ps(_mm_loadu_si128(halves.as_ptr().cast()));
            let scales = _mm256_mul_ps(halves, _mm256_loadu_ps(x_scales.as_ptr()));
            (scales, _mm256_loadu_ps(sums.as_ptr()))
        };
        less = _mm256_fmadd_ps(scales, sums, less);
        let scales = _mm512_castps256_ps512(scales);
        for i in 0..4 {
            // SAFETY: eight blocks lie in `eight`, 256 activations in `q`.
            let (w, x) = unsafe {
                let a = eight.as_ptr().add(2 * i * BYTES);
                (
                    B::pair(a, a.add(BYTES)),
                    _mm512_loadu_si512(q.as_ptr().add(64 * i).cast()),
                )
            };
            let dot = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w, x);
            let j = 2 * i as i32;
            let spread = _mm512_setr_epi32(
                j,
                j,
                j,
                j,
                j,
                j,
                j,
                j,
                j + 1,
                j + 1,
                j + 1,
                j + 1,
                j + 1,
                j + 1,
                j + 1,
                j + 1,
            );
            let scale = _mm512_permutexvar_ps(spread, scales);
            acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scale, acc);
        }
    }
    let less = _mm512_insertf32x8::<0>(_mm512_setzero_ps(), less);
    _mm512_reduce_add_ps(_mm512_fnmadd_ps(less, _mm512_set1_ps(B::OFFSET), acc))
}

/// Nibbles of two blocks: low ones of `a`, high ones of `a`, then `b` likewise.
///
/// # Safety
/// 16 bytes at `a + 2` and `b + 2` can be read.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn nibble_pair(a: *const u8, b: *const u8) -> __m512i {
    // SAFETY: the caller's.
    let (a, b) = unsafe {
        (
            _mm_loadu_si128(a.add(2).cast()),
            _mm_loadu_si128(b.add(2).cast()),
        )
    };
    let both = _mm512_mask_broadcast_i32x4(_mm512_broadcast_i32x4(a), 0xff00, b);
    let shifted = _mm512_srlv_epi64(both, _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4));
    _mm512_and_si512(shifted, _mm512_set1_epi8(15))
}

struct Q4;

impl Block for Q4 {
    const OFFSET: f32 = 8.0;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn pair(a: *const u8, b: *const u8) -> __m512i {
        // SAFETY: the caller's.
        unsafe { nibble_pair(a, b) }
    }
}

struct Iq4;

impl Block for Iq4 {
    const OFFSET: f32 = 128.0;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn pair(a: *const u8, b: *const u8) -> __m512i {
        // SAFETY: the caller's; the table holds 16 bytes.
        unsafe {
            let table = _mm_loadu_si128(super::unpack::IQ4_BYTES.as_ptr().cast());
            _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), nibble_pair(a, b))
        }
    }
}

struct Q8;

impl Block for Q8 {
    const OFFSET: f32 = 128.0;

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
