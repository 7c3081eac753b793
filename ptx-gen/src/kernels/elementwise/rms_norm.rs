//! Root-mean-square norm: `out[r, i] = x[r, i] * w[i] / sqrt(mean(x[r, ..]^2) + eps)
//! (+ residual[r, i])`.
//!
//! | parameter | type | shape |
//! |---|---|---|
//! | x | f32 | `[rows, dim]` |
//! | w | f32 | `[dim]` |
//! | out | f32, may be x or residual | `[rows, dim]` |
//! | residual, if the spec says so | f32 | `[rows, dim]` |
//!
//! Grid `[rows, 1, 1]`. Rows of up to 16,384 elements stay in registers; the second reading of longer
//! ones comes from L1. Moves `8 * rows * dim + 4 * dim`
//! bytes. Norms of heads are rows of `dim = head_dim`.

use super::squares::{add_square, inverse_root};
use crate::build::{Builder, Ptr, Val};
use crate::ir::{Kernel, Param};
use crate::target::Target;

/// A norm of rows of `dim` elements.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RmsNormSpec {
    /// Elements of a row.
    pub dim: u32,
    /// Added to the mean square.
    pub eps: f32,
    /// Whether a residual is added.
    pub residual: bool,
    /// GPU to write for.
    pub target: Target,
}

/// Vectors of a row that a thread keeps in registers; of longer rows it reads them twice.
const RESIDENT: u32 = 4;

impl RmsNormSpec {
    /// Elements a thread handles at once.
    fn width(&self) -> u32 {
        if self.dim.is_multiple_of(4) { 4 } else { 1 }
    }

    fn threads(&self) -> u32 {
        (self.dim / self.width())
            .next_multiple_of(32)
            .clamp(32, 1024)
    }

    /// Blocks for `rows` rows.
    pub fn grid(&self, rows: u32) -> [u32; 3] {
        [rows, 1, 1]
    }

    /// Bytes moved for `rows` rows.
    pub fn bytes(&self, rows: u64) -> u64 {
        let moved = 8 + 4 * u64::from(self.residual);
        moved * rows * u64::from(self.dim) + 4 * u64::from(self.dim)
    }

    /// The parameters in launch order.
    pub fn params(&self) -> Vec<Param> {
        let mut params = vec![
            Param::input::<f32>("x"),
            Param::input::<f32>("w"),
            Param::output::<f32>("out"),
        ];
        params.extend(self.residual.then(|| Param::input::<f32>("residual")));
        params
    }

    /// The kernel, named after its dimension.
    pub fn kernel(&self) -> Kernel {
        if self.width() == 4 {
            self.write::<4>()
        } else {
            self.write::<1>()
        }
    }

    fn write<const W: usize>(&self) -> Kernel {
        let RmsNormSpec {
            dim,
            eps,
            residual,
            target,
        } = *self;
        let width = W as u32;
        let (suffix, extra, places) = match residual {
            true => ("_add", " + residual[r, i]", "x or residual"),
            false => ("", "", "x"),
        };
        Kernel::new(format!("rms_norm_{dim}{suffix}"), target, |k| {
            k.doc(format!(
                "out[r, i] = x[r, i] * w[i] / sqrt(mean(x[r, ..]^2) + {eps:e}){extra}, i < {dim}.\n\
                 out may be {places}. Grid [rows, 1, 1]."
            ));
            k.block_size(self.threads());
            k.declare(self.params());
            let (x, weight) = (k.bind::<f32>("x"), k.bind::<f32>("w").read_only());
            let out = k.bind::<f32>("out");
            let row = k.block_x() * dim;
            let row = Row {
                x: x.offset(row),
                weight,
                out: out.offset(row),
                residual: k.bind_if::<f32>("residual").map(|r| r.offset(row)),
            };
            if self.turns() <= RESIDENT {
                return self.resident::<W>(k, &row);
            }

            let share = |by| {
                let sum = k.var(0f32);
                k.for_each(k.thread_x() * width, dim, k.threads() * width, |i| {
                    for v in row.x.load_vec::<W>(i) {
                        sum.update(|s| add_square(s, v, by));
                    }
                });
                sum.get()
            };
            let scale = inverse_root(k, dim, eps, share);
            k.for_each(k.thread_x() * width, dim, k.threads() * width, |i| {
                let (v, w) = (row.x.load_vec::<W>(i), row.weight.load_vec::<W>(i));
                row.store::<W>(i, std::array::from_fn(|j| v[j] * scale * w[j]));
            });
        })
    }
}

/// A row, and where it goes.
struct Row<'k> {
    x: Ptr<'k, f32>,
    weight: Ptr<'k, f32>,
    out: Ptr<'k, f32>,
    residual: Option<Ptr<'k, f32>>,
}

impl<'k> Row<'k> {
    /// Stores neighbouring elements, once the residual is added.
    fn store<const W: usize>(&self, at: Val<'k, u32>, normed: [Val<'k, f32>; W]) {
        let residual = self.residual.map(|residual| residual.load_vec::<W>(at));
        let sum = residual.map_or(normed, |r| std::array::from_fn(|j| normed[j] + r[j]));
        self.out.store_vec(at, sum);
    }
}

impl RmsNormSpec {
    /// Vectors of a row that a thread has.
    fn turns(&self) -> u32 {
        self.dim.div_ceil(self.threads() * self.width())
    }

    /// The norm of a row that stays in registers. Weights are nobody's output: they are on their
    /// way before the row exists.
    fn resident<'k, const W: usize>(&self, k: &'k Builder, row: &Row<'k>) {
        let (dim, width) = (self.dim, W as u32);
        // Past the end the last elements are read again, and count as zeros.
        let parts: Vec<_> = (0..self.turns())
            .map(|turn| {
                let i = k.thread_x() * width + turn * (k.threads() * width);
                let ragged = (turn + 1) * k.threads() * width > dim;
                let exists = ragged.then(|| i.lt(dim));
                let at = if ragged { i.min(dim - width) } else { i };
                (at, exists, row.weight.load_vec::<W>(at))
            })
            .collect();
        k.wait_for_predecessor();
        let values: Vec<_> = parts
            .iter()
            .map(|(at, exists, _)| {
                let x = row.x.load_vec::<W>(*at);
                exists.map_or(x, |exists| x.map(|v| k.select(exists, v, 0f32)))
            })
            .collect();
        let share = |by| {
            let squares = values.iter().flatten();
            squares.fold(k.constant(0f32), |sum, v| add_square(sum, *v, by))
        };
        let scale = inverse_root(k, dim, self.eps, share);
        for ((at, exists, w), v) in parts.into_iter().zip(values) {
            let normed = std::array::from_fn::<_, W, _>(|j| v[j] * scale * w[j]);
            match exists {
                Some(exists) => k.if_(exists, || row.store(at, normed)),
                None => row.store(at, normed),
            }
        }
    }
}

pub(in crate::kernels) fn representative(target: Target) -> Vec<RmsNormSpec> {
    [(576, false), (128, false), (99, false), (2304, true)]
        .map(|(dim, residual)| RmsNormSpec {
            dim,
            eps: 1e-5,
            residual,
            target,
        })
        .to_vec()
}
