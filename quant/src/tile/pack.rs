//! Making tiles: a row block of 64 rows at a time, each on a thread of its own.

use super::codes::{Coded, RowScales};
use super::dense::{halves_of_bf16, put_tile_row};
use super::exponent::{self, CODE_BITS, Fit, Peak, exponent, power, stands_out};
use super::kernel::row_of_block;
use super::layout::{RowOrder, TILE_COLS, TILE_ROWS, TileLayout, TileParts};
use super::words::{Words, encode, fragment};
use crate::formats::{
    BlockBF16, BlockF16, BlockQ4_0, BlockQ4K, BlockQ5K, BlockQ6K, BlockQ8_0, blocks,
};
use crate::repack::{convert_rows, gpu_format};
use crate::{Error, Format, Matrix};
use rayon::prelude::*;

/// No factor is below the least normal f32, which kernels may flush to zero.
const LEAST_EXPONENT: i32 = -126;

/// Packs the rows of one matrix, or of two in turn.
#[derive(Debug, Clone, Copy)]
pub struct TilePacker<'a> {
    first: Matrix<'a>,
    second: Option<Matrix<'a>>,
    layout: TileLayout,
}

impl<'a> TilePacker<'a> {
    /// For the rows of `m` as they are stored, in its [`gpu_format`].
    ///
    /// # Errors
    /// [`Error::Size`] when `m.data` has another size than its shape says; those of [`TileLayout::new`].
    pub fn new(m: &Matrix<'a>) -> Result<TilePacker<'a>, Error> {
        let first = Matrix::new(m.format, m.rows, m.cols, m.data)?;
        let layout = TileLayout::new(gpu_format(m.format), m.rows, m.cols, RowOrder::Stored)?;
        Ok(TilePacker {
            first,
            second: None,
            layout,
        })
    }

    /// For the rows of two matrices in turn, such as gate and up.
    ///
    /// # Errors
    /// [`Error::Unequal`] when the two differ in format or shape; those of [`TilePacker::new`].
    pub fn interleaved(first: &Matrix<'a>, second: &Matrix<'a>) -> Result<TilePacker<'a>, Error> {
        let shape = |m: &Matrix| (m.format, m.rows, m.cols);
        if shape(first) != shape(second) {
            let name = |m: &Matrix| format!("{} [{}, {}]", m.format, m.rows, m.cols);
            return Err(Error::Unequal {
                first: name(first),
                second: name(second),
            });
        }
        let (first, second) = (
            TilePacker::new(first)?.first,
            TilePacker::new(second)?.first,
        );
        let rows = first.rows.saturating_mul(2);
        let format = gpu_format(first.format);
        let layout = TileLayout::new(format, rows, first.cols, RowOrder::Interleaved)?;
        Ok(TilePacker {
            first,
            second: Some(second),
            layout,
        })
    }

    /// The layout of the whole.
    pub fn layout(&self) -> TileLayout {
        self.layout
    }

    /// Packs everything into `out`, which has the `bytes` of the layout. Runs on all threads of the current
    /// rayon pool; every byte of `out` is written.
    ///
    /// # Errors
    /// [`Error::Size`] when `out` has another size, [`Error::Imprecise`] when a kernel would not see a row
    /// as it is, [`Error::OutOfRange`] when a weight does not fit the format converted to; `out` then holds a
    /// mixture.
    pub fn pack_into(&self, out: &mut [u8]) -> Result<Fit, Error> {
        self.layout.check_packed(out.len())?;
        let (tiles, factors) = out.split_at_mut(self.layout.factors_offset());
        if tiles.is_empty() {
            factors.as_chunks_mut().0.fill(1.0f32.to_le_bytes());
            return Ok(Fit::Exact);
        }
        let factors = factors.par_chunks_exact_mut(4 * TILE_ROWS);
        tiles
            .par_chunks_exact_mut(self.layout.row_block_bytes())
            .zip(factors)
            .enumerate()
            .map(|(block, (tiles, factors))| self.pack_row_block(block, tiles, factors))
            .try_reduce(|| Fit::Exact, |a, b| Ok(a.max(b)))
    }

    /// Packs one row block on the calling thread, for a loader whose buffers are smaller than a matrix:
    /// `tiles` are the `row_block_bytes` of the layout, `factors` the 256 bytes of its rows' factors. Panics
    /// when there is no such block, as indexing does.
    ///
    /// # Errors
    /// As [`pack_into`](Self::pack_into).
    pub fn pack_row_block(
        &self,
        block: usize,
        tiles: &mut [u8],
        factors: &mut [u8],
    ) -> Result<Fit, Error> {
        let layout = &self.layout;
        let sizes = [
            (
                "bytes of a row block",
                layout.row_block_bytes(),
                tiles.len(),
            ),
            ("bytes of factors", 4 * TILE_ROWS, factors.len()),
        ];
        for (what, expected, found) in sizes {
            if expected != found {
                return Err(Error::Size {
                    format: layout.format().name(),
                    what,
                    expected,
                    found,
                });
            }
        }
        let first = block * TILE_ROWS;
        let rows = first..layout.rows().min(first + TILE_ROWS);
        let format = layout.format();
        // Formats without tiles are converted, 64 rows at a time.
        let mut converted = Vec::new();
        let mut stored = Vec::with_capacity(TILE_ROWS);
        if self.first.format == format {
            stored.extend(rows.map(|row| self.row(row).0.row(self.row(row).1)));
        } else {
            let bytes = layout.row_bytes();
            converted.resize(rows.len() * bytes, 0);
            for (row, out) in rows.zip(converted.chunks_exact_mut(bytes.max(1))) {
                let (m, row) = self.row(row);
                let source = Matrix::new(m.format, 1, m.cols, m.row(row))?;
                convert_rows(&source, row, format, out)?;
            }
            stored.extend(converted.chunks_exact(bytes.max(1)));
        }
        let block = RowBlock {
            format,
            cols: layout.cols(),
            first,
            rows: &stored,
        };
        match format {
            Format::Q4_K => block.pack::<BlockQ4K, 4>(tiles, factors),
            Format::Q5_K => block.pack::<BlockQ5K, 5>(tiles, factors),
            Format::Q6_K => block.pack::<BlockQ6K, 6>(tiles, factors),
            Format::Q4_0 => block.pack::<BlockQ4_0, 4>(tiles, factors),
            Format::Q8_0 => block.pack::<BlockQ8_0, 8>(tiles, factors),
            Format::BF16 => Ok(block.pack_bf16(tiles, factors)),
            _ => Ok(block.pack_f16(tiles, factors)),
        }
    }

    /// The matrix and the row of it that is row `row` of the whole.
    fn row(&self, row: usize) -> (&Matrix<'a>, usize) {
        match &self.second {
            None => (&self.first, row),
            Some(second) => ([&self.first, second][row % 2], row / 2),
        }
    }
}

/// Packs `m` in its [`gpu_format`], rows as they are stored: [`TilePacker::pack_into`] a new buffer.
///
/// # Errors
/// Those of [`TilePacker::new`] and [`TilePacker::pack_into`].
pub fn pack(m: &Matrix) -> Result<(TileLayout, Vec<u8>), Error> {
    let packer = TilePacker::new(m)?;
    let mut out = vec![0; packer.layout.bytes()];
    packer.pack_into(&mut out)?;
    Ok((packer.layout, out))
}

/// Up to 64 rows of blocks, in their order.
struct RowBlock<'a> {
    format: Format,
    cols: usize,
    /// Number of the first row, for errors.
    first: usize,
    rows: &'a [&'a [u8]],
}

impl<'a> RowBlock<'a> {
    fn pack<B: Coded, const BITS: usize>(
        &self,
        tiles: &mut [u8],
        factors: &mut [u8],
    ) -> Result<Fit, Error> {
        const { assert!(B::BITS == BITS) };
        let rows: [&'a [B]; TILE_ROWS] = self.blocks();
        let mut exponents = [0; TILE_ROWS];
        let mut doubtful = [false; TILE_ROWS];
        for (row, &blocks) in rows.iter().enumerate().take(self.rows.len()) {
            let peak = peak_of(blocks);
            exponents[row] = exponent(peak.value, CODE_BITS, LEAST_EXPONENT);
            doubtful[row] = !peak.broken && !self.plain(blocks, &peak, exponents[row]);
        }
        put_factors(factors, &exponents);
        let parts = parts(self.format);
        let mut fit = Fit::Exact;
        for (k, tile) in tiles.chunks_exact_mut(parts.bytes()).enumerate() {
            let mut tile = Tile {
                bytes: tile,
                parts: &parts,
            };
            for (quad, pair) in rows.as_chunks::<2>().0.iter().enumerate() {
                let shifts = [0, 1].map(|odd| CODE_BITS - exponents[2 * quad + odd]);
                fit = fit.max(tile.pack_quad::<B, BITS>(
                    quad,
                    pair.map(|row| of_tile(row, k)),
                    shifts,
                ));
            }
        }
        for (row, _) in doubtful
            .iter()
            .enumerate()
            .filter(|(_, doubtful)| **doubtful)
        {
            self.check(row, tiles, exponents[row])?;
        }
        Ok(fit)
    }

    /// The rows as blocks; those that the matrix lacks are empty.
    fn blocks<B: crate::formats::Block>(&self) -> [&'a [B]; TILE_ROWS] {
        std::array::from_fn(|row| self.rows.get(row).map_or(&[][..], |row| blocks(row)))
    }

    /// Whether the block with the largest scale alone shows that f16 has room for the row.
    fn plain<B: Coded>(&self, blocks: &[B], peak: &Peak, e: i32) -> bool {
        let Some(block) = blocks.get(peak.block).filter(|_| peak.value > 0.0) else {
            return true;
        };
        let mut weights = [0.0; TILE_COLS];
        block.dequantize(&mut weights[..B::LEN]);
        let energy = weights.iter().map(|&w| f64::from(w) * f64::from(w)).sum();
        stands_out(energy, self.cols, e)
    }

    /// Compares what a kernel sees of a row with the exact weights.
    fn check(&self, row: usize, tiles: &[u8], e: i32) -> Result<(), Error> {
        let mut exact = vec![0.0; self.cols];
        self.format.dequantize(self.rows[row], &mut exact)?;
        let seen = row_of_block(self.format, tiles, row, power(e) as f32)?;
        exponent::check(self.format.name(), self.first + row, &seen, &exact)
    }

    fn pack_f16(&self, tiles: &mut [u8], factors: &mut [u8]) -> Fit {
        put_factors(factors, &[0; TILE_ROWS]);
        let rows = self.blocks::<BlockF16>();
        for (k, tile) in tiles
            .chunks_exact_mut(parts(self.format).bytes())
            .enumerate()
        {
            for (row, weights) in rows.iter().enumerate() {
                let mut halves = [0; TILE_COLS];
                for (half, weight) in halves.iter_mut().zip(of_tile(weights, k)) {
                    *half = weight.0.bits();
                }
                put_tile_row(tile, row, &halves);
            }
        }
        Fit::Exact
    }

    fn pack_bf16(&self, tiles: &mut [u8], factors: &mut [u8]) -> Fit {
        let rows = self.blocks::<BlockBF16>();
        let exponents = rows.map(|weights| {
            // Without branches: what is no number is larger than any.
            let magnitude = |w: &BlockBF16| w.0.get().abs();
            let finite = |v: f32| if v < f32::INFINITY { v } else { 0.0 };
            let peak = weights
                .iter()
                .fold(0.0f32, |peak, w| peak.max(finite(magnitude(w))));
            exponent(peak, 0, LEAST_EXPONENT)
        });
        put_factors(factors, &exponents);
        let mut whole = true;
        for (k, tile) in tiles
            .chunks_exact_mut(parts(self.format).bytes())
            .enumerate()
        {
            for (row, weights) in rows.iter().enumerate() {
                let weights = bytemuck::cast_slice(of_tile(weights, k));
                let mut halves = [0; TILE_COLS];
                whole &= halves_of_bf16(weights, power(-exponents[row]) as f32, &mut halves);
                put_tile_row(tile, row, &halves);
            }
        }
        if whole { Fit::Exact } else { Fit::Rounded }
    }
}

/// The parts of a tile of a format that has one.
fn parts(format: Format) -> TileParts {
    const NONE: TileParts = TileParts {
        words: 0..1,
        more_words: 1..1,
        scales: 1..1,
        base: 1..1,
    };
    TileParts::of(format).unwrap_or(NONE)
}

fn peak_of<B: Coded>(blocks: &[B]) -> Peak {
    let mut peak = Peak::default();
    for (i, block) in blocks.iter().enumerate() {
        for value in block.peaks() {
            peak.raise(value, i);
        }
    }
    peak
}

fn put_factors(factors: &mut [u8], exponents: &[i32; TILE_ROWS]) {
    let (factors, _) = factors.as_chunks_mut::<4>();
    for (factor, &e) in factors.iter_mut().zip(exponents) {
        *factor = (power(e) as f32).to_le_bytes();
    }
}

/// The blocks of 256 columns of a row.
fn of_tile<B: crate::formats::Block>(row: &[B], k: usize) -> &[B] {
    let per_tile = TILE_COLS / B::LEN;
    let first = (k * per_tile).min(row.len());
    &row[first..row.len().min(first + per_tile)]
}

/// A tile of a block format that is being written.
struct Tile<'a> {
    bytes: &'a mut [u8],
    parts: &'a TileParts,
}

impl Tile<'_> {
    /// Writes what the four threads of quad `quad` read: its even row and its odd one.
    fn pack_quad<B: Coded, const BITS: usize>(
        &mut self,
        quad: usize,
        rows: [&[B]; 2],
        shifts: [i32; 2],
    ) -> Fit {
        let mut codes = [[[0u8; 64]; 4]; 2];
        let mut scales = [RowScales::default(); 2];
        let mut whole = true;
        for row in 0..2 {
            let out = codes[row].as_flattened_mut();
            for (at, (block, out)) in rows[row]
                .iter()
                .zip(out.chunks_exact_mut(B::LEN))
                .enumerate()
            {
                block.codes(out);
                whole &= block.put_scales(at, shifts[row], &mut scales[row]);
            }
        }
        let [even, odd] = &codes;
        for (group, (even, odd)) in even.iter().zip(odd).enumerate() {
            let words = encode::<BITS>(&fragment(even, odd));
            self.put_words::<BITS>(group, quad, &words);
            let at = self.parts.scales.start + (group * 32 + quad) * 8;
            for (row, scales) in scales.iter().enumerate() {
                self.bytes[at + 4 * row..][..4].copy_from_slice(&scales.groups[group]);
            }
        }
        for (row, scales) in scales.iter().enumerate() {
            let at = self.parts.base.start + (2 * quad + row) * 2 * B::BASE;
            for (n, half) in scales.base[..B::BASE].iter().enumerate() {
                self.bytes[at + 2 * n..][..2].copy_from_slice(&half.to_le_bytes());
            }
        }
        if whole { Fit::Exact } else { Fit::Rounded }
    }

    #[inline]
    fn put_words<const BITS: usize>(&mut self, group: usize, quad: usize, words: &Words) {
        // 16 bytes a thread at a time, then what is left.
        for plane in 0..BITS / 4 {
            let at = (group * (BITS / 4) + plane) * 2048 + quad * 64;
            put(&mut self.bytes[at..][..64], &words[4 * plane..][..4]);
        }
        let more = BITS % 4;
        if more > 0 {
            let at = self.parts.more_words.start + (group * 32 + quad) * 16 * more;
            put(&mut self.bytes[at..][..16 * more], &words[4..][..more]);
        }
    }
}

/// Writes the words of four threads, those of a thread together.
#[inline]
fn put(out: &mut [u8], words: &[[u32; 4]]) {
    for (t, out) in out.chunks_exact_mut(4 * words.len()).enumerate() {
        for (out, word) in out.chunks_exact_mut(4).zip(words) {
            out.copy_from_slice(&word[t].to_le_bytes());
        }
    }
}
