//! Block formats taken apart for tiles, and put together again: unsigned codes, and the bytes of scales as
//! the head of [`tile`](super) states them.

use super::exponent::scaled;
use crate::formats::{
    Block, BlockQ4_0, BlockQ4K, BlockQ5K, BlockQ6K, BlockQ8_0, pack_scales_mins, scales_mins,
};
use crate::scalar::LeF16;

/// The scales of one row and 256 columns, as a tile holds them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct RowScales {
    /// The bytes of each group of 64 columns.
    pub(super) groups: [[u8; 4]; 4],
    /// The scales of the scales; Q6_K has only the first.
    pub(super) base: [u16; 2],
}

/// A block format with tiles. `shift` is `24 - e` throughout.
pub(super) trait Coded: Block {
    /// Bits of a code.
    const BITS: usize;
    /// Scales of scales in a row's base.
    const BASE: usize;

    /// Magnitudes that must stay in the range of f16 when scaled: infinite or NaN where a scale is.
    fn peaks(&self) -> [f32; 2];

    /// Writes the codes, unsigned.
    fn codes(&self, out: &mut [u8]);

    /// Puts the scales of block `at` of 256 columns in their place, and says whether that is exact.
    fn put_scales(&self, at: usize, shift: i32, scales: &mut RowScales) -> bool;

    /// The block `at` of these codes and scales.
    fn restore(codes: &[u8], at: usize, shift: i32, scales: &RowScales) -> Self;
}

/// The f16 of which [`scaled`] made `bits`.
fn unscaled(bits: u16, shift: i32) -> LeF16 {
    LeF16::from_bits(scaled(LeF16::from_bits(bits), -shift).0)
}

/// The larger of a scale's magnitude alone and times its largest multiple.
#[inline]
fn larger(d: LeF16, most: u8) -> f32 {
    d.get().abs() * f32::from(most.max(1))
}

/// Q4_K and Q5_K: [`Coded::peaks`].
#[inline]
fn affine_peaks(d: LeF16, dmin: LeF16, packed: &[u8; 12]) -> [f32; 2] {
    let (scales, _) = scales_mins(packed);
    let most = scales.iter().fold(0, |most, &scale| scale.max(most));
    [larger(d, most), dmin.get().abs()]
}

/// Q4_K and Q5_K: [`Coded::put_scales`].
#[inline]
fn put_affine(d: LeF16, dmin: LeF16, packed: &[u8; 12], shift: i32, out: &mut RowScales) -> bool {
    let (scales, mins) = scales_mins(packed);
    out.groups = std::array::from_fn(|j| {
        [
            scales[2 * j],
            scales[2 * j + 1],
            mins[2 * j],
            mins[2 * j + 1],
        ]
    });
    let (d, whole_d) = scaled(d, shift);
    let (dmin, whole_min) = scaled(dmin, shift);
    out.base = [d, dmin ^ 0x8000];
    whole_d && whole_min
}

/// The inverse of [`put_affine`].
fn affine(scales: &RowScales, shift: i32) -> (LeF16, LeF16, [u8; 12]) {
    let g = &scales.groups;
    let packed = pack_scales_mins(
        &std::array::from_fn(|i| g[i / 2][i % 2]),
        &std::array::from_fn(|i| g[i / 2][2 + i % 2]),
    );
    let [d, dmin] = scales.base;
    (unscaled(d, shift), unscaled(dmin ^ 0x8000, shift), packed)
}

/// Byte `32 c + l` of `qs` to codes `64 c + l` and `64 c + 32 + l`.
#[inline]
fn split_nibbles(qs: &[u8; 128], out: &mut [u8]) {
    for (qs, out) in qs.chunks_exact(32).zip(out.chunks_exact_mut(64)) {
        let (low, high) = out.split_at_mut(32);
        for ((q, low), high) in qs.iter().zip(low).zip(high) {
            (*low, *high) = (q & 15, q >> 4);
        }
    }
}

/// The inverse of [`split_nibbles`], of the low four bits.
fn join_nibbles(codes: &[u8]) -> [u8; 128] {
    std::array::from_fn(|i| {
        let first = 64 * (i / 32) + i % 32;
        codes[first] & 15 | codes[first + 32] << 4
    })
}

impl Coded for BlockQ4K {
    const BITS: usize = 4;
    const BASE: usize = 2;

    #[inline]
    fn peaks(&self) -> [f32; 2] {
        affine_peaks(self.d, self.dmin, &self.scales)
    }

    #[inline]
    fn codes(&self, out: &mut [u8]) {
        split_nibbles(&self.qs, out);
    }

    #[inline]
    fn put_scales(&self, _at: usize, shift: i32, scales: &mut RowScales) -> bool {
        put_affine(self.d, self.dmin, &self.scales, shift, scales)
    }

    fn restore(codes: &[u8], _at: usize, shift: i32, scales: &RowScales) -> Self {
        let (d, dmin, scales) = affine(scales, shift);
        let qs = join_nibbles(codes);
        BlockQ4K {
            d,
            dmin,
            scales,
            qs,
        }
    }
}

impl Coded for BlockQ5K {
    const BITS: usize = 5;
    const BASE: usize = 2;

    #[inline]
    fn peaks(&self) -> [f32; 2] {
        affine_peaks(self.d, self.dmin, &self.scales)
    }

    #[inline]
    fn codes(&self, out: &mut [u8]) {
        split_nibbles(&self.qs, out);
        for (g, out) in out.chunks_exact_mut(32).enumerate() {
            for (code, high) in out.iter_mut().zip(&self.qh) {
                *code |= ((high >> g) & 1) << 4;
            }
        }
    }

    #[inline]
    fn put_scales(&self, _at: usize, shift: i32, scales: &mut RowScales) -> bool {
        put_affine(self.d, self.dmin, &self.scales, shift, scales)
    }

    fn restore(codes: &[u8], _at: usize, shift: i32, scales: &RowScales) -> Self {
        let (d, dmin, scales) = affine(scales, shift);
        let mut qh = [0; 32];
        for (i, code) in codes.iter().enumerate() {
            qh[i % 32] |= (code >> 4) << (i / 32);
        }
        BlockQ5K {
            d,
            dmin,
            scales,
            qh,
            qs: join_nibbles(codes),
        }
    }
}

impl Coded for BlockQ6K {
    const BITS: usize = 6;
    const BASE: usize = 1;

    #[inline]
    fn peaks(&self) -> [f32; 2] {
        let most = |most: u8, scale: &i8| most.max(scale.unsigned_abs());
        [larger(self.d, self.scales.iter().fold(0, most)), 0.0]
    }

    #[inline]
    fn codes(&self, out: &mut [u8]) {
        for (n, out) in out.chunks_exact_mut(128).enumerate() {
            for (j, out) in out.chunks_exact_mut(32).enumerate() {
                let low = &self.ql[64 * n + 32 * (j % 2)..][..32];
                let high = &self.qh[32 * n..][..32];
                for ((code, low), high) in out.iter_mut().zip(low).zip(high) {
                    *code = (low >> (4 * (j / 2))) & 15 | ((high >> (2 * j)) & 3) << 4;
                }
            }
        }
    }

    #[inline]
    fn put_scales(&self, _at: usize, shift: i32, scales: &mut RowScales) -> bool {
        // Registers pair groups 0 and 2 of 64 columns, then 1 and 3.
        const ORDER: [usize; 4] = [0, 2, 1, 3];
        scales.groups =
            std::array::from_fn(|j| ORDER.map(|group| self.scales[4 * j + group] as u8 ^ 0x80));
        let (d, whole) = scaled(self.d, shift);
        scales.base = [d, 0];
        whole
    }

    fn restore(codes: &[u8], _at: usize, shift: i32, scales: &RowScales) -> Self {
        const PLACE: [usize; 4] = [0, 2, 1, 3];
        BlockQ6K::from_parts(
            unscaled(scales.base[0], shift),
            std::array::from_fn(|g| (scales.groups[g / 4][PLACE[g % 4]] ^ 0x80) as i8),
            &std::array::from_fn(|i| codes[i] as i8 - 32),
        )
    }
}

/// Q4_0 and Q8_0: the scale of block `at` is half of the pair of its 64 columns.
#[inline]
fn put_pair(d: LeF16, at: usize, shift: i32, scales: &mut RowScales) -> bool {
    let (d, whole) = scaled(d, shift);
    scales.groups[at / 2][2 * (at % 2)..][..2].copy_from_slice(&d.to_le_bytes());
    whole
}

/// The inverse of [`put_pair`].
fn of_pair(at: usize, shift: i32, scales: &RowScales) -> LeF16 {
    let [low, high] = [0, 1].map(|byte| scales.groups[at / 2][2 * (at % 2) + byte]);
    unscaled(u16::from_le_bytes([low, high]), shift)
}

impl Coded for BlockQ4_0 {
    const BITS: usize = 4;
    const BASE: usize = 0;

    #[inline]
    fn peaks(&self) -> [f32; 2] {
        [self.d.get().abs(), 0.0]
    }

    #[inline]
    fn codes(&self, out: &mut [u8]) {
        let (low, high) = out.split_at_mut(16);
        for ((q, low), high) in self.qs.iter().zip(low).zip(high) {
            (*low, *high) = (q & 15, q >> 4);
        }
    }

    #[inline]
    fn put_scales(&self, at: usize, shift: i32, scales: &mut RowScales) -> bool {
        put_pair(self.d, at, shift, scales)
    }

    fn restore(codes: &[u8], at: usize, shift: i32, scales: &RowScales) -> Self {
        BlockQ4_0 {
            d: of_pair(at, shift, scales),
            qs: std::array::from_fn(|i| codes[i] | codes[i + 16] << 4),
        }
    }
}

impl Coded for BlockQ8_0 {
    const BITS: usize = 8;
    const BASE: usize = 0;

    #[inline]
    fn peaks(&self) -> [f32; 2] {
        [self.d.get().abs(), 0.0]
    }

    #[inline]
    fn codes(&self, out: &mut [u8]) {
        for (code, &q) in out.iter_mut().zip(&self.qs) {
            *code = q as u8 ^ 0x80;
        }
    }

    #[inline]
    fn put_scales(&self, at: usize, shift: i32, scales: &mut RowScales) -> bool {
        put_pair(self.d, at, shift, scales)
    }

    fn restore(codes: &[u8], at: usize, shift: i32, scales: &RowScales) -> Self {
        BlockQ8_0 {
            d: of_pair(at, shift, scales),
            qs: std::array::from_fn(|i| (codes[i] ^ 0x80) as i8),
        }
    }
}
