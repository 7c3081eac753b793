//! Numbers of f32 as sums of two of 16 bits, which tensor cores multiply nearly as exactly as f32.
//!
//! `v = high + low`: high is v rounded to 16 bits, low what that leaves, rounded likewise. Of the
//! four products of two such sums three are added in f32, the small ones first; `low * low` is no
//! more than the rounding of low costs.
//!
//! | target | 16 bits | error of a number | range |
//! |---|---|---|---|
//! | sm_80 and later | bf16 | `2^-17` of it | all of f32; infinities become NaN |
//! | sm_75, which multiplies no bf16 | f16 | `2^-22` of it or `2^-25` | what exceeds f16 becomes NaN |
//!
//! With random operands a sum's NMSE is 2e-11 (on sm_75 1e-13), against 1e-7 of operands rounded to
//! f16 once.

use crate::build::{Builder, Val};

/// The terms of an operand: high, low.
pub(in crate::kernels) const TERMS: u32 = 2;

/// The terms of two numbers, each a word with the first number's in its low half.
pub(in crate::kernels) fn split<'k>(
    k: &'k Builder,
    numbers: [Val<'k, f32>; 2],
) -> [Val<'k, u32>; 2] {
    if k.target().has_ampere() {
        return split_bf16(k, numbers);
    }
    split_f16(k, numbers)
}

/// The same of f16, to multiply with other f16; the numbers are within its range.
pub(in crate::kernels) fn split_f16<'k>(
    k: &'k Builder,
    [a, b]: [Val<'k, f32>; 2],
) -> [Val<'k, u32>; 2] {
    let high = k.pack_f16(a, b);
    let [x, y] = high.unpack().map(|v| v.cast::<f32>());
    [high, k.pack_f16(a - x, b - y)].map(|v| v.bitcast())
}

/// The same of bf16; sm_80 and later.
pub(in crate::kernels) fn split_bf16<'k>(
    k: &'k Builder,
    [a, b]: [Val<'k, f32>; 2],
) -> [Val<'k, u32>; 2] {
    let high = k.pack_bf16(a, b).bitcast::<u32>();
    let [x, y] = [high << 16, high & 0xFFFF_0000u32].map(|v| v.bitcast::<f32>());
    [high, k.pack_bf16(a - x, b - y).bitcast()]
}

/// Which terms of two operands are multiplied, in this order; of operands that are one term each,
/// those.
pub(in crate::kernels) fn products(terms: u32) -> &'static [(usize, usize)] {
    match terms {
        1 => &[(0, 0)],
        _ => &[(0, 1), (1, 0), (0, 0)],
    }
}

/// `a * b + c` for tiles of one of `terms` terms: operands that are one term are f16.
pub(in crate::kernels) fn multiply<'k>(
    k: &'k Builder,
    terms: u32,
    a: [Val<'k, u32>; 4],
    b: [Val<'k, u32>; 2],
    c: [Val<'k, f32>; 4],
) -> [Val<'k, f32>; 4] {
    if terms > 1 && k.target().has_ampere() {
        k.mma_bf16(a, b, c)
    } else {
        k.mma_f16_any(a, b, c)
    }
}
