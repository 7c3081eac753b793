//! TQ1_0 and TQ2_0: weights of -1, 0 and 1 with one scale a block, for networks trained to them.

use super::coded::Coded;
use super::error_weights::{Group, Weighted};
use super::{Block, SUPER_BLOCK};
use crate::random::{JITTER_RMS, Words};
use crate::scalar::LeF16;
use bytemuck::{Pod, Zeroable};

/// 256 weights of 1.69 bits; 54 bytes.
///
/// A byte `b` holds five digits to the base 3 as the fraction `b / 256`: multiplied by 3, the digit is
/// what goes beyond the byte.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct BlockTq1 {
    /// Digit `n` of byte `m`: weight `32 n + m` for the first 32 bytes, weight `160 + 16 n + (m - 32)`
    /// for the others.
    pub qs: [u8; 48],
    /// Digit `n` of byte `m`, of four: weight `240 + 4 n + m`.
    pub qh: [u8; 4],
    /// Scale.
    pub d: LeF16,
}

/// 256 weights of 2.06 bits; 66 bytes. The fourth code, 2, is not made but has its value.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct BlockTq2 {
    /// Weight `128 n + 32 j + l` plus 1: bits `2 j` and `2 j + 1` of byte `32 n + l`.
    pub qs: [u8; 64],
    /// Scale.
    pub d: LeF16,
}

/// Root mean square of -1, 0 and 1.
const CODE_RMS: f32 = 0.816_497;

/// `3^n`.
const POWERS: [u8; 5] = [1, 3, 9, 27, 81];

/// Digit `n` of a byte, less 1.
#[inline(always)]
fn digit(byte: u8, n: usize) -> i8 {
    let rest = byte.wrapping_mul(POWERS[n]);
    ((u16::from(rest) * 3) >> 8) as i8 - 1
}

/// The byte whose first digits are `digits`, each plus 1; ggml's rounding.
fn byte_of<const N: usize>(digits: [i8; N]) -> u8 {
    let ones = digits
        .iter()
        .fold(0, |sum: u16, &digit| 3 * sum + (digit + 1) as u16);
    let all = ones * u16::from(POWERS[5 - N]);
    (all * 256).div_ceil(243) as u8
}

impl BlockTq1 {
    /// The block of a scale and codes.
    fn from_parts(d: LeF16, codes: &[i8; 256]) -> Self {
        let byte = |first: usize, apart: usize| {
            byte_of::<5>(std::array::from_fn(|n| codes[first + apart * n]))
        };
        BlockTq1 {
            qs: std::array::from_fn(|m| match m {
                0..32 => byte(m, 32),
                _ => byte(160 + (m - 32), 16),
            }),
            qh: std::array::from_fn(|m| {
                byte_of::<4>(std::array::from_fn(|n| codes[240 + m + 4 * n]))
            }),
            d,
        }
    }
}

impl BlockTq2 {
    /// The block of a scale and codes.
    fn from_parts(d: LeF16, codes: &[i8; 256]) -> Self {
        let mut qs = [0; 64];
        for (i, codes) in codes.as_chunks::<32>().0.iter().enumerate() {
            let (n, j) = (i / 4, i % 4);
            for (byte, code) in qs[32 * n..].iter_mut().zip(codes) {
                *byte |= ((code + 1) as u8) << (2 * j);
            }
        }
        BlockTq2 { qs, d }
    }
}

impl Coded<256, 8> for BlockTq1 {
    const LARGEST: i8 = 1;

    #[inline(always)]
    fn codes(&self) -> [i8; 256] {
        let mut codes = [0; 256];
        let (first, second) = self.qs.split_at(32);
        for (n, codes) in codes[..160].chunks_exact_mut(32).enumerate() {
            for (code, &byte) in codes.iter_mut().zip(first) {
                *code = digit(byte, n);
            }
        }
        for (n, codes) in codes[160..240].chunks_exact_mut(16).enumerate() {
            for (code, &byte) in codes.iter_mut().zip(second) {
                *code = digit(byte, n);
            }
        }
        for (n, codes) in codes[240..].chunks_exact_mut(4).enumerate() {
            for (code, &byte) in codes.iter_mut().zip(&self.qh) {
                *code = digit(byte, n);
            }
        }
        codes
    }

    #[inline(always)]
    fn scales(&self) -> [f32; 8] {
        [self.d.get(); 8]
    }
}

impl Coded<256, 8> for BlockTq2 {
    const LARGEST: i8 = 2;

    #[inline(always)]
    fn codes(&self) -> [i8; 256] {
        let mut codes = [0; 256];
        for (i, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (n, j) = (i / 4, i % 4);
            for (code, byte) in codes.iter_mut().zip(&self.qs[32 * n..]) {
                *code = ((byte >> (2 * j)) & 3) as i8 - 1;
            }
        }
        codes
    }

    #[inline(always)]
    fn scales(&self) -> [f32; 8] {
        [self.d.get(); 8]
    }
}

impl Block for BlockTq1 {
    const LEN: usize = SUPER_BLOCK;

    fn dequantize(&self, y: &mut [f32]) {
        self.expand(y);
    }

    fn quantize(x: &[f32], importance: Option<&[f32]>) -> Self {
        let (d, codes) = nearest(x, importance);
        Self::from_parts(d, &codes)
    }

    fn random(words: &mut Words, std: f32) -> Self {
        let (d, codes) = random(words, std);
        Self::from_parts(d, &codes)
    }
}

impl Block for BlockTq2 {
    const LEN: usize = SUPER_BLOCK;

    fn dequantize(&self, y: &mut [f32]) {
        self.expand(y);
    }

    fn quantize(x: &[f32], importance: Option<&[f32]>) -> Self {
        let (d, codes) = nearest(x, importance);
        Self::from_parts(d, &codes)
    }

    fn random(words: &mut Words, std: f32) -> Self {
        let (d, codes) = random(words, std);
        Self::from_parts(d, &codes)
    }
}

/// The scale and codes of the least error. Weights that are ternary already keep their values.
fn nearest(x: &[f32], importance: Option<&[f32]>) -> (LeF16, [i8; 256]) {
    let block = Weighted::new(x, importance);
    let group = block.group(0, SUPER_BLOCK);
    let d = LeF16::finite(block.unscaled(best_scale(group)));
    // By the scale as it is stored: half of it is where a weight is as near to 0 as to 1.
    let half = d.get() * 0.5;
    let code = |v: f32| {
        let sign = if v < 0.0 { -1 } else { 1 };
        if v.abs() > half { sign } else { 0 }
    };
    (d, std::array::from_fn(|i| code(x[i])))
}

/// The least-squares scale of the weights that are not rounded to 0. For any scale these are the largest
/// ones, so that only their number is to be found.
fn best_scale(group: Group<'_>) -> f32 {
    let mut order: Vec<usize> = (0..group.x.len()).collect();
    order.sort_by(|&a, &b| group.x[b].abs().total_cmp(&group.x[a].abs()));
    let (mut wx, mut w, mut best) = (0.0f64, 0.0f64, (0.0, 0.0));
    for i in order {
        wx += f64::from(group.w[i] * group.x[i].abs());
        w += f64::from(group.w[i]);
        // The error left is sum(w x^2) less this.
        let gain = wx * wx / w;
        if w > 0.0 && gain > best.0 {
            best = (gain, wx / w);
        }
    }
    best.1 as f32
}

/// A scale and uniform codes.
fn random(words: &mut Words, std: f32) -> (LeF16, [i8; 256]) {
    let d = LeF16::finite(words.signed_jitter(std / (CODE_RMS * JITTER_RMS)));
    let mut codes = [0; 256];
    for codes in codes.chunks_mut(16) {
        // A 64-bit word is a fraction too: its first digits are uniform.
        let mut rest = words.word();
        for code in codes {
            let product = u128::from(rest) * 3;
            (*code, rest) = ((product >> 64) as i8 - 1, product as u64);
        }
    }
    (d, codes)
}
