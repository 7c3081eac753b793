//! IQ2_XXS, IQ2_XS and IQ2_S: eight magnitudes at a time from a codebook, signs beside them.
//!
//! A scale is `d * (2 s + 1) / 8` with a 4-bit `s`, for 32 weights in IQ2_XXS and for 16 in the others.

use super::codebook_search::{Octet, Scales, nearest_with_signs, search};
use super::coded::{Coded, nibble};
use super::grids::{IQ2_LEVELS, IQ2S, IQ2XS, IQ2XXS, even_signs, with_signs};
use super::{Block, SUPER_BLOCK};
use crate::random::{JITTER_RMS, Words};
use crate::scalar::{LeF16, LeU16};
use bytemuck::{Pod, Zeroable};

/// 256 weights of 2.06 bits; 66 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct BlockIq2Xxs {
    /// Scale of the scales.
    pub d: LeF16,
    /// Of each 32 weights: four indices of a byte, then a little-endian word of four times 7 bits of
    /// signs (the eighth makes their number even) and 4 bits of scale.
    pub qs: [[u8; 8]; 8],
}

/// 256 weights of 2.31 bits; 74 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct BlockIq2Xs {
    /// Scale of the scales.
    pub d: LeF16,
    /// Of each 8 weights: 9 bits of index, 7 bits of signs.
    pub qs: [LeU16; 32],
    /// Nibble `g`: scale of weights `16 g` to `16 g + 15`.
    pub scales: [u8; 8],
}

/// 256 weights of 2.56 bits; 82 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct BlockIq2S {
    /// Scale of the scales.
    pub d: LeF16,
    /// Low 8 bits of the index of each 8 weights.
    pub qs: [u8; 32],
    /// Signs of each 8 weights.
    pub signs: [u8; 32],
    /// Bits `2 i` and `2 i + 1` of byte `n`: high bits of index `4 n + i`.
    pub qh: [u8; 8],
    /// Nibble `g`: scale of weights `16 g` to `16 g + 15`.
    pub scales: [u8; 8],
}

/// Root mean square of the scales in units of `d`: of the odd numbers below 32, over 8.
const SCALE_RMS: f32 = 18.466_185 / 8.0;

/// How the scales are made of `d`.
const SCALES: Scales = Scales {
    count: 16,
    unit: 0.125,
    extreme: 43.0,
    shrinks: &[0.187, 0.582, 0.7, 0.8, 0.88, 0.95, 1.02, 1.1, 1.2, 1.35],
};

/// The scale of a 4-bit `s`, as ggml computes it.
#[inline(always)]
fn scale(d: f32, s: u8) -> f32 {
    d * (0.5 + f32::from(s)) * 0.25
}

/// The 16 scales of nibbles.
#[inline(always)]
fn sixteen_scales(d: LeF16, nibbles: &[u8; 8]) -> [f32; 16] {
    let d = d.get();
    std::array::from_fn(|g| scale(d, nibble(nibbles, g)))
}

/// Two scales a byte.
fn pack_nibbles<const BYTES: usize>(scales: &[u8]) -> [u8; BYTES] {
    std::array::from_fn(|i| scales[2 * i] | scales[2 * i + 1] << 4)
}

impl Coded<256, 8> for BlockIq2Xxs {
    const LARGEST: i8 = 43;

    #[inline(always)]
    fn codes(&self) -> [i8; 256] {
        let mut codes = [0; 256];
        for (group, codes) in self.qs.iter().zip(codes.as_chunks_mut::<32>().0) {
            let word = u32::from_le_bytes([group[4], group[5], group[6], group[7]]);
            for (k, codes) in codes.as_chunks_mut().0.iter_mut().enumerate() {
                let signs = even_signs((word >> (7 * k)) as u8);
                *codes = with_signs(IQ2XXS.entry(usize::from(group[k])), signs);
            }
        }
        codes
    }

    #[inline(always)]
    fn scales(&self) -> [f32; 8] {
        let d = self.d.get();
        self.qs.map(|group| scale(d, group[7] >> 4))
    }
}

impl Block for BlockIq2Xxs {
    const LEN: usize = SUPER_BLOCK;

    fn dequantize(&self, y: &mut [f32]) {
        self.expand(y);
    }

    fn quantize(x: &[f32], importance: Option<&[f32]>) -> Self {
        let nearest =
            |x: &[f32; 8], w: &[f32; 8]| nearest_with_signs(&IQ2XXS, IQ2_LEVELS, x, w, true);
        let found = search::<8>(x, importance, &SCALES, |group, inverse| {
            group.octets(inverse, nearest)
        });
        let qs = std::array::from_fn(|g| {
            let octets = &found.octets[4 * g..][..4];
            let signs = octets
                .iter()
                .rev()
                .fold(0, |word, octet| word << 7 | u32::from(octet.signs & 0x7F));
            let word = (signs | u32::from(found.scales[g]) << 28).to_le_bytes();
            let index = |k: usize| octets[k].index[0] as u8;
            [
                index(0),
                index(1),
                index(2),
                index(3),
                word[0],
                word[1],
                word[2],
                word[3],
            ]
        });
        BlockIq2Xxs { d: found.d, qs }
    }

    fn random(words: &mut Words, std: f32) -> Self {
        let rms = 23.117_746 * SCALE_RMS * JITTER_RMS;
        BlockIq2Xxs {
            d: LeF16::finite(words.signed_jitter(std / rms)),
            qs: std::array::from_fn(|_| words.bytes()),
        }
    }
}

impl Coded<256, 16> for BlockIq2Xs {
    const LARGEST: i8 = 43;

    #[inline(always)]
    fn codes(&self) -> [i8; 256] {
        let mut codes = [0; 256];
        for (q, codes) in self.qs.iter().zip(codes.as_chunks_mut().0) {
            let q = q.get();
            *codes = with_signs(
                IQ2XS.entry(usize::from(q & 511)),
                even_signs((q >> 9) as u8),
            );
        }
        codes
    }

    #[inline(always)]
    fn scales(&self) -> [f32; 16] {
        sixteen_scales(self.d, &self.scales)
    }
}

impl Block for BlockIq2Xs {
    const LEN: usize = SUPER_BLOCK;

    fn dequantize(&self, y: &mut [f32]) {
        self.expand(y);
    }

    fn quantize(x: &[f32], importance: Option<&[f32]>) -> Self {
        let nearest =
            |x: &[f32; 8], w: &[f32; 8]| nearest_with_signs(&IQ2XS, IQ2_LEVELS, x, w, true);
        let found = search::<16>(x, importance, &SCALES, |group, inverse| {
            group.octets(inverse, nearest)
        });
        let q = |octet: Octet| octet.index[0] | u16::from(octet.signs & 0x7F) << 9;
        BlockIq2Xs {
            d: found.d,
            qs: found.octets.map(|octet| LeU16::new(q(octet))),
            scales: pack_nibbles(&found.scales),
        }
    }

    fn random(words: &mut Words, std: f32) -> Self {
        let rms = 24.217_268 * SCALE_RMS * JITTER_RMS;
        BlockIq2Xs {
            d: LeF16::finite(words.signed_jitter(std / rms)),
            qs: bytemuck::cast(words.bytes::<64>()),
            scales: words.bytes(),
        }
    }
}

impl Coded<256, 16> for BlockIq2S {
    const LARGEST: i8 = 43;

    #[inline(always)]
    fn codes(&self) -> [i8; 256] {
        let mut codes = [0; 256];
        for (i, codes) in codes.as_chunks_mut().0.iter_mut().enumerate() {
            let high = usize::from(self.qh[i / 4] >> (2 * (i % 4))) & 3;
            let index = usize::from(self.qs[i]) | high << 8;
            *codes = with_signs(IQ2S.entry(index), self.signs[i]);
        }
        codes
    }

    #[inline(always)]
    fn scales(&self) -> [f32; 16] {
        sixteen_scales(self.d, &self.scales)
    }
}

impl Block for BlockIq2S {
    const LEN: usize = SUPER_BLOCK;

    fn dequantize(&self, y: &mut [f32]) {
        self.expand(y);
    }

    fn quantize(x: &[f32], importance: Option<&[f32]>) -> Self {
        let nearest =
            |x: &[f32; 8], w: &[f32; 8]| nearest_with_signs(&IQ2S, IQ2_LEVELS, x, w, false);
        let found = search::<16>(x, importance, &SCALES, |group, inverse| {
            group.octets(inverse, nearest)
        });
        let high = |i: usize| (found.octets[i].index[0] >> 8) as u8;
        BlockIq2S {
            d: found.d,
            qs: found.octets.map(|octet| octet.index[0] as u8),
            signs: found.octets.map(|octet| octet.signs),
            qh: std::array::from_fn(|n| (0..4).map(|i| high(4 * n + i) << (2 * i)).sum()),
            scales: pack_nibbles(&found.scales),
        }
    }

    fn random(words: &mut Words, std: f32) -> Self {
        let rms = 24.430_343 * SCALE_RMS * JITTER_RMS;
        BlockIq2S {
            d: LeF16::finite(words.signed_jitter(std / rms)),
            qs: words.bytes(),
            signs: words.bytes(),
            qh: words.bytes(),
            scales: words.bytes(),
        }
    }
}
