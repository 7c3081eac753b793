//! The tiles of one row block: exponents of its rows first, then tile after tile.

use super::codes::{Coded, RowScales};
use super::dense::{halves_of_bf16, put_tile_row};
use super::exponent::{self, CODE_BITS, Fit, Peak, exponent, power, stands_out};
use super::kernel::row_of_block;
use super::layout::{TILE_COLS, TILE_ROWS, TileLayout, TileParts};
use super::words::{Words, encode, fragment};
use crate::formats::{
    Block, BlockBF16, BlockF16, BlockQ4_0, BlockQ4K, BlockQ5K, BlockQ6K, BlockQ8_0, blocks,
};
use crate::{Error, Format};

/// No factor is below the least normal f32, which kernels may flush to zero.
const LEAST_EXPONENT: i32 = -126;

/// Up to 64 rows of blocks, in their order.
pub(super) struct RowBlock<'a> {
    /// The layout of the whole.
    pub(super) layout: &'a TileLayout,
    /// Number of the first row, for errors.
    pub(super) first: usize,
    /// The blocks of each row, in the format of the layout.
    pub(super) rows: &'a [&'a [u8]],
}

/// What the scales of a row block say.
struct Survey {
    exponents: [i32; TILE_ROWS],
    /// Rows that a kernel may not see as they are.
    doubtful: [bool; TILE_ROWS],
}

impl Survey {
    /// Whether nothing can be lost: scaling by `2^(24-e)` then only moves numbers away from zero.
    fn harmless(&self) -> bool {
        let exact = self.exponents.iter().all(|&e| e <= CODE_BITS);
        exact && !self.doubtful.contains(&true)
    }
}

impl<'a> RowBlock<'a> {
    /// Writes every byte of the block's tiles and of its factors.
    pub(super) fn pack(&self, tiles: &mut [u8], factors: &mut [u8]) -> Result<Fit, Error> {
        match self.layout.format() {
            Format::Q4_K => self.pack_coded::<BlockQ4K, 4>(tiles, factors),
            Format::Q5_K => self.pack_coded::<BlockQ5K, 5>(tiles, factors),
            Format::Q6_K => self.pack_coded::<BlockQ6K, 6>(tiles, factors),
            Format::Q4_0 => self.pack_coded::<BlockQ4_0, 4>(tiles, factors),
            Format::Q8_0 => self.pack_coded::<BlockQ8_0, 8>(tiles, factors),
            Format::BF16 => Ok(self.pack_bf16(tiles, factors)),
            _ => Ok(self.pack_f16(tiles, factors)),
        }
    }

    /// What [`pack`](Self::pack) would return.
    pub(super) fn fit(&self) -> Result<Fit, Error> {
        let harmless = match self.layout.format() {
            Format::Q4_K => self.survey::<BlockQ4K>().harmless(),
            Format::Q5_K => self.survey::<BlockQ5K>().harmless(),
            Format::Q6_K => self.survey::<BlockQ6K>().harmless(),
            Format::Q4_0 => self.survey::<BlockQ4_0>().harmless(),
            Format::Q8_0 => self.survey::<BlockQ8_0>().harmless(),
            // Every weight has an exponent of its own.
            Format::BF16 => false,
            _ => true,
        };
        if harmless {
            return Ok(Fit::Exact);
        }
        let mut tiles = vec![0; self.layout.row_block_bytes()];
        self.pack(&mut tiles, &mut [0; 4 * TILE_ROWS])
    }

    fn survey<B: Coded>(&self) -> Survey {
        let mut survey = Survey {
            exponents: [0; TILE_ROWS],
            doubtful: [false; TILE_ROWS],
        };
        for (row, bytes) in self.rows.iter().enumerate() {
            let blocks = blocks::<B>(bytes);
            let peak = peak_of(blocks);
            let e = exponent(peak.value, CODE_BITS, LEAST_EXPONENT);
            survey.exponents[row] = e;
            survey.doubtful[row] = !peak.broken && !self.plain(blocks, &peak, e);
        }
        survey
    }

    fn pack_coded<B: Coded, const BITS: usize>(
        &self,
        tiles: &mut [u8],
        factors: &mut [u8],
    ) -> Result<Fit, Error> {
        const { assert!(B::BITS == BITS) };
        let rows: [&'a [B]; TILE_ROWS] = self.blocks();
        let Survey {
            exponents,
            doubtful,
        } = self.survey::<B>();
        put_factors(factors, &exponents);
        let parts = parts(self.layout.format());
        let mut fit = Fit::Exact;
        for (k, tile) in tiles.chunks_exact_mut(parts.bytes()).enumerate() {
            let mut tile = Tile {
                bytes: tile,
                parts: &parts,
            };
            for (quad, pair) in rows.as_chunks::<2>().0.iter().enumerate() {
                let shifts = [0, 1].map(|odd| CODE_BITS - exponents[2 * quad + odd]);
                let pair = pair.map(|row| of_tile(row, k));
                fit = fit.max(tile.pack_quad::<B, BITS>(quad, pair, shifts));
            }
        }
        let doubtful = (0..TILE_ROWS).filter(|&row| doubtful[row]);
        for row in doubtful {
            self.check(row, tiles, exponents[row])?;
        }
        Ok(fit)
    }

    /// The rows as blocks; those that the matrix lacks are empty.
    fn blocks<B: Block>(&self) -> [&'a [B]; TILE_ROWS] {
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
        stands_out(energy, self.layout.cols(), e)
    }

    /// Compares what a kernel sees of a row with the exact weights.
    fn check(&self, row: usize, tiles: &[u8], e: i32) -> Result<(), Error> {
        let mut exact = vec![0.0; self.layout.cols()];
        self.layout
            .format()
            .dequantize(self.rows[row], &mut exact)?;
        let seen = row_of_block(self.layout.format(), tiles, row, power(e) as f32)?;
        exponent::check(self.layout.format().name(), self.first + row, &seen, &exact)
    }

    fn pack_f16(&self, tiles: &mut [u8], factors: &mut [u8]) -> Fit {
        put_factors(factors, &[0; TILE_ROWS]);
        let rows = self.blocks::<BlockF16>();
        for (k, tile) in tiles
            .chunks_exact_mut(parts(self.layout.format()).bytes())
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
            .chunks_exact_mut(parts(self.layout.format()).bytes())
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
fn of_tile<B: Block>(row: &[B], k: usize) -> &[B] {
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
