//! MXFP4: 4-bit floating-point weights that share a power of two (OCP microscaling formats).
//!
//! A weight is a float of 1 sign, 2 exponent and 1 mantissa bit (E2M1), its block's scale an
//! exponent without sign or mantissa (E8M0). Twice an E2M1 number is an integer, so the table below
//! holds integers and the scale is half of what the standard says. Neither the one scale that the
//! standard calls NaN nor the negative zero is special here: ggml computes with both, and files mean
//! what ggml makes of them.

use super::Block;
use super::scale_search::signed_extreme;
use crate::random::Words;
use bytemuck::{Pod, Zeroable};

/// Twice the numbers that a 4-bit code stands for.
pub const MXFP4_VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// 32 weights `2^(e - 128) * MXFP4_VALUES[q]`; 17 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct BlockMxfp4 {
    /// Exponent of the scale, plus 127; the table doubles the weights, so the scale is halved.
    pub e: u8,
    /// Byte `j`: weight `j` in the low nibble, weight `j + 16` in the high one.
    pub qs: [u8; 16],
}

/// Entry `code` of the table; without a look-up, so that a loop becomes vectors.
#[inline(always)]
pub(crate) const fn e2m1_doubled(code: u8) -> i8 {
    let index = (code & 7) as i8;
    let rise = (index > 4) as i8 + (index > 5) as i8 + 3 * (index > 6) as i8;
    // All ones for a minus.
    let minus = -((code >> 3 & 1) as i8);
    ((index + rise) ^ minus) - minus
}

/// Root mean square of the table.
pub(super) const TABLE_RMS: f32 = 5.852_35;

/// `2^(e - 128)`; subnormal for the two smallest.
#[inline(always)]
pub(crate) const fn half_scale(e: u8) -> f32 {
    f32::from_bits(match e {
        0 => 1 << 21,
        1 => 1 << 22,
        e => (e as u32 - 1) << 23,
    })
}

/// The code of the value nearest to `v`, the one of smaller magnitude on a tie.
pub(super) fn nearest_code(v: f32) -> u8 {
    let middle = |w: &[i8]| f32::from(w[0] + w[1]) * 0.5;
    let magnitudes = MXFP4_VALUES[..8].windows(2);
    let code = magnitudes.take_while(|w| v.abs() > middle(w)).count() as u8;
    if v < 0.0 && code > 0 { code | 8 } else { code }
}

/// The exponent of a finite number's magnitude, with the bias of f32; 0 for zero and subnormals.
fn exponent(v: f32) -> i32 {
    ((v.to_bits() >> 23) & 0xFF) as i32
}

impl BlockMxfp4 {
    /// The 32 weights, in order.
    #[inline]
    pub fn weights(&self) -> [f32; 32] {
        let scale = half_scale(self.e);
        std::array::from_fn(|i| {
            let byte = self.qs[i % 16];
            let code = if i < 16 { byte & 15 } else { byte >> 4 };
            scale * f32::from(MXFP4_VALUES[usize::from(code)])
        })
    }
}

impl Block for BlockMxfp4 {
    const LEN: usize = 32;

    #[inline]
    fn dequantize(&self, y: &mut [f32]) {
        y[..32].copy_from_slice(&self.weights());
    }

    /// The standard's conversion, as ggml does it: the largest magnitude gets the largest exponent of
    /// E2M1, what exceeds the largest number is clipped to it.
    fn quantize(x: &[f32], _importance: Option<&[f32]>) -> Self {
        // Of E2M1's numbers 4 and 6 have the largest exponent, 2.
        let e = (exponent(signed_extreme(x)) - 2).max(0) as u8;
        let scale = f64::from(half_scale(e));
        // In f64, where the smallest scale has an inverse.
        let code = |v: f32| nearest_code((f64::from(v) / scale) as f32);
        let qs = std::array::from_fn(|j| code(x[j]) | code(x[j + 16]) << 4);
        BlockMxfp4 { e, qs }
    }

    fn random(words: &mut Words, std: f32) -> Self {
        // Scales are powers of two: of two of them, a factor 4 apart so that neighbouring blocks
        // differ, the larger one is drawn as often as the mean square needs. `ratio` is from 1.5 to 3.
        let wanted = std / TABLE_RMS;
        let low = (exponent(wanted / 1.5) + 1).clamp(0, 252) as u8;
        let ratio = wanted / half_scale(low);
        let is_high =
            ((words.word() >> 40) as f32 / (1 << 24) as f32) < (ratio * ratio - 1.0) / 15.0;
        BlockMxfp4 {
            e: if is_high { low + 2 } else { low },
            qs: words.bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_follows_from_its_codes() {
        for code in 0..=u8::MAX {
            let expected = MXFP4_VALUES[usize::from(code & 15)];
            assert_eq!(e2m1_doubled(code), expected, "{code}");
        }
    }
}
