//! Which rows become which tiles: a row block of 64 at a time, each on a thread of its own.

use super::exponent::Fit;
use super::layout::{RowOrder, TILE_ROWS, TileLayout};
use super::row_block::RowBlock;
use crate::repack::{convert_rows, gpu_format};
use crate::{Error, Matrix};
use rayon::prelude::*;

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
        self.with_rows(block, |rows| rows.pack(tiles, factors))
    }

    /// What packing would keep, without packing: reads scales alone where those show it.
    ///
    /// # Errors
    /// [`Error::Imprecise`] and [`Error::OutOfRange`] where [`pack_into`](Self::pack_into) has them.
    pub fn fit(&self) -> Result<Fit, Error> {
        (0..self.layout.row_blocks())
            .into_par_iter()
            .map(|block| self.with_rows(block, |rows| rows.fit()))
            .try_reduce(|| Fit::Exact, |a, b| Ok(a.max(b)))
    }

    /// Calls `then` with the rows of a block, converted if their format has no tiles.
    fn with_rows(
        &self,
        block: usize,
        then: impl FnOnce(&RowBlock) -> Result<Fit, Error>,
    ) -> Result<Fit, Error> {
        let layout = &self.layout;
        let first = block * TILE_ROWS;
        let rows = first..layout.rows().min(first + TILE_ROWS);
        let mut converted = Vec::new();
        let mut stored = Vec::with_capacity(TILE_ROWS);
        if self.first.format == layout.format() {
            stored.extend(rows.map(|row| {
                let (m, row) = self.row(row);
                m.row(row)
            }));
        } else {
            let bytes = layout.row_bytes();
            converted.resize(rows.len() * bytes, 0);
            for (row, out) in rows.zip(converted.chunks_exact_mut(bytes.max(1))) {
                let (m, row) = self.row(row);
                let source = Matrix::new(m.format, 1, m.cols, m.row(row))?;
                convert_rows(&source, row, layout.format(), out)?;
            }
            stored.extend(converted.chunks_exact(bytes.max(1)));
        }
        then(&RowBlock {
            layout,
            first,
            rows: &stored,
        })
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
