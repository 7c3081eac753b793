//! Activations as the tensor cores read them: the B operand, whatever the format of the weights.
//!
//! `[cols / 64][tokens / 8]` atoms of 1,024 bytes: 8 tokens, 64 columns of f16 each, swizzled and with columns
//! in the order of positions, as the head of [`tile`](super) states for weights (16-byte chunk `c` of token
//! `t` at chunk `c ^ (t % 8)`; position `2i` is column `i`, `2i + 1` column `32 + i`). The atoms of `N` tokens
//! and 64 columns are `128 N` contiguous bytes. Tokens are padded to a multiple that the caller chooses, and
//! columns to 256, as tiles of weights are: padding is zero.

use super::dense::{ATOM, half_offset, put_row, row};
use super::layout::TILE_COLS;
use crate::Error;
use crate::scalar::LeF16;
use rayon::prelude::*;

/// Tokens of an atom.
const ATOM_TOKENS: usize = 8;

/// Where the numbers of `[tokens, cols]` activations lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActivationTiles {
    tokens: usize,
    cols: usize,
    padded_tokens: usize,
}

impl ActivationTiles {
    /// For `tokens` padded to a multiple of `tile_tokens`, itself rounded up to 8 (an atom); `cols` is any
    /// number.
    ///
    /// # Errors
    /// [`Error::TooLarge`] when the size overflows.
    pub fn new(tokens: usize, cols: usize, tile_tokens: usize) -> Result<ActivationTiles, Error> {
        let padded = || {
            let tile = tile_tokens.max(1).checked_next_multiple_of(ATOM_TOKENS)?;
            let padded_tokens = tokens.checked_next_multiple_of(tile)?;
            let padded_cols = cols.checked_next_multiple_of(TILE_COLS)?;
            padded_tokens.checked_mul(padded_cols)?.checked_mul(2)?;
            Some(padded_tokens)
        };
        let padded_tokens = padded().ok_or(Error::TooLarge {
            format: "F16 activations",
            rows: tokens,
            cols,
        })?;
        Ok(ActivationTiles {
            tokens,
            cols,
            padded_tokens,
        })
    }

    /// Tokens, without padding.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Columns, without padding.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Tokens that there is room for.
    pub fn padded_tokens(&self) -> usize {
        self.padded_tokens
    }

    /// Bytes from one group of 64 columns to the next.
    pub fn group_bytes(&self) -> usize {
        self.padded_tokens / ATOM_TOKENS * ATOM
    }

    /// Bytes of the whole.
    pub fn bytes(&self) -> usize {
        self.cols.div_ceil(TILE_COLS) * 4 * self.group_bytes()
    }

    /// First byte of column `col` of token `token`, padding included.
    pub fn offset(&self, token: usize, col: usize) -> usize {
        col / 64 * self.group_bytes() + half_offset(token, col % 64)
    }

    /// Places row-major `[tokens, cols]` numbers; padding becomes zero.
    ///
    /// # Errors
    /// [`Error::Size`] when a buffer has another size.
    pub fn place(&self, rows: &[LeF16], out: &mut [u8]) -> Result<(), Error> {
        self.check(rows.len(), out.len())?;
        if out.is_empty() {
            return Ok(());
        }
        let groups = out.par_chunks_exact_mut(self.group_bytes());
        groups.enumerate().for_each(|(group, atoms)| {
            let first = (64 * group).min(self.cols);
            let len = (self.cols - first).min(64);
            for token in 0..self.padded_tokens {
                let mut columns = [0; 64];
                if token < self.tokens {
                    let row = &rows[token * self.cols + first..][..len];
                    for (column, half) in columns.iter_mut().zip(row) {
                        *column = half.bits();
                    }
                }
                put_row(atoms, token, &columns);
            }
        });
        Ok(())
    }

    /// The row-major `[tokens, cols]` numbers: the inverse of [`place`](Self::place). Padding is not read.
    ///
    /// # Errors
    /// [`Error::Size`] when the buffer has another size.
    pub fn read(&self, atoms: &[u8]) -> Result<Vec<LeF16>, Error> {
        let mut rows = vec![LeF16::default(); self.tokens * self.cols];
        self.check(rows.len(), atoms.len())?;
        if rows.is_empty() {
            return Ok(rows);
        }
        rows.par_chunks_exact_mut(self.cols)
            .enumerate()
            .for_each(|(token, out)| {
                let groups = atoms.chunks_exact(self.group_bytes());
                for (out, atoms) in out.chunks_mut(64).zip(groups) {
                    for (out, bits) in out.iter_mut().zip(row(atoms, token)) {
                        *out = LeF16::from_bits(bits);
                    }
                }
            });
        Ok(rows)
    }

    fn check(&self, numbers: usize, bytes: usize) -> Result<(), Error> {
        let sizes = [
            ("numbers of activations", self.tokens * self.cols, numbers),
            ("bytes of activations in tiles", self.bytes(), bytes),
        ];
        for (what, expected, found) in sizes {
            if expected != found {
                return Err(Error::Size {
                    format: "F16",
                    what,
                    expected,
                    found,
                });
            }
        }
        Ok(())
    }
}
