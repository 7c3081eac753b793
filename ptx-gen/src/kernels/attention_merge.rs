//! Combines the partial softmaxes of [`super::AttentionSpec`] and [`super::AttentionDecodeSpec`]:
//! `out[t, h] = sum_z 2^(m_z - M) * o_z / sum_z 2^(m_z - M) * l_z` with `M = max_z m_z`.
//!
//! | parameter | type | shape |
//! |---|---|---|
//! | partial | f32 | `[tokens, num_heads, splits, head_dim + 2]`: o, then m (in base 2) and l |
//! | out | f32 | `[tokens, num_heads, head_dim]` |
//!
//! Grid `[tokens, num_heads, head_dim / columns]`. A row none of whose splits has keys, where all m
//! are minus infinity, gives zeros.
//!
//! All that a thread loads is on its way at once, whether or not a split has keys, so that the
//! time does not depend on the row's length. A block has some columns of a head; groups of its
//! lanes take splits in turn. Every warp works out M and the denominator for itself. Sums
//! are added in an order that depends on the shape alone.

use crate::build::{Pred, Val};
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
    /// Elements of a head, a multiple of 16.
    pub head_dim: u32,
    /// Partials of a head.
    pub splits: u32,
}

/// Groups of lanes at most.
const GROUPS: u32 = 16;

impl AttentionMergeSpec {
    /// Columns of a block: a line of memory, if heads are whole ones.
    fn columns(&self) -> u32 {
        if self.head_dim.is_multiple_of(32) {
            32
        } else {
            16
        }
    }

    /// Lanes of a group, two columns each.
    fn lanes(&self) -> u32 {
        self.columns() / 2
    }

    /// Groups that share the splits, together whole warps.
    fn groups(&self) -> u32 {
        let whole = 32 / self.lanes();
        self.splits.next_power_of_two().clamp(whole, GROUPS)
    }

    /// Split `first + turn * of`; past the end the last one, and whether that is not so.
    fn split<'k>(
        &self,
        first: Val<'k, u32>,
        turn: u32,
        of: u32,
    ) -> (Val<'k, u32>, Option<Val<'k, Pred>>) {
        let z = first + turn * of;
        if (turn + 1) * of <= self.splits {
            return (z, None);
        }
        (z.min(self.splits - 1), Some(z.lt(self.splits)))
    }

    /// Blocks for `tokens` rows.
    pub fn grid(&self, tokens: u32) -> [u32; 3] {
        [tokens, self.num_heads, self.head_dim / self.columns()]
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
        let (columns, lanes, groups) = (self.columns(), self.lanes(), self.groups());
        let name = format!("attention_merge_{num_heads}x{dim}_s{splits}");
        Kernel::new(name, target, |k| {
            k.doc(format!(
                "Combines {splits} partials [{dim} sums, maximum in base 2, denominator] of rows \
                 [tokens, {num_heads}] into [tokens, {num_heads}, {dim}].\n\
                 Grid [tokens, {num_heads}, {}].",
                dim / columns
            ));
            let threads = lanes * groups;
            k.block_size(threads);
            let partial = k.input::<f32>("partial");
            let out = k.output::<f32>("out");
            let head = k.block_x() * num_heads + k.block_y();
            let from = partial.offset(head * splits * (dim + 2));
            let (lane, group) = (k.thread_x() % lanes, k.thread_x() / lanes);
            let column = k.block_z() * columns + lane * 2;

            // The thread's columns of its splits, their maxima, and the warp's view of all splits.
            // Past the end the last split is read again, and its weight is zero.
            let turns = |of: u32| splits.div_ceil(of);
            let own: Vec<_> = (0..turns(groups))
                .map(|turn| {
                    let (z, exists) = self.split(group, turn, groups);
                    let at = z * (dim + 2);
                    (from.load(at + dim), from.load_vec::<2>(at + column), exists)
                })
                .collect();
            let all: Vec<_> = (0..turns(32))
                .map(|turn| {
                    let (z, exists) = self.split(k.lane(), turn, 32);
                    let [max, sum] = from.load_vec::<2>(z * (dim + 2) + dim);
                    (
                        max,
                        exists.map_or(sum, |exists| k.select(exists, sum, 0f32)),
                    )
                })
                .collect();

            let max = all
                .iter()
                .fold(k.constant(LOWEST), |m, (max, _)| m.max(*max));
            let max = k.warp_max(max);
            let zero = k.constant(0f32);
            let sum = all
                .iter()
                .fold(zero, |l, (m, sum)| sum.fma((*m - max).ex2(), l));
            let sum = k.warp_sum(sum);
            let mut row = [zero; 2];
            for (m, part, exists) in own {
                let mut weight = (m - max).ex2();
                if let Some(exists) = exists {
                    weight = k.select(exists, weight, 0f32);
                }
                row = std::array::from_fn(|i| part[i].fma(weight, row[i]));
            }

            // Over the groups of a warp, then over the warps.
            let mut distance = lanes;
            while distance < 32 {
                row = row.map(|v| v + k.shfl_xor(v, distance));
                distance *= 2;
            }
            let inverse = k.select(sum.gt(0f32), sum.rcp(), 0f32);
            let to = head * dim + column;
            if threads == 32 {
                k.if_(k.lane().lt(lanes), || {
                    out.store_vec(to, row.map(|v| v * inverse))
                });
                return;
            }
            let rows = k.shared::<f32>("rows", threads / 32 * columns);
            k.if_(k.lane().lt(lanes), || {
                rows.store_vec(k.warp() * columns + lane * 2, row)
            });
            k.barrier();
            k.if_(k.thread_x().lt(lanes), || {
                let row = (0..threads / 32)
                    .map(|warp| rows.load_vec::<2>(lane * 2 + warp * columns))
                    .reduce(|a, b| std::array::from_fn(|i| a[i] + b[i]));
                let row = row.unwrap_or([zero; 2]);
                out.store_vec(to, row.map(|v| v * inverse));
            });
        })
    }
}

pub(super) fn representative(target: Target) -> Vec<AttentionMergeSpec> {
    [(8, 64, 4), (32, 128, 8), (12, 128, 64), (40, 80, 33)]
        .map(|(num_heads, head_dim, splits)| AttentionMergeSpec {
            target,
            num_heads,
            head_dim,
            splits,
        })
        .to_vec()
}
