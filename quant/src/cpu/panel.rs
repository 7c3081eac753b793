//! Panels: 16 unpacked rows interleaved for the prompt kernels, and the activations they meet.
//!
//! Four consecutive bytes of each of 16 rows lie next to each other, so one vector multiply-add
//! advances 16 rows by four columns and no sum ever crosses lanes. Scales and minimums of a group
//! are 16 neighbouring f32 likewise.
//!
//! Always holds: a panel kernel adds up in the order of
//! [`portable::dot_groups`](super::portable::dot_groups) and returns the same bits.

use super::activations::{Activations, BLOCK, BLOCK_SUMS, Token};
use super::unpack::Shape;

/// Rows in a panel.
pub(super) const PANEL_ROWS: usize = 16;

/// Tokens in the largest tile of a panel kernel.
pub(super) const TILE_TOKENS: usize = 8;

/// A cache line of panel bytes: four columns of 16 rows.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [[u8; 4]; PANEL_ROWS]);

/// 16 unpacked rows; rows past the end of the matrix hold stale values that nobody stores.
pub(super) struct Panel {
    pub(super) shape: Shape,
    pub(super) cols: usize,
    /// `[cols / 4]`
    pub(super) lines: Vec<Line>,
    /// `[groups, 16]`
    pub(super) scales: Vec<f32>,
    /// `[groups, 16]`
    pub(super) mins: Vec<f32>,
    /// `[16, cols]`: the rows before they are interleaved.
    pub(super) rows: Vec<u8>,
}

impl Panel {
    pub(super) fn new(shape: Shape, cols: usize) -> Panel {
        let groups = cols / shape.group;
        Panel {
            shape,
            cols,
            lines: vec![Line([[0; 4]; PANEL_ROWS]); cols / 4],
            scales: vec![0.0; groups * PANEL_ROWS],
            mins: vec![0.0; groups * PANEL_ROWS],
            rows: vec![0; PANEL_ROWS * cols],
        }
    }

    /// Fills `lines` from `rows`.
    #[inline(always)]
    pub(super) fn interleave(&mut self) {
        for (r, row) in self.rows.chunks_exact(self.cols).enumerate() {
            for (line, four) in self.lines.iter_mut().zip(row.chunks_exact(4)) {
                line.0[r].copy_from_slice(four);
            }
        }
    }
}

/// What a group of activations contributes beside its bytes; each `[n, groups]`.
pub(super) struct GroupTerms {
    pub(super) groups: usize,
    /// Scale of the activations.
    pub(super) scales: Vec<f32>,
    /// `-offset * sum`: where the integer sum starts.
    pub(super) starts: Vec<i32>,
    /// `scale * sum`: what the minimum of the weights is multiplied by.
    pub(super) sums: Vec<f32>,
}

impl GroupTerms {
    /// Those of all tokens.
    pub(super) fn new(shape: Shape, x: &Activations) -> GroupTerms {
        GroupTerms::of(shape, &x.sums, &x.scales, x.cols)
    }

    /// Those of one token.
    pub(super) fn of_token(shape: Shape, x: Token<'_>) -> GroupTerms {
        GroupTerms::of(shape, x.sums, x.scales, x.q.len())
    }

    fn of(shape: Shape, sums: &[[i32; BLOCK_SUMS]], scales: &[f32], cols: usize) -> GroupTerms {
        let (scales, sums): (Vec<f32>, Vec<i32>) = match shape.group {
            BLOCK => (scales.to_vec(), sums.iter().map(|[a, b]| a + b).collect()),
            _ => (
                scales
                    .iter()
                    .flat_map(|&scale| [scale; BLOCK_SUMS])
                    .collect(),
                sums.as_flattened().to_vec(),
            ),
        };
        GroupTerms {
            groups: cols / shape.group,
            starts: sums.iter().map(|s| -shape.offset * s).collect(),
            sums: sums
                .iter()
                .zip(&scales)
                .map(|(&sum, scale)| scale * sum as f32)
                .collect(),
            scales,
        }
    }
}

/// Consecutive tokens of the activations, from `first` on.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    pub(super) x: &'a Activations,
    pub(super) terms: &'a GroupTerms,
    pub(super) first: usize,
}

/// `[token][row]`
pub(super) type TileValues = [[f32; PANEL_ROWS]; TILE_TOKENS];
