//! What stands between two blocks of a layer with norms on both sides, in one pass over a row:
//! `out[r] = residual[r] + norm(x[r]) * w`, then `next[r] = norm(out[r]) * w_next`, where
//! `norm(v) = v / sqrt(mean(v^2) + eps)`.
//!
//! | parameter | type | shape |
//! |---|---|---|
//! | x, residual | f32 | `[rows, dim]` |
//! | w, w_next | f32 | `[dim]` |
//! | out | f32, may be x or residual | `[rows, dim]` |
//! | next | f32, may be x | `[rows, dim]` |
//!
//! Grid `[rows, 1, 1]`. A row stays in registers: `dim` is a multiple of 4, at most 16,384. Moves
//! `16 * rows * dim + 8 * dim` bytes.

use super::squares::{add_square, inverse_root};
use crate::build::{Builder, Val};
use crate::ir::{Kernel, Param};
use crate::target::Target;

/// A norm, a sum and a norm of rows of `dim` elements.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormAddNormSpec {
    /// Elements of a row.
    pub dim: u32,
    /// Added to both mean squares.
    pub eps: f32,
    /// GPU to write for.
    pub target: Target,
}

/// Elements that a thread handles at once.
const WIDTH: u32 = 4;
/// The longest row, whose elements 1,024 threads keep in registers.
const LONGEST: u32 = 4 * 1024 * WIDTH;

impl NormAddNormSpec {
    /// Whether rows of that length are supported.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        if self.dim == 0 || self.dim > LONGEST || !self.dim.is_multiple_of(WIDTH) {
            return Err(format!(
                "rows of {}; multiples of {WIDTH} up to {LONGEST} are supported",
                self.dim
            ));
        }
        Ok(())
    }

    fn threads(&self) -> u32 {
        (self.dim / WIDTH).next_multiple_of(32).clamp(32, 1024)
    }

    /// Blocks for `rows` rows.
    pub fn grid(&self, rows: u32) -> [u32; 3] {
        [rows, 1, 1]
    }

    /// Bytes moved for `rows` rows.
    pub fn bytes(&self, rows: u64) -> u64 {
        (16 * rows + 8) * u64::from(self.dim)
    }

    /// The parameters in launch order.
    pub fn params(&self) -> Vec<Param> {
        vec![
            Param::input::<f32>("x"),
            Param::input::<f32>("w"),
            Param::input::<f32>("residual"),
            Param::input::<f32>("w_next"),
            Param::output::<f32>("out"),
            Param::output::<f32>("next"),
        ]
    }

    /// The kernel, named after its dimension.
    pub fn kernel(&self) -> Kernel {
        let NormAddNormSpec { dim, eps, target } = *self;
        Kernel::new(format!("norm_add_norm_{dim}"), target, |k| {
            k.doc(format!(
                "out[r, i] = residual[r, i] + x[r, i] * w[i] / sqrt(mean(x[r, ..]^2) + {eps:e}), \
                 next[r, i] = out[r, i] * w_next[i] / sqrt(mean(out[r, ..]^2) + {eps:e}), i < {dim}.\n\
                 Grid [rows, 1, 1]."
            ));
            k.block_size(self.threads());
            k.declare(self.params());
            self.write(k);
        })
    }

    fn write<'k>(&self, k: &'k Builder) {
        const W: usize = WIDTH as usize;
        let dim = self.dim;
        let row = k.block_x() * dim;
        let [x, residual, out, next] =
            ["x", "residual", "out", "next"].map(|name| k.bind::<f32>(name).offset(row));
        let [w, w_next] = ["w", "w_next"].map(|name| k.bind::<f32>(name).read_only());
        let turns = dim.div_ceil(self.threads() * WIDTH);
        // Past the end the last elements are read again, and count as zeros. Weights are nobody's
        // output: they are on their way before the row exists.
        let parts: Vec<_> = (0..turns)
            .map(|turn| {
                let i = k.thread_x() * WIDTH + turn * (k.threads() * WIDTH);
                let ragged = (turn + 1) * k.threads() * WIDTH > dim;
                let exists = ragged.then(|| i.lt(dim));
                let at = if ragged { i.min(dim - WIDTH) } else { i };
                let weights = (w.load_vec::<W>(at), w_next.load_vec::<W>(at));
                (at, exists, weights)
            })
            .collect();
        k.wait_for_predecessor();
        let scale = |values: &[[Val<'k, f32>; W]]| {
            inverse_root(k, dim, self.eps, |by| {
                let squares = values.iter().flatten();
                squares.fold(k.constant(0f32), |sum, v| add_square(sum, *v, by))
            })
        };
        let loaded: Vec<_> = parts
            .iter()
            .map(|(at, exists, _)| {
                let (x, r) = (x.load_vec::<W>(*at), residual.load_vec::<W>(*at));
                match exists {
                    Some(exists) => (
                        x.map(|v| k.select(*exists, v, 0f32)),
                        r.map(|v| k.select(*exists, v, 0f32)),
                    ),
                    None => (x, r),
                }
            })
            .collect();
        let first = scale(&loaded.iter().map(|(x, _)| *x).collect::<Vec<_>>());
        let sums: Vec<[_; W]> = (parts.iter().zip(&loaded))
            .map(|((_, _, (w, _)), (x, r))| std::array::from_fn(|j| x[j] * first * w[j] + r[j]))
            .collect();
        let second = scale(&sums);
        for ((at, exists, (_, w)), sum) in parts.into_iter().zip(sums) {
            let store = || {
                out.store_vec(at, sum);
                next.store_vec(
                    at,
                    std::array::from_fn::<_, W, _>(|j| sum[j] * second * w[j]),
                );
            };
            match exists {
                Some(exists) => k.if_(exists, store),
                None => store(),
            }
        }
    }
}

pub(in crate::kernels) fn representative(target: Target) -> Vec<NormAddNormSpec> {
    [2560, 4100]
        .map(|dim| NormAddNormSpec {
            dim,
            eps: 1e-6,
            target,
        })
        .to_vec()
}
