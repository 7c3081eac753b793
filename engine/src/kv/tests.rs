//! The table against a model of what it must mean: a memory that slots write through it, and for
//! each slot the tokens that it must read back.

use super::*;

/// A small generator of the tests' own: the same operations every time.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % n as u64) as usize
    }
}

/// What stands at a position: all tokens up to it, as keys and values depend on all of them.
fn content(tokens: &[u32]) -> u64 {
    tokens.iter().fold(7, |h, &t| {
        (h ^ u64::from(t)).wrapping_mul(0x0100_0000_01b3) ^ (h >> 29)
    })
}

/// A table, the memory behind it, and what each slot wrote.
struct World {
    table: BlockTable,
    memory: Vec<[u64; BLOCK_TOKENS]>,
    /// Tokens of each slot. Blocks past them may be reserved.
    tokens: Vec<Vec<u32>>,
}

impl World {
    fn new(slots: usize, context: usize, blocks: usize) -> World {
        World {
            table: BlockTable::new(slots, context, blocks),
            memory: vec![[u64::MAX; BLOCK_TOKENS]; blocks],
            tokens: vec![Vec::new(); slots],
        }
    }

    fn copy(&mut self, copies: &[(u32, u32)]) {
        for &(from, to) in copies {
            self.memory[to as usize] = self.memory[from as usize];
        }
    }

    /// Appends tokens to a slot as an executor would; without effect where blocks run out.
    fn write(&mut self, slot: usize, new: &[u32]) {
        let (from, to) = (self.tokens[slot].len(), self.tokens[slot].len() + new.len());
        let (needed, free) = (
            self.table.blocks_to_write(slot, from, to),
            self.table.free_blocks(),
        );
        let fits = needed <= free && to <= self.table.max_blocks() * BLOCK_TOKENS;
        let writable =
            (self.table.reserve(slot, to)).and_then(|()| self.table.make_writable(slot, from, to));
        assert_eq!(writable.is_ok(), fits, "{needed} of {free}: {writable:?}");
        let Ok(copies) = writable else { return };
        assert!(self.table.free_blocks() + needed >= free);
        self.copy(&copies);
        for &token in new {
            self.tokens[slot].push(token);
            let position = self.tokens[slot].len() - 1;
            let (block, at) = self.table.locate(slot, position);
            self.memory[block][at] = content(&self.tokens[slot]);
        }
    }

    fn release(&mut self, slot: usize) {
        self.table.release(slot);
        self.tokens[slot].clear();
    }

    /// Every slot reads what it wrote, and every block has the owners that are there.
    fn check(&self) {
        for (slot, tokens) in self.tokens.iter().enumerate() {
            assert!(tokens.len() <= self.table.held(slot) * BLOCK_TOKENS);
            for p in 0..tokens.len() {
                let (block, at) = self.table.locate(slot, p);
                let expected = content(&tokens[..=p]);
                assert_eq!(self.memory[block][at], expected, "slot {slot}, {p}");
            }
        }
        self.table.check();
    }
}

impl BlockTable {
    /// Panics unless every block has as many owners as there are entries and prefixes that name it,
    /// and is free or owned.
    pub(crate) fn check(&self) {
        let mut owners = vec![0; self.pool.len()];
        for slot in 0..self.held.len() {
            for &block in self.blocks(slot) {
                owners[block as usize] += 1;
            }
        }
        let held = owners.iter().filter(|&&owners| owners > 0).count();
        let known = (0..self.pool.len() as u32).filter(|&b| self.prefixes.contains(b));
        known.for_each(|block| owners[block as usize] += 1);
        for (block, &expected) in (0..).zip(&owners) {
            assert_eq!(self.pool.owners(block), expected, "owners of {block}");
        }
        assert!(self.prefixes.is_consistent());
        let owned = owners.iter().filter(|&&owners| owners > 0).count();
        assert_eq!(self.pool.free() + owned, self.pool.len());
        assert_eq!(self.blocks_in_use(), held);
        assert_eq!(self.free_blocks(), self.pool.len() - held);
    }

    /// Whether all whole blocks of tokens are known.
    pub(crate) fn knows(&self, key: PrefixKey, tokens: &[u32]) -> bool {
        self.prefixes.clone().find(key, tokens).len() == tokens.len() / BLOCK_TOKENS
    }

    /// Whether a block is that of a known prefix.
    pub(crate) fn is_known(&self, block: u32) -> bool {
        self.prefixes.contains(block)
    }

    /// Gives a slot's blocks back, and then once more: what no caller may do.
    pub(crate) fn release_twice(&mut self, slot: usize) {
        let held = self.held[slot];
        self.release(slot);
        self.held[slot] = held;
        self.release(slot);
    }
}

#[test]
fn any_operations_keep_every_slots_tokens() {
    for seed in 0..40 {
        let mut random = Random(seed);
        let slots = 1 + random.below(6);
        let context = BLOCK_TOKENS * (1 + random.below(6)) - random.below(9);
        let blocks = 1 + random.below(slots * 6);
        let mut world = World::new(slots, context, blocks);
        let mut reused = 0;
        for _ in 0..600 {
            let (slot, other) = (random.below(slots), random.below(slots));
            match random.below(13) {
                0 => world.release(slot),
                12 if world.table.held(slot) > 0 => {
                    let blocks = world.table.blocks(slot);
                    let life = world.table.life(blocks[random.below(blocks.len())]);
                    world.table.forget(life);
                    assert!(!world.table.prefixes.contains(life.block));
                }
                1 => {
                    let length = world.tokens[slot].len();
                    let positions = random.below(length + 1);
                    world.table.share(slot, other, positions).unwrap();
                    world.tokens[other] = world.tokens[slot][..positions].to_vec();
                }
                2 => {
                    // All that the slot has: a sequence that goes on in two ways.
                    let held = world.table.held(slot) * BLOCK_TOKENS;
                    world.table.share(slot, other, held).unwrap();
                    world.tokens[other] = world.tokens[slot].clone();
                }
                3 | 4 => {
                    let tokens = world.tokens[slot].clone();
                    world.table.publish(slot, &tokens);
                }
                5 | 6 => {
                    // A prefix of what another has, and something else after it.
                    let shared = random.below(world.tokens[other].len() + 1);
                    let mut tokens = world.tokens[other][..shared].to_vec();
                    tokens.extend((0..random.below(40)).map(|_| 2));
                    let known = world.table.attach(slot, &tokens);
                    assert!(known <= tokens.len() && known.is_multiple_of(BLOCK_TOKENS));
                    world.tokens[slot] = tokens[..known].to_vec();
                    reused += known;
                }
                7 => {
                    let positions = random.below(context + 1);
                    let before = world.table.free_blocks();
                    if world.table.reserve(slot, positions).is_err() {
                        assert_eq!(world.table.free_blocks(), before);
                    }
                }
                // Few different tokens, so that slots come to have the same prefixes.
                _ => {
                    let new: Vec<u32> = (0..random.below(2 * BLOCK_TOKENS))
                        .map(|i| {
                            if i.is_multiple_of(7) {
                                random.below(2) as u32
                            } else {
                                2
                            }
                        })
                        .collect();
                    world.write(slot, &new);
                }
            }
            world.check();
        }
        for slot in 0..slots {
            world.release(slot);
        }
        world.check();
        assert_eq!(world.table.blocks_in_use(), 0, "seed {seed}");
        assert_eq!(world.table.free_blocks(), blocks, "seed {seed}");
        assert!(seed != 3 || reused > 0, "the operations reach the prefixes");
    }
}

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

#[test]
fn a_shared_block_is_copied_by_who_writes_first() {
    let mut table = BlockTable::new(3, 128, 8);
    table.reserve(0, 70).unwrap();
    table.share(0, 1, 70).unwrap();
    table.share(0, 2, 70).unwrap();
    assert_eq!(table.blocks_in_use(), 3);
    assert!(table.make_writable(1, 70, 97).is_err(), "not reserved");
    assert_eq!(table.blocks_to_write(1, 70, 97), 2);
    table.reserve(1, 97).unwrap();
    let copies = table.make_writable(1, 70, 97).unwrap();
    assert_eq!(
        copies,
        [(table.locate(0, 64).0 as u32, table.locate(1, 64).0 as u32)]
    );
    assert_eq!(table.make_writable(1, 70, 97).unwrap(), []);
    assert_eq!(table.make_writable(2, 64, 64).unwrap(), [], "no position");
    assert_eq!(table.make_writable(2, 70, 71).unwrap().len(), 1);
    // The last owner writes in place.
    assert_eq!(table.make_writable(0, 70, 71).unwrap(), []);
    assert_eq!(table.blocks_in_use(), 6);
    table.release(0);
    assert_eq!(
        table.blocks_in_use(),
        5,
        "two of three blocks stay with others"
    );
}

#[test]
fn copies_need_free_blocks() {
    let mut table = BlockTable::new(2, 64, 2);
    table.reserve(0, 64).unwrap();
    table.share(0, 1, 64).unwrap();
    assert!(matches!(
        table.make_writable(1, 40, 64),
        Err(Error::ContextFull { .. })
    ));
    table.release(0);
    assert_eq!(table.make_writable(1, 0, 64).unwrap(), []);
}

#[test]
fn prefixes_are_given_up_longest_unused_first_and_from_the_end() {
    let tokens = |first: u32| -> Vec<u32> { (first..).take(3 * BLOCK_TOKENS).collect() };
    let (old, new) = (tokens(0), tokens(1000));
    let mut table = BlockTable::new(1, 6 * BLOCK_TOKENS, 7);
    for prompt in [&new, &old, &new] {
        table.attach(0, prompt);
        table.reserve(0, prompt.len()).unwrap();
        table.publish(0, prompt);
        table.release(0);
    }
    assert_eq!((table.free_blocks(), table.pool.free()), (7, 1));
    // Two blocks more than are free: the last two of the prefix that was used before the other.
    table.reserve(0, 3 * BLOCK_TOKENS).unwrap();
    table.release(0);
    assert_eq!(table.attach(0, &old), BLOCK_TOKENS);
    assert_eq!(table.attach(0, &new), 3 * BLOCK_TOKENS);
    // A prefix in use stays.
    assert!(table.reserve(0, 7 * BLOCK_TOKENS).is_err());
    table.reserve(0, 6 * BLOCK_TOKENS).unwrap();
    table.release(0);
    assert_eq!(table.attach(0, &new), 3 * BLOCK_TOKENS);
    // A block that is known is known by one prefix.
    table.publish(0, &old);
    assert!(table.prefixes.is_consistent());
    assert_eq!(table.attach(0, &new), 3 * BLOCK_TOKENS);
    // Nothing is found in the middle of a block, or after other tokens.
    assert_eq!(table.attach(0, &new[..BLOCK_TOKENS - 1]), 0);
    assert_eq!(table.attach(0, &new[BLOCK_TOKENS..]), 0);
}

/// A prefix that is given up takes those that go on from it along, even where a slot has them.
#[test]
fn no_prefix_stays_known_without_its_start() {
    let tokens: Vec<u32> = (0..2 * BLOCK_TOKENS as u32).collect();
    let mut table = BlockTable::new(2, 2 * BLOCK_TOKENS, 4);
    table.reserve(0, BLOCK_TOKENS).unwrap();
    table.publish(0, &tokens[..BLOCK_TOKENS]);
    // Computed by itself, known by the other's first block and its own second.
    table.reserve(1, 2 * BLOCK_TOKENS).unwrap();
    table.publish(1, &tokens);
    table.release(0);
    assert_eq!(table.free_blocks(), 2);
    table.reserve(0, 2 * BLOCK_TOKENS).unwrap();
    assert!(table.prefixes.is_consistent());
    table.release(1);
    assert_eq!(table.attach(1, &tokens), 0);
    assert_eq!((table.free_blocks(), table.pool.free()), (2, 2));
}

#[test]
fn prefixes_of_different_keys_do_not_meet() {
    let tokens: Vec<u32> = (0..2 * BLOCK_TOKENS as u32).collect();
    let mut table = BlockTable::new(2, 2 * BLOCK_TOKENS, 4);
    let adapted = PrefixKey {
        adapter: 1,
        salt: 0,
    };
    table.reserve(0, tokens.len()).unwrap();
    table.publish_under(adapted, 0, &tokens);
    assert_eq!(table.attach(1, &tokens), 0);
    assert_eq!(table.attach_under(adapted, 1, &tokens), 2 * BLOCK_TOKENS);
    assert_eq!(table.known_blocks(), 2);
}

#[test]
fn a_forgotten_prefix_stays_with_those_who_have_it() {
    let tokens: Vec<u32> = (0..2 * BLOCK_TOKENS as u32).collect();
    let mut table = BlockTable::new(2, 2 * BLOCK_TOKENS, 4);
    table.reserve(0, tokens.len()).unwrap();
    table.publish(0, &tokens);
    assert_eq!(table.attach(1, &tokens), 2 * BLOCK_TOKENS);
    let first = table.life(table.blocks(0)[0]);
    let other = BlockLife {
        life: first.life + 1,
        ..first
    };
    table.forget(other);
    assert_eq!(table.known_blocks(), 2, "another life of the block");
    table.forget(first);
    assert_eq!(table.known_blocks(), 0, "and what goes on from it");
    assert_eq!((table.held(0), table.held(1)), (2, 2));
    table.release(0);
    table.release(1);
    assert_eq!(table.unowned_blocks(), 4);
    table.check();
}
