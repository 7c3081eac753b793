//! Q5_K: 5 bits a weight, otherwise as Q4_K.

use super::q4_k::{Grouped, pack_nibbles, scales_mins};
use super::{Block, SUPER_BLOCK};
use crate::random::Words;
use crate::scalar::LeF16;
use bytemuck::{Pod, Zeroable};

/// 256 weights `(d * scale) * q - (dmin * min)`; 176 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct BlockQ5K {
    /// Scale of the scales.
    pub d: LeF16,
    /// Scale of the minima.
    pub dmin: LeF16,
    /// Scales and minima, see [`scales_mins`].
    pub scales: [u8; 12],
    /// Bit `g` of byte `l`: the fifth bit of weight `32 g + l`.
    pub qh: [u8; 32],
    /// Byte `32 c + l`: low bits of weight `64 c + l` in the low nibble, of `64 c + 32 + l` in the
    /// high one.
    pub qs: [u8; 128],
}

/// Standard deviation of a uniform code of 32 steps: sqrt((32^2 - 1) / 12).
const CODE_STD: f32 = 9.233_093;

impl Block for BlockQ5K {
    const LEN: usize = SUPER_BLOCK;

    fn dequantize(&self, y: &mut [f32]) {
        let (d, dmin) = (self.d.get(), self.dmin.get());
        let (scales, mins) = scales_mins(&self.scales);
        for (g, y) in y.chunks_exact_mut(32).enumerate() {
            let scale = d * f32::from(scales[g]);
            let min = dmin * f32::from(mins[g]);
            let low = &self.qs[32 * (g / 2)..][..32];
            for ((y, byte), high) in y.iter_mut().zip(low).zip(&self.qh) {
                let code = (byte >> (4 * (g % 2))) & 15 | ((high >> g) & 1) << 4;
                *y = scale * f32::from(code) - min;
            }
        }
    }

    fn quantize(x: &[f32], importance: Option<&[f32]>) -> Self {
        let Grouped {
            d,
            dmin,
            scales,
            codes,
        } = Grouped::quantize(x, importance, 31);
        let mut qh = [0; 32];
        for (i, code) in codes.iter().enumerate() {
            qh[i % 32] |= (code >> 4) << (i / 32);
        }
        BlockQ5K {
            d,
            dmin,
            scales,
            qh,
            qs: pack_nibbles(&codes),
        }
    }

    fn random(words: &mut Words, std: f32) -> Self {
        let (d, dmin, scales) = Grouped::random(words, std, CODE_STD, 15.5);
        BlockQ5K {
            d,
            dmin,
            scales,
            qh: words.bytes(),
            qs: words.bytes(),
        }
    }
}
