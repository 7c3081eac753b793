//! Picks rows: `out[r] = x[indices[r]]`.
//!
//! | parameter | type | shape |
//! |---|---|---|
//! | x | f32 | `[_, dim]` |
//! | indices | u32 | `[rows]` |
//! | out | f32 | `[rows, dim]` |
//!
//! Grid `[rows, 1, 1]`. Moves `8 * rows * dim` bytes.

use crate::ir::{Kernel, Param};
use crate::target::Target;

/// A gather of rows of `dim` elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GatherRowsSpec {
    /// GPU to write for.
    pub target: Target,
    /// Elements of a row.
    pub dim: u32,
}

impl GatherRowsSpec {
    /// Blocks for `rows` rows.
    pub fn grid(&self, rows: u32) -> [u32; 3] {
        [rows, 1, 1]
    }

    /// Bytes moved for `rows` rows.
    pub fn bytes(&self, rows: u64) -> u64 {
        8 * rows * u64::from(self.dim)
    }

    /// The parameters in launch order.
    pub fn params(&self) -> Vec<Param> {
        vec![
            Param::input::<f32>("x"),
            Param::input::<u32>("indices"),
            Param::output::<f32>("out"),
        ]
    }

    /// The kernel, named after its dimension.
    pub fn kernel(&self) -> Kernel {
        let GatherRowsSpec { target, dim } = *self;
        Kernel::new(format!("gather_rows_{dim}"), target, |k| {
            k.doc(format!(
                "out[r, i] = x[indices[r], i], i < {dim}. Grid [rows, 1, 1]."
            ));
            k.block_size(dim.next_multiple_of(32).clamp(32, 256));
            k.declare(self.params());
            let (x, indices) = (k.bind::<f32>("x"), k.bind::<u32>("indices"));
            let out = k.bind::<f32>("out");
            let from = indices.load(k.block_x()) * dim;
            let to = k.block_x() * dim;
            k.for_each(k.thread_x(), dim, k.threads(), |i| {
                out.store(to + i, x.load(from + i))
            });
        })
    }
}

pub(in crate::kernels) fn representative(target: Target) -> Vec<GatherRowsSpec> {
    vec![GatherRowsSpec { target, dim: 256 }]
}
