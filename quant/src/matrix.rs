//! A borrowed matrix of weights in one block format: the argument of every product.
//!
//! [`Matrix::new`] is the one place where shape and byte count are compared; everything that takes
//! a `Matrix` relies on `data.len() == rows * format.row_bytes(cols)`.

use crate::{Error, Format};

/// A weight matrix `[rows, cols]`, row-major; a row is one output feature.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    /// The block format of every row.
    pub format: Format,
    /// Output features.
    pub rows: usize,
    /// Input features, a multiple of the format's block length.
    pub cols: usize,
    /// The blocks, `rows * format.row_bytes(cols)` bytes, at any alignment.
    pub data: &'a [u8],
}

impl<'a> Matrix<'a> {
    /// A matrix over `data`.
    ///
    /// # Errors
    /// [`Error::PartialBlock`] when `cols` is not a multiple of the block length,
    /// [`Error::TooLarge`] when the size overflows, [`Error::Size`] when `data` has another size.
    pub fn new(format: Format, rows: usize, cols: usize, data: &'a [u8]) -> Result<Self, Error> {
        let expected = matrix_bytes(format, rows, cols)?;
        if data.len() != expected {
            return Err(Error::Size {
                format: format.name(),
                what: "matrix bytes",
                expected,
                found: data.len(),
            });
        }
        Ok(Matrix {
            format,
            rows,
            cols,
            data,
        })
    }

    /// Bytes from one row to the next.
    pub fn row_bytes(&self) -> usize {
        self.cols / self.format.block_len() * self.format.block_bytes()
    }

    /// The blocks of row `row`; panics when `row >= rows`, as indexing does.
    pub fn row(&self, row: usize) -> &'a [u8] {
        let bytes = self.row_bytes();
        &self.data[row * bytes..][..bytes]
    }
}

/// Bytes of a `[rows, cols]` matrix in `format`.
pub(crate) fn matrix_bytes(format: Format, rows: usize, cols: usize) -> Result<usize, Error> {
    let name = format.name();
    let row = format.row_bytes(cols).ok_or(Error::PartialBlock {
        format: name,
        weights: cols,
        block_len: format.block_len(),
    })?;
    row.checked_mul(rows).ok_or(Error::TooLarge {
        format: name,
        rows,
        cols,
    })
}
