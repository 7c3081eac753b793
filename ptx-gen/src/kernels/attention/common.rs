//! What the kernels of attention share: the arithmetic of scores, names, and what they refuse.

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
    /// Of the last `window` of `length` keys, in cache blocks of `tokens`.
    pub(super) fn new(
        k: &'k Builder,
        length: Val<'k, u32>,
        window: Option<u32>,
        tokens: u32,
        splits: u32,
    ) -> Division<'k> {
        let low = match window {
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

/// What a query is multiplied with, so that its products are what [`capped`] takes: the scale, and
/// what turns e^x (with a cap the e^2x of tanh) into 2^x.
pub(super) fn factor(scale: f32, cap: Option<f32>) -> f32 {
    let log2_e = std::f32::consts::LOG2_E;
    match cap {
        Some(cap) => scale * 2.0 * log2_e / cap,
        None => scale * log2_e,
    }
}

/// The score in base 2 of a product with a scaled query: `cap * tanh(x)` as
/// `cap * (1 - 2 / (1 + e^2x))`, which saturates without a NaN.
pub(super) fn capped<'k>(k: &'k Builder, dot: Val<'k, f32>, cap: Option<f32>) -> Val<'k, f32> {
    let Some(cap) = cap else { return dot };
    let cap = cap * std::f32::consts::LOG2_E;
    let one = k.constant(1f32);
    (one + dot.ex2()).rcp().fma(-2.0 * cap, cap)
}

/// What in a kernel's name tells apart attention of one shape.
pub(super) fn variant(dim: u32, scale: f32, cap: Option<f32>, window: Option<u32>) -> String {
    let mut name = String::new();
    if scale.to_bits() != (1.0 / (dim as f32).sqrt()).to_bits() {
        name += &format!("_scale{:08x}", scale.to_bits());
    }
    if let Some(cap) = cap {
        name += &format!("_cap{:08x}", cap.to_bits());
    }
    if let Some(window) = window {
        name += &format!("_w{window}");
    }
    name
}

/// Whether heads divide into groups and have a supported dimension.
pub(super) fn check_heads(heads: u32, kv_heads: u32, dim: u32, most: u32) -> Result<(), String> {
    if kv_heads == 0 || heads == 0 || !heads.is_multiple_of(kv_heads) {
        return Err(format!(
            "{heads} query heads over {kv_heads} key/value heads"
        ));
    }
    if dim == 0 || dim > most || !dim.is_multiple_of(16) {
        return Err(format!(
            "heads of {dim} elements; this attention takes multiples of 16 up to {most}"
        ));
    }
    Ok(())
}
