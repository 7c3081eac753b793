//! Q4_0 and Q4_1: 4 bits a weight, 32 weights a block.

use super::Block;
use super::error_weights::Weighted;
use super::scale_search::{range, signed_extreme, symmetric};
use crate::random::{JITTER_RMS, Words};
use crate::scalar::LeF16;
use bytemuck::{Pod, Zeroable};

/// 32 weights `d * (q - 8)`; 18 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct BlockQ4_0 {
    /// Scale.
    pub d: LeF16,
    /// Byte `j`: weight `j` in the low nibble, weight `j + 16` in the high one.
    pub qs: [u8; 16],
}

/// 32 weights `d * q + m`; 20 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct BlockQ4_1 {
    /// Scale.
    pub d: LeF16,
    /// Minimum, added.
    pub m: LeF16,
    /// Byte `j`: weight `j` in the low nibble, weight `j + 16` in the high one.
    pub qs: [u8; 16],
}

/// Standard deviation of a uniform code of 16 steps: sqrt((16^2 - 1) / 12).
pub(super) const CODE_STD: f32 = 4.609_772;

impl Block for BlockQ4_0 {
    const LEN: usize = 32;

    #[inline]
    fn dequantize(&self, y: &mut [f32]) {
        let d = self.d.get();
        let (low, high) = y[..32].split_at_mut(16);
        for j in 0..16 {
            low[j] = (i32::from(self.qs[j] & 15) - 8) as f32 * d;
            high[j] = (i32::from(self.qs[j] >> 4) - 8) as f32 * d;
        }
    }

    fn quantize(x: &[f32], importance: Option<&[f32]>) -> Self {
        let (d, inverse) = match importance {
            // As ggml's reference: the extreme goes to code -8, which has no positive counterpart, and
            // codes go by the scale before it is rounded.
            None => {
                let d = signed_extreme(x) / -8.0;
                (LeF16::finite(d), inverse_of(d))
            }
            Some(_) => symmetric_scale(x, importance, -8, 7),
        };
        let code = |v: f32| (v * inverse + 8.5).clamp(0.0, 15.0) as u8;
        BlockQ4_0 {
            d,
            qs: std::array::from_fn(|j| code(x[j]) | code(x[j + 16]) << 4),
        }
    }

    fn random(words: &mut Words, std: f32) -> Self {
        let d = LeF16::finite(words.signed_jitter(std / (CODE_STD * JITTER_RMS)));
        BlockQ4_0 {
            d,
            qs: words.bytes(),
        }
    }
}

impl Block for BlockQ4_1 {
    const LEN: usize = 32;

    #[inline]
    fn dequantize(&self, y: &mut [f32]) {
        let (d, m) = (self.d.get(), self.m.get());
        let (low, high) = y[..32].split_at_mut(16);
        for j in 0..16 {
            low[j] = f32::from(self.qs[j] & 15) * d + m;
            high[j] = f32::from(self.qs[j] >> 4) * d + m;
        }
    }

    fn quantize(x: &[f32], _importance: Option<&[f32]>) -> Self {
        let (min, d) = reference_line(x, 15.0);
        let inverse = inverse_of(d);
        let code = |v: f32| ((v - min) * inverse + 0.5).clamp(0.0, 15.0) as u8;
        BlockQ4_1 {
            d: LeF16::finite(d),
            m: LeF16::finite(min),
            qs: std::array::from_fn(|j| code(x[j]) | code(x[j + 16]) << 4),
        }
    }

    fn random(words: &mut Words, std: f32) -> Self {
        let d = LeF16::finite(words.jitter(std / (CODE_STD * JITTER_RMS)));
        BlockQ4_1 {
            d,
            m: LeF16::finite(-7.5 * d.get()),
            qs: words.bytes(),
        }
    }
}

/// 1 / `d` for rounding to codes of the scale as stored; 0 when the scale is 0, which makes every
/// code the one of zero.
pub(super) fn inverse(d: LeF16) -> f32 {
    let d = d.get();
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// 1 / `d` for rounding to codes of a scale that is not rounded itself; 0 where that overflows, which
/// makes every code the one of zero.
pub(super) fn inverse_of(d: f32) -> f32 {
    if d.abs() < f32::MIN_POSITIVE {
        0.0
    } else {
        1.0 / d
    }
}

/// A scale for one block of codes from `lo` to `hi`, searched, and its inverse.
pub(super) fn symmetric_scale(
    x: &[f32],
    importance: Option<&[f32]>,
    lo: i32,
    hi: i32,
) -> (LeF16, f32) {
    let block = Weighted::new(x, importance);
    let scale = symmetric(block.group(0, x.len()), lo, hi).value;
    let d = LeF16::finite(block.unscaled(scale));
    (d, inverse(d))
}

/// The least weight and the step of `steps` equal ones up to the greatest: ggml's reference for formats
/// with a minimum.
pub(super) fn reference_line(x: &[f32], steps: f32) -> (f32, f32) {
    let (min, max) = range(x);
    // Half of each, where the difference overflows.
    let span = max - min;
    let d = if span.is_finite() {
        span / steps
    } else {
        max / steps - min / steps
    };
    (min, d)
}
