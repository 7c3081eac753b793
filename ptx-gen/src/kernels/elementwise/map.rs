//! Element-wise function of one vector: `out[i] = f(x[i])` for `i < n`.
//!
//! | parameter | type | shape |
//! |---|---|---|
//! | x | f32, 16-byte aligned | `[n]` |
//! | out | f32, 16-byte aligned; may be `x` | `[n]` |
//! | n | u32 | elements |
//!
//! Grid `[ceil(n / 1024), 1, 1]`; four neighbouring elements a thread. Moves 8n bytes.

use super::activation::Activation;
use crate::build::{Builder, Val};
use crate::ir::{Kernel, Param};
use crate::target::Target;

/// The functions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Map {
    /// `x * factor`.
    Scale(f32),
    /// `cap * tanh(x / cap)`.
    Softcap(f32),
    /// `activation(x)`.
    Activate(Activation),
}

impl Map {
    /// Its name, with the bits of its constant if it has one.
    fn name(self) -> String {
        match self {
            Map::Scale(factor) => format!("scale_{:08x}", factor.to_bits()),
            Map::Softcap(cap) => format!("softcap_{:08x}", cap.to_bits()),
            Map::Activate(activation) => activation.name().to_owned(),
        }
    }

    fn formula(self) -> String {
        match self {
            Map::Scale(factor) => format!("x[i] * {factor:e}"),
            Map::Softcap(cap) => format!("{cap:e} * tanh(x[i] / {cap:e})"),
            Map::Activate(activation) => format!("{}(x[i])", activation.name()),
        }
    }

    /// The function of a value. The cap is `cap * (1 - 2 / (1 + e^(2x / cap)))`, which saturates
    /// without a NaN, but of an infinite sum, whose sign may be that of a part of it.
    fn apply<'k>(self, k: &'k Builder, x: Val<'k, f32>) -> Val<'k, f32> {
        match self {
            Map::Scale(factor) => x * factor,
            Map::Softcap(cap) => {
                let power = x * (2.0 * std::f32::consts::LOG2_E / cap);
                let one = k.constant(1f32);
                let base = x.fma(0.0, cap);
                (one + power.ex2()).rcp().fma(-2.0 * cap, base)
            }
            Map::Activate(activation) => activation.apply(k, x),
        }
    }
}

/// A function of a vector.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MapSpec {
    /// GPU to write for.
    pub target: Target,
    /// The function.
    pub map: Map,
}

const THREADS: u32 = 256;
const PER_THREAD: u32 = 4;

impl MapSpec {
    /// Blocks for `n` elements.
    pub fn grid(&self, n: u32) -> [u32; 3] {
        [n.div_ceil(THREADS * PER_THREAD), 1, 1]
    }

    /// Bytes moved for `n` elements.
    pub fn bytes(&self, n: u64) -> u64 {
        8 * n
    }

    /// The parameters in launch order.
    pub fn params(&self) -> Vec<Param> {
        vec![
            Param::input::<f32>("x"),
            Param::output::<f32>("out"),
            Param::scalar::<u32>("n"),
        ]
    }

    /// The kernel, named after its function.
    pub fn kernel(&self) -> Kernel {
        let map = self.map;
        Kernel::new(map.name(), self.target, |k| {
            k.doc(format!(
                "out[i] = {}, i < n; out may be x. Grid [ceil(n / 1024), 1, 1].",
                map.formula()
            ));
            k.block_size(THREADS);
            k.declare(self.params());
            let (x, out) = (k.bind::<f32>("x"), k.bind::<f32>("out"));
            let n = k.bind_value::<u32>("n");
            let i = (k.block_x() * THREADS + k.thread_x()) * PER_THREAD;
            k.if_else(
                (i + (PER_THREAD - 1)).lt(n),
                || {
                    let x = x.load_vec4(i);
                    out.store_vec(i, std::array::from_fn::<_, 4, _>(|j| map.apply(k, x[j])));
                },
                || {
                    k.unrolled(0..PER_THREAD - 1, |j| {
                        k.if_((i + j).lt(n), || {
                            out.store(i + j, map.apply(k, x.load(i + j)));
                        });
                    });
                },
            );
        })
    }
}

pub(in crate::kernels) fn representative(target: Target) -> Vec<MapSpec> {
    // Gemma's embedding and logits, and units without a gate.
    [
        Map::Scale(50.596_443),
        Map::Softcap(30.0),
        Map::Activate(Activation::Silu),
        Map::Activate(Activation::Gelu),
    ]
    .map(|map| MapSpec { target, map })
    .to_vec()
}
