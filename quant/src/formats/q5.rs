//! Q5_0 and Q5_1: 5 bits a weight, 32 weights a block.

use super::Block;
use super::q4::{inverse_of, reference_line, symmetric_scale};
use super::scale_search::signed_extreme;
use crate::random::{JITTER_RMS, Words};
use crate::scalar::LeF16;
use bytemuck::{Pod, Zeroable};

/// 32 weights `d * (q - 16)`; 22 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct BlockQ5_0 {
    /// Scale.
    pub d: LeF16,
    /// Bit `i` of this little-endian word: the fifth bit of weight `i`.
    pub qh: [u8; 4],
    /// Byte `j`: low four bits of weight `j` in the low nibble, of weight `j + 16` in the high one.
    pub qs: [u8; 16],
}

/// 32 weights `d * q + m`; 24 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct BlockQ5_1 {
    /// Scale.
    pub d: LeF16,
    /// Minimum, added.
    pub m: LeF16,
    /// Bit `i` of this little-endian word: the fifth bit of weight `i`.
    pub qh: [u8; 4],
    /// Byte `j`: low four bits of weight `j` in the low nibble, of weight `j + 16` in the high one.
    pub qs: [u8; 16],
}

/// Standard deviation of a uniform code of 32 steps: sqrt((32^2 - 1) / 12).
const CODE_STD: f32 = 9.233_093;

impl BlockQ5_0 {
    /// The codes minus 16, in the order of the weights.
    #[inline]
    pub fn codes(&self) -> [i8; 32] {
        unpack(&self.qh, &self.qs).map(|code| code as i8 - 16)
    }
}

impl Block for BlockQ5_0 {
    const LEN: usize = 32;

    #[inline]
    fn dequantize(&self, y: &mut [f32]) {
        let d = self.d.get();
        for (y, code) in y[..32].iter_mut().zip(self.codes()) {
            *y = f32::from(code) * d;
        }
    }

    fn quantize(x: &[f32], importance: Option<&[f32]>) -> Self {
        let (d, inverse) = match importance {
            // As ggml's reference: the extreme goes to code -16, which has no positive counterpart.
            None => {
                let d = signed_extreme(x) / -16.0;
                (LeF16::finite(d), inverse_of(d))
            }
            Some(_) => symmetric_scale(x, importance, -16, 15),
        };
        let code = |i: usize| (x[i] * inverse + 16.5).clamp(0.0, 31.0) as u8;
        let (qh, qs) = pack(std::array::from_fn(code));
        BlockQ5_0 { d, qh, qs }
    }

    fn random(words: &mut Words, std: f32) -> Self {
        let d = LeF16::finite(words.signed_jitter(std / (CODE_STD * JITTER_RMS)));
        BlockQ5_0 {
            d,
            qh: words.bytes(),
            qs: words.bytes(),
        }
    }
}

impl Block for BlockQ5_1 {
    const LEN: usize = 32;

    #[inline]
    fn dequantize(&self, y: &mut [f32]) {
        let (d, m) = (self.d.get(), self.m.get());
        for (y, code) in y[..32].iter_mut().zip(unpack(&self.qh, &self.qs)) {
            *y = f32::from(code) * d + m;
        }
    }

    fn quantize(x: &[f32], _importance: Option<&[f32]>) -> Self {
        let (min, d) = reference_line(x, 31.0);
        let inverse = inverse_of(d);
        let code = |i: usize| ((x[i] - min) * inverse + 0.5).clamp(0.0, 31.0) as u8;
        let (qh, qs) = pack(std::array::from_fn(code));
        let (d, m) = (LeF16::finite(d), LeF16::finite(min));
        BlockQ5_1 { d, m, qh, qs }
    }

    fn random(words: &mut Words, std: f32) -> Self {
        let d = LeF16::finite(words.jitter(std / (CODE_STD * JITTER_RMS)));
        let m = LeF16::finite(-15.5 * d.get());
        BlockQ5_1 {
            d,
            m,
            qh: words.bytes(),
            qs: words.bytes(),
        }
    }
}

/// Joins low nibbles and fifth bits to codes 0 to 31.
#[inline]
fn unpack(qh: &[u8; 4], qs: &[u8; 16]) -> [u8; 32] {
    let high = u32::from_le_bytes(*qh);
    let mut codes = [0; 32];
    let (first, second) = codes.split_at_mut(16);
    for j in 0..16 {
        first[j] = (qs[j] & 15) | (((high >> j) << 4) & 16) as u8;
        second[j] = (qs[j] >> 4) | ((high >> (j + 12)) & 16) as u8;
    }
    codes
}

/// The inverse of [`unpack`].
fn pack(codes: [u8; 32]) -> ([u8; 4], [u8; 16]) {
    let high = codes
        .iter()
        .enumerate()
        .fold(0, |bits, (i, &q)| bits | u32::from(q >> 4) << i);
    let qs = std::array::from_fn(|j| (codes[j] & 15) | (codes[j + 16] & 15) << 4);
    (high.to_le_bytes(), qs)
}
