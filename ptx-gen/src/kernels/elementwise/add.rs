//! Element-wise sum: `out[i] = x[i] + residual[i]` for `i < n`.
//!
//! | parameter | type | shape |
//! |---|---|---|
//! | x, residual | f32, 16-byte aligned | `[n]` |
//! | out | f32, 16-byte aligned; may be `x` or `residual` | `[n]` |
//! | n | u32 | elements |
//!
//! Grid `[ceil(n / 1024), 1, 1]`; four neighbouring elements a thread. Moves 12n bytes.

use crate::ir::{Kernel, Param};
use crate::target::Target;

/// The sum of two vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddSpec {
    /// GPU to write for.
    pub target: Target,
}

const THREADS: u32 = 256;
const PER_THREAD: u32 = 4;

impl AddSpec {
    /// Blocks for `n` elements.
    pub fn grid(&self, n: u32) -> [u32; 3] {
        [n.div_ceil(THREADS * PER_THREAD), 1, 1]
    }

    /// Bytes moved for `n` elements.
    pub fn bytes(&self, n: u64) -> u64 {
        12 * n
    }

    /// The parameters in launch order.
    pub fn params(&self) -> Vec<Param> {
        vec![
            Param::input::<f32>("x"),
            Param::input::<f32>("residual"),
            Param::output::<f32>("out"),
            Param::scalar::<u32>("n"),
        ]
    }

    /// The kernel, named `add`.
    pub fn kernel(&self) -> Kernel {
        Kernel::new("add", self.target, |k| {
            k.doc("out[i] = x[i] + residual[i], i < n; out may be either. Grid [ceil(n / 1024), 1, 1].");
            k.block_size(THREADS);
            k.declare(self.params());
            let (x, residual) = (k.bind::<f32>("x"), k.bind::<f32>("residual"));
            let out = k.bind::<f32>("out");
            let n = k.bind_value::<u32>("n");
            let i = (k.block_x() * THREADS + k.thread_x()) * PER_THREAD;
            k.if_else(
                (i + (PER_THREAD - 1)).lt(n),
                || {
                    let (a, b) = (x.load_vec4(i), residual.load_vec4(i));
                    out.store_vec(i, std::array::from_fn::<_, 4, _>(|j| a[j] + b[j]));
                },
                || {
                    k.unrolled(0..PER_THREAD - 1, |j| {
                        k.if_((i + j).lt(n), || {
                            out.store(i + j, x.load(i + j) + residual.load(i + j))
                        });
                    });
                },
            );
        })
    }
}

pub(in crate::kernels) fn representative(target: Target) -> Vec<AddSpec> {
    vec![AddSpec { target }]
}
