//! Attention of few queries over a paged cache, in f32:
//! `out[t, h] = sum_j softmax_j(cap(scale * q[t, h] . k[j])) * v[j]`.
//!
//! | parameter | type | shape |
//! |---|---|---|
//! | q | f32 | `[tokens, num_heads, head_dim]` |
//! | lengths | u32 | `[tokens]`: keys that the row may see, its own included; 0 is a dead row |
//! | slots | u32 | `[tokens]`, row of the block table |
//! | table | u32 | `[slots, max_blocks]` |
//! | keys, values | [`KvType`] | `[blocks, num_kv_heads, block_tokens, head_dim]` |
//! | out, with one split | f32 | `[tokens, num_heads, head_dim]` |
//! | partials, with more | f32 | `[tokens, num_heads, splits, head_dim + 2]` |
//!
//! Grid `[tokens, num_kv_heads, splits]`. Row t sees keys `max(0, length - window) .. length`;
//! with a cap, scores become `softcap * tanh(score / softcap)`. A dead row gives zeros.
//!
//! A split's partial is `sum_j 2^(s_j - m) * v_j`, then the maximum `m` and the sum
//! `l = sum_j 2^(s_j - m)`, where `s` are the scores times log2(e): **m and l count in base 2**.
//! A split without keys writes zeros and `m = -inf`. [`super::AttentionMergeSpec`] combines them.
//!
//! The visible cache blocks are divided evenly among the splits, at least 64 keys to each. All query heads of a
//! key/value head are one block's, so that the cache is read once from memory. A group of lanes
//! holds 8 elements each of a key, and the groups of the block's warps take different keys;
//! they meet in shared memory at the end. Which keys a lane adds in which order depends on the
//! row's length alone, so that a row's result does not depend on other rows.

use super::common::{Division, LOWEST, capped};
use super::plain_pools::{Place, Pools};
use super::shape::{self, AttentionShape};
use crate::build::{Builder, Ptr, Val, Var};
use crate::ir::{Kernel, Param};
use crate::kernels::KvType;
use crate::target::Target;

/// Attention of one shape.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionSpec {
    /// GPU to write for.
    pub target: Target,
    /// Heads, cache and scores.
    pub shape: AttentionShape,
    /// Parts that a row's keys are divided into.
    pub splits: u32,
}

/// Warps of a block.
const WARPS: u32 = 8;
/// Elements of a key that a lane holds.
pub(super) const WIDTH: u32 = 8;

impl AttentionSpec {
    /// Sets that the block's warps form, each with its own query heads.
    fn sets(&self) -> u32 {
        // Four heads fit 128 registers, so that two blocks share a multiprocessor: more keys are
        // in flight than with more heads, though several sets read each (all but one from L1).
        let most = if self.shape.group() > 4 * WARPS && self.shape.head_dim <= 128 {
            8
        } else {
            4
        };
        self.shape.group().div_ceil(most).next_power_of_two()
    }

    /// Query heads of a warp; the last set may have fewer.
    fn heads(&self) -> u32 {
        self.shape.group().div_ceil(self.sets())
    }

    /// Lanes that share a key.
    fn lanes(&self) -> u32 {
        (self.shape.head_dim / WIDTH).next_power_of_two()
    }

    /// Keys that a lane has in flight.
    fn flight(&self) -> u32 {
        match self.shape.kv_type {
            KvType::F16 if self.heads() <= 4 => 4,
            _ => 2,
        }
    }

    /// Whether the kernel covers the shape.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        self.shape.check()?;
        if self.splits == 0 {
            return Err("attention in no splits".into());
        }
        if self.sets() > WARPS {
            return Err(format!(
                "attention with {} query heads of {} a key/value head",
                self.shape.group(),
                self.shape.head_dim
            ));
        }
        Ok(())
    }

    /// Blocks for `tokens` rows.
    pub fn grid(&self, tokens: u32) -> [u32; 3] {
        [tokens, self.shape.num_kv_heads, self.splits]
    }

    /// Bytes moved for `tokens` rows that all see a full table (or window) of keys.
    pub fn bytes(&self, tokens: u64) -> u64 {
        self.shape.bytes(tokens, self.splits)
    }

    /// Bytes moved for `tokens` rows that read `keys` keys all together.
    pub fn bytes_at(&self, tokens: u64, keys: u64) -> u64 {
        self.shape.bytes_at(tokens, keys, self.splits)
    }

    /// The parameters in launch order.
    pub fn params(&self) -> Vec<Param> {
        vec![
            Param::input::<f32>("q"),
            Param::input::<u32>("lengths"),
            Param::input::<u32>("slots"),
            Param::input::<u32>("table"),
            Param::input::<u8>("keys"),
            Param::input::<u8>("values"),
            Param::output::<f32>(if self.splits == 1 { "out" } else { "partials" }),
        ]
    }

    /// The kernel, named after its shape.
    pub fn kernel(&self) -> Kernel {
        let AttentionShape {
            num_heads,
            num_kv_heads,
            head_dim,
            block_tokens,
            kv_type,
            scale,
            softcap,
            window,
            ..
        } = self.shape;
        let (kv, splits) = (kv_type.name(), self.splits);
        let mut name = format!("attention_{kv}_{}", self.shape.name());
        name += &self.shape.variant();
        if splits > 1 {
            name += &format!("_s{splits}");
        }
        Kernel::new(name, self.target, |k| {
            k.doc(format!(
                "Attention of rows [tokens, {num_heads}, {head_dim}] over {kv} pools \
                 [blocks, {num_kv_heads}, {block_tokens}, {head_dim}],\nscale {scale}, softcap \
                 {softcap:?}, window {window:?}. Grid [tokens, {num_kv_heads}, {splits}].\n\
                 With several splits a partial is head_dim sums, their maximum in base 2, \
                 their denominator."
            ));
            k.block_size(32 * WARPS);
            k.declare(self.params());
            let q = k.bind::<f32>("q");
            let (lengths, slots) = (k.bind::<u32>("lengths"), k.bind::<u32>("slots"));
            let table = k.bind::<u32>("table");
            let (keys, values) = (k.bind::<u8>("keys"), k.bind::<u8>("values"));
            let out = k.bind::<f32>(if splits == 1 { "out" } else { "partials" });
            let row = slots.load(k.block_x()) * self.shape.max_blocks;
            let pools = Pools {
                spec: self,
                k,
                keys,
                values,
                table: table.offset(row),
            };
            let length = lengths.load(k.block_x());
            let range = self.range(k, length);
            let state = self.accumulate(k, q, &pools, &range);
            self.finish(k, &state, length, out);
        })
    }

    /// The keys of the block's split.
    fn range<'k>(&self, k: &'k Builder, length: Val<'k, u32>) -> Range<'k> {
        let division = Division::new(k, length, &self.shape, self.splits);
        let low = division.low;
        if self.splits == 1 {
            return Range {
                start: low,
                end: length,
            };
        }
        Range {
            start: division.start(k.block_z()).max(low),
            end: division.end(k.block_z(), length),
        }
    }

    /// Walks over the keys of the split, one warp its share of them.
    fn accumulate<'k>(
        &self,
        k: &'k Builder,
        q: Ptr<'k, f32>,
        pools: &Pools<'k, '_>,
        range: &Range<'k>,
    ) -> Vec<Head<'k>> {
        let (heads, dim, lanes) = (self.heads(), self.shape.head_dim, self.lanes());
        let (lane, warp) = (k.lane(), k.warp());
        let own = lane % lanes;
        // Lanes without elements of their own read the last ones, times zero.
        let idle = !(dim / WIDTH).is_power_of_two();
        let part = if idle { own.min(dim / WIDTH - 1) } else { own };
        let factor = self.shape.factor();
        let state: Vec<Head<'k>> = (0..heads)
            .map(|h| {
                let head = self.head(k, h) + k.block_y() * self.shape.group();
                let at = (k.block_x() * self.shape.num_heads + head) * dim + part * WIDTH;
                let load = |i: u32| q.load_vec4(at + 4 * i).map(|v| v * factor);
                let mut q = [load(0), load(1)].concat();
                if idle {
                    q.iter_mut()
                        .for_each(|v| *v = k.select(own.lt(dim / WIDTH), *v, 0f32));
                }
                Head {
                    q,
                    max: k.var(LOWEST),
                    sum: k.var(0f32),
                    out: (0..WIDTH).map(|_| k.var(0f32)).collect(),
                }
            })
            .collect();

        let (flight, together) = (self.flight(), 32 / lanes);
        let step = flight * together;
        let warps = WARPS / self.sets();
        let nth = if warps == WARPS { warp } else { warp % warps };
        let start = range.start + nth * step;
        k.for_each(start, range.end, warps * step, |first| {
            let keys: Vec<Val<'k, u32>> = (0..flight)
                .map(|u| first + lane / lanes + u * together)
                .collect();
            // Past the end the last key is read again: it exists, and no NaN comes from it.
            let places: Vec<Place<'k>> = keys
                .iter()
                .map(|key| pools.place(key.min(range.end - 1), part))
                .collect();
            let loaded: Vec<_> = places.iter().map(|p| pools.load(pools.keys, p)).collect();
            let values: Vec<_> = places.iter().map(|p| pools.load(pools.values, p)).collect();
            let mut scores = vec![Vec::new(); heads as usize];
            for (key, words) in keys.iter().zip(&loaded) {
                let k_row = pools.floats(words);
                let seen = key.lt(range.end);
                for (head, scores) in state.iter().zip(&mut scores) {
                    let mut dot = head.q[0] * k_row[0];
                    for (q, x) in head.q.iter().zip(&k_row).skip(1) {
                        dot = q.fma(*x, dot);
                    }
                    let dot = k.lanes_reduce(dot, lanes, |a, b| a + b);
                    let score = capped(k, dot, self.shape.softcap);
                    scores.push(k.select(seen, score, f32::NEG_INFINITY));
                }
            }
            for (head, scores) in state.iter().zip(&scores) {
                let before = head.max.get();
                let max = scores.iter().fold(before, |m, s| m.max(*s));
                let shrink = (before - max).ex2();
                head.max.set(max);
                head.sum.update(|l| l * shrink);
                head.out.iter().for_each(|o| o.update(|o| o * shrink));
                head.add(scores.iter().map(|s| (*s - max).ex2()), |u| {
                    pools.floats(&values[u])
                });
            }
        });
        state
    }

    /// Query head `h` of the warp, counted within the group.
    fn head<'k>(&self, k: &'k Builder, h: u32) -> Val<'k, u32> {
        if self.sets() == 1 {
            return k.constant(h);
        }
        let head = k.warp() / (WARPS / self.sets()) * self.heads() + h;
        // The last set may have fewer heads.
        if (self.sets() - 1) * self.heads() + h < self.shape.group() {
            head
        } else {
            head.min(self.shape.group() - 1)
        }
    }

    /// Combines the lanes, then the warps, and writes the block's rows.
    fn finish<'k>(
        &self,
        k: &'k Builder,
        state: &[Head<'k>],
        length: Val<'k, u32>,
        out: Ptr<'k, f32>,
    ) {
        let (heads, dim, lanes) = (self.heads(), self.shape.head_dim, self.lanes());
        let (lane, warp) = (k.lane(), k.warp());
        let maxima = k.shared::<f32>("maxima", WARPS * heads);
        let sums = k.shared::<f32>("sums", WARPS * heads);
        let outs = k.shared::<f32>("outs", WARPS * heads * dim);
        for (h, head) in (0..heads).zip(state) {
            let over_groups =
                |v: Val<'k, f32>, f: fn(Val<'k, f32>, Val<'k, f32>) -> Val<'k, f32>| {
                    let mut v = v;
                    let mut distance = 16;
                    while distance >= lanes {
                        v = f(v, k.shfl_xor(v, distance));
                        distance /= 2;
                    }
                    v
                };
            let max = over_groups(head.max.get(), |a, b| a.max(b));
            let shrink = (head.max.get() - max).ex2();
            let sum = over_groups(head.sum.get() * shrink, |a, b| a + b);
            let rows: Vec<_> = head
                .out
                .iter()
                .map(|o| over_groups(o.get() * shrink, |a, b| a + b))
                .collect();
            let at = warp * heads + h;
            k.if_(lane.lt(dim / WIDTH), || {
                // The same in every lane.
                maxima.store(at, max);
                sums.store(at, sum);
                let at = at * dim + lane * WIDTH;
                outs.store_vec(at, [rows[0], rows[1], rows[2], rows[3]]);
                outs.store_vec(at + 4, [rows[4], rows[5], rows[6], rows[7]]);
            });
        }
        k.barrier();
        let warps = WARPS / self.sets();
        let group = self.shape.group();
        k.for_each(k.thread_x(), group * dim, k.threads(), |i| {
            let (head, e) = (i / dim, i % dim);
            let first = match self.sets() {
                1 => head,
                _ => head / heads * (warps * heads) + head % heads,
            };
            let at: Vec<_> = (0..warps).map(|w| first + w * heads).collect();
            let found: Vec<_> = at.iter().map(|at| maxima.load(*at)).collect();
            let max = found.iter().skip(1).fold(found[0], |m, v| m.max(*v));
            let (mut sum, mut row) = (k.constant(0f32), k.constant(0f32));
            for (at, own) in at.iter().zip(&found) {
                let shrink = (*own - max).ex2();
                sum = sums.load(*at).fma(shrink, sum);
                row = outs.load(*at * dim + e).fma(shrink, row);
            }
            let to = k.block_x() * self.shape.num_heads + k.block_y() * group + head;
            if self.splits == 1 {
                // The largest weight is 1, and that of a dead row zero: otherwise no score is a number
                // that f32 holds.
                let (dead, right) = (length.eq(0), sum.ge(1f32));
                let sum = k.select(right, sum, k.select(dead, 1f32, f32::NAN));
                return out.store(to * dim + e, row.div_fast(sum));
            }
            let to = (to * self.splits + k.block_z()) * (dim + 2);
            out.store(to + e, row);
            k.if_(e.lt(2), || {
                let max = k.select(sum.gt(0f32), max, f32::NEG_INFINITY);
                out.store(to + dim + e, k.select(e.eq(0), max, sum));
            });
        });
    }
}

/// Keys `start .. end` of a split, all visible.
struct Range<'k> {
    start: Val<'k, u32>,
    end: Val<'k, u32>,
}

/// A lane's share in the running softmax of a query head.
struct Head<'k> {
    q: Vec<Val<'k, f32>>,
    max: Var<'k, f32>,
    sum: Var<'k, f32>,
    out: Vec<Var<'k, f32>>,
}

impl<'k> Head<'k> {
    /// Adds values with their weights.
    fn add(
        &self,
        weights: impl Iterator<Item = Val<'k, f32>>,
        value: impl Fn(usize) -> Vec<Val<'k, f32>>,
    ) {
        for (u, p) in weights.enumerate() {
            self.sum.update(|l| l + p);
            for (o, v) in self.out.iter().zip(value(u)) {
                o.update(|o| p.fma(v, o));
            }
        }
    }
}

pub(in crate::kernels) fn representative(target: Target) -> Vec<AttentionSpec> {
    let spec = |num_heads, num_kv_heads, head_dim, splits| AttentionSpec {
        target,
        shape: shape::representative(num_heads, num_kv_heads, head_dim),
        splits,
    };
    let mut specs = vec![
        spec(8, 2, 64, 1),
        spec(32, 8, 128, 8),
        spec(64, 8, 128, 1),
        spec(8, 1, 256, 4),
    ];
    specs.push(spec(32, 32, 96, 4));
    specs.push(spec(6, 2, 72, 1));
    let mut others = [spec(8, 2, 64, 1), spec(32, 8, 128, 8), spec(16, 1, 128, 1)];
    others[0].shape.kv_type = KvType::BF16;
    others[1].shape.kv_type = KvType::Int8;
    others[2].shape.kv_type = KvType::F32;
    (others[2].shape.softcap, others[2].shape.window) = (Some(50.0), Some(512));
    specs.extend(others);
    specs
}
