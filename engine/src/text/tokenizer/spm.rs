//! SentencePiece's BPE: neighbours merge while the result is a token, the best score first.
//!
//! There are no merge rules: two neighbours can merge when their text together is a token, and
//! that token's score says how soon. What no token writes falls back to byte tokens.
//!
//! The model does not cut the text into words. Where the vocabulary has no token with a space
//! after something else, though, nothing can merge across such a place, and each word can be
//! merged by itself, or be copied from where the text had it before, with the same result.
//!
//! What users defined is cut out beforehand: nothing merges with it. A token that is unused merges
//! like others, and what it has become is taken apart again in the end.

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
    /// Stands for what there is no token for, if there are no byte tokens.
    unknown: Option<u32>,
    /// Whether a text can be merged word by word: no token holds a space after something else, and
    /// what becomes of a word does not depend on the words before it.
    by_words: bool,
}

/// What merging one word needs and the next can use again.
#[derive(Default)]
struct Scratch {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Candidate>,
    /// What an unused token was last put together from.
    parts: HashMap<u32, [Symbol; 2]>,
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
            let bytes = vocab.bytes(id);
            bytes.windows(2).any(|p| p[0] != b' ' && p[1] == b' ')
        };
        let merged = |kind| matches!(kind, TokenKind::Normal | TokenKind::Unused);
        let has_bytes = byte_tokens.iter().any(|&id| id != NO_TOKEN);
        let has_unused = vocab.ids(|kind| kind == TokenKind::Unused).next().is_some();
        let ends_at_spaces = !vocab.ids(merged).any(has_inner_space);
        Spm {
            scores,
            bytes,
            unknown: unknown.filter(|_| !has_bytes),
            by_words: ends_at_spaces && has_bytes && !has_unused,
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
        if !self.by_words {
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
        self.merge(vocab, index, text, scratch);
        let start = out.len();
        // What is still to be written, the next one last.
        let mut rest: Vec<Symbol> = Vec::new();
        for symbol in scratch.symbols.iter().filter(|s| s.len > 0) {
            rest.push(*symbol);
            while let Some(symbol) = rest.pop() {
                match scratch.parts.get(&symbol.id) {
                    Some(&[left, right]) => rest.extend([right, left]),
                    None => self.write(text, symbol, start, out),
                }
            }
        }
    }

    /// Appends the token of a symbol, or what stands for its text; `start` is where the output of
    /// the text begins.
    fn write(&self, text: &str, symbol: Symbol, start: usize, out: &mut Vec<u32>) {
        if symbol.id != NO_TOKEN {
            out.push(symbol.id);
        } else if let Some(unknown) = self.unknown {
            // One for all that follow one another.
            if out.get(start..).unwrap_or_default().last() != Some(&unknown) {
                out.push(unknown);
            }
        } else {
            let bytes = &text.as_bytes()[symbol.start..symbol.start + symbol.len];
            let ids = bytes.iter().map(|&b| self.bytes[usize::from(b)]);
            out.extend(ids.filter(|&id| id != NO_TOKEN));
        }
    }

    /// Merges a text's characters as far as they can be; symbols without a length are gone.
    fn merge(&self, vocab: &Vocab, index: &Index, text: &str, scratch: &mut Scratch) {
        scratch.symbols.clear();
        scratch.queue.clear();
        scratch.parts.clear();
        let symbols = &mut scratch.symbols;
        for (start, c) in text.char_indices() {
            let (at, len) = (symbols.len(), c.len_utf8());
            // One that is unused cannot be taken apart: it is as if it were unknown.
            let is_used = |&id: &u32| vocab.token_kind(id) != Some(TokenKind::Unused);
            let id = index.get(vocab, &text.as_bytes()[start..start + len]);
            let id = id.filter(is_used).unwrap_or(NO_TOKEN);
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
            self.consider(vocab, index, text, scratch, left - 1);
        }
        while let Some(best) = scratch.queue.pop() {
            let symbols = &mut scratch.symbols;
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
                self.consider(vocab, index, text, scratch, best.left);
            }
            if left.prev != NOWHERE {
                self.consider(vocab, index, text, scratch, left.prev);
            }
        }
    }

    /// Queues a symbol and its right neighbour if their text is a token.
    fn consider(
        &self,
        vocab: &Vocab,
        index: &Index,
        text: &str,
        scratch: &mut Scratch,
        left: usize,
    ) {
        let at = scratch.symbols[left];
        let Some(&right) = scratch.symbols.get(at.next) else {
            return;
        };
        let len = at.len + right.len;
        let Some(id) = index.get(vocab, &text.as_bytes()[at.start..at.start + len]) else {
            return;
        };
        if vocab.token_kind(id) == Some(TokenKind::Unused) {
            scratch.parts.insert(id, [at, right]);
        }
        scratch.queue.push(Candidate {
            score: self.scores.get(id as usize).copied().unwrap_or(0.0),
            left,
            len,
            id,
        });
    }
}
