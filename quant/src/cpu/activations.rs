//! Activations as int8: what `matmul_fast` turns its input into before any dot product.
//!
//! Each block of 32 or 256 activations becomes bytes in -127..=127 and one f32 scale, the
//! largest magnitude over 127; the sums of every 16 bytes come along, because offsets and
//! minimums of the weights multiply sums only.
//!
//! Always holds: the result is the same bit for bit on every instruction set. A block that
//! contains a NaN or an infinity gets the scale NaN, so it poisons its own outputs and no
//! others.

#![allow(unsafe_code)]

use rayon::prelude::*;

use super::isa::Isa;

/// How many activations one sum covers.
pub(super) const SUM_LEN: usize = 16;

/// Fewer activations than this are quantised on the calling thread, in some ten microseconds.
const MIN_PARALLEL: usize = 1 << 16;

/// Quantised activations, `[n, cols]`.
pub(super) struct Activations {
    pub(super) cols: usize,
    /// Activations that share a scale.
    pub(super) block: usize,
    /// `[n, cols]`
    pub(super) q: Vec<i8>,
    /// `[n, cols / block]`
    pub(super) scales: Vec<f32>,
    /// `[n, cols / 16]`: sums of the bytes.
    pub(super) sums: Vec<i32>,
}

/// One row of [`Activations`].
#[derive(Clone, Copy)]
pub(super) struct Token<'a> {
    pub(super) block: usize,
    pub(super) q: &'a [i8],
    pub(super) scales: &'a [f32],
    pub(super) sums: &'a [i32],
}

impl Activations {
    /// Quantises `x`, `[n, cols]`, in blocks of `block`, which divides `cols`.
    pub(super) fn quantize(
        isa: Isa,
        x: &[f32],
        n: usize,
        cols: usize,
        block: usize,
    ) -> Activations {
        let mut all = Activations {
            cols,
            block,
            q: vec![0; n * cols],
            scales: vec![0.0; n * cols / block],
            sums: vec![0; n * cols / SUM_LEN],
        };
        if x.is_empty() {
            return all;
        }
        if x.len() < MIN_PARALLEL {
            quantize_slice(isa, block, x, &mut all.q, &mut all.scales, &mut all.sums);
        } else {
            let quantised = x.par_chunks(cols).zip(all.q.par_chunks_mut(cols));
            let scales = all.scales.par_chunks_mut(cols / block);
            let outputs = scales.zip(all.sums.par_chunks_mut(cols / SUM_LEN));
            quantised.zip(outputs).for_each(|((x, q), (scales, sums))| {
                quantize_slice(isa, block, x, q, scales, sums);
            });
        }
        all
    }

    /// Row `t`.
    #[inline]
    pub(super) fn token(&self, t: usize) -> Token<'_> {
        let (scales, sums) = (self.cols / self.block, self.cols / SUM_LEN);
        Token {
            block: self.block,
            q: &self.q[t * self.cols..(t + 1) * self.cols],
            scales: &self.scales[t * scales..(t + 1) * scales],
            sums: &self.sums[t * sums..(t + 1) * sums],
        }
    }
}

/// Quantises consecutive blocks with the instructions of `isa`.
fn quantize_slice(isa: Isa, block: usize, x: &[f32], q: &mut [i8], d: &mut [f32], s: &mut [i32]) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` beyond `Portable` only exists where the machine has its features.
        Isa::Avx512 => unsafe { super::avx512::quantize(block, x, q, d, s) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { super::avx2::quantize(block, x, q, d, s) },
        _ => quantize_blocks(block, x, q, d, s),
    }
}

/// The body that each instruction set compiles for itself.
#[inline(always)]
pub(super) fn quantize_blocks(
    block: usize,
    x: &[f32],
    q: &mut [i8],
    scales: &mut [f32],
    sums: &mut [i32],
) {
    let sums_per_block = block / SUM_LEN;
    let blocks = x.chunks_exact(block).zip(q.chunks_exact_mut(block));
    for ((x, q), (d, sums)) in
        blocks.zip(scales.iter_mut().zip(sums.chunks_exact_mut(sums_per_block)))
    {
        *d = quantize_block(x, q);
        for (sum, q) in sums.iter_mut().zip(q.chunks_exact(SUM_LEN)) {
            *sum = q.iter().map(|&q| i32::from(q)).sum();
        }
    }
}

/// Quantises one block and returns its scale.
#[inline(always)]
fn quantize_block(x: &[f32], q: &mut [i8]) -> f32 {
    // Magnitudes compare like their bits, and NaN and infinity come out on top.
    let mut top = [0u32; 16];
    for x in x.chunks_exact(16) {
        for (top, x) in top.iter_mut().zip(x) {
            *top = (*top).max(x.to_bits() & 0x7fff_ffff);
        }
    }
    let max = f32::from_bits(top.into_iter().fold(0, u32::max));
    if !max.is_finite() {
        q.fill(0);
        return f32::NAN;
    }
    // Below this the reciprocal overflows; such a block counts as zero.
    if max < 1e-35 {
        q.fill(0);
        return 0.0;
    }
    // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let inverse = 127.0 / max;
    for (q, x) in q.iter_mut().zip(x) {
        *q = (x * inverse + ROUND).to_bits() as i8;
    }
    max / 127.0
}
