//! Q4_K: 4 bits a weight, 8 groups of 32 weights with a 6-bit scale and a 6-bit minimum each; and
//! the packing of those scales, which Q5_K shares.

use super::error_weights::Weighted;
use super::q4::CODE_STD;
use super::scale_search::{Line, affine, nearest_line};
use super::{Block, SUPER_BLOCK};
use crate::random::{JITTER_RMS, Words};
use crate::scalar::LeF16;
use bytemuck::{Pod, Zeroable};

/// 256 weights `(d * scale) * q - (dmin * min)`; 144 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct BlockQ4K {
    /// Scale of the scales.
    pub d: LeF16,
    /// Scale of the minima.
    pub dmin: LeF16,
    /// Scales and minima, see [`scales_mins`].
    pub scales: [u8; 12],
    /// Byte `32 c + l`: weight `64 c + l` in the low nibble, `64 c + 32 + l` in the high one.
    pub qs: [u8; 128],
}

/// Unpacks the scales and minima, 6 bits each, of the 8 groups of a Q4_K or Q5_K block.
///
/// Groups 0 to 3: scale `g` in the low 6 bits of byte `g`, minimum in those of byte `g + 4`. Groups
/// 4 to 7: low four bits in the nibbles of byte `g + 4` (scale low, minimum high), high two bits at
/// the top of byte `g - 4` (scale) and byte `g` (minimum).
#[inline]
pub fn scales_mins(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let s = packed;
    let scale = |g: usize| match g {
        0..4 => s[g] & 63,
        _ => (s[g + 4] & 15) | (s[g - 4] >> 6) << 4,
    };
    let min = |g: usize| match g {
        0..4 => s[g + 4] & 63,
        _ => (s[g + 4] >> 4) | (s[g] >> 6) << 4,
    };
    (std::array::from_fn(scale), std::array::from_fn(min))
}

/// The inverse of [`scales_mins`]; only the low 6 bits of each value count.
pub fn pack_scales_mins(scales: &[u8; 8], mins: &[u8; 8]) -> [u8; 12] {
    std::array::from_fn(|i| match i {
        0..4 => (scales[i] & 63) | (scales[i + 4] >> 4) << 6,
        4..8 => (mins[i - 4] & 63) | (mins[i] >> 4) << 6,
        _ => (scales[i - 4] & 15) | (mins[i - 4] & 15) << 4,
    })
}

/// The lines of the `G` groups of a super-block, as multiples of two steps.
pub(super) struct Lines<const G: usize> {
    pub(super) d: LeF16,
    pub(super) dmin: LeF16,
    /// Scale in `d` and minimum in `dmin` of each group.
    pub(super) lines: [(u8, u8); G],
}

impl<const G: usize> Lines<G> {
    /// Lines for codes `0..=hi`, multiples up to `most`, close to 256 weights.
    pub(super) fn search(x: &[f32], importance: Option<&[f32]>, hi: i32, most: u8) -> Self {
        let block = Weighted::new(x, importance);
        let group = |g: usize| block.group(SUPER_BLOCK / G * g, SUPER_BLOCK / G);
        let wanted: [Line; G] = std::array::from_fn(|g| affine(group(g), hi));
        let step = |largest: f32| LeF16::finite(block.unscaled(largest) / f32::from(most));
        let d = step(wanted.iter().fold(0.0f32, |a, line| a.max(line.scale)));
        let dmin = step(wanted.iter().fold(0.0f32, |a, line| a.max(line.min)));
        let steps = Line {
            scale: block.scaled(d.get()),
            min: block.scaled(dmin.get()),
        };
        let lines = std::array::from_fn(|g| nearest_line(group(g), wanted[g], steps, hi, most));
        Lines { d, dmin, lines }
    }
}

/// What Q4_K and Q5_K have in common: two-level scales and minima, and the codes they lead to.
pub(super) struct Grouped {
    pub(super) d: LeF16,
    pub(super) dmin: LeF16,
    pub(super) scales: [u8; 12],
    pub(super) codes: [u8; 256],
}

impl Grouped {
    /// Quantises 256 weights to codes `0..=hi` in groups of 32.
    pub(super) fn quantize(x: &[f32], importance: Option<&[f32]>, hi: i32) -> Self {
        let Lines { d, dmin, lines } = Lines::<8>::search(x, importance, hi, 63);
        let (scales, mins) = (lines.map(|line| line.0), lines.map(|line| line.1));
        let codes = std::array::from_fn(|i| {
            let scale = d.get() * f32::from(scales[i / 32]);
            let min = dmin.get() * f32::from(mins[i / 32]);
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            ((x[i] + min) * inverse).round().clamp(0.0, hi as f32) as u8
        });
        Grouped {
            d,
            dmin,
            scales: pack_scales_mins(&scales, &mins),
            codes,
        }
    }

    /// Random `(d, dmin, scales)` for codes of standard deviation `code_std` and mean `code_mean`.
    #[inline]
    pub(super) fn random(
        words: &mut Words,
        std: f32,
        code_std: f32,
        code_mean: f32,
    ) -> (LeF16, LeF16, [u8; 12]) {
        // Scales 32 to 63 have a root mean square of 48.389. A minimum close to the scale, at
        // `code_mean` times the step, makes the mean zero.
        let d = words.jitter(std / (48.389_05 * code_std * JITTER_RMS));
        let bits = words.bytes::<8>();
        let scales = bits.map(|b| 32 | (b & 31));
        let mins = bits.map(|b| (32 | (b & 31)) ^ (b >> 6));
        let packed = pack_scales_mins(&scales, &mins);
        (LeF16::finite(d), LeF16::finite(code_mean * d), packed)
    }
}

/// Joins codes to nibbles in the order of [`BlockQ4K::qs`]; only the low four bits count.
pub(super) fn pack_nibbles(codes: &[u8; 256]) -> [u8; 128] {
    std::array::from_fn(|i| {
        let first = 64 * (i / 32) + i % 32;
        (codes[first] & 15) | (codes[first + 32] & 15) << 4
    })
}

impl Block for BlockQ4K {
    const LEN: usize = SUPER_BLOCK;

    fn dequantize(&self, y: &mut [f32]) {
        let (d, dmin) = (self.d.get(), self.dmin.get());
        let (scales, mins) = scales_mins(&self.scales);
        for (g, y) in y.chunks_exact_mut(32).enumerate() {
            let scale = d * f32::from(scales[g]);
            let min = dmin * f32::from(mins[g]);
            let shift = 4 * (g % 2);
            for (y, byte) in y.iter_mut().zip(&self.qs[32 * (g / 2)..]) {
                *y = scale * f32::from((byte >> shift) & 15) - min;
            }
        }
    }

    fn quantize(x: &[f32], importance: Option<&[f32]>) -> Self {
        let Grouped {
            d,
            dmin,
            scales,
            codes,
        } = Grouped::quantize(x, importance, 15);
        BlockQ4K {
            d,
            dmin,
            scales,
            qs: pack_nibbles(&codes),
        }
    }

    fn random(words: &mut Words, std: f32) -> Self {
        let (d, dmin, scales) = Grouped::random(words, std, CODE_STD, 7.5);
        BlockQ4K {
            d,
            dmin,
            scales,
            qs: words.bytes(),
        }
    }
}
