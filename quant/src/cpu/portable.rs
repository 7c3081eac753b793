//! The dot products in plain Rust: what every other path is compared with, and what machines
//! without a path of their own run.
//!
//! The bodies are `inline(always)`, so that the instruction-set modules can compile them again
//! with wider vectors. Always holds: each fixes its order of additions, whatever the vectors.

use super::activations::{BLOCK, SUM_LEN, Token};
use super::unpack::Shape;

/// A row in the common form of [`super::unpack`].
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) q: &'a [u8],
    pub(super) scales: &'a [f32],
    pub(super) mins: &'a [f32],
}

/// Integer dot product of an unpacked row and a quantised token: within a group in integers, over
/// the groups in order with one fused multiply-add each (two where there are minimums).
#[inline(always)]
pub(super) fn dot_groups(shape: Shape, row: Row<'_>, x: Token<'_>) -> f32 {
    if shape.group == 32 {
        dot::<32>(shape, row, x)
    } else {
        dot::<16>(shape, row, x)
    }
}

#[inline(always)]
fn dot<const G: usize>(shape: Shape, row: Row<'_>, x: Token<'_>) -> f32 {
    let mut acc = 0.0f32;
    let groups = row
        .q
        .chunks_exact(G)
        .zip(x.q.chunks_exact(G))
        .zip(x.sums.as_flattened().chunks_exact(G / SUM_LEN));
    for (g, ((q, xq), sums)) in groups.enumerate() {
        let sum: i32 = sums.iter().sum();
        let mut dot = 0i32;
        for (&q, &x) in q.iter().zip(xq) {
            dot += i32::from(q) * i32::from(x);
        }
        dot -= shape.offset * sum;
        let scale = x.scales[g / (BLOCK / G)];
        acc = (dot as f32).mul_add(row.scales[g] * scale, acc);
        if shape.mins {
            acc = (-row.mins[g]).mul_add(scale * sum as f32, acc);
        }
    }
    acc
}

/// Lanes of the f32 dot product.
const LANES: usize = 16;

/// f32 dot product: element `i` goes to lane `i % 16`, lanes are added pairwise at the end.
#[inline(always)]
pub(super) fn dot_f32(w: &[f32], x: &[f32]) -> f32 {
    let mut acc = [0.0f32; LANES];
    let (w_lines, x_lines) = (w.chunks_exact(LANES), x.chunks_exact(LANES));
    let tail = w_lines.remainder().iter().zip(x_lines.remainder());
    for (w, x) in w_lines.zip(x_lines) {
        for l in 0..LANES {
            acc[l] += w[l] * x[l];
        }
    }
    for (acc, (w, x)) in acc.iter_mut().zip(tail) {
        *acc += w * x;
    }
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            acc[l] += acc[l + width];
        }
        width /= 2;
    }
    acc[0]
}
