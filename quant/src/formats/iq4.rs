//! IQ4_NL and IQ4_XS: 4 bits a weight that choose among 16 uneven steps, dense around zero as
//! weights are.

use super::error_weights::Weighted;
use super::q3_k::six_bit_step;
use super::q4::inverse;
use super::scale_search::{Scale, nearest_multiple, symmetric_by};
use super::{Block, SUPER_BLOCK};
use crate::random::{JITTER_RMS, Words};
use crate::scalar::{LeF16, LeU16};
use bytemuck::{Pod, Zeroable};

/// The steps that a 4-bit code stands for.
pub const IQ4_VALUES: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

/// 32 weights `d * IQ4_VALUES[q]`; 18 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct BlockIq4Nl {
    /// Scale.
    pub d: LeF16,
    /// Byte `j`: weight `j` in the low nibble, weight `j + 16` in the high one.
    pub qs: [u8; 16],
}

/// 256 weights `(d * scale) * IQ4_VALUES[q]`, with `scale` from -32 to 31; 136 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct BlockIq4Xs {
    /// Scale of the scales.
    pub d: LeF16,
    /// Bits `2 g` and `2 g + 1`: high two bits of group `g`'s scale plus 32.
    pub scales_h: LeU16,
    /// Nibble `g % 2` of byte `g / 2`: low four bits of group `g`'s scale plus 32.
    pub scales_l: [u8; 4],
    /// Byte `16 g + j`: weight `32 g + j` in the low nibble, `32 g + 16 + j` in the high one.
    pub qs: [u8; 128],
}

/// Root mean square of the table.
const TABLE_RMS: f32 = 67.438_86;

/// The step of the largest magnitude.
const EXTREME: f32 = -127.0;

/// The code of the step nearest to `v`, the lower one on a tie.
#[inline(always)]
fn nearest_code(v: f32) -> u8 {
    let mut code = 0;
    for pair in 0..IQ4_VALUES.len() - 1 {
        code += u8::from(v > middle(pair));
    }
    code
}

/// The step nearest to `v`, the lower one on a tie; without a branch, so that a loop becomes vectors.
#[inline(always)]
fn nearest_value(v: f32) -> f32 {
    let mut value = EXTREME;
    for pair in 0..IQ4_VALUES.len() - 1 {
        let rise = f32::from(IQ4_VALUES[pair + 1]) - f32::from(IQ4_VALUES[pair]);
        value += if v > middle(pair) { rise } else { 0.0 };
    }
    value
}

/// Halfway from a step to the next.
#[inline(always)]
fn middle(pair: usize) -> f32 {
    (f32::from(IQ4_VALUES[pair]) + f32::from(IQ4_VALUES[pair + 1])) * 0.5
}

#[inline]
fn expand(scale: f32, qs: &[u8], y: &mut [f32]) {
    let (low, high) = y[..32].split_at_mut(16);
    for ((low, high), q) in low.iter_mut().zip(high).zip(qs) {
        *low = scale * f32::from(IQ4_VALUES[usize::from(q & 15)]);
        *high = scale * f32::from(IQ4_VALUES[usize::from(q >> 4)]);
    }
}

fn pack(x: &[f32], inverse: f32, qs: &mut [u8]) {
    let (low, high) = x.split_at(16);
    for ((q, low), high) in qs.iter_mut().zip(low).zip(high) {
        *q = nearest_code(low * inverse) | nearest_code(high * inverse) << 4;
    }
}

impl BlockIq4Nl {
    /// The steps that the codes stand for, in the order of the weights.
    #[inline]
    pub fn codes(&self) -> [i8; 32] {
        std::array::from_fn(|i| {
            let byte = self.qs[i % 16];
            IQ4_VALUES[usize::from(if i < 16 { byte & 15 } else { byte >> 4 })]
        })
    }
}

impl Block for BlockIq4Nl {
    const LEN: usize = 32;

    #[inline]
    fn dequantize(&self, y: &mut [f32]) {
        expand(self.d.get(), &self.qs, y);
    }

    fn quantize(x: &[f32], importance: Option<&[f32]>) -> Self {
        let block = Weighted::new(x, importance);
        let scale = symmetric_by(block.group(0, 32), EXTREME, nearest_value);
        let d = LeF16::finite(block.unscaled(scale.value));
        let mut qs = [0; 16];
        pack(x, inverse(d), &mut qs);
        BlockIq4Nl { d, qs }
    }

    fn random(words: &mut Words, std: f32) -> Self {
        let d = LeF16::finite(words.signed_jitter(std / (TABLE_RMS * JITTER_RMS)));
        BlockIq4Nl {
            d,
            qs: words.bytes(),
        }
    }
}

impl BlockIq4Xs {
    /// The scales of the 8 groups, -32 to 31.
    #[inline]
    pub fn group_scales(&self) -> [i8; 8] {
        std::array::from_fn(|g| {
            let low = (self.scales_l[g / 2] >> (4 * (g % 2))) & 15;
            let high = (self.scales_h.get() >> (2 * g)) & 3;
            (low | (high as u8) << 4) as i8 - 32
        })
    }
}

impl Block for BlockIq4Xs {
    const LEN: usize = SUPER_BLOCK;

    fn dequantize(&self, y: &mut [f32]) {
        let (d, scales) = (self.d.get(), self.group_scales());
        for (g, y) in y.chunks_exact_mut(32).enumerate() {
            expand(d * f32::from(scales[g]), &self.qs[16 * g..][..16], y);
        }
    }

    fn quantize(x: &[f32], importance: Option<&[f32]>) -> Self {
        let block = Weighted::new(x, importance);
        let group = |g: usize| block.group(32 * g, 32);
        let wanted: [Scale; 8] =
            std::array::from_fn(|g| symmetric_by(group(g), EXTREME, nearest_value));
        let d = six_bit_step(&wanted, &block);
        let step = block.scaled(d.get());
        let scales: [i32; 8] = std::array::from_fn(|g| {
            nearest_multiple(group(g), wanted[g].value, step, nearest_value)
        });
        let (mut scales_h, mut scales_l, mut qs) = (0, [0; 4], [0; 128]);
        for (g, scale) in scales.into_iter().enumerate() {
            let bits = (scale + 32) as u16;
            scales_h |= (bits >> 4) << (2 * g);
            scales_l[g / 2] |= ((bits & 15) as u8) << (4 * (g % 2));
            let scale = d.get() * scale as f32;
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            pack(&x[32 * g..][..32], inverse, &mut qs[16 * g..][..16]);
        }
        BlockIq4Xs {
            d,
            scales_h: LeU16::new(scales_h),
            scales_l,
            qs,
        }
    }

    fn random(words: &mut Words, std: f32) -> Self {
        // The scales -32 to 31 have a root mean square of 18.480.
        let d = LeF16::finite(words.signed_jitter(std / (TABLE_RMS * 18.479_72 * JITTER_RMS)));
        let bits = words.word().to_le_bytes();
        BlockIq4Xs {
            d,
            scales_h: LeU16::new(u16::from_le_bytes([bits[0], bits[1]])),
            scales_l: [bits[2], bits[3], bits[4], bits[5]],
            qs: words.bytes(),
        }
    }
}
