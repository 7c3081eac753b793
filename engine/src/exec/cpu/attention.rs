//! Attention on the CPU, over keys that lie dimension by dimension.
//!
//! A block of keys is `[head_dim, BLOCK_TOKENS]`, so that the scores of all its positions grow
//! together while the head is walked, with no sum across a vector; a block of values is
//! `[BLOCK_TOKENS, head_dim]`, for the same reason on the other side. The query heads that share a
//! key head are multiplied together, and so are a prompt's rows, as many as read the same keys from
//! the nearest cache.
//!
//! Always holds: a row's result does not depend on the other rows, nor on which blocks its
//! positions lie in.

use std::ops::Range;

use bytemuck::allocation::try_zeroed_vec;
use gannet_quant::cpu::{StridedRows, StridedRowsMut, accumulate, softmax};
use rayon::prelude::*;

use super::ops::softcap;
use crate::Error;
use crate::exec::Step;
use crate::kv::BLOCK_TOKENS;
use crate::plan::{AttentionConfig, CacheInfo};

/// Below this many multiply-adds a step's attention is not worth waking other threads for.
const PARALLEL_WORK: usize = 1 << 18;

/// Keys and values of one cache.
pub(super) struct LayerCache {
    num_kv_heads: usize,
    head_dim: usize,
    /// `[num_blocks, num_kv_heads, head_dim, BLOCK_TOKENS]`.
    k: Vec<f32>,
    /// `[num_blocks, num_kv_heads, BLOCK_TOKENS, head_dim]`.
    v: Vec<f32>,
}

impl LayerCache {
    /// A cache of zeros; the system gives the pages when they are used.
    ///
    /// # Errors
    /// There is no memory for it.
    pub(super) fn new(cache: &CacheInfo, num_blocks: usize) -> Result<LayerCache, Error> {
        let block = cache.width() * BLOCK_TOKENS;
        let zeros = || {
            let len = num_blocks.checked_mul(block)?;
            try_zeroed_vec(len).ok()
        };
        let (Some(k), Some(v)) = (zeros(), zeros()) else {
            return Err(Error::Request(format!(
                "the system has no memory for a cache of {num_blocks} blocks of {BLOCK_TOKENS} \
                 positions; lower --ctx, or the sequences at once"
            )));
        };
        Ok(LayerCache {
            num_kv_heads: cache.num_kv_heads,
            head_dim: cache.head_dim,
            k,
            v,
        })
    }

    /// Where a head of a block starts, in keys and values alike.
    fn start(&self, block: usize, head: usize) -> usize {
        (block * self.num_kv_heads + head) * BLOCK_TOKENS * self.head_dim
    }

    /// Copies a block onto another.
    pub(super) fn copy_block(&mut self, from: usize, to: usize) {
        let len = self.start(1, 0);
        for pool in [&mut self.k, &mut self.v] {
            pool.copy_within(from * len..(from + 1) * len, to * len);
        }
    }

    /// Copies the keys and values of the step's tokens to their positions. Dead rows have none.
    pub(super) fn write(&mut self, step: &Step<'_>, k: &[f32], v: &[f32]) {
        let (num_kv_heads, head_dim) = (self.num_kv_heads, self.head_dim);
        let row = num_kv_heads * head_dim;
        let rows = k.chunks_exact(row).zip(v.chunks_exact(row));
        for (t, (k, v)) in rows.enumerate() {
            let Some(position) = (step.lengths()[t] as usize).checked_sub(1) else {
                continue;
            };
            let (block, token) = step.table.locate(step.slots()[t] as usize, position);
            let heads = k.chunks_exact(head_dim).zip(v.chunks_exact(head_dim));
            for (head, (k, v)) in heads.enumerate() {
                let start = self.start(block, head);
                let keys = self.k[start..].chunks_exact_mut(BLOCK_TOKENS);
                keys.zip(k).for_each(|(line, &k)| line[token] = k);
                self.v[start + token * head_dim..][..head_dim].copy_from_slice(v);
            }
        }
    }

    /// Causal attention: `softmax(scale * q k^T) v` over the keys that each row may see.
    pub(super) fn attend(
        &self,
        step: &Step<'_>,
        spec: &AttentionConfig,
        q: &[f32],
        out: &mut [f32],
    ) {
        let heads = spec.num_heads / spec.num_kv_heads;
        // The heads of a row that share keys lie next to each other.
        let groups = out.chunks_exact_mut(heads * spec.head_dim);
        let tiles = tiles_of(step, heads, groups.len() / spec.num_kv_heads);
        let mut jobs: Vec<Job<'_>> = (tiles.iter())
            .flat_map(|rows| (0..spec.num_kv_heads).map(|kv_head| Job::new(rows.clone(), kv_head)))
            .collect();
        let mut tile = 0;
        for (i, out) in groups.enumerate() {
            let (row, kv_head) = (i / spec.num_kv_heads, i % spec.num_kv_heads);
            tile += usize::from(row == tiles[tile].end);
            jobs[tile * spec.num_kv_heads + kv_head].out.push(out);
        }
        let one = |scratch: &mut Scratch, job: Job<'_>| {
            self.attend_tile(step, spec, job, q, scratch);
        };
        let keys: usize = step.lengths().iter().map(|&l| l as usize).sum();
        if keys * spec.num_heads * spec.head_dim < PARALLEL_WORK {
            let mut scratch = Scratch::default();
            jobs.into_iter().for_each(|job| one(&mut scratch, job));
        } else {
            let jobs = jobs.into_par_iter().with_max_len(1);
            jobs.for_each_init(Scratch::default, one);
        }
    }

    /// Attention of one job.
    fn attend_tile(
        &self,
        step: &Step<'_>,
        spec: &AttentionConfig,
        job: Job<'_>,
        q: &[f32],
        scratch: &mut Scratch,
    ) {
        let Job {
            rows,
            kv_head,
            mut out,
        } = job;
        let Scratch {
            queries,
            scores,
            sums,
        } = scratch;
        let (dim, heads) = (spec.head_dim, spec.num_heads / spec.num_kv_heads);
        let width = heads * dim;
        let seen: Vec<Range<usize>> = (step.lengths()[rows.clone()].iter())
            .map(|&length| {
                let window = spec.window.unwrap_or(u32::MAX);
                length.saturating_sub(window) as usize..length as usize
            })
            .collect();
        queries.clear();
        for t in rows.clone() {
            let at = (t * spec.num_kv_heads + kv_head) * width;
            queries.extend_from_slice(&q[at..][..width]);
        }
        sums.clear();
        sums.resize(rows.len() * width, 0.0);
        let blocks = Blocks::new(
            self,
            step,
            step.slots()[rows.start] as usize,
            kv_head,
            &seen,
        );

        // `[rows, heads, blocks * BLOCK_TOKENS]`: whole blocks, of which `seen` counts.
        let stride = blocks.all.len() * BLOCK_TOKENS;
        scores.clear();
        scores.resize(rows.len() * heads * stride, 0.0);
        for block in blocks.all.clone() {
            let rows = blocks.seen_by(block);
            accumulate(
                StridedRows {
                    values: &queries[rows.start * width..],
                    stride: dim,
                },
                StridedRows {
                    values: &self.k[blocks.start_of(block)..],
                    stride: BLOCK_TOKENS,
                },
                dim,
                StridedRowsMut {
                    values: &mut scores[rows.start * heads * stride + blocks.offset(block)..],
                    stride,
                    rows: rows.len() * heads,
                    cols: BLOCK_TOKENS,
                },
            );
        }
        for (t, scores) in scores.chunks_exact_mut((heads * stride).max(1)).enumerate() {
            let seen = seen[t].start - blocks.origin()..seen[t].end - blocks.origin();
            for scores in scores.chunks_exact_mut(stride) {
                weigh(spec, &mut scores[seen.clone()]);
            }
        }
        for block in blocks.all.clone() {
            for (rows, tokens) in blocks.parts(block) {
                let at = blocks.offset(block) + tokens.start;
                accumulate(
                    StridedRows {
                        values: &scores[rows.start * heads * stride + at..],
                        stride,
                    },
                    StridedRows {
                        values: &self.v[blocks.start_of(block) + tokens.start * dim..],
                        stride: dim,
                    },
                    tokens.len(),
                    StridedRowsMut {
                        values: &mut sums[rows.start * width..],
                        stride: dim,
                        rows: rows.len() * heads,
                        cols: dim,
                    },
                );
            }
        }
        for (out, sums) in out.iter_mut().zip(sums.chunks_exact(width)) {
            out.copy_from_slice(sums);
        }
    }
}

/// Scores to weights.
fn weigh(spec: &AttentionConfig, scores: &mut [f32]) {
    scores.iter_mut().for_each(|s| *s *= spec.scale);
    if let Some(cap) = spec.softcap {
        scores.iter_mut().for_each(|s| *s = softcap(*s, cap));
    }
    softmax(scores);
}

/// Query heads that are multiplied with a block of keys together, where a prompt has as many.
const TILE_QUERIES: usize = 24;

/// Ranges that cover the rows of a step: rows of one sequence in order, or one row.
fn tiles_of(step: &Step<'_>, heads: usize, rows: usize) -> Vec<Range<usize>> {
    let most = (TILE_QUERIES / heads).max(1);
    let mut tiles: Vec<Range<usize>> = Vec::new();
    for t in 0..rows {
        let (slot, length) = (step.slots()[t], step.lengths()[t]);
        match tiles.last_mut() {
            Some(tile)
                if tile.len() < most
                    && step.slots()[t - 1] == slot
                    && (1..=length).contains(&step.lengths()[t - 1]) =>
            {
                tile.end += 1;
            }
            _ => tiles.push(t..t + 1),
        }
    }
    tiles
}

/// Rows of one sequence, in order, with the query heads that share a key head.
struct Job<'a> {
    rows: Range<usize>,
    kv_head: usize,
    /// `[heads, head_dim]` of each row.
    out: Vec<&'a mut [f32]>,
}

impl Job<'_> {
    fn new(rows: Range<usize>, kv_head: usize) -> Self {
        let out = Vec::with_capacity(rows.len());
        Job { rows, kv_head, out }
    }
}

/// Memory of a thread, reused from job to job.
#[derive(Default)]
struct Scratch {
    queries: Vec<f32>,
    scores: Vec<f32>,
    sums: Vec<f32>,
}

/// The blocks of the cache that rows of one sequence see.
struct Blocks<'a> {
    cache: &'a LayerCache,
    step: &'a Step<'a>,
    slot: usize,
    kv_head: usize,
    /// The positions that each row sees; both ends grow from row to row.
    seen: &'a [Range<usize>],
    all: Range<usize>,
}

impl<'a> Blocks<'a> {
    fn new(
        cache: &'a LayerCache,
        step: &'a Step<'a>,
        slot: usize,
        kv_head: usize,
        seen: &'a [Range<usize>],
    ) -> Blocks<'a> {
        let (first, last) = (seen[0].start, seen[seen.len() - 1].end);
        Blocks {
            cache,
            step,
            slot,
            kv_head,
            seen,
            all: first / BLOCK_TOKENS..last.div_ceil(BLOCK_TOKENS),
        }
    }

    /// The first position of all blocks.
    fn origin(&self) -> usize {
        self.all.start * BLOCK_TOKENS
    }

    /// Where the scores of a block start in a row of them.
    fn offset(&self, block: usize) -> usize {
        (block - self.all.start) * BLOCK_TOKENS
    }

    /// Where the keys and the values of a block start.
    fn start_of(&self, block: usize) -> usize {
        let at = (self.step.table).locate(self.slot, block * BLOCK_TOKENS);
        self.cache.start(at.0, self.kv_head)
    }

    /// The positions of a block that row `t` sees, from the block's first on.
    fn tokens(&self, t: usize, block: usize) -> Range<usize> {
        let within = |position: usize| position.saturating_sub(block * BLOCK_TOKENS);
        let end = within(self.seen[t].end).min(BLOCK_TOKENS);
        within(self.seen[t].start).min(end)..end
    }

    /// The rows that see any of a block.
    fn seen_by(&self, block: usize) -> Range<usize> {
        let sees = |&t: &usize| !self.tokens(t, block).is_empty();
        let rows = 0..self.seen.len();
        let first = rows.clone().find(sees).unwrap_or(0);
        first..rows.rev().find(sees).map_or(first, |t| t + 1)
    }

    /// Rows with the positions of a block that they see: rows that see the same ones together.
    fn parts(&self, block: usize) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        let mut next = self.seen_by(block);
        std::iter::from_fn(move || {
            let first = next.next()?;
            let tokens = self.tokens(first, block);
            while next.start < next.end && self.tokens(next.start, block) == tokens {
                next.start += 1;
            }
            Some((first..next.start, tokens))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::StepRows;
    use crate::kv::BlockTable;
    use crate::plan::StepRow;

    const NUM_KV_HEADS: usize = 2;
    const HEAD_DIM: usize = 20;

    fn cache(num_blocks: usize) -> LayerCache {
        let info = CacheInfo {
            name: "cache".to_owned(),
            num_kv_heads: NUM_KV_HEADS,
            head_dim: HEAD_DIM,
            key_bias: 0.0,
        };
        LayerCache::new(&info, num_blocks).unwrap()
    }

    fn spec(window: Option<u32>, softcap: Option<f32>) -> AttentionConfig {
        AttentionConfig {
            num_heads: 6,
            num_kv_heads: NUM_KV_HEADS,
            head_dim: HEAD_DIM,
            scale: 0.3,
            softcap,
            window,
        }
    }

    fn values(len: usize, step: f64) -> Vec<f32> {
        (0..len).map(|i| (i as f64 * step).sin() as f32).collect()
    }

    /// The formula in f64, one head of one row: `k` and `v` hold all positions in order.
    fn expected(spec: &AttentionConfig, q: &[f32], k: &[&[f32]], v: &[&[f32]]) -> Vec<f64> {
        let first = spec
            .window
            .map_or(0, |w| k.len().saturating_sub(w as usize));
        let scores = k[first..].iter().map(|k| {
            let dot: f64 = q
                .iter()
                .zip(*k)
                .map(|(&q, &k)| f64::from(q) * f64::from(k))
                .sum();
            let score = dot * f64::from(spec.scale);
            spec.softcap.map_or(score, |cap| {
                let cap = f64::from(cap);
                cap * (score / cap).tanh()
            })
        });
        let weights: Vec<f64> = scores.map(f64::exp).collect();
        let sum: f64 = weights.iter().sum();
        (0..spec.head_dim)
            .map(|d| {
                let terms = weights.iter().zip(&v[first..]);
                terms.map(|(w, v)| w * f64::from(v[d])).sum::<f64>() / sum
            })
            .collect()
    }

    #[test]
    fn attention_follows_the_formula_and_rows_are_independent() {
        const LEN: usize = 75;
        let row = NUM_KV_HEADS * HEAD_DIM;
        let (k, v) = (values(LEN * row, 0.37), values(LEN * row, 0.71));
        // Slot 1's blocks are not in order: slot 0 took one in between.
        let mut table = BlockTable::new(2, 96, 6);
        for (slot, positions) in [(1, 32), (0, 32), (1, 96)] {
            table.reserve(slot, positions).unwrap();
        }
        let rows = StepRows::prompt(&[0; LEN], 1, 0);
        let step = rows.step(&table);
        let mut cache = cache(6);
        cache.write(&step, &k, &v);
        for spec in [
            spec(None, None),
            spec(Some(37), None),
            spec(None, Some(2.0)),
        ] {
            let width = spec.num_heads * spec.head_dim;
            let q = values(LEN * width, 0.13);
            let mut out = vec![f32::NAN; LEN * width];
            cache.attend(&step, &spec, &q, &mut out);
            for t in 0..LEN {
                for head in 0..spec.num_heads {
                    let kv_head = head / 3;
                    let of = |x: &'_ [f32]| -> Vec<Vec<f32>> {
                        (0..=t)
                            .map(|p| x[p * row + kv_head * HEAD_DIM..][..HEAD_DIM].to_vec())
                            .collect()
                    };
                    let (k, v) = (of(&k), of(&v));
                    let (k, v): (Vec<&[f32]>, Vec<&[f32]>) = (
                        k.iter().map(Vec::as_slice).collect(),
                        v.iter().map(Vec::as_slice).collect(),
                    );
                    let at = t * width + head * HEAD_DIM;
                    let expected = expected(&spec, &q[at..][..HEAD_DIM], &k, &v);
                    for (o, e) in out[at..].iter().zip(expected) {
                        assert!((f64::from(*o) - e).abs() < 1e-6, "row {t}, head {head}");
                    }
                }
                let alone = rows.part(t..t + 1);
                let mut single = vec![f32::NAN; width];
                cache.attend(
                    &alone.step(&table),
                    &spec,
                    &q[t * width..][..width],
                    &mut single,
                );
                assert_eq!(single, out[t * width..][..width], "row {t} alone");
            }
        }
    }

    #[test]
    fn a_dead_row_is_zero_and_writes_nothing() {
        let table = BlockTable::new(1, 32, 1);
        let rows = StepRows::new([StepRow::default()]);
        let step = rows.step(&table);
        let mut cache = cache(1);
        cache.write(&step, &[1.0; 40], &[1.0; 40]);
        assert!(cache.k.iter().chain(&cache.v).all(|&x| x == 0.0));
        let mut out = vec![f32::NAN; 120];
        cache.attend(&step, &spec(None, None), &[1.0; 120], &mut out);
        assert!(out.iter().all(|&x| x == 0.0));
    }
}
