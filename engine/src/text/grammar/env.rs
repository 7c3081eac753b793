//! The vocabulary as llguidance wants it: a trie of the bytes that each token stands for.
//!
//! Tokens that are no text (control tokens) stand there behind a byte that no text has; grammars can
//! name them, and nothing else allows them. A token that a trie cannot hold, or that stands for the same
//! byte as an ordinary one, is left out: it is never allowed, as there are other tokens of its bytes.

use std::collections::HashSet;
use std::sync::Arc;

use llguidance::toktrie::{INVALID_TOKEN, TokRxInfo, TokTrie, TokenId, TokenizerEnv};

use crate::text::tokenizer::{Algorithm, Tokenizer};

/// The longest token that the trie holds, in bytes: its nodes count up to 1,024 steps back.
const LONGEST: usize = 512;

/// A tokenizer and its trie.
pub(super) struct Env {
    tokenizer: Arc<Tokenizer>,
    trie: TokTrie,
}

impl Env {
    /// The trie of a vocabulary.
    ///
    /// # Errors
    /// A WordPiece vocabulary, whose tokens do not say where spaces are.
    pub(super) fn new(tokenizer: &Arc<Tokenizer>) -> Result<Env, String> {
        if tokenizer.kind() == Algorithm::WordPiece {
            return Err(
                "a WordPiece vocabulary writes no text that a grammar could follow; use another \
                 model, or none"
                    .to_owned(),
            );
        }
        let words = words(tokenizer);
        let ends = tokenizer.ends();
        let end = tokenizer.eos().or(ends.first().copied());
        let info = TokRxInfo::new(words.len() as u32, end.unwrap_or(INVALID_TOKEN));
        let trie = TokTrie::from(&info, &words);
        Ok(Env {
            tokenizer: Arc::clone(tokenizer),
            trie: match ends.is_empty() {
                true => trie,
                false => trie.with_eos_tokens(ends),
            },
        })
    }

    /// The tokens that the tokenizer makes of a text that goes on, if they are all of it.
    fn canonical(&self, bytes: &[u8]) -> Option<Vec<TokenId>> {
        let text = std::str::from_utf8(bytes).ok()?;
        let tokens = self.tokenizer.encode_within(text);
        // Vocabularies of composed texts change some, and unknown characters become one token.
        let is_all = self.trie.decode_raw(&tokens) == bytes;
        is_all.then_some(tokens)
    }
}

impl TokenizerEnv for Env {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        let mut tokens = Vec::new();
        for chunk in bytes.utf8_chunks() {
            let valid = chunk.valid().as_bytes();
            match self.canonical(valid) {
                Some(canonical) => tokens.extend(canonical),
                None => tokens.extend(self.trie.greedy_tokenize(valid)),
            }
            tokens.extend(self.trie.greedy_tokenize(chunk.invalid()));
        }
        tokens
    }
}

/// What each token stands for in the trie, by id; empty for those that are not in it.
fn words(tokenizer: &Tokenizer) -> Vec<Vec<u8>> {
    let ids = 0..tokenizer.vocab_size() as u32;
    let is_text = |&id: &u32| !tokenizer.is_hidden(id) && !tokenizer.is_byte(id);
    let texts: HashSet<&[u8]> = (ids.clone().filter(is_text))
        .map(|id| tokenizer.token_bytes(id))
        .filter(|bytes| bytes.len() == 1)
        .collect();
    let word = |id| {
        let bytes = tokenizer.token_bytes(id);
        if tokenizer.is_hidden(id) {
            let text = bytes.get(..LONGEST).unwrap_or(bytes);
            return [&[TokTrie::SPECIAL_TOKEN_MARKER], text].concat();
        }
        let is_marked = bytes.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER);
        let is_again = tokenizer.is_byte(id) && texts.contains(bytes);
        match is_marked || is_again || bytes.len() > LONGEST {
            true => Vec::new(),
            false => bytes.to_vec(),
        }
    };
    ids.map(word).collect()
}
