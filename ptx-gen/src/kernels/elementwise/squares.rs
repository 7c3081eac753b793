//! What norms divide by: `1 / sqrt(mean(x^2) + eps)`, of any x that f32 holds.

use crate::build::{Builder, Val};

/// Numbers whose squares overflow are squared as so much less: the largest then is `2^32`.
const DOWN: f32 = f32::from_bits((127 - 96) << 23);

/// The factor of a row of `dim` elements. `share` gives a thread's share of the sum of the squares of
/// the row times a factor; the block runs it once, and a second time only where the sum overflows. Holds
/// barriers.
pub(super) fn inverse_root<'k>(
    k: &'k Builder,
    dim: u32,
    eps: f32,
    share: impl Fn(Option<f32>) -> Val<'k, f32>,
) -> Val<'k, f32> {
    let mean = |by| k.block_sum(share(by)) * (1.0 / dim as f32);
    let first = mean(None);
    let scale = k.var((first + eps).rsqrt());
    // Every thread has the same sum.
    let overflows = k.assume_uniform(!first.lt(f32::INFINITY));
    k.if_(overflows, || {
        // An epsilon is nothing beside such numbers.
        scale.set(mean(Some(DOWN)).rsqrt() * DOWN);
    });
    scale.get()
}

/// `sum + (v * by)^2`.
pub(super) fn add_square<'k>(sum: Val<'k, f32>, v: Val<'k, f32>, by: Option<f32>) -> Val<'k, f32> {
    let v = by.map_or(v, |by| v * by);
    v.fma(v, sum)
}
