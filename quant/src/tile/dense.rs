//! Rows of 64 halves as `wgmma` reads them from shared memory, K-major with the 128-byte swizzle: tiles of
//! F16 and BF16, and activations.
//!
//! An *atom* is 8 rows of 128 bytes; the 16-byte chunk `c` of row `r` lies at chunk `c ^ (r % 8)`. Columns are
//! in the order of positions: `2i` is column `i`, `2i + 1` column `32 + i`.

use super::layout::{TILE_COLS, TILE_ROWS};
use crate::scalar::{LeBf16, LeF16};
use half::f16;
use half::slice::HalfFloatSliceExt;

/// Bytes of 8 rows of 64 halves.
pub(super) const ATOM: usize = 1024;

/// Bytes of 64 rows of 64 halves.
const GROUP: usize = TILE_ROWS * 128;

/// First byte of the four pairs of columns (`4 chunk + 0..4` and 32 above) of row `row` in a stretch of atoms.
#[inline]
fn chunk_offset(row: usize, chunk: usize) -> usize {
    row * 128 + ((chunk ^ (row % 8)) * 16)
}

/// First byte of column `col` (0 to 63) of row `row` in a stretch of atoms.
#[inline]
pub(super) fn half_offset(row: usize, col: usize) -> usize {
    let position = 2 * (col % 32) + col / 32;
    chunk_offset(row, position / 8) + position % 8 * 2
}

/// Writes the 64 columns of row `row`.
#[inline]
pub(super) fn put_row(atoms: &mut [u8], row: usize, halves: &[u16; 64]) {
    for chunk in 0..8 {
        let out = &mut atoms[chunk_offset(row, chunk)..][..16];
        for (i, out) in out.chunks_exact_mut(4).enumerate() {
            let col = 4 * chunk + i;
            let pair = u32::from(halves[col]) | u32::from(halves[32 + col]) << 16;
            out.copy_from_slice(&pair.to_le_bytes());
        }
    }
}

/// The inverse of [`put_row`].
#[inline]
pub(super) fn row(atoms: &[u8], row: usize) -> [u16; 64] {
    std::array::from_fn(|col| {
        let at = half_offset(row, col);
        u16::from_le_bytes([atoms[at], atoms[at + 1]])
    })
}

/// The row of the instruction that holds row `row` of a tile.
#[inline]
pub(super) fn instruction_row(row: usize) -> usize {
    let (quad, odd) = (row / 2, row % 2);
    16 * (quad / 8) + quad % 8 + 8 * odd
}

/// Writes up to 256 columns of row `row` of a tile; what is missing becomes zero.
pub(super) fn put_tile_row(tile: &mut [u8], row: usize, halves: &[u16]) {
    for (j, group) in tile.chunks_exact_mut(GROUP).enumerate() {
        let mut columns = [0; 64];
        let part = halves.get(64 * j..).unwrap_or(&[]);
        let len = part.len().min(64);
        columns[..len].copy_from_slice(&part[..len]);
        put_row(group, instruction_row(row), &columns);
    }
}

/// The 256 columns of row `row` of a tile.
pub(super) fn tile_row(tile: &[u8], row: usize) -> [u16; TILE_COLS] {
    let mut halves = [0; TILE_COLS];
    for (group, halves) in tile.chunks_exact(GROUP).zip(halves.chunks_exact_mut(64)) {
        halves.copy_from_slice(&self::row(group, instruction_row(row)));
    }
    halves
}

/// At most 256 BF16 weights times `factor`, a power of two, as halves; and whether that is exact.
pub(super) fn halves_of_bf16(weights: &[LeBf16], factor: f32, out: &mut [u16; TILE_COLS]) -> bool {
    let len = weights.len();
    let (mut exact, mut back) = ([0.0f32; TILE_COLS], [0.0f32; TILE_COLS]);
    let mut rounded = [f16::ZERO; TILE_COLS];
    for (exact, weight) in exact.iter_mut().zip(weights) {
        *exact = weight.get() * factor;
    }
    rounded[..len].convert_from_f32_slice(&exact[..len]);
    rounded[..len].convert_to_f32_slice(&mut back[..len]);
    for (out, rounded) in out.iter_mut().zip(&rounded[..len]) {
        *out = rounded.to_bits();
    }
    if back[..len] == exact[..len] {
        return true;
    }
    // What is no number is no failure either: its bits are carried over.
    let mut whole = true;
    for (i, weight) in weights.iter().enumerate() {
        if weight.get().is_finite() {
            whole &= back[i] == exact[i];
        } else {
            let bits = (weight.get().to_bits() >> 16) as u16;
            out[i] = bits & 0x8000 | 0x7c00 | (bits & 0x7f) << 3;
        }
    }
    whole
}

/// The inverse of [`halves_of_bf16`]; `factor` is the reciprocal.
pub(super) fn bf16_of_half(bits: u16, factor: f32) -> u16 {
    if bits & 0x7c00 == 0x7c00 {
        return bits & 0x8000 | 0x7f80 | (bits >> 3) & 0x7f;
    }
    half::bf16::from_f32(LeF16::from_bits(bits).get() * factor).to_bits()
}
