//! IQ1_S and IQ1_M: eight values of -1, 0, 1 at a time from a codebook, all of them an eighth higher or
//! lower.
//!
//! A weight is `d * (2 s + 1) * (v + 1/8)`, or with `- 1/8`. Eight times the bracket is an integer, and an
//! eighth of a scale is exact, so the codes here are those integers.

use super::codebook_search::{Octet, Scales, nearest_shifted, search};
use super::coded::Coded;
use super::error_weights::Group;
use super::grids::{IQ1_LEVELS, IQ1S};
use super::{Block, SUPER_BLOCK};
use crate::random::{JITTER_RMS, Words};
use crate::scalar::{LeF16, LeU16};
use bytemuck::{Pod, Zeroable};

/// 256 weights of 1.56 bits; 50 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct BlockIq1S {
    /// Scale of the scales.
    pub d: LeF16,
    /// Low 8 bits of the index of each 8 weights.
    pub qs: [u8; 32],
    /// Of each 32 weights: four times the 3 high bits of an index, 3 bits of scale, and whether the
    /// values are lower.
    pub qh: [LeU16; 8],
}

/// 256 weights of 1.75 bits; 56 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct BlockIq1M {
    /// Low 8 bits of the index of each 8 weights.
    pub qs: [u8; 32],
    /// Nibble `i`: 3 high bits of index `i`, and whether its 8 values are lower.
    pub qh: [u8; 16],
    /// Four times 3 bits of the scale of 16 weights, and 4 bits of the f16 scale of the scales.
    pub scales: [LeU16; 4],
}

/// Root mean square of the codes in units of `d`: of eight times the values, an eighth shifted, times that
/// of the odd numbers below 16, over 8.
const WEIGHT_RMS: f32 = 6.247_187 * 9.219_544 / 8.0;

/// How the scales are made of `d`.
const SCALES: Scales = Scales {
    count: 8,
    unit: 0.125,
    extreme: 9.0,
    shrinks: &[0.9, 1.05, 1.2, 1.4, 1.6, 1.8, 2.1, 2.5],
};

/// The values of an entry, times 8, an eighth higher or lower.
#[inline(always)]
fn shifted(index: usize, is_lower: bool) -> [i8; 8] {
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let shift: u64 = if is_lower { !0 } else { 0x0101_0101_0101_0101 };
    // Eight sums of bytes at once: the highest bits apart, so that none carries into the next.
    let values = u64::from_le_bytes(IQ1S.entry(index).map(|v| v as u8));
    let sums = ((values & !HIGH) + (shift & !HIGH)) ^ ((values ^ shift) & HIGH);
    sums.to_le_bytes().map(|v| v as i8)
}

impl Coded<256, 8> for BlockIq1S {
    const LARGEST: i8 = 9;

    #[inline(always)]
    fn codes(&self) -> [i8; 256] {
        let mut codes = [0; 256];
        for (i, codes) in codes.as_chunks_mut().0.iter_mut().enumerate() {
            let high = self.qh[i / 4].get();
            let index = usize::from(self.qs[i]) | usize::from((high >> (3 * (i % 4))) & 7) << 8;
            *codes = shifted(index, high >> 15 != 0);
        }
        codes
    }

    #[inline(always)]
    fn scales(&self) -> [f32; 8] {
        let d = self.d.get();
        self.qh
            .map(|high| d * f32::from(2 * ((high.get() >> 12) & 7) + 1) * 0.125)
    }
}

impl Block for BlockIq1S {
    const LEN: usize = SUPER_BLOCK;

    fn dequantize(&self, y: &mut [f32]) {
        self.expand(y);
    }

    fn quantize(x: &[f32], importance: Option<&[f32]>) -> Self {
        let found = search::<8>(x, importance, &SCALES, nearest_of_32);
        let high = |g: usize| {
            let octets = &found.octets[4 * g..][..4];
            let indices = (0..4).map(|i| (octets[i].index[0] >> 8) << (3 * i));
            let lower = u16::from(octets[0].signs) << 15;
            LeU16::new(indices.sum::<u16>() | u16::from(found.scales[g]) << 12 | lower)
        };
        BlockIq1S {
            d: found.d,
            qs: found.octets.map(|octet| octet.index[0] as u8),
            qh: std::array::from_fn(high),
        }
    }

    fn random(words: &mut Words, std: f32) -> Self {
        BlockIq1S {
            d: LeF16::finite(words.signed_jitter(std / (WEIGHT_RMS * JITTER_RMS))),
            qs: words.bytes(),
            qh: bytemuck::cast(words.bytes::<16>()),
        }
    }
}

/// The octets of 32 weights that share one shift.
fn nearest_of_32(group: Group<'_>, inverse: f32) -> [Octet; 4] {
    let with = |is_lower: bool| {
        group.octets(inverse, |x, w| {
            nearest_shifted(&IQ1S, IQ1_LEVELS, x, w, is_lower)
        })
    };
    let (higher, lower) = (with(false), with(true));
    let cost = |octets: &[Octet; 4]| octets.iter().map(|octet| octet.cost).sum::<f32>();
    if cost(&lower) < cost(&higher) {
        lower
    } else {
        higher
    }
}

impl BlockIq1M {
    /// The f16 scale of the scales, in the high bits of four words.
    #[inline(always)]
    pub fn d(&self) -> LeF16 {
        let bits = |i: usize| (self.scales[i].get() >> 12) << (4 * i);
        LeF16::from_bits(bits(0) | bits(1) | bits(2) | bits(3))
    }
}

impl Coded<256, 16> for BlockIq1M {
    const LARGEST: i8 = 9;

    #[inline(always)]
    fn codes(&self) -> [i8; 256] {
        let mut codes = [0; 256];
        for (i, codes) in codes.as_chunks_mut().0.iter_mut().enumerate() {
            let high = self.qh[i / 2] >> (4 * (i % 2));
            let index = usize::from(self.qs[i]) | usize::from(high & 7) << 8;
            *codes = shifted(index, high & 8 != 0);
        }
        codes
    }

    #[inline(always)]
    fn scales(&self) -> [f32; 16] {
        let d = self.d().get();
        std::array::from_fn(|g| {
            let s = (self.scales[g / 4].get() >> (3 * (g % 4))) & 7;
            d * f32::from(2 * s + 1) * 0.125
        })
    }
}

impl Block for BlockIq1M {
    const LEN: usize = SUPER_BLOCK;

    fn dequantize(&self, y: &mut [f32]) {
        self.expand(y);
    }

    fn quantize(x: &[f32], importance: Option<&[f32]>) -> Self {
        let nearest = |x: &[f32; 8], w: &[f32; 8]| {
            let [higher, lower] =
                [false, true].map(|is_lower| nearest_shifted(&IQ1S, IQ1_LEVELS, x, w, is_lower));
            if lower.cost < higher.cost {
                lower
            } else {
                higher
            }
        };
        let found = search::<16>(x, importance, &SCALES, |group, inverse| {
            group.octets(inverse, nearest)
        });
        let high = |i: usize| {
            let octet = &found.octets[i];
            ((octet.index[0] >> 8) as u8 | octet.signs << 3) << (4 * (i % 2))
        };
        BlockIq1M {
            qs: found.octets.map(|octet| octet.index[0] as u8),
            qh: std::array::from_fn(|n| high(2 * n) | high(2 * n + 1)),
            scales: iq1m_scales(found.d, &found.scales),
        }
    }

    fn random(words: &mut Words, std: f32) -> Self {
        let d = LeF16::finite(words.signed_jitter(std / (WEIGHT_RMS * JITTER_RMS)));
        let scales = words.bytes::<16>().map(|byte| byte & 7);
        BlockIq1M {
            qs: words.bytes(),
            qh: words.bytes(),
            scales: iq1m_scales(d, &scales),
        }
    }
}

/// The words of 16 scales of 3 bits and `d`.
fn iq1m_scales(d: LeF16, scales: &[u8; 16]) -> [LeU16; 4] {
    std::array::from_fn(|n| {
        let four = (0..4).map(|i| u16::from(scales[4 * n + i]) << (3 * i));
        LeU16::new(four.sum::<u16>() | (d.bits() >> (4 * n) & 15) << 12)
    })
}
