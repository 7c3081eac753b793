//! Combines the partial softmaxes of [`super::AttentionSpec`]:
//! `out[t, h] = sum_z 2^(m_z - M) * o_z / sum_z 2^(m_z - M) * l_z` with `M = max_z m_z`.
//!
//! | parameter | type | shape |
//! |---|---|---|
//! | partial | f32 | `[tokens, num_heads, splits, head_dim + 2]`: o, then m (in base 2) and l |
//! | lengths | u32 | `[tokens]`; 0 gives zeros |
//! | out | f32 | `[tokens, num_heads, head_dim]` |
//!
//! Grid `[tokens, num_heads, 1]`. Splits are added in their order.

use crate::ir::Kernel;
use crate::target::Target;

use super::attention_common::LOWEST;

/// The merge of partials of one shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AttentionMergeSpec {
    /// GPU to write for.
    pub target: Target,
    /// Query heads.
    pub num_heads: u32,
    /// Elements of a head, at most 1024.
    pub head_dim: u32,
    /// Partials of a head.
    pub splits: u32,
}

/// Partials that a thread has in flight.
const FLIGHT: u32 = 8;

impl AttentionMergeSpec {
    /// Blocks for `tokens` rows.
    pub fn grid(&self, tokens: u32) -> [u32; 3] {
        [tokens, self.num_heads, 1]
    }

    /// Bytes moved for `tokens` rows.
    pub fn bytes(&self, tokens: u64) -> u64 {
        let (dim, splits) = (u64::from(self.head_dim), u64::from(self.splits));
        4 * tokens * u64::from(self.num_heads) * (splits * (dim + 2) + dim)
    }

    /// Operations on `tokens` rows.
    pub fn flops(&self, tokens: u64) -> u64 {
        2 * tokens * u64::from(self.num_heads * self.splits * self.head_dim)
    }

    /// The kernel, named after its shape.
    pub fn kernel(&self) -> Kernel {
        let AttentionMergeSpec {
            target,
            num_heads,
            head_dim: dim,
            splits,
        } = *self;
        let name = format!("attention_merge_{num_heads}x{dim}_s{splits}");
        Kernel::new(name, target, |k| {
            k.doc(format!(
                "Combines [tokens, {num_heads}, {splits}, {dim} + 2] partial softmaxes.\n\
                 Grid [tokens, {num_heads}, 1]."
            ));
            k.block_size(dim.next_multiple_of(32).clamp(32, 1024));
            let partial = k.input::<f32>("partial");
            let lengths = k.input::<u32>("lengths");
            let out = k.output::<f32>("out");
            let head = k.block_x() * num_heads + k.block_y();
            let from = partial.offset(head * splits * (dim + 2));
            let out = out.offset(head * dim);
            let e = k.thread_x();
            k.if_(lengths.load(k.block_x()).eq(0) & e.lt(dim), || {
                out.store(e, 0f32);
            });
            k.exit_if(lengths.load(k.block_x()).eq(0));

            // The weight of each split, from one warp.
            let weights = k.shared::<f32>("weights", splits);
            k.if_(k.warp().eq(0), || {
                let turns = splits.div_ceil(32);
                let found: Vec<_> = (0..turns)
                    .map(|turn| {
                        let z = k.lane() + 32 * turn;
                        let at = z.min(splits - 1) * (dim + 2) + dim;
                        // A split too many counts as one without keys.
                        let exists = z.lt(splits);
                        let max = k.select(exists, from.load(at), f32::NEG_INFINITY);
                        (z, max, k.select(exists, from.load(at + 1), 0f32))
                    })
                    .collect();
                let own = found.iter().fold(k.constant(LOWEST), |m, f| m.max(f.1));
                let max = k.warp_max(own);
                let shrunk: Vec<_> = found.iter().map(|f| (f.1 - max).ex2()).collect();
                let mut sum = k.constant(0f32);
                for ((_, _, l), shrink) in found.iter().zip(&shrunk) {
                    sum = l.fma(*shrink, sum);
                }
                let sum = k.warp_sum(sum);
                for ((z, ..), shrink) in found.iter().zip(&shrunk) {
                    let weight = k.select(sum.gt(0f32), shrink.div_fast(sum), 0f32);
                    k.if_(z.lt(splits), || weights.store(*z, weight));
                }
            });
            k.barrier();
            k.if_(e.lt(dim), || {
                let row = k.var(0f32);
                let add = |first: crate::build::Val<'_, u32>, count: u32| {
                    let at = first * (dim + 2) + e;
                    let parts: Vec<_> = (0..count).map(|z| from.load(at + z * (dim + 2))).collect();
                    for (z, part) in (0..count).zip(parts) {
                        row.update(|row| part.fma(weights.load(first + z), row));
                    }
                };
                let whole = splits / FLIGHT * FLIGHT;
                k.for_each(0u32, whole, FLIGHT, |z| add(z, FLIGHT));
                add(k.constant(whole), splits % FLIGHT);
                out.store(e, row.get());
            });
        })
    }
}

pub(super) fn representative(target: Target) -> Vec<AttentionMergeSpec> {
    [(8, 64, 4), (32, 128, 8)]
        .map(|(num_heads, head_dim, splits)| AttentionMergeSpec {
            target,
            num_heads,
            head_dim,
            splits,
        })
        .to_vec()
}
