//! Attention on the CPU, over keys that lie dimension by dimension.
//!
//! A block of keys is `[head_dim, BLOCK_TOKENS]`, so that the scores of all its positions grow
//! together while the head is walked, with no sum across a vector; a block of values is
//! `[BLOCK_TOKENS, head_dim]`, for the same reason on the other side. The query heads that share a
//! key head are multiplied together.
//!
//! Always holds: a row's result does not depend on the other rows, nor on which blocks its
//! positions lie in.

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
        // The heads of a row that share keys lie next to each other.
        let width = spec.num_heads / spec.num_kv_heads * spec.head_dim;
        let one = |scores: &mut Vec<f32>, (i, out): (usize, &mut [f32])| {
            self.attend_group(step, spec, i, &q[i * width..][..width], scores, out);
        };
        let keys: usize = step.lengths().iter().map(|&l| l as usize).sum();
        if keys * spec.num_heads * spec.head_dim < PARALLEL_WORK {
            let mut scores = Vec::new();
            let groups = out.chunks_exact_mut(width).enumerate();
            groups.for_each(|group| one(&mut scores, group));
        } else {
            let groups = out.par_chunks_exact_mut(width).enumerate();
            groups.for_each_init(Vec::new, one);
        }
    }

    /// The query heads that share keys, group `group` of `[rows, num_kv_heads]`: `q` and `out` are
    /// `[heads, head_dim]`.
    fn attend_group(
        &self,
        step: &Step<'_>,
        spec: &AttentionConfig,
        group: usize,
        q: &[f32],
        scores: &mut Vec<f32>,
        out: &mut [f32],
    ) {
        let (t, kv_head) = (group / spec.num_kv_heads, group % spec.num_kv_heads);
        let (dim, heads) = (spec.head_dim, q.len() / spec.head_dim);
        let length = step.lengths()[t] as usize;
        let first = spec.window.map_or(0, |w| length.saturating_sub(w as usize));
        let blocks = first / BLOCK_TOKENS..length.div_ceil(BLOCK_TOKENS);
        let start_of = |block: usize| {
            let at = step
                .table
                .locate(step.slots()[t] as usize, block * BLOCK_TOKENS);
            self.start(at.0, kv_head)
        };
        out.fill(0.0);

        // `[heads, blocks * BLOCK_TOKENS]`: whole blocks, of which `seen` counts.
        let stride = blocks.len() * BLOCK_TOKENS;
        let origin = blocks.start * BLOCK_TOKENS;
        let seen = first - origin..length.saturating_sub(origin);
        scores.clear();
        scores.resize(heads * stride, 0.0);
        for (i, block) in blocks.clone().enumerate() {
            accumulate(
                StridedRows {
                    values: q,
                    stride: dim,
                },
                StridedRows {
                    values: &self.k[start_of(block)..],
                    stride: BLOCK_TOKENS,
                },
                dim,
                StridedRowsMut {
                    values: &mut scores[i * BLOCK_TOKENS..],
                    stride,
                    rows: heads,
                    cols: BLOCK_TOKENS,
                },
            );
        }
        for scores in scores.chunks_exact_mut(stride.max(1)) {
            let scores = &mut scores[seen.clone()];
            scores.iter_mut().for_each(|s| *s *= spec.scale);
            if let Some(cap) = spec.softcap {
                scores.iter_mut().for_each(|s| *s = softcap(*s, cap));
            }
            softmax(scores);
        }
        for (i, block) in blocks.enumerate() {
            let from = seen.start.saturating_sub(i * BLOCK_TOKENS);
            let to = BLOCK_TOKENS.min(seen.end - i * BLOCK_TOKENS);
            accumulate(
                StridedRows {
                    values: &scores[i * BLOCK_TOKENS + from..],
                    stride,
                },
                StridedRows {
                    values: &self.v[start_of(block) + from * dim..],
                    stride: dim,
                },
                to - from,
                StridedRowsMut {
                    values: &mut *out,
                    stride: dim,
                    rows: heads,
                    cols: dim,
                },
            );
        }
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
