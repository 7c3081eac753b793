//! Q8_0, Q8_1 and Q8_K: 8-bit codes. The first is a format of weights; the other two hold
//! activations, with the sums that products with a minimum need.

use super::q4::inverse_of;
use super::scale_search::signed_extreme;
use super::{Block, SUPER_BLOCK};
use crate::random::{JITTER_RMS, Words};
use crate::scalar::{LeF16, LeF32, LeI16};
use bytemuck::{Pod, Zeroable};

/// 32 weights `d * q`; 34 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct BlockQ8_0 {
    /// Scale.
    pub d: LeF16,
    /// Codes, in the order of the weights.
    pub qs: [i8; 32],
}

/// 32 values `d * q` and their sum; 36 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct BlockQ8_1 {
    /// Scale.
    pub d: LeF16,
    /// `d` times the sum of the codes.
    pub s: LeF16,
    /// Codes, in the order of the values.
    pub qs: [i8; 32],
}

/// 256 values `d * q` and sums of their codes; 292 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct BlockQ8K {
    /// Scale.
    pub d: LeF32,
    /// Codes, in the order of the values.
    pub qs: [i8; 256],
    /// Sums of 16 codes each.
    pub bsums: [LeI16; 16],
}

/// Standard deviation of a uniform code from -127 to 127, with -128 folded to -127.
const CODE_STD: f32 = 73.895_22;

impl Block for BlockQ8_0 {
    const LEN: usize = 32;

    #[inline]
    fn dequantize(&self, y: &mut [f32]) {
        scale_codes(self.d.get(), &self.qs, y);
    }

    fn quantize(x: &[f32], _importance: Option<&[f32]>) -> Self {
        // As ggml's reference: codes by the scale before it is rounded.
        let d = signed_extreme(x).abs() / 127.0;
        BlockQ8_0 {
            d: LeF16::finite(d),
            qs: round_codes(x, inverse_of(d)),
        }
    }

    fn random(words: &mut Words, std: f32) -> Self {
        let d = LeF16::finite(words.jitter(std / (CODE_STD * JITTER_RMS)));
        BlockQ8_0 {
            d,
            qs: random_codes(words),
        }
    }
}

impl Block for BlockQ8_1 {
    const LEN: usize = 32;

    #[inline]
    fn dequantize(&self, y: &mut [f32]) {
        scale_codes(self.d.get(), &self.qs, y);
    }

    fn quantize(x: &[f32], _importance: Option<&[f32]>) -> Self {
        let BlockQ8_0 { d, qs } = BlockQ8_0::quantize(x, None);
        Self::with_sum(d, qs)
    }

    fn random(words: &mut Words, std: f32) -> Self {
        let BlockQ8_0 { d, qs } = BlockQ8_0::random(words, std);
        Self::with_sum(d, qs)
    }
}

impl BlockQ8_1 {
    fn with_sum(d: LeF16, qs: [i8; 32]) -> Self {
        let sum: i32 = qs.iter().map(|&q| i32::from(q)).sum();
        BlockQ8_1 {
            d,
            s: LeF16::finite(d.get() * sum as f32),
            qs,
        }
    }
}

impl Block for BlockQ8K {
    const LEN: usize = SUPER_BLOCK;

    #[inline]
    fn dequantize(&self, y: &mut [f32]) {
        scale_codes(self.d.get(), &self.qs, y);
    }

    fn quantize(x: &[f32], _importance: Option<&[f32]>) -> Self {
        let d = signed_extreme(x).abs() / 127.0;
        Self::with_sums(d, round_codes(x, inverse_of(d)))
    }

    fn random(words: &mut Words, std: f32) -> Self {
        let d = words.jitter(std / (CODE_STD * JITTER_RMS));
        Self::with_sums(d, random_codes(words))
    }
}

impl BlockQ8K {
    fn with_sums(d: f32, qs: [i8; 256]) -> Self {
        let sum = |i: usize| qs[16 * i..][..16].iter().map(|&q| i16::from(q)).sum();
        BlockQ8K {
            d: LeF32::new(d),
            qs,
            bsums: std::array::from_fn(|i| LeI16::new(sum(i))),
        }
    }
}

#[inline]
fn scale_codes(d: f32, codes: &[i8], y: &mut [f32]) {
    for (y, &code) in y.iter_mut().zip(codes) {
        *y = f32::from(code) * d;
    }
}

fn round_codes<const N: usize>(x: &[f32], inverse: f32) -> [i8; N] {
    std::array::from_fn(|i| {
        let v = x[i] * inverse;
        // Nearest, ties away from zero: a conversion cuts, and what it cuts off is exact.
        let whole = v as i32;
        let rest = v - whole as f32;
        let away = i32::from(rest >= 0.5) - i32::from(rest <= -0.5);
        (whole + away).clamp(-127, 127) as i8
    })
}

/// Uniform codes from -127 to 127: quantisers never write -128, and some kernels rely on it.
#[inline]
fn random_codes<const N: usize>(words: &mut Words) -> [i8; N] {
    words.bytes::<N>().map(|byte| (byte as i8).max(-127))
}
