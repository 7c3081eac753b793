//! Where keys and values live: pools of fixed-size blocks, found through a block table.
//!
//! Executors own the pools; this module owns the addressing, which every kernel shares, and says who
//! owns which block. A pool of a layer is `[num_blocks, num_kv_heads, BLOCK_TOKENS, head_dim]`.
//! Position `p` of slot `s` lies in block `table[s][p / BLOCK_TOKENS]` at token `p % BLOCK_TOKENS`;
//! a block has that place in the pools of all layers.
//!
//! Blocks are owned by the slots whose table names them and by the cache of known prefixes, and go
//! back when the last owner lets go. A block with one owner may be written by it. Before a slot
//! writes into one with several, [`BlockTable::make_writable`] gives the slot a block of its own and
//! says what the executor has to copy: no write of a slot is ever seen by another.
//!
//! Nothing here touches a device, and no block moves while a step runs: an executor reads the table of
//! a step when the step is queued, and steps run in that order.

mod pool;
mod prefix;
#[cfg(test)]
mod tests;

use std::ops::Range;

use pool::BlockPool;
use prefix::PrefixCache;

use crate::Error;

pub use gannet_ptx_gen::kernels::KvType;
pub use prefix::PrefixKey;

/// Positions in a block. A block of one head is `BLOCK_TOKENS * head_dim` elements, contiguous.
pub const BLOCK_TOKENS: usize = 32;

/// A block from when it is handed out until nobody owns it. What stands in a block means one thing in
/// one life, and another in the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockLife {
    /// The block.
    pub block: u32,
    /// Which of its lives.
    pub life: u32,
}

/// Block table of all slots, `[num_slots, max_blocks]`, the owners of every block, and the prefixes
/// whose keys and values are still there.
#[derive(Debug, Clone)]
pub struct BlockTable {
    entries: Vec<u32>,
    max_blocks: usize,
    /// Blocks held by each slot.
    held: Vec<usize>,
    pool: BlockPool,
    prefixes: PrefixCache,
}

impl BlockTable {
    /// A table for `num_slots` sequences of up to `context` positions over `num_blocks` blocks.
    #[must_use]
    pub fn new(num_slots: usize, context: usize, num_blocks: usize) -> BlockTable {
        let max_blocks = context.div_ceil(BLOCK_TOKENS);
        BlockTable {
            entries: vec![0; num_slots * max_blocks],
            max_blocks,
            held: vec![0; num_slots],
            pool: BlockPool::new(num_blocks),
            prefixes: PrefixCache::new(num_blocks),
        }
    }

    /// Blocks that `slots` sequences of `context` positions need when they share nothing.
    #[must_use]
    pub fn blocks_for(num_slots: usize, context: usize) -> usize {
        num_slots * context.div_ceil(BLOCK_TOKENS)
    }

    /// `[num_slots, max_blocks]`, row-major. Entries past what a slot holds mean nothing.
    #[must_use]
    pub fn entries(&self) -> &[u32] {
        &self.entries
    }

    /// Entries in a row of the table.
    #[must_use]
    pub fn max_blocks(&self) -> usize {
        self.max_blocks
    }

    /// Blocks that a slot's sequence has, its own and shared ones.
    #[must_use]
    pub fn held(&self, slot: usize) -> usize {
        self.held[slot]
    }

    /// Blocks that can be handed out: those that nobody owns, and those that only the cache of
    /// prefixes does.
    #[must_use]
    pub fn free_blocks(&self) -> usize {
        self.pool.free() + self.prefixes.num_idle()
    }

    /// Blocks that slots hold, each counted once however many share it.
    #[must_use]
    pub fn blocks_in_use(&self) -> usize {
        self.pool.len() - self.free_blocks()
    }

    /// Blocks that nobody owns.
    #[must_use]
    pub fn unowned_blocks(&self) -> usize {
        self.pool.free()
    }

    /// Blocks of known prefixes, whether slots hold them or not.
    #[must_use]
    pub fn known_blocks(&self) -> usize {
        self.prefixes.len()
    }

    /// The blocks of a slot, in the order of its positions.
    #[must_use]
    pub fn blocks(&self, slot: usize) -> &[u32] {
        &self.entries[self.range(slot, 0, self.held[slot])]
    }

    /// A block as it is now.
    #[must_use]
    pub fn life(&self, block: u32) -> BlockLife {
        let life = self.pool.life(block);
        BlockLife { block, life }
    }

    /// The block and the token in it of a position.
    #[must_use]
    pub fn locate(&self, slot: usize, position: usize) -> (usize, usize) {
        let block = self.entries[slot * self.max_blocks + position / BLOCK_TOKENS];
        (block as usize, position % BLOCK_TOKENS)
    }

    /// Makes sure that a slot has blocks for `positions` positions. New blocks are its own; what
    /// they contain means nothing. Prefixes that nobody uses give way.
    ///
    /// # Errors
    /// The positions exceed the slot's context, or too few blocks are free; nothing changed then.
    pub fn reserve(&mut self, slot: usize, positions: usize) -> Result<(), Error> {
        let wanted = positions.div_ceil(BLOCK_TOKENS);
        let held = self.held[slot];
        let possible = self.max_blocks.min(held + self.free_blocks());
        if wanted > possible {
            return Err(Error::ContextFull {
                tokens: positions,
                context: possible * BLOCK_TOKENS,
            });
        }
        for i in held..wanted {
            let block = self.take();
            self.entries[slot * self.max_blocks + i] = block;
        }
        self.held[slot] = held.max(wanted);
        Ok(())
    }

    /// Gives a slot's blocks back; those with other owners stay with them.
    pub fn release(&mut self, slot: usize) {
        // The last first, so that the first is handed out next.
        for i in self.range(slot, 0, self.held[slot]).rev() {
            self.disown(self.entries[i]);
        }
        self.held[slot] = 0;
    }

    /// Makes the first `positions` positions of one slot those of another too; what `to_slot` had is
    /// given back. A last block that is used in part is shared as well, until either writes.
    ///
    /// # Errors
    /// `from_slot` does not have so many positions.
    pub fn share(
        &mut self,
        from_slot: usize,
        to_slot: usize,
        positions: usize,
    ) -> Result<(), Error> {
        let blocks = positions.div_ceil(BLOCK_TOKENS);
        if blocks > self.held[from_slot] {
            return Err(Error::Request(format!(
                "slot {from_slot} has {} cache blocks and cannot share {positions} positions",
                self.held[from_slot]
            )));
        }
        if from_slot != to_slot {
            let shared = self.entries[self.range(from_slot, 0, blocks)].to_vec();
            self.replace(to_slot, &shared);
        }
        Ok(())
    }

    /// Blocks that [`BlockTable::reserve`] up to `to` and [`BlockTable::make_writable`] from `from`
    /// on would take together, if no other slot let go of a shared one in between.
    #[must_use]
    pub fn blocks_to_write(&self, slot: usize, from: usize, to: usize) -> usize {
        let shared = self.written(slot, from, to);
        let shared = shared.filter(|&i| self.pool.owners(self.entries[i]) > 1);
        shared.count() + to.div_ceil(BLOCK_TOKENS).saturating_sub(self.held[slot])
    }

    /// Gives a slot blocks of its own for positions `from..to`, which it has reserved. Returns the
    /// block copies `(from, to)` that the executor has to make, in this order, before anything is
    /// written: [`crate::exec::Executor::copy_blocks`].
    ///
    /// # Errors
    /// The slot has not reserved so many positions, or too few blocks are free; nothing changed then.
    pub fn make_writable(
        &mut self,
        slot: usize,
        from: usize,
        to: usize,
    ) -> Result<Vec<(u32, u32)>, Error> {
        let reserved = self.held[slot] * BLOCK_TOKENS;
        if to > reserved {
            return Err(Error::Request(format!(
                "slot {slot} has cache blocks for {reserved} positions and cannot write {to}"
            )));
        }
        if self.blocks_to_write(slot, from, to) > self.free_blocks() {
            return Err(Error::ContextFull {
                tokens: to,
                context: from,
            });
        }
        let mut copies = Vec::new();
        for i in self.written(slot, from, to) {
            let shared = self.entries[i];
            if self.pool.owners(shared) > 1 {
                let own = self.take();
                self.entries[i] = own;
                copies.push((shared, own));
            }
        }
        // Only now, so that no block that is to be copied is handed out.
        for &(shared, _) in &copies {
            self.disown(shared);
        }
        Ok(copies)
    }

    /// [`BlockTable::publish_under`] the default key.
    pub fn publish(&mut self, slot: usize, tokens: &[u32]) {
        self.publish_under(PrefixKey::default(), slot, tokens);
    }

    /// Remembers the keys and values of a slot's whole blocks: `tokens` are those of its positions,
    /// from the first on. They stay known after the slot is released, until blocks run out.
    ///
    /// The slot must not write into those blocks again without [`BlockTable::make_writable`].
    pub fn publish_under(&mut self, key: PrefixKey, slot: usize, tokens: &[u32]) {
        let range = self.range(slot, 0, self.held[slot]);
        for block in self.prefixes.insert(key, tokens, &self.entries[range]) {
            self.pool.retain(block);
        }
    }

    /// [`BlockTable::attach_under`] the default key.
    pub fn attach(&mut self, slot: usize, tokens: &[u32]) -> usize {
        self.attach_under(PrefixKey::default(), slot, tokens)
    }

    /// Gives a slot the longest known prefix of `tokens`, in whole blocks; what it had is given
    /// back. Returns how many positions that is.
    pub fn attach_under(&mut self, key: PrefixKey, slot: usize, tokens: &[u32]) -> usize {
        let known = self.prefixes.find(key, tokens);
        let known = &known[..known.len().min(self.max_blocks)];
        self.replace(slot, known);
        known.len() * BLOCK_TOKENS
    }

    /// Makes the prefix that ends with a block unknown, and all that go on from it; without effect
    /// in another life of the block. Slots keep what they have.
    pub fn forget(&mut self, of: BlockLife) {
        if self.life(of.block) == of {
            for block in self.prefixes.remove(of.block) {
                self.pool.release(block);
            }
        }
    }

    /// Makes what is known of `tokens` unknown, from that block on, and all that goes on from there; slots
    /// keep what they have.
    pub fn forget_under(&mut self, key: PrefixKey, tokens: &[u32], from: usize) {
        if let Some(&block) = self.prefixes.find(key, tokens).get(from) {
            self.forget(self.life(block));
        }
    }

    /// A table of the same size, of which slot 0 has blocks for `positions` positions that nobody has in
    /// this one, and nobody else has any. `None` where there are too few; prefixes that nobody uses give way.
    pub fn spare(&mut self, positions: usize) -> Option<BlockTable> {
        let wanted = positions.div_ceil(BLOCK_TOKENS);
        if wanted > self.max_blocks.min(self.free_blocks()) {
            return None;
        }
        while self.pool.free() < wanted {
            for block in self.prefixes.evict() {
                self.pool.release(block);
            }
        }
        let mut spare = BlockTable {
            entries: vec![0; self.entries.len()],
            held: vec![0; self.held.len()],
            pool: self.pool.clone(),
            prefixes: PrefixCache::new(self.pool.len()),
            ..*self
        };
        spare.reserve(0, positions).ok()?;
        Some(spare)
    }

    /// Entries `first..last` of a slot's row.
    fn range(&self, slot: usize, first: usize, last: usize) -> Range<usize> {
        slot * self.max_blocks + first..slot * self.max_blocks + last
    }

    /// Entries of those blocks that a slot has at positions `from..to`.
    fn written(&self, slot: usize, from: usize, to: usize) -> Range<usize> {
        let last = to.div_ceil(BLOCK_TOKENS).min(self.held[slot]);
        let first = if from < to { from / BLOCK_TOKENS } else { last };
        self.range(slot, first.min(last), last)
    }

    /// Makes `blocks` those of a slot, instead of what it had.
    fn replace(&mut self, slot: usize, blocks: &[u32]) {
        // Owned before the old ones are let go, which may be the same.
        for &block in blocks {
            self.own(block);
        }
        self.release(slot);
        let range = self.range(slot, 0, blocks.len());
        self.entries[range].copy_from_slice(blocks);
        self.held[slot] = blocks.len();
    }

    fn own(&mut self, block: u32) {
        if self.pool.retain(block) == 2 {
            self.prefixes.set_idle(block, false);
        }
    }

    fn disown(&mut self, block: u32) {
        if self.pool.release(block) == 1 {
            self.prefixes.set_idle(block, true);
        }
    }

    /// A block for a slot. The caller has counted the free ones.
    fn take(&mut self) -> u32 {
        loop {
            if let Some(block) = self.pool.take() {
                return block;
            }
            let evicted = self.prefixes.evict();
            assert!(!evicted.is_empty(), "the free blocks were counted");
            for block in evicted {
                self.pool.release(block);
            }
        }
    }
}
