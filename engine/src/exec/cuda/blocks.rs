//! Blocks of the cache on the move: within a GPU, to the host, and back.
//!
//! All of it is queued on the stream of the steps, so that order is all that it needs: a block is saved
//! as the steps in front left it, a place on the host is read before a later save writes it, and nobody
//! waits.

use std::sync::Arc;

use gannet_cuda_runtime::{Buffer, Context, PinnedBuffer};

use super::rank::Rank;
use crate::Error;
use crate::exec::packed::{all_block_bytes, block_bytes};
use crate::exec::{Limits, decode::swapped};
use crate::plan::Plan;

/// Blocks of a cache that the host keeps.
pub(super) struct SavedBlocks {
    /// Saved blocks of each pool, one after the other; pools of keys first. `None` without places.
    memory: Option<PinnedBuffer>,
}

impl SavedBlocks {
    /// Pins memory for `limits.saved_blocks`.
    pub(super) fn new(
        context: &Arc<Context>,
        plan: &Plan,
        limits: Limits,
    ) -> Result<SavedBlocks, Error> {
        let bytes = limits.saved_blocks * all_block_bytes(plan, limits.kv_type);
        let memory = (bytes > 0).then(|| PinnedBuffer::new(context, bytes));
        Ok(SavedBlocks {
            memory: memory.transpose()?,
        })
    }
}

/// Blocks that lie one behind the other on both sides, and are copied at once.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    block: usize,
    place: usize,
    len: usize,
}

/// Pairs of a block and a place as runs, in their order.
fn runs(pairs: impl Iterator<Item = (u32, u32)>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (block, place) in pairs {
        let (block, place) = (block as usize, place as usize);
        match runs.last_mut() {
            Some(run) if (run.block + run.len, run.place + run.len) == (block, place) => {
                run.len += 1;
            }
            Some(_) | None => runs.push(Run {
                block,
                place,
                len: 1,
            }),
        }
    }
    runs
}

/// A pool, the bytes of a block of it, and where its saved blocks start.
struct Pool<'a> {
    memory: &'a Buffer,
    bytes: usize,
    saved: usize,
}

impl Rank {
    /// The pools, those of keys first.
    fn pools(&self) -> impl Iterator<Item = Pool<'_>> {
        let caches = &self.model.plan().caches;
        let (keys, values) = (&self.memory.keys, &self.memory.values);
        let pools = keys.iter().zip(caches).chain(values.iter().zip(caches));
        let mut saved = 0;
        pools.map(move |(memory, cache)| {
            let bytes = block_bytes(cache, self.limits.kv_type);
            let start = saved;
            saved += bytes * self.limits.saved_blocks;
            Pool {
                memory,
                bytes,
                saved: start,
            }
        })
    }

    /// Copies blocks within the cache.
    pub(super) fn copy_blocks(&self, pairs: &[(u32, u32)]) -> Result<(), Error> {
        for Pool { memory, bytes, .. } in self.pools() {
            for &(from, to) in pairs.iter().filter(|(from, to)| from != to) {
                let (from, to) = (from as usize * bytes, to as usize * bytes);
                self.stream.copy(memory, to, memory, from, bytes)?;
            }
        }
        Ok(())
    }

    /// Copies blocks to the host: `(block, place)`.
    pub(super) fn save_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<(), Error> {
        // Out for a while, so that the pools can be looked at.
        let Some(mut host) = self.saved.memory.take() else {
            return Ok(());
        };
        let runs = runs(pairs.iter().copied());
        let copied = self.pools().try_for_each(|pool| {
            let bytes = pool.bytes;
            runs.iter().try_for_each(|run| {
                let (from, to) = (run.block * bytes, pool.saved + run.place * bytes);
                (self.stream).copy_to_pinned(&mut host, to, pool.memory, from, run.len * bytes)
            })
        });
        self.saved.memory = Some(host);
        Ok(copied?)
    }

    /// Copies blocks back from the host: `(place, block)`.
    pub(super) fn restore_blocks(&self, pairs: &[(u32, u32)]) -> Result<(), Error> {
        let Some(host) = &self.saved.memory else {
            return Ok(());
        };
        let runs = runs(swapped(pairs));
        for pool in self.pools() {
            let bytes = pool.bytes;
            for run in &runs {
                let (to, from) = (run.block * bytes, pool.saved + run.place * bytes);
                (self.stream).copy_from_pinned(pool.memory, to, host, from, run.len * bytes)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_on_both_sides_are_copied_at_once() {
        let found = runs([(4, 0), (5, 1), (6, 2), (9, 3), (10, 5), (11, 6)].into_iter());
        let run = |block, place, len| Run { block, place, len };
        assert_eq!(found, [run(4, 0, 3), run(9, 3, 1), run(10, 5, 2)]);
    }
}
