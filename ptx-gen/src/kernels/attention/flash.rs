//! Attention of many consecutive queries of a slot, on tensor cores:
//! `out[t, h] = sum_j softmax_j(cap(scale * q[t, h] . k[j])) * v[j]` for `t < n`.
//!
//! | parameter | type | shape |
//! |---|---|---|
//! | q | f32 | `[n, num_heads, head_dim]` |
//! | lengths | u32 | `[n]`: keys that the row may see, its own included; 0 is a dead row |
//! | slots | u32 | `[n]`, row of the block table, equal in 64 rows from a multiple of 64 on |
//! | table | u32 | `[slots, max_blocks]` |
//! | keys, values | [`KvType`], but not f32 | `[blocks, num_kv_heads, block_tokens, head_dim]` |
//! | out | f32 | `[n, num_heads, head_dim]` |
//! | n | u32 | rows |
//!
//! Grid `[ceil(n / 64), num_heads, 1]`. Row t sees keys `max(0, length - window) .. length`;
//! with a cap, scores become `softcap * tanh(score / softcap)`. A dead row gives zeros. Lengths
//! may be any; consecutive ones make the least work, as keys that no row of a block sees are
//! skipped. Positions from the longest length on may hold anything, NaN included.
//!
//! A block owns 64 queries of one head, 16 a warp, and walks over tiles of 64 or 32 keys. While
//! it multiplies one tile, the next comes to shared memory (from Ampere on). A warp holds
//! its scores as accumulators of `q * k`, which are the left operand of `p * v` as they lie, so
//! that the softmax never leaves registers. Queries (times scale and log2(e), and of rows that f16 does
//! not hold times a power of two that the scores are divided by) and weights p are
//! rounded to f16, with a cache of bf16 to bf16; scores, sums and the running softmax are f32. An
//! error of a query is one of an exponent: where queries are more exact than that, `split_queries`
//! makes each the sum of two terms ([`crate::kernels::split`]) for half as many products again. What
//! is left is the rounding of p, at most 3e-8 of NMSE; that of queries adds 4e-8 with scores around
//! one, and 1e-6 with scores around thirty. A row's result depends on the tiles its block visits,
//! and those on the block's lengths.

use super::common::capped;
use super::flash_rows::Rows;
use super::flash_tiles::Copies;
use super::shape::{self, AttentionShape};
use crate::build::{Builder, Shared, Val, Var};
use crate::ir::{Kernel, Param};
use crate::kernels::KvType;
use crate::kernels::split::{split_bf16, split_f16};
use crate::target::Target;

/// Attention of one shape over many consecutive queries of one slot.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionFlashSpec {
    /// GPU to write for.
    pub target: Target,
    /// Heads, cache and scores; the elements of the cache are not f32.
    pub shape: AttentionShape,
    /// Whether queries are multiplied as sums of two terms instead of rounded once.
    pub split_queries: bool,
}

const WARPS: u32 = 4;
/// Queries of a block.
pub(super) const QUERIES: u32 = 16 * WARPS;
/// Halves that a row in shared memory is longer than a key: the eight rows of an `ldmatrix` then
/// lie in different banks.
const PAD: u32 = 8;

impl AttentionFlashSpec {
    /// Pairs of tiles in shared memory: one is filled while the other is multiplied, where elements
    /// can be copied as they are. Long queries of two terms leave some targets no room for that.
    pub(super) fn stages(&self) -> u32 {
        let copied = self.target.has_ampere() && self.shape.kv_type != KvType::Int8;
        let fits = 4 * (4 * self.words(32) + self.query_words()) <= self.target.max_shared();
        if copied && fits { 2 } else { 1 }
    }

    /// Words of a tile of so many keys.
    pub(super) fn words(&self, keys: u32) -> u32 {
        keys * self.stride()
    }

    /// Words from one key to the next in shared memory.
    pub(super) fn stride(&self) -> u32 {
        (self.whole_dim() + PAD) / 2
    }

    /// Elements of a head in whole steps of a product.
    fn whole_dim(&self) -> u32 {
        self.shape.head_dim.next_multiple_of(16)
    }

    /// Words of queries in shared memory: those of heads too long for registers.
    fn query_words(&self) -> u32 {
        if self.shape.head_dim > 128 {
            QUERIES * self.whole_dim() / 2 * if self.split_queries { 2 } else { 1 }
        } else {
            0
        }
    }

    /// Words of shared memory for tiles of so many keys.
    fn shared_words(&self, keys: u32) -> u32 {
        2 * self.stages() * self.words(keys) + self.query_words()
    }

    /// Keys of a tile: such that two blocks fit beside each other, where that is possible. Short
    /// heads take the small tile, as ptxas holds them to 128 registers and spills some scores.
    pub(super) fn keys(&self) -> u32 {
        let fits = 4 * self.shared_words(64) <= self.target.max_shared() / 2;
        if fits && (48..=128).contains(&self.shape.head_dim) {
            64
        } else {
            32
        }
    }

    /// Whether the kernel covers the shape.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        self.shape.check()?;
        match self.shape.kv_type {
            KvType::F32 => return Err("a cache of f32".into()),
            KvType::BF16 if !self.target.has_ampere() => {
                return Err(format!("{} has no products of bf16", self.target));
            }
            _ => {}
        }
        if 4 * self.shared_words(32) > self.target.max_shared() {
            return Err(format!(
                "heads of {} elements, two tiles of which exceed the shared memory of {}",
                self.shape.head_dim, self.target
            ));
        }
        Ok(())
    }

    /// Blocks for `tokens` rows.
    pub fn grid(&self, tokens: u32) -> [u32; 3] {
        [tokens.div_ceil(QUERIES), self.shape.num_heads, 1]
    }

    /// Bytes moved for `tokens` rows from position 0, queries, outputs and cache counted once.
    pub fn bytes(&self, tokens: u64) -> u64 {
        let rows = 8 * u64::from(self.shape.num_heads) + 4 * u64::from(self.shape.num_kv_heads);
        tokens * rows * u64::from(self.shape.head_dim)
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
            Param::output::<f32>("out"),
            Param::scalar::<u32>("n"),
        ]
    }

    /// The kernel, named after its shape.
    pub fn kernel(&self) -> Kernel {
        let AttentionShape {
            num_heads,
            num_kv_heads,
            head_dim,
            block_tokens,
            max_blocks,
            kv_type,
            scale,
            softcap,
            window,
        } = self.shape;
        let kv = kv_type.name();
        let mut name = match kv_type {
            KvType::F16 => "attention_flash_".into(),
            _ => format!("attention_flash_{kv}_"),
        };
        if self.split_queries {
            name += "split_";
        }
        name += &(self.shape.name() + &self.shape.variant());
        Kernel::new(name, self.target, |k| {
            k.doc(format!(
                "Attention of rows [n, {num_heads}, {head_dim}] of one slot over {kv} pools \
                 [blocks, {num_kv_heads}, {block_tokens}, {head_dim}],\nscale {scale}, softcap \
                 {softcap:?}, window {window:?}. Grid [ceil(n / {QUERIES}), {num_heads}, 1]."
            ));
            k.block_size(32 * WARPS);
            // To fit more blocks ptxas would spill scores.
            if !head_dim.is_multiple_of(16) {
                k.min_blocks(if head_dim < 48 { 4 } else { 2 });
            }
            k.declare(self.params());
            let q = k.bind::<f32>("q");
            let (lengths, slots) = (k.bind::<u32>("lengths"), k.bind::<u32>("slots"));
            let table = k.bind::<u32>("table");
            let pools = [k.bind::<u8>("keys"), k.bind::<u8>("values")];
            let out = k.bind::<f32>("out");
            let n = k.bind_value::<u32>("n");
            // The last queries see the most keys: they start first.
            let first = (k.grid_x() - 1 - k.block_x()) * QUERIES;
            k.exit_if(first.ge(n));

            let tiles = k.dynamic_shared("tiles", self.shared_words(self.keys()));
            let mut rows = Rows::new(self, k, q, lengths, first, n);
            if self.query_words() > 0 {
                rows.park(
                    k,
                    tiles.byte_offset(8 * self.stages() * self.words(self.keys())),
                );
            }
            let copies = Copies {
                spec: self,
                k,
                pools,
                table: table.offset(slots.load(first) * max_blocks),
                head: k.block_y() / (num_heads / num_kv_heads),
                end: rows.end,
                tiles,
            };
            self.walk(k, &rows, &copies);
            rows.finish(self, k, out, n);
        })
    }

    /// Two operands in a word.
    pub(super) fn pack<'k>(
        &self,
        k: &'k Builder,
        low: Val<'k, f32>,
        high: Val<'k, f32>,
    ) -> Val<'k, u32> {
        match self.shape.kv_type {
            KvType::BF16 => k.pack_bf16(low, high).bitcast(),
            _ => k.pack_f16(low, high).bitcast(),
        }
    }

    /// The terms of two elements of a query.
    pub(super) fn terms<'k>(&self, k: &'k Builder, pair: [Val<'k, f32>; 2]) -> Vec<Val<'k, u32>> {
        match (self.split_queries, self.shape.kv_type) {
            (false, _) => vec![self.pack(k, pair[0], pair[1])],
            (true, KvType::BF16) => split_bf16(k, pair).to_vec(),
            (true, _) => split_f16(k, pair).to_vec(),
        }
    }

    /// A product of such operands.
    fn multiply<'k>(
        &self,
        k: &'k Builder,
        a: [Val<'k, u32>; 4],
        b: [Val<'k, u32>; 2],
        c: [Val<'k, f32>; 4],
    ) -> [Val<'k, f32>; 4] {
        match self.shape.kv_type {
            KvType::BF16 => k.mma_bf16(a, b, c),
            _ => k.mma_f16_any(a, b, c),
        }
    }

    /// Walks over the tiles of keys that some row of the block sees.
    fn walk<'k>(&self, k: &'k Builder, rows: &Rows<'k>, copies: &Copies<'k, '_>) {
        let keys = self.keys();
        let start = rows.start / keys * keys;
        // Every warp computed start and end from the same lengths.
        let some = |from: Val<'k, u32>| k.assume_uniform(from.lt(rows.end));
        let zero = k.constant(0u32);
        let both = 2 * self.words(keys);
        k.if_(some(start), || {
            if self.stages() == 2 {
                copies.start(start, zero);
            }
            let (first, stage) = (k.var(start), k.var(0u32));
            k.loop_while(|| {
                let (now, from) = (first.get(), stage.get());
                let next = now + keys;
                if self.stages() == 2 {
                    k.cp_async_wait(0);
                    // All of this tile is there, and no one still reads the one before.
                    k.barrier();
                    let to = k.constant(both) - from;
                    k.if_(some(next), || copies.start(next, to));
                    stage.set(to);
                } else {
                    k.barrier();
                    copies.run(now);
                    k.barrier();
                }
                self.attend(k, rows, copies.tiles, now, from);
                first.set(next);
                some(next)
            });
        });
    }

    /// Adds the tile of keys `now ..` that lies at word `from`.
    fn attend<'k>(
        &self,
        k: &'k Builder,
        rows: &Rows<'k>,
        tiles: Shared<'k, u32>,
        now: Val<'k, u32>,
        from: Val<'k, u32>,
    ) {
        let (keys, stride, steps) = (self.keys(), self.stride(), self.shape.head_dim / 16);
        let lane = k.lane();
        // Rows that the lane addresses for ldmatrix: matrices of keys lie along the elements
        // first (pairs of k), those of values along the keys first (the same, transposed).
        let k_lane = from + ((lane / 16) * 8 + lane % 8) * stride + ((lane / 8) % 2) * 4;
        let v_lane = from + (lane % 16) * stride + (lane / 16) * 4;
        let zero = k.constant(0u32);
        let mut scores = vec![[k.constant(0f32); 4]; (keys / 8) as usize];
        for step in 0..steps {
            let q = rows.query(k, step);
            for (j, pair) in (0..).zip(scores.chunks_exact_mut(2)) {
                let b: [_; 4] = tiles.ldmatrix(k_lane + (j * 16 * stride + step * 8));
                // The small term first.
                for q in q.iter().rev() {
                    pair[0] = self.multiply(k, *q, [b[0], b[1]], pair[0]);
                    pair[1] = self.multiply(k, *q, [b[2], b[3]], pair[1]);
                }
            }
        }
        // The last step of an odd number of eights: zeros in place of its second half.
        if !self.shape.head_dim.is_multiple_of(16) {
            let half_lane = from + (lane % 16) * stride;
            let q = rows.query(k, steps);
            for (j, pair) in (0..).zip(scores.chunks_exact_mut(2)) {
                let b: [_; 2] = tiles.ldmatrix(half_lane + (j * 16 * stride + steps * 8));
                for (score, b) in pair.iter_mut().zip(b) {
                    for q in q.iter().rev() {
                        *score = self.multiply(k, *q, [b, zero], *score);
                    }
                }
            }
        }
        // What a product is to be multiplied by is a factor of what follows, or of what is capped.
        let (units, one) = (rows.units, k.constant(1f32));
        let (scores, units) = match self.shape.softcap {
            None => (scores, units),
            Some(_) => {
                let scaled = |s: [Val<'k, f32>; 4]| {
                    std::array::from_fn(|e| capped(k, s[e] * units[e / 2], self.shape.softcap))
                };
                (scores.into_iter().map(scaled).collect(), [one; 2])
            }
        };
        let scores = self.mask(k, rows, scores, now);

        let mut weights = scores.clone();
        let mut shrinks = Vec::new();
        for (half, running) in rows.softmax.iter().enumerate() {
            let own = |s: &[Val<'k, f32>; 4]| [s[2 * half], s[2 * half + 1]];
            let before = running.max.get();
            let max = scores.iter().flat_map(own).fold(before, |m, s| m.max(s));
            let max = k.lanes_reduce(max, 4, |a, b| a.max(b));
            let scaled = -(max * units[half]);
            let shrink = before.fma(units[half], scaled).ex2();
            let mut sum = running.sum.get() * shrink;
            for (scores, weights) in scores.iter().zip(&mut weights) {
                for e in [2 * half, 2 * half + 1] {
                    weights[e] = scores[e].fma(units[half], scaled).ex2();
                    sum = sum + weights[e];
                }
            }
            running.max.set(max);
            running.sum.set(sum);
            shrinks.push(shrink);
        }
        for out in &rows.out {
            for (e, o) in out.iter().enumerate() {
                o.update(|o| o * shrinks[e / 2]);
            }
        }
        let values = self.words(keys);
        for (j, p) in (0..).zip(weights.chunks_exact(2)) {
            let pack = |a, b| self.pack(k, a, b);
            let a = [
                pack(p[0][0], p[0][1]),
                pack(p[0][2], p[0][3]),
                pack(p[1][0], p[1][1]),
                pack(p[1][2], p[1][3]),
            ];
            for (step, out) in (0..).zip(rows.out.chunks(2)) {
                let at = v_lane + (values + j * 16 * stride + step * 8);
                let b = match out.len() {
                    2 => tiles.ldmatrix_trans::<4>(at).to_vec(),
                    _ => tiles.ldmatrix_trans::<2>(at).to_vec(),
                };
                for (out, b) in out.iter().zip(b.chunks_exact(2)) {
                    let sums = std::array::from_fn(|e| out[e].get());
                    let sums = self.multiply(k, a, [b[0], b[1]], sums);
                    out.iter().zip(sums).for_each(|(o, v)| o.set(v));
                }
            }
        }
    }

    /// Scores with minus infinity where a row does not see the key; tiles that every row of the
    /// block sees whole go without the comparisons.
    fn mask<'k>(
        &self,
        k: &'k Builder,
        rows: &Rows<'k>,
        scores: Vec<[Val<'k, f32>; 4]>,
        now: Val<'k, u32>,
    ) -> Vec<[Val<'k, f32>; 4]> {
        let mut partial = (now + self.keys()).gt(rows.shortest);
        if let Some(window) = self.shape.window {
            partial = partial | (now + window).lt(rows.end);
        }
        let masked: Vec<[Var<'k, f32>; 4]> = scores.iter().map(|s| s.map(|s| k.var(s))).collect();
        k.if_(k.assume_uniform(partial), || {
            let column = now + (k.lane() % 4) * 2;
            // Keys relative to the lane's first; a distance below zero is one as an i32.
            let ends = rows.lengths.map(|length| (length - column).as_i32());
            let window = self
                .shape
                .window
                .map(|window| window.min(i32::MAX as u32) as i32);
            let starts = ends.map(|end| window.map(|window| end - window));
            for (j, scores) in (0..).zip(&masked) {
                for (e, score) in (0..).zip(scores) {
                    let key = k.constant(8 * j + e % 2);
                    let half = (e / 2) as usize;
                    let mut seen = ends[half].gt(key);
                    if let Some(start) = starts[half] {
                        seen = seen & start.le(key);
                    }
                    score.update(|s| k.select(seen, s, f32::NEG_INFINITY));
                }
            }
        });
        masked
            .iter()
            .map(|s| std::array::from_fn(|e| s[e].get()))
            .collect()
    }

    /// Bytes moved for `tokens` rows that read `keys` different keys, queries and outputs counted
    /// once.
    pub fn bytes_at(&self, tokens: u64, keys: u64) -> u64 {
        let rows = 8 * tokens * u64::from(self.shape.num_heads * self.shape.head_dim);
        let key = self.shape.kv_type.block_bytes(1, self.shape.head_dim);
        rows + 2 * keys * u64::from(self.shape.num_kv_heads * key)
    }
}

pub(in crate::kernels) fn representative(target: Target) -> Vec<AttentionFlashSpec> {
    let spec = |num_heads, num_kv_heads, head_dim| AttentionFlashSpec {
        target,
        shape: shape::representative(num_heads, num_kv_heads, head_dim),
        split_queries: false,
    };
    let split = |spec| AttentionFlashSpec {
        split_queries: true,
        ..spec
    };
    let of_type = |kv_type, mut spec: AttentionFlashSpec| {
        spec.shape.kv_type = kv_type;
        spec
    };
    let mut capped = spec(6, 1, 80);
    (capped.shape.softcap, capped.shape.window) = (Some(50.0), Some(512));
    let mut specs = vec![
        spec(8, 2, 64),
        spec(32, 8, 128),
        of_type(KvType::BF16, spec(32, 8, 128)),
        of_type(KvType::Int8, spec(32, 8, 128)),
        capped,
        spec(8, 4, 256),
        split(spec(32, 8, 128)),
        split(spec(8, 4, 256)),
        spec(32, 32, 96),
        spec(6, 2, 72),
        of_type(KvType::Int8, spec(4, 2, 40)),
        of_type(KvType::BF16, spec(4, 2, 200)),
    ];
    specs.retain(|spec| spec.check().is_ok());
    specs
}
