//! NVFP4: 4-bit floating-point weights (E2M1, as MXFP4's) with an 8-bit float scale for each 16.
//!
//! The scale is unsigned E4M3: 4 bits of exponent with bias 7, 3 of mantissa; the highest bit counts for
//! nothing. A file may give a tensor a further scale as a tensor of its own, which is not known here.

use super::Block;
use super::coded::Coded;
use super::error_weights::Weighted;
use super::mxfp4::{MXFP4_VALUES, TABLE_RMS, e2m1_doubled, nearest_code};
use super::scale_search::inverse_of;
use crate::random::{JITTER_RMS, Words};
use bytemuck::{Pod, Zeroable};

/// 64 weights; 36 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct BlockNvfp4 {
    /// Scale of weights `16 g` to `16 g + 15`.
    pub d: [u8; 4],
    /// Byte `8 g + j`: weight `16 g + j` in the low nibble, `16 g + 8 + j` in the high one.
    pub qs: [u8; 32],
}

/// The largest scale: 448.
const LARGEST: u8 = 0x7E;

/// Half of the number that a scale stands for (the table of codes holds doubles), as ggml computes it:
/// 0x7F, which the standard calls NaN, is zero.
#[inline(always)]
pub(crate) fn half_e4m3(bits: u8) -> f32 {
    let (exponent, mantissa) = (u32::from(bits >> 3) & 15, u32::from(bits & 7));
    // The bits of an f32 with exponent bias 127; one less for the half.
    let normal = f32::from_bits(((exponent + 127 - 7 - 1) << 23) | (mantissa << 20));
    let subnormal = mantissa as f32 * (1.0 / 1024.0);
    match bits {
        0x7F => 0.0,
        _ if exponent == 0 => subnormal,
        _ => normal,
    }
}

impl Coded<64, 4> for BlockNvfp4 {
    const LARGEST: i8 = 12;

    #[inline(always)]
    fn codes(&self) -> [i8; 64] {
        // All low nibbles, all high ones, and only then in order: long loops become vectors.
        let (mut low, mut high, mut codes) = ([0; 32], [0; 32], [0; 64]);
        for j in 0..32 {
            low[j] = e2m1_doubled(self.qs[j] & 15);
            high[j] = e2m1_doubled(self.qs[j] >> 4);
        }
        for (g, codes) in codes.chunks_exact_mut(16).enumerate() {
            codes[..8].copy_from_slice(&low[8 * g..][..8]);
            codes[8..].copy_from_slice(&high[8 * g..][..8]);
        }
        codes
    }

    #[inline(always)]
    fn scales(&self) -> [f32; 4] {
        self.d.map(half_e4m3)
    }
}

/// The largest scale of at most `v`, in `0..=LARGEST`.
fn scale_below(v: f32) -> u8 {
    // The numbers rise with their bits.
    let (mut low, mut high) = (0, LARGEST + 1);
    while high - low > 1 {
        let middle = (low + high) / 2;
        if half_e4m3(middle) <= v {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

impl Block for BlockNvfp4 {
    const LEN: usize = 64;

    #[inline]
    fn dequantize(&self, y: &mut [f32]) {
        self.expand(y);
    }

    /// Of the scales about the one that takes the largest magnitude to the largest code, the one of the
    /// least error. The format has no magnitude above 2688: what is larger becomes that.
    fn quantize(x: &[f32], importance: Option<&[f32]>) -> Self {
        let block = Weighted::new(x, importance);
        let (mut d, mut qs) = ([0; 4], [0; 32]);
        for g in 0..4 {
            let group = block.group(16 * g, 16);
            let peak = group.x.iter().fold(0.0f32, |peak, v| peak.max(v.abs()));
            let natural = scale_below(block.unscaled(peak) / 12.0);
            let error = |bits: u8| {
                let scale = block.scaled(half_e4m3(bits));
                let inverse = inverse_of(scale);
                group.x.iter().zip(group.w).fold(0.0f32, |sum, (&v, w)| {
                    let code = nearest_code(v * inverse);
                    let e = scale * f32::from(MXFP4_VALUES[usize::from(code)]) - v;
                    sum + w * e * e
                })
            };
            let tried = natural.saturating_sub(2)..=(natural + 4).min(LARGEST);
            d[g] = tried
                .min_by(|&a, &b| error(a).total_cmp(&error(b)))
                .unwrap_or(natural);
            let inverse = inverse_of(half_e4m3(d[g]));
            let code = |j: usize| nearest_code(x[16 * g + j] * inverse);
            for (j, q) in qs[8 * g..][..8].iter_mut().enumerate() {
                *q = code(j) | code(j + 8) << 4;
            }
        }
        BlockNvfp4 { d, qs }
    }

    fn random(words: &mut Words, std: f32) -> Self {
        // The scale is drawn between its neighbours, so that the mean is right where they lie far apart.
        let d = std::array::from_fn(|_| {
            let wanted = words.jitter(std / (TABLE_RMS * JITTER_RMS));
            let low = scale_below(wanted);
            let (a, b) = (half_e4m3(low), half_e4m3((low + 1).min(LARGEST)));
            let part = if b > a { (wanted - a) / (b - a) } else { 0.0 };
            let unit = (words.word() >> 40) as f32 * (1.0 / (1 << 24) as f32);
            low + u8::from(unit < part && low < LARGEST)
        });
        BlockNvfp4 {
            d,
            qs: words.bytes(),
        }
    }
}
