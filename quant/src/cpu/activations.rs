//! Activations as int8: what `matmul_fast` turns its input into before any dot product.
//!
//! Each block of 32 activations becomes bytes in -127..=127 and one f32 scale, the largest
//! magnitude over 127; the sums of every 16 bytes come along, because offsets and minimums of the
//! weights multiply sums only.
//!
//! Always holds: the result is the same bit for bit on every instruction set. A block that
//! contains a NaN or an infinity gets the scale NaN, so it poisons its own outputs and no
//! others.

#![allow(unsafe_code)]

use rayon::prelude::*;

use super::isa::Isa;
use super::outliers;

/// Activations that share a scale, whatever the weights' format. The kernels take a scale for each
/// group of weights in any case, so that larger blocks save nothing, and one large activation takes
/// precision from no more than 31 others.
pub(super) const BLOCK: usize = 32;

/// How many activations one sum covers.
pub(super) const SUM_LEN: usize = 16;

/// Sums of a block.
pub(super) const BLOCK_SUMS: usize = BLOCK / SUM_LEN;

/// Fewer activations than this are quantised on the calling thread, in some ten microseconds.
const MIN_PARALLEL: usize = 1 << 16;

/// Quantised activations, `[n, cols]`.
pub(super) struct Activations {
    pub(super) cols: usize,
    /// `[n, cols]`
    pub(super) q: Vec<i8>,
    /// `[n, cols / BLOCK]`
    pub(super) scales: Vec<f32>,
    /// `[n, cols / BLOCK, BLOCK_SUMS]`: sums of the bytes.
    pub(super) sums: Vec<[i32; BLOCK_SUMS]>,
    /// `[n]`: whether the bytes hold too little of a row: see [`outliers`].
    pub(super) is_coarse: Vec<bool>,
}

/// One row of [`Activations`].
#[derive(Clone, Copy)]
pub(super) struct Token<'a> {
    pub(super) q: &'a [i8],
    pub(super) scales: &'a [f32],
    pub(super) sums: &'a [[i32; BLOCK_SUMS]],
}

impl Activations {
    /// Quantises `x`, `[n, cols]`, of which [`BLOCK`] divides `cols`.
    pub(super) fn quantize(isa: Isa, x: &[f32], n: usize, cols: usize) -> Activations {
        let blocks = cols / BLOCK;
        let mut all = Activations {
            cols,
            q: vec![0; n * cols],
            scales: vec![0.0; n * blocks],
            sums: vec![[0; BLOCK_SUMS]; n * blocks],
            is_coarse: vec![false; n],
        };
        if x.is_empty() {
            return all;
        }
        let least = MIN_PARALLEL.div_ceil(cols);
        let rows = x.par_chunks(cols).zip(all.q.par_chunks_mut(cols));
        let scales = all.scales.par_chunks_mut(blocks);
        let outputs = scales.zip(all.sums.par_chunks_mut(blocks));
        let rows = rows.zip(outputs).zip(&mut all.is_coarse);
        rows.with_min_len(least)
            .for_each(|(((x, q), (scales, sums)), is_coarse)| {
                quantize_row(isa, x, q, scales, sums);
                *is_coarse = outliers::is_in(isa, x, scales);
            });
        all
    }

    /// Row `t`.
    #[inline]
    pub(super) fn token(&self, t: usize) -> Token<'_> {
        let blocks = self.cols / BLOCK;
        Token {
            q: &self.q[t * self.cols..(t + 1) * self.cols],
            scales: &self.scales[t * blocks..(t + 1) * blocks],
            sums: &self.sums[t * blocks..(t + 1) * blocks],
        }
    }
}

/// What [`matmul_fast`](super::matmul_fast) multiplies weights of block formats with in place of `x`, whole
/// blocks of 32, unless it multiplies a row as f32: written apart from it, for results to be held against.
///
/// Of each block whole multiples of a scale; those of a block that holds a NaN or an infinity are NaN.
#[must_use]
pub fn rounded_to_bytes(x: &[f32]) -> Vec<f32> {
    let rounded = |block: &[f32]| {
        let largest = block.iter().map(|x| x.abs());
        let largest = largest.fold(0.0, |a, b| if b <= a || a.is_nan() { a } else { b });
        let (scale, inverse) = match largest {
            ..1e-35 => (0.0, 0.0),
            _ => (largest / 127.0, 127.0 / largest),
        };
        let of = |x: &f32| (x * inverse).round_ties_even() * scale;
        block.iter().map(of).collect::<Vec<f32>>()
    };
    x.chunks(BLOCK).flat_map(rounded).collect()
}

/// Quantises consecutive blocks with the instructions of `isa`.
fn quantize_row(isa: Isa, x: &[f32], q: &mut [i8], d: &mut [f32], s: &mut [[i32; BLOCK_SUMS]]) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` beyond `Portable` only exists where the machine has its features.
        Isa::Avx512 => unsafe { super::avx512_quantize::quantize(x, q, d, s) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { super::avx2::quantize(x, q, d, s) },
        Isa::Portable => quantize_blocks(x, q, d, s),
    }
}

/// The body that each instruction set compiles for itself.
#[inline(always)]
pub(super) fn quantize_blocks(
    x: &[f32],
    q: &mut [i8],
    scales: &mut [f32],
    sums: &mut [[i32; BLOCK_SUMS]],
) {
    let blocks = x.as_chunks().0.iter().zip(q.as_chunks_mut().0);
    for ((x, q), (d, sums)) in blocks.zip(scales.iter_mut().zip(sums)) {
        *d = quantize_block(x, q);
        for (sum, q) in sums.iter_mut().zip(q.as_chunks::<SUM_LEN>().0) {
            *sum = q.iter().map(|&q| i32::from(q)).sum();
        }
    }
}

/// Quantises one block and returns its scale.
#[inline(always)]
fn quantize_block(x: &[f32; BLOCK], q: &mut [i8; BLOCK]) -> f32 {
    // Magnitudes compare like their bits, and NaN and infinity come out on top.
    let mut top = [0u32; 16];
    for x in x.as_chunks::<16>().0 {
        for (top, x) in top.iter_mut().zip(x) {
            *top = (*top).max(x.to_bits() & 0x7fff_ffff);
        }
    }
    // In halves, which vectorise, unlike a chain of sixteen.
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            top[lane] = top[lane].max(top[lane + half]);
        }
    }
    let max = f32::from_bits(top[0]);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::tests::{bits, gaussian};

    #[test]
    fn quantised_activations_are_the_same_bits_everywhere() {
        let mut x = gaussian(256 * 9);
        // Blocks of nothing, of next to nothing, of what is no number, and of one large value.
        x[32..64].fill(0.0);
        x[64..96].fill(-1e-38);
        x[100] = f32::NEG_INFINITY;
        x[800] = f32::NAN;
        x[1600] = -f32::MAX;
        x[1701] = 3e4;
        let want = Activations::quantize(Isa::Portable, &x, 3, 768);
        let scale_bits = |of: &Activations| bits(&of.scales);
        for isa in Isa::available() {
            let got = Activations::quantize(isa, &x, 3, 768);
            assert_eq!(got.q, want.q);
            assert_eq!(got.sums, want.sums);
            assert_eq!(scale_bits(&got), scale_bits(&want));
            assert_eq!(got.is_coarse, want.is_coarse);
        }
        for (i, (q, scale)) in want.q.chunks(BLOCK).zip(&want.scales).enumerate() {
            let largest = q.iter().map(|q| q.unsigned_abs()).max().unwrap();
            let (is_number, is_zero) = (![3, 25].contains(&i), [1, 2].contains(&i));
            assert_eq!(scale.is_finite(), is_number, "{i}");
            let expected = if is_number && !is_zero { 127 } else { 0 };
            assert_eq!(largest, expected, "{i}");
        }
        let taken = (0..x.len()).map(|i| f32::from(want.q[i]) * want.scales[i / BLOCK]);
        let rounded = rounded_to_bytes(&x);
        for (i, (taken, rounded)) in taken.zip(rounded).enumerate() {
            assert!(
                taken == rounded || taken.is_nan() && rounded.is_nan(),
                "{i}: {taken} for {rounded}"
            );
        }
        // The second row holds a number that is none, which is the product's to say.
        assert_eq!(want.is_coarse, [false, false, true]);
    }
}
