//! A device whose cache holds hashes instead of keys and values.
//!
//! What stands at a position depends on the key of the prefix and on every token up to there, as keys
//! and values do, and the token that follows is chosen from it by a seed. So a token is right exactly
//! if it is the one that the request chooses when it is simulated alone.

use std::collections::BTreeMap;

use super::super::{EndReason, Entry, RequestId, TokenSource, Work, WorkRow};
use super::{Random, mix};
use crate::exec::Limits;
use crate::kv::{BLOCK_TOKENS, BlockTable, PrefixKey};

/// Tokens that are chosen are below it: few, so that sequences meet.
const VOCABULARY: u64 = 3;

/// A request and all that it gives when it is alone.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) entry: Entry,
    pub(super) seed: u64,
    /// Prompt, and what follows.
    pub(super) tokens: Vec<u32>,
    /// What stands at each position.
    hashes: Vec<u64>,
    /// Why it ends.
    pub(super) reason: EndReason,
}

impl Script {
    /// Simulates a request alone, in a cache of `context` positions.
    pub(super) fn alone(entry: Entry, seed: u64, context: usize) -> Script {
        let mut tokens = entry.prompt.clone();
        let mut hash = root(entry.key);
        let mut hashes = Vec::new();
        let reason = loop {
            for &token in &tokens[hashes.len()..] {
                hash = mix(hash, token.into());
                hashes.push(hash);
            }
            let (token, ends) = choose(hash, seed);
            tokens.push(token);
            if ends {
                break EndReason::Stopped;
            }
            if tokens.len() == entry.prompt.len() + entry.max_tokens {
                break EndReason::MaxTokens;
            }
            if tokens.len() == context + 1 {
                break EndReason::ContextFull;
            }
        };
        Script {
            entry,
            seed,
            tokens,
            hashes,
            reason,
        }
    }

    /// The tokens that are chosen.
    pub(super) fn chosen(&self) -> &[u32] {
        &self.tokens[self.entry.prompt.len()..]
    }
}

fn root(key: PrefixKey) -> u64 {
    mix(mix(7, key.adapter.into()), key.salt)
}

/// The token after what a hash stands for, and whether a sequence ends with it. The larger the seed,
/// the longer a sequence goes on.
fn choose(hash: u64, seed: u64) -> (u32, bool) {
    let x = mix(hash, seed);
    let ends = (x >> 8).is_multiple_of(16 << (2 * seed));
    ((x % VOCABULARY) as u32, ends)
}

/// The cache, and the token that was chosen last for each slot.
#[derive(Debug)]
pub(super) struct Device {
    memory: Vec<[u64; BLOCK_TOKENS]>,
    /// Blocks on the host.
    saved: Vec<[u64; BLOCK_TOKENS]>,
    chosen: Vec<u32>,
}

impl Device {
    pub(super) fn new(limits: &Limits) -> Device {
        let (slots, blocks) = (limits.num_slots, limits.cache_blocks);
        Device {
            memory: vec![[0; BLOCK_TOKENS]; blocks],
            saved: vec![[0; BLOCK_TOKENS]; limits.saved_blocks],
            chosen: vec![u32::MAX; slots],
        }
    }

    /// Runs a step. Returns what each wanted row chooses, `None` where it stands on anything that it
    /// should not. Rows of different requests run in any order.
    pub(super) fn run(
        &mut self,
        work: &Work,
        table: &BlockTable,
        scripts: &BTreeMap<RequestId, Script>,
        random: &mut Random,
    ) -> Vec<Option<u32>> {
        for &(block, place) in &work.saves {
            self.saved[place as usize] = self.memory[block as usize];
        }
        for &(from, to) in &work.copies {
            self.memory[to as usize] = self.memory[from as usize];
        }
        for &(place, block) in &work.restores {
            self.memory[block as usize] = self.saved[place as usize];
        }
        let same = |a: &WorkRow, b: &WorkRow| a.request == b.request;
        let mut groups: Vec<&[WorkRow]> = work.rows.chunk_by(same).collect();
        for i in (1..groups.len()).rev() {
            groups.swap(i, random.below(i + 1));
        }
        let mut results = BTreeMap::new();
        for row in groups.into_iter().flatten() {
            let result = self.run_row(row, table, &scripts[&row.request]);
            if row.wanted {
                results.insert(row.request, result);
            }
        }
        let wanted = work.rows.iter().filter(|row| row.wanted);
        wanted.map(|row| results[&row.request]).collect()
    }

    /// A step that fails: nothing is copied, and what its rows were to write, and what was to be saved,
    /// is not there, or wrong.
    pub(super) fn run_failing(&mut self, work: &Work, table: &BlockTable, random: &mut Random) {
        for &(_, place) in &work.saves {
            self.saved[place as usize] = [1; BLOCK_TOKENS];
        }
        for row in &work.rows {
            if random.once_in(2) {
                let (block, at) = table.locate(row.slot, row.position);
                self.memory[block][at] = 1;
            }
            self.chosen[row.slot] = u32::MAX;
        }
    }

    fn run_row(&mut self, row: &WorkRow, table: &BlockTable, script: &Script) -> Option<u32> {
        let (slot, position) = (row.slot, row.position);
        let at = |memory: &[[u64; BLOCK_TOKENS]], position| {
            let (block, at) = table.locate(slot, position);
            memory[block][at]
        };
        let before = match position {
            0 => root(script.entry.key),
            _ => at(&self.memory, position - 1),
        };
        let token = match row.source {
            TokenSource::Known(token) => {
                assert_eq!(script.tokens.get(position), Some(&token), "{row:?}");
                token
            }
            TokenSource::Chosen => self.chosen[slot],
        };
        let hash = mix(before, token.into());
        let (block, token_at) = table.locate(slot, position);
        self.memory[block][token_at] = hash;
        if !row.wanted {
            return None;
        }
        let (token, _) = choose(hash, script.seed);
        self.chosen[slot] = token;
        let expected = script.hashes.get(..=position)?;
        let is_right = (0..)
            .zip(expected)
            .all(|(p, &hash)| at(&self.memory, p) == hash);
        is_right.then_some(token)
    }
}
