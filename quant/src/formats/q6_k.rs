//! Q6_K: 6 bits a weight, 16 groups of 16 weights with an 8-bit scale each.

use super::error_weights::Weighted;
use super::q4::inverse;
use super::scale_search::{signed_extreme, symmetric};
use super::{Block, SUPER_BLOCK};
use crate::random::{JITTER_RMS, Words};
use crate::scalar::LeF16;
use bytemuck::{Pod, Zeroable};

/// 256 weights `(d * scale) * q`, with `q` from -32 to 31; 210 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct BlockQ6K {
    /// Weight `128 n + 32 j + l`: low four bits in nibble `j / 2` of byte `64 n + 32 (j % 2) + l`.
    pub ql: [u8; 128],
    /// Weight `128 n + 32 j + l`: high two bits at bit `2 j` of byte `32 n + l`.
    pub qh: [u8; 64],
    /// Scale of group `g`: weights `16 g` to `16 g + 15`.
    pub scales: [i8; 16],
    /// Scale of the scales.
    pub d: LeF16,
}

impl BlockQ6K {
    /// The block of these parts; codes from -32 to 31 in the order of the weights.
    pub fn from_parts(d: LeF16, scales: [i8; 16], codes: &[i8; 256]) -> Self {
        let mut block = BlockQ6K {
            ql: [0; 128],
            qh: [0; 64],
            scales,
            d,
        };
        for (i, codes) in codes.chunks_exact(32).enumerate() {
            let (n, j) = (i / 4, i % 4);
            let low = &mut block.ql[64 * n + 32 * (j % 2)..][..32];
            let high = &mut block.qh[32 * n..][..32];
            for ((&code, low), high) in codes.iter().zip(low).zip(high) {
                let bits = (code + 32) as u8;
                *low |= (bits & 15) << (4 * (j / 2));
                *high |= (bits >> 4) << (2 * j);
            }
        }
        block
    }
}

impl Block for BlockQ6K {
    const LEN: usize = SUPER_BLOCK;

    fn dequantize(&self, y: &mut [f32]) {
        let d = self.d.get();
        for (g, y) in y.chunks_exact_mut(16).enumerate() {
            let (n, j) = (g / 8, g / 2 % 4);
            let scale = d * f32::from(self.scales[g]);
            let low = &self.ql[64 * n + 32 * (j % 2) + 16 * (g % 2)..][..16];
            let high = &self.qh[32 * n + 16 * (g % 2)..][..16];
            for ((y, low), high) in y.iter_mut().zip(low).zip(high) {
                let code = (low >> (4 * (j / 2))) & 15 | ((high >> (2 * j)) & 3) << 4;
                *y = scale * f32::from(code as i8 - 32);
            }
        }
    }

    fn quantize(x: &[f32], importance: Option<&[f32]>) -> Self {
        let block = Weighted::new(x, importance);
        let scale = |g| symmetric(block.group(16 * g, 16), -32, 31).value;
        let wanted: [f32; 16] = std::array::from_fn(|g| block.unscaled(scale(g)));
        // The extreme scale goes to -128, which has no positive counterpart.
        let d = LeF16::finite(signed_extreme(&wanted) / -128.0);
        let step = inverse(d);
        let scales = wanted.map(|s| (s * step).round().clamp(-128.0, 127.0) as i8);
        let codes = std::array::from_fn(|i| {
            let scale = d.get() * f32::from(scales[i / 16]);
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            (x[i] * inverse).round().clamp(-32.0, 31.0) as i8
        });
        Self::from_parts(d, scales, &codes)
    }

    fn random(words: &mut Words, std: f32) -> Self {
        // Root mean squares: 97.270 of the scales 64 to 127, 18.480 of the codes -32 to 31.
        let d = LeF16::finite(words.signed_jitter(std / (97.270_24 * 18.479_72 * JITTER_RMS)));
        let scales = words.bytes::<16>().map(|b| {
            let magnitude = (64 | (b & 63)) as i8;
            if b >> 7 == 0 { magnitude } else { -magnitude }
        });
        BlockQ6K {
            ql: words.bytes(),
            qh: words.bytes(),
            scales,
            d,
        }
    }
}
