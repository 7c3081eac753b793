//! Q2_K: 2 bits a weight, 16 groups of 16 weights with a 4-bit scale and a 4-bit minimum each.

use super::q4_k::Lines;
use super::{Block, SUPER_BLOCK};
use crate::random::{JITTER_RMS, Words};
use crate::scalar::LeF16;
use bytemuck::{Pod, Zeroable};

/// 256 weights `(d * scale) * q - (dmin * min)`; 84 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct BlockQ2K {
    /// Byte `g`: group `g`'s scale in the low nibble, its minimum in the high one.
    pub scales: [u8; 16],
    /// Weight `128 n + 32 j + l`: bits `2 j` and `2 j + 1` of byte `32 n + l`.
    pub qs: [u8; 64],
    /// Scale of the scales.
    pub d: LeF16,
    /// Scale of the minima.
    pub dmin: LeF16,
}

impl Block for BlockQ2K {
    const LEN: usize = SUPER_BLOCK;

    fn dequantize(&self, y: &mut [f32]) {
        let (d, dmin) = (self.d.get(), self.dmin.get());
        for (g, y) in y.chunks_exact_mut(16).enumerate() {
            let scale = d * f32::from(self.scales[g] & 15);
            let min = dmin * f32::from(self.scales[g] >> 4);
            let (bytes, shift) = code_position(g);
            for (y, byte) in y.iter_mut().zip(&self.qs[bytes..]) {
                *y = scale * f32::from((byte >> shift) & 3) - min;
            }
        }
    }

    fn quantize(x: &[f32], importance: Option<&[f32]>) -> Self {
        let Lines { d, dmin, lines } = Lines::<16>::search(x, importance, 3, 15);
        let scales = lines.map(|(scale, min)| scale | min << 4);
        let mut qs = [0; 64];
        for (g, x) in x.chunks_exact(16).enumerate() {
            let scale = d.get() * f32::from(scales[g] & 15);
            let min = dmin.get() * f32::from(scales[g] >> 4);
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            let (bytes, shift) = code_position(g);
            for (byte, &v) in qs[bytes..].iter_mut().zip(x) {
                *byte |= (((v + min) * inverse).round().clamp(0.0, 3.0) as u8) << shift;
            }
        }
        BlockQ2K {
            scales,
            qs,
            d,
            dmin,
        }
    }

    fn random(words: &mut Words, std: f32) -> Self {
        // Scales 8 to 15 (root mean square 11.726) over codes 0 to 3 (standard deviation 1.118). A
        // minimum equal to the scale, at 1.5 times the step, makes the mean zero.
        let d = words.jitter(std / (11.726 * 1.118_034 * JITTER_RMS));
        let scales = words.bytes::<16>().map(|b| {
            let scale = 8 | (b & 7);
            scale | (scale ^ (b >> 7)) << 4
        });
        BlockQ2K {
            scales,
            qs: words.bytes(),
            d: LeF16::finite(d),
            dmin: LeF16::finite(1.5 * d),
        }
    }
}

/// First byte and shift of the codes of group `g`.
fn code_position(g: usize) -> (usize, usize) {
    (32 * (g / 8) + 16 * (g % 2), 2 * (g % 8 / 2))
}
