//! Q3_K: 3 bits a weight, 16 groups of 16 weights with a 6-bit scale each.

use super::error_weights::{Group, Weighted};
use super::scale_search::{Scale, code, nearest_multiple, symmetric};
use super::{Block, SUPER_BLOCK};
use crate::random::{JITTER_RMS, Words};
use crate::scalar::LeF16;
use bytemuck::{Pod, Zeroable};

/// 256 weights `(d * scale) * q`, with `scale` from -32 to 31 and `q` from -4 to 3; 110 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct BlockQ3K {
    /// Weight `128 n + 32 j + l`: bit `4 n + j` of byte `l` is set where the code is not negative.
    pub hmask: [u8; 32],
    /// Weight `128 n + 32 j + l`: low bits `2 j` and `2 j + 1` of byte `32 n + l`.
    pub qs: [u8; 64],
    /// 16 scales plus 32 in 6 bits: low four bits of scale `g` in nibble `g / 8` of byte `g % 8`,
    /// high two bits at bit `2 (g / 4)` of byte `8 + g % 4`.
    pub scales: [u8; 12],
    /// Scale of the scales.
    pub d: LeF16,
}

impl BlockQ3K {
    /// The scales of the 16 groups, -32 to 31.
    #[inline]
    pub fn group_scales(&self) -> [i8; 16] {
        std::array::from_fn(|g| {
            let low = (self.scales[g % 8] >> (4 * (g / 8))) & 15;
            let high = (self.scales[8 + g % 4] >> (2 * (g / 4))) & 3;
            (low | high << 4) as i8 - 32
        })
    }

    /// The codes, -4 to 3, in the order of the weights.
    #[inline]
    pub fn codes(&self) -> [i8; 256] {
        let mut codes = [0; 256];
        for (i, codes) in codes.chunks_exact_mut(32).enumerate() {
            let (n, j) = (i / 4, i % 4);
            let low = &self.qs[32 * n..][..32];
            for ((code, low), high) in codes.iter_mut().zip(low).zip(&self.hmask) {
                *code = ((low >> (2 * j)) & 3 | ((high >> i) & 1) << 2) as i8 - 4;
            }
        }
        codes
    }

    fn from_parts(d: LeF16, scales: [i8; 16], codes: [i8; 256]) -> Self {
        let mut block = BlockQ3K {
            hmask: [0; 32],
            qs: [0; 64],
            scales: [0; 12],
            d,
        };
        for (g, scale) in scales.into_iter().enumerate() {
            let bits = (scale + 32) as u8;
            block.scales[g % 8] |= (bits & 15) << (4 * (g / 8));
            block.scales[8 + g % 4] |= (bits >> 4) << (2 * (g / 4));
        }
        for (i, code) in codes.into_iter().enumerate() {
            let (n, j, l) = (i / 128, i / 32 % 4, i % 32);
            let bits = (code + 4) as u8;
            block.qs[32 * n + l] |= (bits & 3) << (2 * j);
            block.hmask[l] |= (bits >> 2) << (4 * n + j);
        }
        block
    }
}

impl Block for BlockQ3K {
    const LEN: usize = SUPER_BLOCK;

    fn dequantize(&self, y: &mut [f32]) {
        let (d, scales, codes) = (self.d.get(), self.group_scales(), self.codes());
        for (g, y) in y.chunks_exact_mut(16).enumerate() {
            let scale = d * f32::from(scales[g]);
            for (y, &code) in y.iter_mut().zip(&codes[16 * g..]) {
                *y = scale * f32::from(code);
            }
        }
    }

    fn quantize(x: &[f32], importance: Option<&[f32]>) -> Self {
        let block = Weighted::new(x, importance);
        let group = |g: usize| block.group(16 * g, 16);
        let wanted: [Scale; 16] = std::array::from_fn(|g| symmetric(group(g), -4, 3));
        let d = six_bit_step(&wanted, &block);
        let step = block.scaled(d.get());
        let nearest = |v| code(v, -4.0, 3.0);
        let scales = std::array::from_fn(|g| {
            nearest_multiple(group(g), wanted[g].value, step, nearest) as i8
        });
        let codes = std::array::from_fn(|i| {
            let scale = d.get() * f32::from(scales[i / 16]);
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            (x[i] * inverse).round().clamp(-4.0, 3.0) as i8
        });
        Self::from_parts(d, scales, codes)
    }

    fn random(words: &mut Words, std: f32) -> Self {
        // Root mean squares: 18.480 of the scales -32 to 31, 2.345 of the codes -4 to 3. Both means
        // are -0.5, and signs of scales differ: what remains of the mean is 1% of the deviation.
        let d = LeF16::finite(words.signed_jitter(std / (18.479_72 * 2.345_208 * JITTER_RMS)));
        BlockQ3K {
            hmask: words.bytes(),
            qs: words.bytes(),
            scales: words.bytes(),
            d,
        }
    }
}

/// The step of which signed 6-bit multiples are the scales of a super-block's groups: the one that keeps
/// the errors of the scales small, counted by what they do to the weights.
pub(super) fn six_bit_step(wanted: &[Scale], block: &Weighted) -> LeF16 {
    let (mut x, mut w) = ([0.0; 16], [0.0; 16]);
    for (i, scale) in wanted.iter().enumerate() {
        (x[i], w[i]) = (scale.value, scale.curvature);
    }
    let len = wanted.len();
    // The extreme scale goes to -32 or near it, which has no positive counterpart.
    let scales = Group {
        x: &x[..len],
        w: &w[..len],
    };
    LeF16::finite(block.unscaled(symmetric(scales, -32, 31).value))
}
