//! Taking tiles apart: the inverse of [`TilePacker`](super::TilePacker).

use super::codes::{Coded, RowScales};
use super::dense::{bf16_of_half, tile_row};
use super::exponent::CODE_BITS;
use super::layout::{RowOrder, TILE_COLS, TILE_ROWS, TileLayout, TileParts};
use super::words::{Words, decode, rows};
use crate::formats::{BlockQ4_0, BlockQ4K, BlockQ5K, BlockQ6K, BlockQ8_0, blocks_mut};
use crate::{Error, Format};
use rayon::prelude::*;

/// The blocks of a packed matrix as they lie in a file, those of each matrix that was packed: one, or two
/// that were interleaved. Formats that were converted stay so.
///
/// # Errors
/// [`Error::Size`] when `packed` does not have the `bytes` of `layout`.
pub fn unpack(layout: &TileLayout, packed: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    layout.check_packed(packed.len())?;
    let row_bytes = layout.row_bytes();
    let mut stored = vec![0; layout.rows() * row_bytes];
    if !stored.is_empty() {
        let (factors, _) = packed[layout.factors_offset()..].as_chunks::<4>();
        stored
            .par_chunks_mut(TILE_ROWS * row_bytes)
            .zip(packed.par_chunks_exact(layout.row_block_bytes()))
            .zip(factors.par_chunks_exact(TILE_ROWS))
            .for_each(|((out, tiles), factors)| unpack_block(layout, tiles, factors, out));
    }
    if layout.order() == RowOrder::Stored {
        return Ok(vec![stored]);
    }
    let of = |odd: usize| {
        let rows = stored.chunks_exact(row_bytes.max(1)).skip(odd).step_by(2);
        rows.flatten().copied().collect()
    };
    Ok(vec![of(0), of(1)])
}

/// Unpacks a row block to the rows that it has.
fn unpack_block(layout: &TileLayout, tiles: &[u8], factors: &[[u8; 4]], out: &mut [u8]) {
    let factors: Vec<f32> = factors.iter().map(|&f| f32::from_le_bytes(f)).collect();
    let mut block = RowBlock {
        layout,
        factors: &factors,
        out,
    };
    match layout.format() {
        Format::Q4_K => block.unpack::<BlockQ4K, 4>(tiles),
        Format::Q5_K => block.unpack::<BlockQ5K, 5>(tiles),
        Format::Q6_K => block.unpack::<BlockQ6K, 6>(tiles),
        Format::Q4_0 => block.unpack::<BlockQ4_0, 4>(tiles),
        Format::Q8_0 => block.unpack::<BlockQ8_0, 8>(tiles),
        Format::BF16 => block.unpack_halves(tiles, bf16_of_half),
        _ => block.unpack_halves(tiles, |bits, _| bits),
    }
}

/// Rows that are being written.
struct RowBlock<'a> {
    layout: &'a TileLayout,
    factors: &'a [f32],
    out: &'a mut [u8],
}

impl RowBlock<'_> {
    fn unpack<B: Coded, const BITS: usize>(&mut self, tiles: &[u8]) {
        let Some(parts) = TileParts::of(self.layout.format()) else {
            return;
        };
        let row_bytes = self.layout.row_bytes();
        for (k, tile) in tiles.chunks_exact(self.layout.tile_bytes()).enumerate() {
            let pairs = self.out.chunks_mut(2 * row_bytes);
            for (quad, pair) in pairs.enumerate() {
                let codes = codes::<BITS>(tile, &parts, quad);
                for (odd, row) in pair.chunks_exact_mut(row_bytes).enumerate() {
                    let scales = scales::<B>(tile, &parts, 2 * quad + odd);
                    let shift = CODE_BITS - exponent_of(self.factors[2 * quad + odd]);
                    let blocks = blocks_mut::<B>(row)
                        .iter_mut()
                        .skip(k * (TILE_COLS / B::LEN));
                    let codes = codes[odd].as_flattened().chunks_exact(B::LEN);
                    for (at, (block, codes)) in blocks.zip(codes).enumerate() {
                        *block = B::restore(codes, at, shift, &scales);
                    }
                }
            }
        }
    }

    fn unpack_halves(&mut self, tiles: &[u8], half: impl Fn(u16, f32) -> u16) {
        let row_bytes = self.layout.row_bytes();
        for (k, tile) in tiles.chunks_exact(self.layout.tile_bytes()).enumerate() {
            for (row, out) in self.out.chunks_exact_mut(row_bytes).enumerate() {
                let weights = tile_row(tile, row);
                let (out, _) = out.as_chunks_mut::<2>();
                for (out, bits) in out.iter_mut().skip(k * TILE_COLS).zip(weights) {
                    *out = half(bits, self.factors[row]).to_le_bytes();
                }
            }
        }
    }
}

/// The exponent of a power of two, a normal f32.
fn exponent_of(factor: f32) -> i32 {
    (factor.to_bits() >> 23) as i32 - 127
}

/// The codes of the even and the odd row of a quad, in groups of 64.
fn codes<const BITS: usize>(tile: &[u8], parts: &TileParts, quad: usize) -> [[[u8; 64]; 4]; 2] {
    let (mut even, mut odd) = ([[0; 64]; 4], [[0; 64]; 4]);
    for (group, (even, odd)) in even.iter_mut().zip(&mut odd).enumerate() {
        let mut words = Words::default();
        for plane in 0..BITS / 4 {
            let at = (group * (BITS / 4) + plane) * 2048 + quad * 64;
            take(&tile[at..][..64], &mut words[4 * plane..][..4]);
        }
        let more = BITS % 4;
        if more > 0 {
            let at = parts.more_words.start + (group * 32 + quad) * 16 * more;
            take(&tile[at..][..16 * more], &mut words[4..][..more]);
        }
        [*even, *odd] = rows(&decode::<BITS>(&words));
    }
    [even, odd]
}

/// Reads the words of four threads, those of a thread together.
fn take(bytes: &[u8], words: &mut [[u32; 4]]) {
    let (values, _) = bytes.as_chunks::<4>();
    for (t, values) in values.chunks_exact(words.len()).enumerate() {
        for (word, &value) in words.iter_mut().zip(values) {
            word[t] = u32::from_le_bytes(value);
        }
    }
}

/// The scales of row `row` of a tile.
fn scales<B: Coded>(tile: &[u8], parts: &TileParts, row: usize) -> RowScales {
    let groups = std::array::from_fn(|group| {
        let at = parts.scales.start + (group * 64 + row) * 4;
        std::array::from_fn(|byte| tile[at + byte])
    });
    let base = std::array::from_fn(|n| {
        let at = parts.base.start + (row * B::BASE + n) * 2;
        match n < B::BASE {
            true => u16::from_le_bytes([tile[at], tile[at + 1]]),
            false => 0,
        }
    });
    RowScales { groups, base }
}
