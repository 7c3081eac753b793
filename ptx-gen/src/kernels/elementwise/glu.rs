//! Gated linear unit: `out[i] = act(gate[i]) * up[i]` for `i < n`.
//!
//! | parameter | type | shape |
//! |---|---|---|
//! | gate, up | f32, 16-byte aligned | `[n]` |
//! | out | f32, 16-byte aligned; may be `gate` or `up` | `[n]` |
//! | n | u32 | elements |
//!
//! Grid `[ceil(n / 1024), 1, 1]`; four neighbouring elements a thread. Moves 12n bytes.

use super::activation::Activation;
use crate::ir::{Kernel, Param};
use crate::target::Target;

/// A gated linear unit over whole buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GluSpec {
    /// GPU to write for.
    pub target: Target,
    /// Activation of the gate.
    pub activation: Activation,
}

const THREADS: u32 = 256;
const PER_THREAD: u32 = 4;

impl GluSpec {
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
            Param::input::<f32>("gate"),
            Param::input::<f32>("up"),
            Param::output::<f32>("out"),
            Param::scalar::<u32>("n"),
        ]
    }

    /// The kernel, named after its activation.
    pub fn kernel(&self) -> Kernel {
        let activation = self.activation;
        let name = format!("glu_{}", activation.name());
        Kernel::new(name, self.target, |k| {
            k.doc(format!(
                "out[i] = {}(gate[i]) * up[i], i < n; out may be gate or up. \
                 Grid [ceil(n / 1024), 1, 1].",
                activation.name()
            ));
            k.block_size(THREADS);
            k.declare(self.params());
            let (gate, up) = (k.bind::<f32>("gate"), k.bind::<f32>("up"));
            let out = k.bind::<f32>("out");
            let n = k.bind_value::<u32>("n");
            let i = (k.block_x() * THREADS + k.thread_x()) * PER_THREAD;
            k.if_else(
                (i + (PER_THREAD - 1)).lt(n),
                || {
                    let (g, u) = (gate.load_vec4(i), up.load_vec4(i));
                    let product = |j: usize| activation.apply(k, g[j]) * u[j];
                    out.store_vec(i, std::array::from_fn::<_, 4, _>(product));
                },
                || {
                    k.unrolled(0..PER_THREAD - 1, |j| {
                        k.if_((i + j).lt(n), || {
                            let g = activation.apply(k, gate.load(i + j));
                            out.store(i + j, g * up.load(i + j));
                        });
                    });
                },
            );
        })
    }
}

pub(in crate::kernels) fn representative(target: Target) -> Vec<GluSpec> {
    [Activation::Silu, Activation::Gelu]
        .map(|activation| GluSpec { target, activation })
        .to_vec()
}
