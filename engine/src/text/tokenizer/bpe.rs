//! Byte-level BPE: a word's bytes are merged pair by pair, the best-ranked pair first.
//!
//! Symbols are token ids, so that a merge is one look-up by two ids. A word is a linked list in a
//! vector and candidates wait in a heap; a word of any length takes n log n. Text repeats its
//! words: within one call a word met before is copied from the output.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use hashbrown::HashMap;

use super::bytes;
use super::split::{Pass, split};
use super::vocab::{Index, Vocab};

/// The id of no token.
pub(crate) const NO_TOKEN: u32 = u32::MAX;

/// The most words that one call remembers.
pub(crate) const CACHED_WORDS: usize = 1 << 16;

/// Words longer than this are not remembered: they do not repeat.
pub(crate) const CACHED_BYTES: usize = 64;

/// The merges of a vocabulary and how to apply them.
pub(crate) struct Bpe {
    /// By left id << 32 | right id: rank and merged id.
    merges: HashMap<u64, (u32, u32)>,
    /// The token of each byte, or `NO_TOKEN`.
    bytes: [u32; 256],
    passes: &'static [Pass],
    ignore_merges: bool,
}

/// What merging one text needs and the next word can use again.
#[derive(Default)]
pub(crate) struct Scratch<'a> {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Reverse<Candidate>>,
    /// Where in the output each word already is.
    seen: HashMap<&'a str, (usize, usize)>,
}

/// A token of a word; gone when its id is `NO_TOKEN` and it is in no list.
#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    prev: u32,
    next: u32,
}

/// The end of the list of symbols.
const NOWHERE: u32 = u32::MAX;

/// Two neighbours that can merge, best first: by rank, then by place.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    at: u32,
    /// The neighbours when this was queued; if they have changed, it is void.
    pair: u64,
    merged: u32,
}

fn pair(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

impl Bpe {
    /// Reads merges in order of rank. Also returns how many were ignored because they are not
    /// two tokens that give a third.
    pub(crate) fn new<'a>(
        vocab: &Vocab,
        index: &Index,
        texts: impl Iterator<Item = &'a str>,
        passes: &'static [Pass],
        ignore_merges: bool,
    ) -> (Bpe, usize) {
        let mut merges = HashMap::with_capacity(vocab.len());
        let mut ignored = 0;
        let mut joined = Vec::new();
        for (rank, text) in (0..).zip(texts) {
            match read_merge(vocab, index, text, &mut joined) {
                // Of two merges of a pair the better-ranked counts.
                Some((pair, id)) => _ = merges.entry(pair).or_insert((rank, id)),
                None => ignored += 1,
            }
        }
        let bytes = std::array::from_fn(|b| index.get(vocab, &[b as u8]).unwrap_or(NO_TOKEN));
        (
            Bpe {
                merges,
                bytes,
                passes,
                ignore_merges,
            },
            ignored,
        )
    }

    /// The number of bytes that have no token.
    pub(crate) fn missing_bytes(&self) -> usize {
        self.bytes.iter().filter(|&&id| id == NO_TOKEN).count()
    }

    /// Appends the tokens of a text without special tokens. `out` must be the same vector, only
    /// grown, for all uses of one scratch.
    pub(crate) fn encode<'a>(
        &self,
        vocab: &Vocab,
        index: &Index,
        text: &'a str,
        scratch: &mut Scratch<'a>,
        out: &mut Vec<u32>,
    ) {
        split(text, self.passes, &mut |word| {
            if let Some(&(start, end)) = scratch.seen.get(word) {
                out.extend_from_within(start..end);
                return;
            }
            let start = out.len();
            self.encode_word(vocab, index, word.as_bytes(), scratch, out);
            if word.len() <= CACHED_BYTES && scratch.seen.len() < CACHED_WORDS {
                scratch.seen.insert(word, (start, out.len()));
            }
        });
    }

    fn encode_word(
        &self,
        vocab: &Vocab,
        index: &Index,
        word: &[u8],
        scratch: &mut Scratch<'_>,
        out: &mut Vec<u32>,
    ) {
        if self.ignore_merges
            && let Some(id) = index.get(vocab, word)
        {
            out.push(id);
            return;
        }
        let Scratch { symbols, queue, .. } = scratch;
        symbols.clear();
        queue.clear();
        // A byte without a token is as if it were not there: its neighbours can merge.
        let ids = word.iter().map(|&b| self.bytes[usize::from(b)]);
        let ids = ids.filter(|&id| id != NO_TOKEN);
        symbols.extend((0u32..).zip(ids).map(|(i, id)| Symbol {
            id,
            prev: i.wrapping_sub(1), // NOWHERE before the first
            next: i + 1,
        }));
        let len = symbols.len() as u32;
        if let Some(last) = symbols.last_mut() {
            last.next = NOWHERE;
        }
        for left in 1..len {
            self.consider(symbols, queue, left - 1, left);
        }
        while let Some(Reverse(best)) = queue.pop() {
            let Symbol { id, prev, next } = symbols[best.at as usize];
            let Some(&right) = symbols.get(next as usize) else {
                continue;
            };
            if pair(id, right.id) != best.pair {
                continue;
            }
            symbols[next as usize].id = NO_TOKEN;
            symbols[best.at as usize] = Symbol {
                id: best.merged,
                prev,
                next: right.next,
            };
            if let Some(after) = symbols.get_mut(right.next as usize) {
                after.prev = best.at;
                self.consider(symbols, queue, best.at, right.next);
            }
            if prev != NOWHERE {
                self.consider(symbols, queue, prev, best.at);
            }
        }
        // Merging keeps the left symbol: the list is in order of the vector, with holes.
        out.extend(symbols.iter().map(|s| s.id).filter(|&id| id != NO_TOKEN));
    }

    /// Queues two neighbours if they can merge.
    fn consider(
        &self,
        symbols: &[Symbol],
        queue: &mut BinaryHeap<Reverse<Candidate>>,
        left: u32,
        right: u32,
    ) {
        let pair = pair(symbols[left as usize].id, symbols[right as usize].id);
        if let Some(&(rank, merged)) = self.merges.get(&pair) {
            queue.push(Reverse(Candidate {
                rank,
                at: left,
                pair,
                merged,
            }));
        }
    }
}

/// The pair and the result of a merge `"left right"`, if all three are tokens.
fn read_merge(
    vocab: &Vocab,
    index: &Index,
    text: &str,
    joined: &mut Vec<u8>,
) -> Option<(u64, u32)> {
    // The first character may itself be a space.
    let space = 1 + text.bytes().skip(1).position(|b| b == b' ')?;
    let (left, right) = (text.get(..space)?, text.get(space + 1..)?);
    joined.clear();
    if !bytes::push_bytes(left, joined) {
        return None;
    }
    let middle = joined.len();
    if !bytes::push_bytes(right, joined) {
        return None;
    }
    let left = index.get(vocab, &joined[..middle])?;
    let right = index.get(vocab, &joined[middle..])?;
    Some((pair(left, right), index.get(vocab, joined)?))
}
