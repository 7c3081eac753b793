//! Combines the partial softmaxes of [`super::AttentionSpec`] and [`super::AttentionDecodeSpec`]:
//! `out[t, h] = sum_z 2^(m_z - M) * o_z / sum_z 2^(m_z - M) * l_z` with `M = max_z m_z`.
//!
//! | parameter | type | shape |
//! |---|---|---|
//! | lengths | u32 | `[tokens]`, as of the attention |
//! | partials | f32 | `[tokens, num_heads, splits, head_dim + 2]`: o, then m (in base 2) and l |
//! | out | f32 | `[tokens, num_heads, head_dim]` |
//!
//! Grid `[tokens, num_heads, head_dim / columns]`. A row without keys, where the first split's m
//! is minus infinity, gives zeros.
//!
//! All that a thread loads is on its way at once; in place of a split without keys, whose partial
//! nobody has written, it loads the first one's again, which costs no traffic. A block has some columns of a head; groups of its
//! lanes take splits in turn. Every warp works out M and the denominator for itself. Sums
//! are added in an order that depends on the shape alone.

use crate::build::{Pred, Val};
use crate::ir::{Kernel, Param};
use crate::target::Target;

use super::common::{Division, LOWEST};
use super::shape::{self, AttentionShape};

/// The merge of partials of one shape.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionMergeSpec {
    /// GPU to write for.
    pub target: Target,
    /// Heads and cache of the attention.
    pub shape: AttentionShape,
    /// Partials of a head.
    pub splits: u32,
}

/// Groups of lanes at most.
const GROUPS: u32 = 16;

impl AttentionMergeSpec {
    /// Columns of a block: a line of memory, if heads are whole ones.
    fn columns(&self) -> u32 {
        let divides = |columns: &u32| self.shape.head_dim.is_multiple_of(*columns);
        [32, 16].into_iter().find(divides).unwrap_or(8)
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

    /// Every `of`th split from `first` on, or in its place the first of all where it has no keys; and
    /// whether it has.
    fn splits_of<'k>(
        &self,
        division: &Division<'k>,
        length: Val<'k, u32>,
        first: Val<'k, u32>,
        of: u32,
    ) -> Vec<(Val<'k, u32>, Val<'k, Pred>)> {
        let split = |turn: u32| {
            // Past the last split there are no keys either.
            let z = first + turn * of;
            let counts = division.start(z).lt(length);
            (z.select(counts, 0u32), counts)
        };
        (0..self.splits.div_ceil(of)).map(split).collect()
    }

    /// Blocks for `tokens` rows.
    pub fn grid(&self, tokens: u32) -> [u32; 3] {
        [
            tokens,
            self.shape.num_heads,
            self.shape.head_dim / self.columns(),
        ]
    }

    /// Bytes moved for `tokens` rows.
    pub fn bytes(&self, tokens: u64) -> u64 {
        let (dim, splits) = (u64::from(self.shape.head_dim), u64::from(self.splits));
        4 * tokens * u64::from(self.shape.num_heads) * (splits * (dim + 2) + dim)
    }

    /// The parameters in launch order.
    pub fn params(&self) -> Vec<Param> {
        vec![
            Param::input::<u32>("lengths"),
            Param::input::<f32>("partials"),
            Param::output::<f32>("out"),
        ]
    }

    /// The kernel, named after its shape.
    pub fn kernel(&self) -> Kernel {
        let AttentionMergeSpec { target, splits, .. } = *self;
        let AttentionShape {
            num_heads,
            head_dim: dim,
            block_tokens,
            window,
            ..
        } = self.shape;
        let (columns, lanes, groups) = (self.columns(), self.lanes(), self.groups());
        let mut name = format!("attention_merge_{num_heads}x{dim}_b{block_tokens}_s{splits}");
        if let Some(window) = window {
            name += &format!("_w{window}");
        }
        Kernel::new(name, target, |k| {
            k.doc(format!(
                "Combines {splits} partials [{dim} sums, maximum in base 2, denominator] of rows \
                 [tokens, {num_heads}] that see lengths[t] keys into \
                 [tokens, {num_heads}, {dim}].\n\
                 Grid [tokens, {num_heads}, {}].",
                dim / columns
            ));
            let threads = lanes * groups;
            k.block_size(threads);
            k.declare(self.params());
            let lengths = k.bind::<u32>("lengths");
            let partial = k.bind::<f32>("partials");
            let out = k.bind::<f32>("out");
            let head = k.block_x() * num_heads + k.block_y();
            let from = partial.offset(head * splits * (dim + 2));
            let length = lengths.load(k.block_x());
            let division = Division::new(k, length, &self.shape, splits);
            let (lane, group) = (k.thread_x() % lanes, k.thread_x() / lanes);
            let column = k.block_z() * columns + lane * 2;

            // The splits of a thread, and the warp's view of all.
            let mine = self.splits_of(&division, length, group, groups);
            let everyone = self.splits_of(&division, length, k.lane(), 32);
            k.wait_for_predecessor();

            // The columns of its own, their maxima; maxima and denominators of all.
            let own: Vec<_> = mine
                .into_iter()
                .map(|(z, counts)| {
                    let at = z * (dim + 2);
                    (from.load(at + dim), from.load_vec::<2>(at + column), counts)
                })
                .collect();
            let all: Vec<_> = everyone
                .into_iter()
                .map(|(z, counts)| {
                    let [max, sum] = from.load_vec::<2>(z * (dim + 2) + dim);
                    (max, k.select(counts, sum, 0f32))
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
            for (m, part, counts) in own {
                let weight = k.select(counts, (m - max).ex2(), 0f32);
                row = std::array::from_fn(|i| part[i].fma(weight, row[i]));
            }

            // Over the groups of a warp, then over the warps.
            let mut distance = lanes;
            while distance < 32 {
                row = row.map(|v| v + k.shfl_xor(v, distance));
                distance *= 2;
            }
            // A row that sees keys has some weight, unless no score is a number that f32 holds: NaN then.
            let inverse = k.select(length.gt(0), sum.rcp(), 0f32);
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

pub(in crate::kernels) fn representative(target: Target) -> Vec<AttentionMergeSpec> {
    [
        (8, 64, 4, None),
        (32, 128, 8, None),
        (12, 128, 128, None),
        (40, 80, 33, Some(4096)),
        (6, 72, 8, None),
    ]
    .map(|(num_heads, head_dim, splits, window)| AttentionMergeSpec {
        target,
        shape: AttentionShape {
            window,
            ..shape::representative(num_heads, 1, head_dim)
        },
        splits,
    })
    .to_vec()
}
