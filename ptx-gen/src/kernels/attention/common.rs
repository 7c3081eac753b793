//! What the kernels of attention share: how keys are divided, and the arithmetic of scores.

use super::shape::AttentionShape;
use crate::build::{Builder, Val};

/// Where a running maximum starts: below every score, and its differences are no NaN.
pub(super) const LOWEST: f32 = f32::MIN;

/// Keys that a split has at least, if the row has more: one tile of 16 for each warp of a block.
/// Shorter ones would leave warps idle and give the merge more to read.
const LEAST_KEYS: u32 = 64;

/// How the visible keys of a row are divided among splits: in whole cache blocks, the same number of
/// them for each split but the last ones.
pub(super) struct Division<'k> {
    /// First visible key.
    pub(super) low: Val<'k, u32>,
    /// First key of its cache block.
    first: Val<'k, u32>,
    /// Keys of a split; absent where one has all.
    each: Option<Val<'k, u32>>,
}

impl<'k> Division<'k> {
    /// Of what a row of `length` keys sees.
    pub(super) fn new(
        k: &'k Builder,
        length: Val<'k, u32>,
        shape: &AttentionShape,
        splits: u32,
    ) -> Division<'k> {
        let tokens = shape.block_tokens;
        let low = match shape.window {
            Some(window) => length.max(window) - window,
            None => k.constant(0u32),
        };
        let first = low / tokens;
        let each = (splits > 1).then(|| {
            let blocks = (length + (tokens - 1)) / tokens - first;
            let each = (blocks + (splits - 1)) / splits;
            each.max(LEAST_KEYS.div_ceil(tokens)) * tokens
        });
        Division {
            low,
            first: first * tokens,
            each,
        }
    }

    /// First key of a split; past the row's last one where the split has none.
    pub(super) fn start(&self, split: Val<'k, u32>) -> Val<'k, u32> {
        match self.each {
            Some(each) => self.first + each * split,
            None => self.first,
        }
    }

    /// Key behind a split's last.
    pub(super) fn end(&self, split: Val<'k, u32>, length: Val<'k, u32>) -> Val<'k, u32> {
        match self.each {
            Some(each) => (self.start(split) + each).min(length),
            None => length,
        }
    }
}

/// Caps up to which what `1 - 2 / (1 + e^2x)` rounds is nothing to a score.
const PLAIN_CAP: f32 = 256.0;

/// The score in base 2 of a product with a scaled query: `cap * tanh(x)` as
/// `cap * (1 - 2 / (1 + e^2x))`, which saturates without a NaN, but of an infinite product, whose sign may
/// be that of a part of it. Where a large cap leaves a score far below
/// it, as `cap * x * (1 - x^2 / 3 + 2 x^4 / 15)`.
pub(super) fn capped<'k>(k: &'k Builder, dot: Val<'k, f32>, cap: Option<f32>) -> Val<'k, f32> {
    let Some(cap) = cap else { return dot };
    let log2_e = std::f32::consts::LOG2_E;
    let one = k.constant(1f32);
    let base = dot.fma(0.0, cap * log2_e);
    let score = (one + dot.ex2()).rcp().fma(-2.0 * cap * log2_e, base);
    if cap <= PLAIN_CAP {
        return score;
    }
    let x = dot * (0.5 / log2_e);
    let square = x * x;
    let factor = square.fma(2.0 / 15.0, -1.0 / 3.0).fma(square, one);
    let near = dot * (0.5 * cap) * factor;
    k.select(dot.abs().lt(0.05), near, score)
}
