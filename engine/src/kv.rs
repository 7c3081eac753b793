//! Where keys and values live: pools of fixed-size blocks, found through a block table.
//!
//! Executors own the pools; this file owns the addressing, which every kernel shares. A pool of a
//! layer is `[num_blocks, num_kv_heads, BLOCK_TOKENS, head_dim]`. Position `p` of slot `s` lies in
//! block `table[s][p / BLOCK_TOKENS]` at token `p % BLOCK_TOKENS`.

use crate::Error;

/// Positions in a block. A block of one head is `BLOCK_TOKENS * head_dim` elements, contiguous.
pub const BLOCK_TOKENS: usize = 32;

/// Block table of all slots, `[num_slots, max_blocks]`, and the list of free blocks.
#[derive(Debug, Clone)]
pub struct BlockTable {
    entries: Vec<u32>,
    max_blocks: usize,
    /// Blocks held by each slot.
    held: Vec<usize>,
    free: Vec<u32>,
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
            free: (0..num_blocks as u32).rev().collect(),
        }
    }

    /// Blocks that `slots` sequences of `context` positions need.
    #[must_use]
    pub fn blocks_for(num_slots: usize, context: usize) -> usize {
        num_slots * context.div_ceil(BLOCK_TOKENS)
    }

    /// Makes sure that a slot has blocks for `positions` positions.
    ///
    /// # Errors
    /// The positions exceed the slot's context, or no block is free.
    pub fn reserve(&mut self, slot: usize, positions: usize) -> Result<(), Error> {
        let wanted = positions.div_ceil(BLOCK_TOKENS);
        let held = self.held[slot];
        if wanted > self.max_blocks || wanted > held + self.free.len() {
            let context = self.max_blocks.min(held + self.free.len()) * BLOCK_TOKENS;
            return Err(Error::ContextFull {
                tokens: positions,
                context,
            });
        }
        for i in held..wanted {
            let block = self.free.pop().expect("the free blocks were counted");
            self.entries[slot * self.max_blocks + i] = block;
        }
        self.held[slot] = held.max(wanted);
        Ok(())
    }

    /// Gives a slot's blocks back.
    pub fn release(&mut self, slot: usize) {
        let start = slot * self.max_blocks;
        self.free
            .extend(self.entries[start..start + self.held[slot]].iter().rev());
        self.held[slot] = 0;
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

    /// The block and the token in it of a position.
    #[must_use]
    pub fn locate(&self, slot: usize, position: usize) -> (usize, usize) {
        let block = self.entries[slot * self.max_blocks + position / BLOCK_TOKENS];
        (block as usize, position % BLOCK_TOKENS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_handed_out_once_and_come_back() {
        let mut table = BlockTable::new(2, 100, 6);
        assert_eq!(table.max_blocks(), 4);
        table.reserve(0, 33).unwrap();
        table.reserve(1, 100).unwrap();
        let mut seen: Vec<_> = [0, 32]
            .map(|p| table.locate(0, p).0)
            .into_iter()
            .chain([0, 32, 64, 96].map(|p| table.locate(1, p).0))
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2, 3, 4, 5]);
        assert!(table.reserve(0, 65).is_err(), "no block is free");
        table.release(1);
        table.reserve(0, 65).unwrap();
        assert!(table.reserve(0, 129).is_err(), "past the context");
    }
}
