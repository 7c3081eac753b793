//! Sizes and offsets of tiles and of packed matrices; everything else here asks this file.

use crate::{Error, Format};
use std::ops::Range;

/// Rows of a tile: those of one `wgmma`.
pub const TILE_ROWS: usize = 64;

/// Columns of a tile: a super-block of the K formats.
pub const TILE_COLS: usize = 256;

/// Bytes of the codes that 128 threads load 16 bytes each of, for 256 columns.
const PLANE: usize = 4 * 128 * 16;

/// Bytes of the scales of 256 columns: 8 for each pair of rows and 64 columns.
const SCALES: usize = 4 * 32 * 8;

/// Which rows a packed matrix holds, in which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RowOrder {
    /// Those of one matrix as they are stored.
    Stored,
    /// Those of two matrices of one shape in turn: row `2i` is row `i` of the first, row `2i + 1` row `i`
    /// of the second. With gate and up, one thread holds both sums of an output.
    Interleaved,
}

/// Where the parts of a tile lie, in bytes from its beginning; a part that a format lacks is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TileParts {
    /// The words that threads load 16 bytes at a time; for F16 and BF16 the whole tile.
    pub words: Range<usize>,
    /// The words beyond those: 4 bytes a thread and 64 columns (Q5_K), or 8 (Q6_K).
    pub more_words: Range<usize>,
    /// Scales, 8 bytes for each pair of rows and 64 columns.
    pub scales: Range<usize>,
    /// Scales of the scales, once for each pair of rows.
    pub base: Range<usize>,
}

impl TileParts {
    /// The parts of a tile in `format`; `None` for a format without tiles of its own.
    pub const fn of(format: Format) -> Option<TileParts> {
        let (words, more, scales, base) = match format {
            Format::Q4_K => (PLANE, 0, SCALES, 256),
            Format::Q5_K => (PLANE, PLANE / 4, SCALES, 256),
            Format::Q6_K => (PLANE, PLANE / 2, SCALES, 128),
            Format::Q4_0 => (PLANE, 0, SCALES, 0),
            Format::Q8_0 => (2 * PLANE, 0, SCALES, 0),
            Format::F16 | Format::BF16 => (TILE_ROWS * TILE_COLS * 2, 0, 0, 0),
            _ => return None,
        };
        Some(TileParts {
            words: 0..words,
            more_words: words..words + more,
            scales: words + more..words + more + scales,
            base: words + more + scales..words + more + scales + base,
        })
    }

    /// Bytes of the tile, a multiple of 16.
    pub const fn bytes(&self) -> usize {
        self.base.end
    }
}

/// The shape of a matrix in tiles, and where each of them lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TileLayout {
    format: Format,
    rows: usize,
    cols: usize,
    order: RowOrder,
    tile_bytes: usize,
}

impl TileLayout {
    /// The layout of `[rows, cols]` weights in `format`; with [`RowOrder::Interleaved`], `rows` counts
    /// those of both matrices.
    ///
    /// # Errors
    /// [`Error::NoLayout`] for a format without tiles (ask with
    /// [`gpu_format`](crate::repack::gpu_format)), [`Error::PartialBlock`] when `cols` is not a multiple
    /// of the block length, [`Error::Size`] for an odd number of interleaved rows, [`Error::TooLarge`]
    /// when the size overflows.
    pub fn new(
        format: Format,
        rows: usize,
        cols: usize,
        order: RowOrder,
    ) -> Result<TileLayout, Error> {
        let name = format.name();
        let parts = TileParts::of(format).ok_or(Error::NoLayout { format: name })?;
        if !cols.is_multiple_of(format.block_len()) {
            return Err(Error::PartialBlock {
                format: name,
                weights: cols,
                block_len: format.block_len(),
            });
        }
        if order == RowOrder::Interleaved && !rows.is_multiple_of(2) {
            return Err(Error::Size {
                format: name,
                what: "interleaved rows",
                expected: rows - 1,
                found: rows,
            });
        }
        let layout = TileLayout {
            format,
            rows,
            cols,
            order,
            tile_bytes: parts.bytes(),
        };
        match layout.checked_bytes() {
            Some(_) => Ok(layout),
            None => Err(Error::TooLarge {
                format: name,
                rows,
                cols,
            }),
        }
    }

    fn checked_bytes(&self) -> Option<usize> {
        let block = self
            .k_tiles()
            .checked_mul(self.tile_bytes)?
            .checked_add(4 * TILE_ROWS)?;
        // Also the stored rows must be addressable, which the inverse makes.
        self.format.row_bytes(self.cols)?.checked_mul(self.rows)?;
        self.row_blocks().checked_mul(block)
    }

    /// The format, one of those with tiles.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Rows, without padding.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns, without padding.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Which rows these are.
    pub fn order(&self) -> RowOrder {
        self.order
    }

    /// Bytes of a row as it is stored in a file.
    pub(super) fn row_bytes(&self) -> usize {
        self.cols / self.format.block_len() * self.format.block_bytes()
    }

    /// Blocks of 64 rows, the last one padded.
    pub fn row_blocks(&self) -> usize {
        self.rows.div_ceil(TILE_ROWS)
    }

    /// Tiles of a row block: 256 columns each, the last one padded.
    pub fn k_tiles(&self) -> usize {
        self.cols.div_ceil(TILE_COLS)
    }

    /// Bytes of a tile.
    pub fn tile_bytes(&self) -> usize {
        self.tile_bytes
    }

    /// Bytes of the tiles of one row block.
    pub fn row_block_bytes(&self) -> usize {
        self.k_tiles() * self.tile_bytes
    }

    /// First byte of a tile in the packed matrix.
    pub fn tile_offset(&self, row_block: usize, k_tile: usize) -> usize {
        (row_block * self.k_tiles() + k_tile) * self.tile_bytes
    }

    /// First byte of the factors `2^e`, one f32 a row, padding included.
    pub fn factors_offset(&self) -> usize {
        self.row_blocks() * self.row_block_bytes()
    }

    /// Bytes of the packed matrix: its tiles and factors.
    pub fn bytes(&self) -> usize {
        self.factors_offset() + self.row_blocks() * TILE_ROWS * 4
    }

    pub(super) fn check_packed(&self, found: usize) -> Result<(), Error> {
        let expected = self.bytes();
        if found == expected {
            return Ok(());
        }
        Err(Error::Size {
            format: self.format.name(),
            what: "bytes of tiles",
            expected,
            found,
        })
    }
}
