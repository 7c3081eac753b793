//! IQ3_XXS and IQ3_S: four magnitudes at a time from a codebook, signs beside them.

use super::codebook_search::{Octet, Scales, nearest_halves, search};
use super::coded::{Coded, nibble};
use super::grids::{Grid, IQ3S, IQ3S_LEVELS, IQ3XXS, IQ3XXS_LEVELS, even_signs, with_signs};
use super::{Block, SUPER_BLOCK};
use crate::random::{JITTER_RMS, Words};
use crate::scalar::LeF16;
use bytemuck::{Pod, Zeroable};

/// 256 weights of 3.06 bits; 98 bytes. The scale of 32 weights is `d * (2 s + 1) / 4`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct BlockIq3Xxs {
    /// Scale of the scales.
    pub d: LeF16,
    /// Index of each 4 weights.
    pub qs: [u8; 64],
    /// Of each 32 weights, little-endian: four times 7 bits of signs (the eighth makes their number
    /// even) and 4 bits of scale.
    pub signs: [[u8; 4]; 8],
}

/// 256 weights of 3.44 bits; 110 bytes. The scale of 32 weights is `d * (2 s + 1)`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct BlockIq3S {
    /// Scale of the scales.
    pub d: LeF16,
    /// Low 8 bits of the index of each 4 weights.
    pub qs: [u8; 64],
    /// Bit `i` of byte `g`: high bit of index `8 g + i`.
    pub qh: [u8; 8],
    /// Signs of each 8 weights.
    pub signs: [u8; 32],
    /// Nibble `g`: scale of weights `32 g` to `32 g + 31`.
    pub scales: [u8; 4],
}

/// Root mean square of the odd numbers below 32.
const ODD_RMS: f32 = 18.466_185;

/// Magnitudes of eight weights: two entries.
#[inline(always)]
fn two_entries<const N: usize>(grid: &Grid<N, 4>, first: usize, second: usize) -> [i8; 8] {
    let ([a, b, c, d], [e, f, g, h]) = (grid.entry(first), grid.entry(second));
    [a, b, c, d, e, f, g, h]
}

impl Coded<256, 8> for BlockIq3Xxs {
    const LARGEST: i8 = 62;

    #[inline(always)]
    fn codes(&self) -> [i8; 256] {
        let mut codes = [0; 256];
        let pairs = self.qs.as_chunks::<2>().0.iter();
        for (i, (pair, codes)) in pairs.zip(codes.as_chunks_mut().0).enumerate() {
            let word = u32::from_le_bytes(self.signs[i / 4]);
            let signs = even_signs((word >> (7 * (i % 4))) as u8);
            let [first, second] = pair.map(usize::from);
            *codes = with_signs(two_entries(&IQ3XXS, first, second), signs);
        }
        codes
    }

    #[inline(always)]
    fn scales(&self) -> [f32; 8] {
        let d = self.d.get();
        self.signs
            .map(|word| d * (0.5 + f32::from(word[3] >> 4)) * 0.5)
    }
}

impl Block for BlockIq3Xxs {
    const LEN: usize = SUPER_BLOCK;

    fn dequantize(&self, y: &mut [f32]) {
        self.expand(y);
    }

    fn quantize(x: &[f32], importance: Option<&[f32]>) -> Self {
        let scales = Scales {
            count: 16,
            unit: 0.25,
            extreme: 62.0,
            shrinks: &[0.066, 0.2, 0.8, 0.87, 0.93, 0.98, 1.03, 1.1, 1.2],
        };
        let nearest =
            |x: &[f32; 8], w: &[f32; 8]| nearest_halves(&IQ3XXS, IQ3XXS_LEVELS, x, w, true);
        let found = search::<8>(x, importance, &scales, |group, inverse| {
            group.octets(inverse, nearest)
        });
        let signs = std::array::from_fn(|g| {
            let octets = found.octets[4 * g..][..4].iter().rev();
            let signs = octets.fold(0, |word, octet| word << 7 | u32::from(octet.signs & 0x7F));
            (signs | u32::from(found.scales[g]) << 28).to_le_bytes()
        });
        BlockIq3Xxs {
            d: found.d,
            qs: std::array::from_fn(|i| found.octets[i / 2].index[i % 2] as u8),
            signs,
        }
    }

    fn random(words: &mut Words, std: f32) -> Self {
        let rms = 30.848_673 * (ODD_RMS / 4.0) * JITTER_RMS;
        BlockIq3Xxs {
            d: LeF16::finite(words.signed_jitter(std / rms)),
            qs: words.bytes(),
            signs: bytemuck::cast(words.bytes::<32>()),
        }
    }
}

impl BlockIq3S {
    /// The scales of the 8 groups in units of `d`: odd, 1 to 31.
    #[inline(always)]
    pub fn group_scales(&self) -> [i8; 8] {
        std::array::from_fn(|g| 1 + 2 * nibble(&self.scales, g) as i8)
    }
}

impl Coded<256, 8> for BlockIq3S {
    const LARGEST: i8 = 15;

    #[inline(always)]
    fn codes(&self) -> [i8; 256] {
        let mut codes = [0; 256];
        for (i, codes) in codes.as_chunks_mut().0.iter_mut().enumerate() {
            let index = |k: usize| {
                let high = usize::from(self.qh[i / 4] >> (2 * (i % 4) + k)) & 1;
                usize::from(self.qs[2 * i + k]) | high << 8
            };
            *codes = with_signs(two_entries(&IQ3S, index(0), index(1)), self.signs[i]);
        }
        codes
    }

    #[inline(always)]
    fn scales(&self) -> [f32; 8] {
        let d = self.d.get();
        self.group_scales().map(|scale| d * f32::from(scale))
    }
}

impl Block for BlockIq3S {
    const LEN: usize = SUPER_BLOCK;

    fn dequantize(&self, y: &mut [f32]) {
        self.expand(y);
    }

    fn quantize(x: &[f32], importance: Option<&[f32]>) -> Self {
        let scales = Scales {
            count: 16,
            unit: 1.0,
            extreme: 15.0,
            shrinks: &[0.066, 0.2, 0.8, 0.87, 0.93, 0.98, 1.03, 1.1, 1.2],
        };
        let nearest = |x: &[f32; 8], w: &[f32; 8]| nearest_halves(&IQ3S, IQ3S_LEVELS, x, w, false);
        let found = search::<8>(x, importance, &scales, |group, inverse| {
            group.octets(inverse, nearest)
        });
        let index = |i: usize| found.octets[i / 2].index[i % 2];
        let high = |g: usize| (0..8).map(|i| ((index(8 * g + i) >> 8) as u8) << i).sum();
        BlockIq3S {
            d: found.d,
            qs: std::array::from_fn(|i| index(i) as u8),
            qh: std::array::from_fn(high),
            signs: found.octets.map(|octet: Octet| octet.signs),
            scales: std::array::from_fn(|i| found.scales[2 * i] | found.scales[2 * i + 1] << 4),
        }
    }

    fn random(words: &mut Words, std: f32) -> Self {
        let rms = 7.594_2 * ODD_RMS * JITTER_RMS;
        BlockIq3S {
            d: LeF16::finite(words.signed_jitter(std / rms)),
            qs: words.bytes(),
            qh: words.bytes(),
            signs: words.bytes(),
            scales: words.bytes(),
        }
    }
}
