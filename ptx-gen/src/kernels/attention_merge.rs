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

use crate::build::Pred;
use crate::ir::Kernel;
use crate::target::Target;

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
            k.if_(lengths.load(k.block_x()).eq(0), || {
                k.if_(e.lt(dim), || out.store(e, 0f32));
                k.exit_if(k.constant(Pred(true)));
            });

            // The weight of each split, from one warp; the row has keys, and so has some split.
            let weights = k.shared::<f32>("weights", splits);
            k.if_(e.lt(32), || {
                // So many lanes reduce to what they all have.
                let lanes = splits.next_power_of_two().min(32);
                let found: Vec<_> = (0..splits.div_ceil(32))
                    .map(|turn| {
                        let z = e + 32 * turn;
                        // Past the end the last split is read again, with a sum of zero.
                        let exists = (32 * (turn + 1) > splits).then(|| z.lt(splits));
                        let read = exists.map_or(z, |_| z.min(splits - 1));
                        let at = read * (dim + 2) + dim;
                        let (max, mut sum) = (from.load(at), from.load(at + 1));
                        if let (Some(exists), 1..) = (exists, splits % lanes) {
                            sum = k.select(exists, sum, 0f32);
                        }
                        (z, exists, max, sum)
                    })
                    .collect();
                let max = found.iter().skip(1).fold(found[0].2, |m, f| m.max(f.2));
                let max = k.lanes_reduce(max, lanes, |a, b| a.max(b));
                let shrunk: Vec<_> = found.iter().map(|f| (f.2 - max).ex2()).collect();
                let sum = (found.iter().zip(&shrunk))
                    .fold(k.constant(0f32), |sum, (f, shrink)| f.3.fma(*shrink, sum));
                let sum = k.lanes_reduce(sum, lanes, |a, b| a + b);
                for ((z, exists, ..), shrink) in found.iter().zip(&shrunk) {
                    let store = || weights.store(*z, shrink.div_fast(sum));
                    exists.map_or_else(store, |exists| k.if_(exists, store));
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
