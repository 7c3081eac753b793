//! The operations that are neither a matrix product nor attention.
//!
//! Rows are independent of each other: a row's result does not depend on how many rows a step has
//! or on how many threads compute it.

use gannet_quant::cpu::{gelu_mul, silu_mul, sum_squares};
use rayon::prelude::*;

use crate::plan::Activation;
use crate::plan::{RopeKind, RopeTable};

/// Values that one thread should have at least: some ten microseconds' work.
const PARALLEL_VALUES: usize = 1 << 14;

/// `out[g] = x[g] * weight / sqrt(mean(x[g]^2) + eps)` for each group as long as the weight.
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let dim = weight.len();
    for (x, out) in x.chunks_exact(dim).zip(out.chunks_exact_mut(dim)) {
        let mean = sum_squares(x) / dim as f64;
        let scale = (1.0 / (mean + f64::from(eps)).sqrt()) as f32;
        for ((o, x), w) in out.iter_mut().zip(x).zip(weight) {
            *o = x * scale * w;
        }
    }
}

/// `out[g] = (x[g] - mean(x[g])) * weight / sqrt(variance(x[g]) + eps) (+ bias)` for each group as
/// long as the weight.
pub(crate) fn layer_norm(
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    eps: f32,
    out: &mut [f32],
) {
    let dim = weight.len();
    for (x, out) in x.chunks_exact(dim).zip(out.chunks_exact_mut(dim)) {
        let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / dim as f64;
        let centred = |x: f32| f64::from(x) - mean;
        let squares = x.iter().map(|&x| centred(x) * centred(x));
        let scale = 1.0 / (squares.sum::<f64>() / dim as f64 + f64::from(eps)).sqrt();
        for ((o, &x), w) in out.iter_mut().zip(x).zip(weight) {
            *o = (centred(x) * scale) as f32 * w;
        }
    }
    if let Some(bias) = bias {
        add_bias(bias, out);
    }
}

/// Rotates every head of every row by the angles of its position. A dead row is copied.
pub(super) fn rope(
    lengths: &[u32],
    x: &[f32],
    spec: &RopeTable,
    table: &[f32],
    num_heads: usize,
    head_dim: usize,
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

/// `out = act(gate) * up`.
pub(super) fn glu(act: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
    match act {
        Activation::Silu => silu_mul(gate, up, out),
        Activation::Gelu => gelu_mul(gate, up, out),
    }
}

/// `out = act(x)`, the bits of a gated unit whose other half is one.
pub(super) fn activate(act: Activation, x: &[f32], out: &mut [f32]) {
    const ONES: [f32; 64] = [1.0; 64];
    for (x, out) in x.chunks(ONES.len()).zip(out.chunks_mut(ONES.len())) {
        glu(act, x, &ONES[..x.len()], out);
    }
}

/// `out = a + b`.
pub(super) fn add(a: &[f32], b: &[f32], out: &mut [f32]) {
    for ((o, a), b) in out.iter_mut().zip(a).zip(b) {
        *o = a + b;
    }
}

/// `cap * tanh(x / cap)`. Of an infinite sum not even the sign is known: NaN.
pub(super) fn softcap(x: f32, cap: f32) -> f32 {
    x * 0.0 + cap * (x / cap).tanh()
}

/// `out = f(x)`, element by element.
pub(super) fn map(x: &[f32], out: &mut [f32], f: impl Fn(f32) -> f32) {
    for (o, x) in out.iter_mut().zip(x) {
        *o = f(*x);
    }
}

/// `out[r] += bias` for each row.
pub(super) fn add_bias(bias: &[f32], out: &mut [f32]) {
    for row in out.chunks_exact_mut(bias.len()) {
        row.iter_mut().zip(bias).for_each(|(o, b)| *o += b);
    }
}

/// Calls `work` with pieces of `out`, whole rows of `cols` each, and where in `out` they start;
/// on several threads if there is enough to do.
pub(super) fn by_rows(out: &mut [f32], cols: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    if out.len() < 2 * PARALLEL_VALUES {
        return work(0, out);
    }
    let piece = PARALLEL_VALUES.next_multiple_of(cols);
    let pieces = out.par_chunks_mut(piece).enumerate();
    pieces.for_each(|(i, out)| work(i * piece, out));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::RopeFactors;

    #[test]
    fn rms_norm_groups_are_independent() {
        let mut out = [0.0; 4];
        rms_norm(&[3.0, 4.0, 0.0, 0.0], &[1.0, 2.0], 1e-6, &mut out);
        let scale = 1.0 / (12.5f32 + 1e-6).sqrt();
        assert_eq!(out, [3.0 * scale, 8.0 * scale, 0.0, 0.0]);
    }

    #[test]
    fn layer_norm_takes_the_mean_away_before_it_squares() {
        let (x, weight, bias) = ([10_001.0, 9_999.0, 5.0, 5.0], [1.0, 2.0], [0.5, 0.25]);
        let mut out = [0.0; 4];
        layer_norm(&x, &weight, None, 1e-5, &mut out);
        let scale = (1.0 / (1.0 + f64::from(1e-5f32)).sqrt()) as f32;
        assert_eq!(out, [scale, -2.0 * scale, 0.0, 0.0]);
        layer_norm(&x, &weight, Some(&bias), 1e-5, &mut out);
        assert_eq!(out, [scale + 0.5, -2.0 * scale + 0.25, 0.5, 0.25]);
    }

    #[test]
    fn an_activation_alone_is_that_of_a_gate() {
        let x: Vec<f32> = (0..150).map(|i| i as f32 / 16.0 - 5.0).collect();
        let (mut alone, mut gated) = (vec![0.0; 150], vec![0.0; 150]);
        for act in [Activation::Silu, Activation::Gelu] {
            activate(act, &x, &mut alone);
            glu(act, &x, &[1.0; 150], &mut gated);
            assert_eq!(alone, gated, "{act:?}");
        }
        // Gelu last: `gelu(1)` (x = 96 / 16 - 5).
        assert!((alone[96] - 0.841_192).abs() < 1e-6, "{}", alone[96]);
    }

    #[test]
    fn both_rope_kinds_rotate_their_pairs() {
        let spec = |kind| RopeTable {
            kind,
            rot_dim: 4,
            base: 1e4,
            scale: 1.0,
            yarn: None,
            magnitude: 1.0,
            factors: RopeFactors::Ones,
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
            1,
            5,
            &mut out,
        );
        assert_eq!(out, [-2.0, 1.0, 3.0, 4.0, 9.0]);
        rope(&[2], &x, &spec(RopeKind::Neox), &table, 1, 5, &mut out);
        assert_eq!(out, [-3.0, 2.0, 1.0, 4.0, 9.0]);
    }
}
