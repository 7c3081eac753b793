//! Packing a few rows at a time, for a loader whose buffers are smaller than a matrix.
//!
//! A *band* is a range of rows, packed: the rows of the first plane, then those of the second, and
//! so on. Each of these pieces is one stretch of the packed matrix, so a band reaches its place in
//! as many copies as there are planes. The band that ends the matrix carries the gaps between
//! planes too: the bands together write every byte of a packed matrix once, and read every byte of
//! the stored one once.

use std::ops::Range;

use super::{PlaneLayout, convert, gather, gpu_format, planes, planes_of, rows_per_task};
use crate::matrix::matrix_bytes;
use crate::{Error, Matrix};

/// Packs one matrix band by band, on the threads of the caller.
#[derive(Debug, Clone)]
pub struct BandPacker<'a> {
    m: Matrix<'a>,
    layout: PlaneLayout,
}

/// A stretch of a band, and where it belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// First byte in the band.
    pub from: usize,
    /// First byte in the packed matrix.
    pub to: usize,
    /// Bytes.
    pub len: usize,
}

impl<'a> BandPacker<'a> {
    /// For `m`, in the layout `planes(gpu_format(m.format), m.rows, m.cols)`.
    ///
    /// # Errors
    /// [`Error::Size`] when `m.data` has another size than its shape says; those of [`planes`].
    pub fn new(m: &Matrix<'a>) -> Result<BandPacker<'a>, Error> {
        let m = Matrix::new(m.format, m.rows, m.cols, m.data)?;
        let layout = planes(gpu_format(m.format), m.rows, m.cols)?;
        Ok(BandPacker { m, layout })
    }

    /// The layout of the whole matrix.
    pub fn layout(&self) -> &PlaneLayout {
        &self.layout
    }

    /// The stored bytes that a band is made from.
    pub fn source(&self, rows: &Range<usize>) -> &'a [u8] {
        let row_bytes = self.m.row_bytes();
        &self.m.data[rows.start * row_bytes..rows.end * row_bytes]
    }

    /// Bytes of a band.
    pub fn band_bytes(&self, rows: &Range<usize>) -> usize {
        self.pieces(rows).map(|piece| piece.len).sum()
    }

    /// Most rows of a band of at most `bytes`, wherever it begins; 0 when not even one fits.
    pub fn rows_within(&self, bytes: usize) -> usize {
        let per_row: usize = self.layout.planes.iter().map(|p| p.bytes_per_row).sum();
        // What the last band carries besides its rows.
        let gaps = self.layout.bytes - per_row * self.layout.rows;
        bytes
            .saturating_sub(gaps)
            .checked_div(per_row)
            .unwrap_or(self.layout.rows)
    }

    /// Where the parts of a band belong, in their order.
    pub fn pieces(&self, rows: &Range<usize>) -> impl Iterator<Item = Piece> + '_ {
        let PlaneLayout {
            planes,
            rows: all_rows,
            bytes,
            ..
        } = &self.layout;
        let (first, last) = (rows.start, rows.end == *all_rows);
        let count = rows.len();
        let mut from = 0;
        planes.iter().enumerate().map(move |(i, plane)| {
            let to = plane.offset + first * plane.bytes_per_row;
            // The last band goes on to where the next plane begins.
            let next = planes.get(i + 1).map_or(*bytes, |next| next.offset);
            let len = match last {
                true => next - to,
                false => count * plane.bytes_per_row,
            };
            let piece = Piece { from, to, len };
            from += len;
            piece
        })
    }

    /// Packs the rows `rows` into `out`, converting where the format asks for it. Panics when the
    /// matrix has no such rows, as indexing does.
    ///
    /// # Errors
    /// [`Error::Size`] when `out` is not [`BandPacker::band_bytes`] long; [`Error::OutOfRange`] when
    /// a weight does not fit the format converted to, and `out` then holds a mixture.
    pub fn pack(&self, rows: &Range<usize>, out: &mut [u8]) -> Result<(), Error> {
        let format = self.layout.format;
        let expected = self.band_bytes(rows);
        if out.len() != expected {
            return Err(Error::Size {
                format: format.name(),
                what: "packed bytes of a band",
                expected,
                found: out.len(),
            });
        }
        let row_bytes = self.m.row_bytes();
        if row_bytes == 0 || rows.is_empty() {
            out.fill(0);
            return Ok(());
        }
        // A few rows at a time, so that they are still in a cache when the next plane wants them.
        let step = rows_per_task(row_bytes);
        let mut converted = Vec::new();
        for first in rows.clone().step_by(step) {
            let part = first..rows.end.min(first + step);
            let mut blocks = self.source(&part);
            if self.m.format != format {
                converted.resize(matrix_bytes(format, part.len(), self.m.cols)?, 0);
                let stored = Matrix::new(self.m.format, part.len(), self.m.cols, blocks)?;
                convert::convert_rows(&stored, first, format, &mut converted)?;
                blocks = &converted;
            }
            let parts = planes_of(format).iter().zip(&self.layout.planes);
            for ((part_of_block, plane), piece) in parts.zip(self.pieces(rows)) {
                let start = piece.from + (first - rows.start) * plane.bytes_per_row;
                let plane_rows = &mut out[start..][..part.len() * plane.bytes_per_row];
                gather(*part_of_block, format.block_bytes(), blocks, plane_rows);
            }
        }
        for (plane, piece) in self.layout.planes.iter().zip(self.pieces(rows)) {
            out[piece.from..][..piece.len][rows.len() * plane.bytes_per_row..].fill(0);
        }
        Ok(())
    }
}
