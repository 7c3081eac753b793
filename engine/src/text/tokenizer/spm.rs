//! SentencePiece's BPE: neighbours merge while the result is a token, the best score first.
//!
//! There are no merge rules: two neighbours can merge when their text together is a token, and
//! that token's score says how soon. What no token writes falls back to byte tokens.
//!
//! The model does not cut the text into words. Where the vocabulary has no token with a space
//! after something else, though, nothing can merge across such a place, and each word can be
//! merged by itself, or be copied from where the text had it before, with the same result.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use hashbrown::HashMap;

use super::bpe::{CACHED_BYTES, CACHED_WORDS, NO_TOKEN};
use super::vocab::{Index, TokenKind, Vocab};

/// The scores of a vocabulary and its way out for what it lacks.
pub(crate) struct Spm {
    /// By id; numbers, and no negative zero.
    scores: Vec<f32>,
    /// The token of each byte: the byte token, else the token of that character, else the
    /// unknown token, else `NO_TOKEN`.
    bytes: [u32; 256],
    /// Whether no token holds a space after something else.
    ends_at_spaces: bool,
}

/// What merging one word needs and the next can use again.
#[derive(Default)]
struct Scratch {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Candidate>,
}

/// A stretch of the text; merged into its left neighbour when empty.
#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    len: usize,
    id: u32,
    prev: usize,
    next: usize,
}

/// The end of the list of symbols.
const NOWHERE: usize = usize::MAX;

/// Two neighbours whose text is a token.
struct Candidate {
    score: f32,
    left: usize,
    /// Bytes of both when this was queued; if they have grown, it is void.
    len: usize,
    id: u32,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Candidate) -> Ordering {
        self.score
            .total_cmp(&other.score)
            .then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Candidate) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Candidate) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

impl Spm {
    /// `scores` by id, none of them NaN; `byte_tokens` by byte, `NO_TOKEN` where there is none.
    pub(crate) fn new(
        vocab: &Vocab,
        index: &Index,
        mut scores: Vec<f32>,
        byte_tokens: [u32; 256],
        unknown: Option<u32>,
    ) -> Spm {
        for score in &mut scores {
            *score += 0.0; // -0 becomes 0: the two must compare equal
        }
        let bytes = std::array::from_fn(|b| match byte_tokens[b] {
            NO_TOKEN => index.get(vocab, &[b as u8]).or(unknown).unwrap_or(NO_TOKEN),
            id => id,
        });
        let has_inner_space = |id| {
            vocab
                .bytes(id)
                .windows(2)
                .any(|pair| pair[0] != b' ' && pair[1] == b' ')
        };
        let ends_at_spaces = !vocab.ids(TokenKind::is_merged).any(has_inner_space);
        Spm {
            scores,
            bytes,
            ends_at_spaces,
        }
    }

    /// The number of bytes that have no token.
    pub(crate) fn missing_bytes(&self) -> usize {
        self.bytes.iter().filter(|&&id| id == NO_TOKEN).count()
    }

    /// Appends the tokens of a text without special tokens, spaces being spaces.
    pub(crate) fn encode(&self, vocab: &Vocab, index: &Index, text: &str, out: &mut Vec<u32>) {
        let mut seen: HashMap<&str, (usize, usize)> = HashMap::new();
        let mut scratch = Scratch::default();
        let mut rest = text;
        while !rest.is_empty() {
            let (word, after) = rest.split_at(self.word_len(rest));
            rest = after;
            if let Some(&(start, end)) = seen.get(word) {
                out.extend_from_within(start..end);
                continue;
            }
            let start = out.len();
            self.encode_word(vocab, index, word, &mut scratch, out);
            if word.len() <= CACHED_BYTES && seen.len() < CACHED_WORDS {
                seen.insert(word, (start, out.len()));
            }
        }
    }

    /// The length of what can be merged by itself at the start of a text.
    fn word_len(&self, text: &str) -> usize {
        if !self.ends_at_spaces {
            return text.len();
        }
        let ends = |pair: &[u8]| pair[0] != b' ' && pair[1] == b' ';
        text.as_bytes()
            .windows(2)
            .position(ends)
            .map_or(text.len(), |at| at + 1)
    }

    fn encode_word(
        &self,
        vocab: &Vocab,
        index: &Index,
        text: &str,
        scratch: &mut Scratch,
        out: &mut Vec<u32>,
    ) {
        let Scratch { symbols, queue } = scratch;
        symbols.clear();
        queue.clear();
        for (start, c) in text.char_indices() {
            let (at, len) = (symbols.len(), c.len_utf8());
            let id = index
                .get(vocab, &text.as_bytes()[start..start + len])
                .unwrap_or(NO_TOKEN);
            let prev = at.wrapping_sub(1); // NOWHERE before the first
            symbols.push(Symbol {
                start,
                len,
                id,
                prev,
                next: at + 1,
            });
        }
        if let Some(last) = symbols.last_mut() {
            last.next = NOWHERE;
        }
        for left in 1..symbols.len() {
            self.consider(vocab, index, text, symbols, queue, left - 1);
        }
        while let Some(best) = queue.pop() {
            let left = symbols[best.left];
            let Some(&right) = symbols.get(left.next) else {
                continue;
            };
            if left.len == 0 || left.len + right.len != best.len {
                continue;
            }
            symbols[left.next].len = 0;
            symbols[best.left] = Symbol {
                len: best.len,
                id: best.id,
                next: right.next,
                ..left
            };
            if let Some(after) = symbols.get_mut(right.next) {
                after.prev = best.left;
                self.consider(vocab, index, text, symbols, queue, best.left);
            }
            if left.prev != NOWHERE {
                self.consider(vocab, index, text, symbols, queue, left.prev);
            }
        }
        for symbol in symbols.iter().filter(|s| s.len > 0) {
            if symbol.id != NO_TOKEN {
                out.push(symbol.id);
                continue;
            }
            let bytes = &text.as_bytes()[symbol.start..symbol.start + symbol.len];
            let ids = bytes.iter().map(|&b| self.bytes[usize::from(b)]);
            out.extend(ids.filter(|&id| id != NO_TOKEN));
        }
    }

    /// Queues a symbol and its right neighbour if their text is a token.
    fn consider(
        &self,
        vocab: &Vocab,
        index: &Index,
        text: &str,
        symbols: &[Symbol],
        queue: &mut BinaryHeap<Candidate>,
        left: usize,
    ) {
        let Symbol {
            start, len, next, ..
        } = symbols[left];
        let Some(right) = symbols.get(next) else {
            return;
        };
        let len = len + right.len;
        if let Some(id) = index.get(vocab, &text.as_bytes()[start..start + len]) {
            let score = self.scores.get(id as usize).copied().unwrap_or(0.0);
            queue.push(Candidate {
                score,
                left,
                len,
                id,
            });
        }
    }
}
