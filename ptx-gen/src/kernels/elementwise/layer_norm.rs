//! Layer norm: `out[r, i] = (x[r, i] - mean(x[r, ..])) * w[i] / sqrt(variance(x[r, ..]) + eps)
//! (+ bias[i])`, where the variance is the mean square of the differences from the mean.
//!
//! | parameter | type | shape |
//! |---|---|---|
//! | x | f32 | `[rows, dim]` |
//! | w | f32 | `[dim]` |
//! | out | f32, may be x | `[rows, dim]` |
//! | bias, if the spec says so | f32 | `[dim]` |
//!
//! Grid `[rows, 1, 1]`. Two passes: the mean, then the squares of differences from it, since squares
//! of the elements themselves would cancel where the mean is large. Rows of up to 16,384 elements stay
//! in registers; later readings of longer ones come from L1. Moves `8 * rows * dim + 4 * dim` bytes,
//! and the bias.

use super::squares::{add_square, inverse_root};
use crate::build::{Builder, Ptr, Val};
use crate::ir::{Kernel, Param};
use crate::target::Target;

/// A layer norm of rows of `dim` elements.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerNormSpec {
    /// Elements of a row.
    pub dim: u32,
    /// Added to the variance.
    pub eps: f32,
    /// Whether a bias is added.
    pub bias: bool,
    /// GPU to write for.
    pub target: Target,
}

/// Vectors of a row that a thread keeps in registers; longer rows are read three times.
const RESIDENT: u32 = 4;

impl LayerNormSpec {
    /// Elements a thread handles at once.
    fn width(&self) -> u32 {
        if self.dim.is_multiple_of(4) { 4 } else { 1 }
    }

    fn threads(&self) -> u32 {
        (self.dim / self.width())
            .next_multiple_of(32)
            .clamp(32, 1024)
    }

    /// Vectors of a row that a thread has.
    fn turns(&self) -> u32 {
        self.dim.div_ceil(self.threads() * self.width())
    }

    /// Blocks for `rows` rows.
    pub fn grid(&self, rows: u32) -> [u32; 3] {
        [rows, 1, 1]
    }

    /// Bytes moved for `rows` rows.
    pub fn bytes(&self, rows: u64) -> u64 {
        (8 * rows + 4 + 4 * u64::from(self.bias)) * u64::from(self.dim)
    }

    /// The parameters in launch order.
    pub fn params(&self) -> Vec<Param> {
        let mut params = vec![
            Param::input::<f32>("x"),
            Param::input::<f32>("w"),
            Param::output::<f32>("out"),
        ];
        params.extend(self.bias.then(|| Param::input::<f32>("bias")));
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
        let LayerNormSpec {
            dim,
            eps,
            bias,
            target,
        } = *self;
        let (suffix, extra) = match bias {
            true => ("_bias", " + bias[i]"),
            false => ("", ""),
        };
        Kernel::new(format!("layer_norm_{dim}{suffix}"), target, |k| {
            k.doc(format!(
                "out[r, i] = (x[r, i] - mean(x[r, ..])) * w[i] / sqrt(variance(x[r, ..]) + \
                 {eps:e}){extra}, i < {dim}.\nout may be x. Grid [rows, 1, 1]."
            ));
            k.block_size(self.threads());
            k.declare(self.params());
            let (x, weight) = (k.bind::<f32>("x"), k.bind::<f32>("w").read_only());
            let out = k.bind::<f32>("out");
            let at = k.block_x() * dim;
            let row = Row {
                x: x.offset(at),
                weight,
                out: out.offset(at),
                bias: k.bind_if::<f32>("bias").map(Ptr::read_only),
            };
            if self.turns() <= RESIDENT {
                self.resident::<W>(k, &row);
            } else {
                self.streaming::<W>(k, &row);
            }
        })
    }

    /// The mean of a row whose shares of threads these are.
    fn mean<'k>(&self, k: &'k Builder, share: Val<'k, f32>) -> Val<'k, f32> {
        k.block_sum(share) * (1.0 / self.dim as f32)
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
                (at, exists, row.affine::<W>(at))
            })
            .collect();
        k.wait_for_predecessor();
        let counted = |values: [Val<'k, f32>; W], exists: Option<_>| match exists {
            Some(exists) => values.map(|v| k.select(exists, v, 0f32)),
            None => values,
        };
        let zero = || k.constant(0f32);
        let values: Vec<[Val<'k, f32>; W]> = (parts.iter())
            .map(|(at, exists, _)| counted(row.x.load_vec::<W>(*at), *exists))
            .collect();
        let sum = values.iter().flatten().fold(zero(), |sum, v| sum + *v);
        let mean = self.mean(k, sum);
        let centred: Vec<[Val<'k, f32>; W]> = (parts.iter().zip(values))
            .map(|((_, exists, _), values)| counted(values.map(|v| v - mean), *exists))
            .collect();
        let share = |by| {
            let squares = centred.iter().flatten();
            squares.fold(zero(), |sum, v| add_square(sum, *v, by))
        };
        let scale = inverse_root(k, dim, self.eps, share);
        for ((at, exists, affine), values) in parts.into_iter().zip(centred) {
            let normed = affine.apply(values.map(|v| v * scale));
            match exists {
                Some(exists) => k.if_(exists, || row.out.store_vec(at, normed)),
                None => row.out.store_vec(at, normed),
            }
        }
    }

    /// The norm of a row that is read again for each pass.
    fn streaming<'k, const W: usize>(&self, k: &'k Builder, row: &Row<'k>) {
        let each = |f: &dyn Fn(Val<'k, u32>)| {
            let width = W as u32;
            k.for_each(k.thread_x() * width, self.dim, k.threads() * width, f);
        };
        let sum = k.var(0f32);
        each(&|i| {
            for v in row.x.load_vec::<W>(i) {
                sum.update(|s| s + v);
            }
        });
        let mean = self.mean(k, sum.get());
        let share = |by| {
            let squares = k.var(0f32);
            each(&|i| {
                for v in row.x.load_vec::<W>(i) {
                    squares.update(|s| add_square(s, v - mean, by));
                }
            });
            squares.get()
        };
        let scale = inverse_root(k, self.dim, self.eps, share);
        each(&|i| {
            let values = row.x.load_vec::<W>(i).map(|v| (v - mean) * scale);
            row.out.store_vec(i, row.affine::<W>(i).apply(values));
        });
    }
}

/// A row, and where it goes.
struct Row<'k> {
    x: Ptr<'k, f32>,
    weight: Ptr<'k, f32>,
    out: Ptr<'k, f32>,
    bias: Option<Ptr<'k, f32>>,
}

impl<'k> Row<'k> {
    /// Weights and biases of neighbouring elements.
    fn affine<const W: usize>(&self, at: Val<'k, u32>) -> Affine<'k, W> {
        Affine {
            weight: self.weight.load_vec::<W>(at),
            bias: self.bias.map(|bias| bias.load_vec::<W>(at)),
        }
    }
}

/// What becomes of neighbouring elements once they are normed.
struct Affine<'k, const W: usize> {
    weight: [Val<'k, f32>; W],
    bias: Option<[Val<'k, f32>; W]>,
}

impl<'k, const W: usize> Affine<'k, W> {
    fn apply(&self, values: [Val<'k, f32>; W]) -> [Val<'k, f32>; W] {
        std::array::from_fn(|j| match self.bias {
            Some(bias) => values[j].fma(self.weight[j], bias[j]),
            None => values[j] * self.weight[j],
        })
    }
}

pub(in crate::kernels) fn representative(target: Target) -> Vec<LayerNormSpec> {
    [(768, true), (99, false), (20_480, true)]
        .map(|(dim, bias)| LayerNormSpec {
            dim,
            eps: 1e-5,
            bias,
            target,
        })
        .to_vec()
}
