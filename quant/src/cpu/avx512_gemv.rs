//! The decode kernels for AVX-512 with VNNI: packed rows times one token, without unpacking to
//! memory, for the formats that models are usually distributed in.
//!
//! Sixteen rows at a time. A vector holds 64 unpacked weights of a row; `vpdpbusd` leaves 16 sums of
//! four products, and a tree of shuffles adds those of a group up for all rows at once: one vector
//! with a row in each lane. From there on this is the arithmetic of [`super::panel`]. What unpacks
//! a format is in [`super::avx512_rows`].
//!
//! Always holds: these kernels add up in the order of
//! [`portable::dot_groups`](super::portable::dot_groups) and return the same bits, so that a
//! product of few tokens is that of many.

#![allow(unsafe_code)]
#![allow(
    clippy::needless_range_loop,
    reason = "registers are named by their index"
)]

use std::arch::x86_64::*;

use super::activations::Activations;
use super::avx512_mxfp4::Mxfp4;
use super::avx512_rows::{Block, Iq4, K4, K6, Q4, Q4K, Q5K, Q6K, Q8, SuperBlock, dots16, dots32};
use super::panel::GroupTerms;
use super::unpack::Shape;
use crate::Format;

/// Weights that a kernel takes in one step.
const STEP: usize = 256;

/// Rows that are multiplied together, one in each lane of the sums.
pub(super) const ROWS: usize = 16;

/// How many steps ahead of its reads a kernel asks for weights: sixteen rows are as many streams of
/// addresses, and the machine's own prefetcher does not keep enough reads of each under way.
const STEPS_AHEAD: usize = 5;

/// One token's activations as these kernels read them.
pub(super) struct Lanes {
    /// In the order in which weights unpack, padded with zeros to whole vectors of 64.
    q: Vec<i8>,
    /// What each group contributes beside its bytes.
    terms: GroupTerms,
}

/// Whether there is a kernel for `format`.
pub(super) fn supports(format: Format) -> bool {
    matches!(
        format,
        Format::Q4_0
            | Format::Q8_0
            | Format::Q4_K
            | Format::Q5_K
            | Format::Q6_K
            | Format::IQ4_NL
            | Format::MXFP4
    )
}

impl Lanes {
    /// Lays token `t` of `x` out for the kernel of `format`.
    pub(super) fn new(format: Format, shape: Shape, x: &Activations, t: usize) -> Lanes {
        let token = x.token(t);
        let mut q = vec![0; token.q.len().next_multiple_of(64)];
        q[..token.q.len()].copy_from_slice(token.q);
        if matches!(format, Format::Q4_K | Format::Q5_K) {
            // A vector of nibbles holds runs 0 and 2 (low) or 1 and 3 (high) of 32 weights.
            for half in q.chunks_exact_mut(128) {
                let (a, b) = half.split_at_mut(64);
                a[32..].swap_with_slice(&mut b[..32]);
            }
        }
        let terms = GroupTerms::of_token(shape, token);
        Lanes { q, terms }
    }
}

/// Sixteen packed rows, the last one again in place of those that are missing.
#[derive(Clone, Copy)]
pub(super) struct PackedRows<'a> {
    rows: &'a [u8],
    row_bytes: usize,
    last: usize,
}

impl<'a> PackedRows<'a> {
    /// Of at most sixteen rows that lie one behind the other.
    pub(super) fn new(rows: &'a [u8], row_bytes: usize) -> PackedRows<'a> {
        let count = rows.len() / row_bytes;
        assert!(
            (1..=ROWS).contains(&count) && count * row_bytes == rows.len(),
            "one to sixteen whole rows"
        );
        PackedRows {
            rows,
            row_bytes,
            last: count - 1,
        }
    }

    /// Byte `at` of row `r`, of which the caller reads no more than the row has.
    #[inline(always)]
    pub(super) fn at(&self, r: usize, at: usize) -> *const u8 {
        let start = r.min(self.last) * self.row_bytes;
        self.rows.as_ptr().wrapping_add(start + at)
    }

    /// The byte of the first row that lies `by` bytes behind `at`: behind the end of the row that of
    /// the sixteen rows that follow, which is what a thread mostly reads next.
    #[inline(always)]
    fn ahead(&self, at: usize, by: usize) -> usize {
        let ahead = at + by.min(self.row_bytes);
        if ahead < self.row_bytes {
            ahead
        } else {
            ahead + (ROWS - 1) * self.row_bytes
        }
    }

    /// Asks for `bytes` bytes from `at` of the first row on, as far behind as row `r` is.
    /// Prefetching never faults.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn prefetch(&self, r: usize, at: usize, bytes: usize) {
        let first = self.rows.as_ptr().wrapping_add(r * self.row_bytes + at);
        for line in (0..bytes).step_by(64) {
            _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add(line).cast());
        }
    }
}

/// `out[r]` = row `r` of `rows` times `x`.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn gemv(format: Format, rows: PackedRows<'_>, x: &Lanes, out: &mut [f32; ROWS]) {
    let acc = match format {
        Format::Q4_K => with_mins::<144, Q4K>(rows, x),
        Format::Q5_K => with_mins::<176, Q5K>(rows, x),
        Format::Q6_K => sixteens::<210, Q6K>(rows, x),
        Format::Q4_0 => blocks::<18, Q4>(rows, x),
        Format::IQ4_NL => blocks::<18, Iq4>(rows, x),
        Format::MXFP4 => blocks::<17, Mxfp4>(rows, x),
        _ => blocks::<34, Q8>(rows, x),
    };
    // SAFETY: `out` holds 16 values.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), acc) }
}

/// The sums of a group, of all rows, so far: one more multiply-add, in the panel kernels' order.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn add_group(acc: __m512, dot: __m512i, scales: __m512, terms: &GroupTerms, g: usize) -> __m512 {
    let scales = _mm512_mul_ps(scales, _mm512_set1_ps(terms.scales[g]));
    let dot = _mm512_add_epi32(dot, _mm512_set1_epi32(terms.starts[g]));
    _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scales, acc)
}

/// The formats of super-blocks with a scale and a minimum for each 32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn with_mins<const BYTES: usize, B: SuperBlock>(rows: PackedRows<'_>, x: &Lanes) -> __m512 {
    let steps = x.q.len() / STEP;
    check::<BYTES>(rows, steps, x, 8 * steps);
    let mut acc = _mm512_setzero_ps();
    for step in 0..steps {
        let at = step * BYTES;
        let ahead = rows.ahead(at, STEPS_AHEAD * BYTES);
        // SAFETY: every row holds `steps` blocks, `q` as many steps.
        unsafe {
            let scales = K4::load(rows, at);
            for half in 0..2 {
                let q = x.q.as_ptr().add(STEP * step + 128 * half);
                let x_q = [q, q.add(64)].map(|q| _mm512_loadu_si512(q.cast()));
                let unpack = |r| {
                    rows.prefetch(r, ahead + half * BYTES / 2, BYTES / 2);
                    B::half(rows.at(r, at), half)
                };
                let [[a, c], [b, d]] = dots32(unpack, x_q);
                for (i, dot) in [a, b, c, d].into_iter().enumerate() {
                    let g = 8 * step + 4 * half + i;
                    let (scale, min) = scales.group(4 * half + i);
                    acc = _mm512_fmadd_ps(
                        _mm512_cvtepi32_ps(dot),
                        _mm512_mul_ps(scale, _mm512_set1_ps(x.terms.scales[g])),
                        acc,
                    );
                    acc = _mm512_fnmadd_ps(min, _mm512_set1_ps(x.terms.sums[g]), acc);
                }
            }
        }
    }
    acc
}

/// The formats of super-blocks with a scale for each 16.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn sixteens<const BYTES: usize, B: SuperBlock>(rows: PackedRows<'_>, x: &Lanes) -> __m512 {
    let steps = x.q.len() / STEP;
    check::<BYTES>(rows, steps, x, 16 * steps);
    let mut acc = _mm512_setzero_ps();
    for step in 0..steps {
        let at = step * BYTES;
        let ahead = rows.ahead(at, STEPS_AHEAD * BYTES);
        // SAFETY: every row holds `steps` blocks, `q` as many steps.
        unsafe {
            let scales = K6::load(rows, at);
            for half in 0..2 {
                let q = x.q.as_ptr().add(STEP * step + 128 * half);
                let x_q = [q, q.add(64)].map(|q| _mm512_loadu_si512(q.cast()));
                let unpack = |r| {
                    rows.prefetch(r, ahead + half * BYTES / 2, BYTES / 2);
                    B::half(rows.at(r, at), half)
                };
                let dots = dots16(unpack, x_q);
                for v in 0..2 {
                    let words = 2 * half + v;
                    for i in 0..4 {
                        let g = 16 * step + 4 * words + i;
                        acc = add_group(acc, dots[v][i], scales.group(words, i), &x.terms, g);
                    }
                }
            }
        }
    }
    acc
}

/// The formats of blocks of 32 weights with one scale in front, two blocks at a time.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn blocks<const BYTES: usize, B: Block>(rows: PackedRows<'_>, x: &Lanes) -> __m512 {
    let count = x.terms.groups;
    check::<BYTES>(rows, count, x, count);
    assert!(
        x.q.len() == (32 * count).next_multiple_of(64),
        "whole vectors"
    );
    let mut acc = _mm512_setzero_ps();
    for first in (0..count).step_by(2) {
        let at = first * BYTES;
        let ahead = rows.ahead(at, STEPS_AHEAD * 8 * BYTES);
        let is_pair = first + 1 < count;
        // SAFETY: every row holds `count` blocks, `q` as many times 32 and zeros behind.
        unsafe {
            let q = _mm512_loadu_si512(x.q.as_ptr().add(32 * first).cast());
            let second = if is_pair { at + BYTES } else { at };
            let unpack = |r| {
                rows.prefetch(r, ahead, 64);
                [B::pair(rows.at(r, at), rows.at(r, second))]
            };
            let [[a, b]] = dots32(unpack, [q]);
            let scales = B::scales(rows, at);
            acc = add_group(acc, a, scales, &x.terms, first);
            if is_pair {
                let scales = B::scales(rows, second);
                acc = add_group(acc, b, scales, &x.terms, first + 1);
            }
        }
    }
    acc
}

/// What the kernels rely on: `blocks` blocks of `BYTES` a row, and so many groups of activations.
#[inline(always)]
fn check<const BYTES: usize>(rows: PackedRows<'_>, blocks: usize, x: &Lanes, groups: usize) {
    let terms = &x.terms;
    assert!(rows.row_bytes == blocks * BYTES, "rows of whole blocks");
    assert!(
        terms.groups == groups
            && [terms.scales.len(), terms.sums.len(), terms.starts.len()] == [groups; 3],
        "a term for each group"
    );
}
