//! Cache blocks and how many owners each has.
//!
//! An owner is an entry of the block table or a node of the prefix cache. Always holds: a block is
//! in the list of free blocks, once, exactly when nobody owns it; and it begins a new life each time
//! that it leaves the list.

/// Reference counts of blocks, and those that are free.
#[derive(Debug, Clone)]
pub(super) struct BlockPool {
    owners: Vec<u32>,
    /// Times that each block was handed out.
    lives: Vec<u32>,
    free: Vec<u32>,
}

impl BlockPool {
    /// `num_blocks` free blocks, handed out in ascending order.
    pub(super) fn new(num_blocks: usize) -> BlockPool {
        BlockPool {
            owners: vec![0; num_blocks],
            lives: vec![0; num_blocks],
            free: (0..num_blocks as u32).rev().collect(),
        }
    }

    /// Blocks, owned or not.
    pub(super) fn len(&self) -> usize {
        self.owners.len()
    }

    /// Blocks that nobody owns.
    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    /// Owners of a block.
    pub(super) fn owners(&self, block: u32) -> u32 {
        self.owners[block as usize]
    }

    /// Times that a block was handed out, modulo 2^32.
    pub(super) fn life(&self, block: u32) -> u32 {
        self.lives[block as usize]
    }

    /// A free block, which now has one owner.
    pub(super) fn take(&mut self) -> Option<u32> {
        let block = self.free.pop()?;
        self.owners[block as usize] = 1;
        let life = &mut self.lives[block as usize];
        *life = life.wrapping_add(1);
        Some(block)
    }

    /// One more owner of a block that has some; returns how many it has then.
    pub(super) fn retain(&mut self, block: u32) -> u32 {
        let owners = &mut self.owners[block as usize];
        debug_assert!(*owners > 0, "block {block} is free");
        *owners += 1;
        *owners
    }

    /// One owner fewer; returns how many are left.
    pub(super) fn release(&mut self, block: u32) -> u32 {
        let owners = &mut self.owners[block as usize];
        debug_assert!(*owners > 0, "block {block} is free");
        *owners -= 1;
        if *owners == 0 {
            self.free.push(block);
        }
        *owners
    }
}
