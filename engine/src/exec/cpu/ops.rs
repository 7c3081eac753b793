//! The plain meaning of every operation that is not a matrix product.
//!
//! Rows are independent of each other: a row's result does not depend on how many rows a step has
//! or on how many threads compute it.

use rayon::prelude::*;

use crate::exec::Step;
use crate::kv::BLOCK_TOKENS;
use crate::plan::{Activation, AttentionSpec, KvShape};
use crate::rope::{RopeKind, RopeSpec};

/// Below this many multiply-adds a step's attention is not worth waking other threads for.
const PARALLEL_WORK: usize = 1 << 17;

/// `out[g] = x[g] * weight / sqrt(mean(x[g]^2) + eps)` for each group as long as the weight.
pub(super) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let dim = weight.len();
    for (x, out) in x.chunks_exact(dim).zip(out.chunks_exact_mut(dim)) {
        let sum: f64 = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
        let scale = (1.0 / (sum / dim as f64 + f64::from(eps)).sqrt()) as f32;
        for ((o, x), w) in out.iter_mut().zip(x).zip(weight) {
            *o = x * scale * w;
        }
    }
}

/// Rotates every head of every row by the angles of its position. A dead row is copied.
pub(super) fn rope(
    lengths: &[u32],
    x: &[f32],
    spec: &RopeSpec,
    table: &[f32],
    (num_heads, head_dim): (usize, usize),
    out: &mut [f32],
) {
    out.copy_from_slice(x);
    let (row, pairs) = (num_heads * head_dim, spec.rot_dim / 2);
    for (&length, out) in lengths.iter().zip(out.chunks_exact_mut(row)) {
        let Some(position) = (length as usize).checked_sub(1) else {
            continue;
        };
        let angles = &table[position * spec.rot_dim..][..spec.rot_dim];
        for head in out.chunks_exact_mut(head_dim) {
            for i in 0..pairs {
                let (a, b) = match spec.kind {
                    RopeKind::Interleaved => (2 * i, 2 * i + 1),
                    RopeKind::Neox => (i, i + pairs),
                };
                let (cos, sin) = (angles[2 * i], angles[2 * i + 1]);
                let (x0, x1) = (head[a], head[b]);
                head[a] = x0 * cos - x1 * sin;
                head[b] = x0 * sin + x1 * cos;
            }
        }
    }
}

/// Copies the step's keys (or values) into the blocks of their positions.
pub(super) fn kv_write(step: &Step<'_>, kv: KvShape, x: &[f32], pool: &mut [f32]) {
    let row = kv.num_kv_heads * kv.head_dim;
    for (t, x) in x.chunks_exact(row).enumerate() {
        let Some(position) = (step.lengths[t] as usize).checked_sub(1) else {
            continue;
        };
        let (block, token) = step.table.locate(step.slots[t] as usize, position);
        for (head, x) in x.chunks_exact(kv.head_dim).enumerate() {
            let at = ((block * kv.num_kv_heads + head) * BLOCK_TOKENS + token) * kv.head_dim;
            pool[at..at + kv.head_dim].copy_from_slice(x);
        }
    }
}

/// Causal attention: softmax(scale * q k^T) v over the keys that each row may see.
pub(super) fn attention(
    step: &Step<'_>,
    spec: &AttentionSpec,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &mut [f32],
) {
    let row = spec.num_heads * spec.head_dim;
    let keys: usize = step.lengths.iter().map(|&l| l as usize).sum();
    let one = |(t, out): (usize, &mut [f32])| {
        let mut scores = Vec::new();
        let q = &q[t * row..][..row];
        for (head, out) in out.chunks_exact_mut(spec.head_dim).enumerate() {
            let q = &q[head * spec.head_dim..][..spec.head_dim];
            attend(step, spec, (t, head), q, (k, v), &mut scores, out);
        }
    };
    if keys * row < PARALLEL_WORK {
        out.chunks_exact_mut(row).enumerate().for_each(one);
    } else {
        out.par_chunks_exact_mut(row).enumerate().for_each(one);
    }
}

/// One head of one row.
fn attend(
    step: &Step<'_>,
    spec: &AttentionSpec,
    (t, head): (usize, usize),
    q: &[f32],
    (k, v): (&[f32], &[f32]),
    scores: &mut Vec<f32>,
    out: &mut [f32],
) {
    let kv_head = head / (spec.num_heads / spec.num_kv_heads);
    let length = step.lengths[t] as usize;
    let first = spec.window.map_or(0, |w| length.saturating_sub(w as usize));
    let at = |position: usize| {
        let (block, token) = step.table.locate(step.slots[t] as usize, position);
        ((block * spec.num_kv_heads + kv_head) * BLOCK_TOKENS + token) * spec.head_dim
    };
    scores.clear();
    scores.extend((first..length).map(|p| {
        let score = dot(q, &k[at(p)..][..spec.head_dim]) * spec.scale;
        spec.softcap.map_or(score, |cap| cap * (score / cap).tanh())
    }));
    out.fill(0.0);
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0f64;
    for (p, score) in (first..length).zip(scores.iter()) {
        let weight = (score - max).exp();
        sum += f64::from(weight);
        let v = &v[at(p)..][..spec.head_dim];
        out.iter_mut().zip(v).for_each(|(o, v)| *o += weight * v);
    }
    if length > 0 {
        let inverse = (1.0 / sum) as f32;
        out.iter_mut().for_each(|o| *o *= inverse);
    }
}

/// Dot product with 16 independent sums, in a fixed order.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0f32; LANES];
    let (mut a_chunks, mut b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    for (a, b) in (&mut a_chunks).zip(&mut b_chunks) {
        for i in 0..LANES {
            sums[i] += a[i] * b[i];
        }
    }
    let tail = a_chunks
        .remainder()
        .iter()
        .zip(b_chunks.remainder())
        .map(|(a, b)| a * b);
    sums.iter().copied().chain(tail).sum()
}

/// `out = act(gate) * up`.
pub(super) fn glu(act: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((o, g), u) in out.iter_mut().zip(gate).zip(up) {
        *o = match act {
            Activation::Silu => g / (1.0 + (-g).exp()) * u,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rms_norm_groups_are_independent() {
        let mut out = [0.0; 4];
        rms_norm(&[3.0, 4.0, 0.0, 0.0], &[1.0, 2.0], 1e-6, &mut out);
        let scale = 1.0 / (12.5f32 + 1e-6).sqrt();
        assert_eq!(out, [3.0 * scale, 8.0 * scale, 0.0, 0.0]);
    }

    #[test]
    fn both_rope_kinds_rotate_their_pairs() {
        let spec = |kind| RopeSpec {
            kind,
            rot_dim: 4,
            base: 1e4,
            scale: 1.0,
            factors: vec![],
        };
        // A quarter turn for pair 0, nothing for pair 1, at position 1.
        let table = [1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0];
        let x = [1.0, 2.0, 3.0, 4.0, 9.0];
        let mut out = [0.0; 5];
        rope(
            &[2],
            &x,
            &spec(RopeKind::Interleaved),
            &table,
            (1, 5),
            &mut out,
        );
        assert_eq!(out, [-2.0, 1.0, 3.0, 4.0, 9.0]);
        rope(&[2], &x, &spec(RopeKind::Neox), &table, (1, 5), &mut out);
        assert_eq!(out, [-3.0, 2.0, 1.0, 4.0, 9.0]);
    }
}
