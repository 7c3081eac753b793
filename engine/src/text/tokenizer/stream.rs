//! Text from tokens as they arrive.
//!
//! A token is a few bytes, not a few characters: one character may take several tokens. The
//! decoder keeps back what could still become a character, so every string it gives is whole;
//! bytes that cannot become one turn into U+FFFD exactly as decoding all at once would have it.

use super::vocab::TokenKind;
use super::{DecodeOptions, Tokenizer};

/// Before words that begin so WordPiece's decoder writes no space.
const CLINGING: &[&[u8]] = &[b".", b"?", b"!", b",", b"n't", b"'m", b"'s", b"'ve", b"'re"];

/// Decodes one sequence of tokens piece by piece.
///
/// The strings that [`push`](Self::push) and [`finish`](Self::finish) give, joined, are what
/// [`Tokenizer::decode`] gives for the same ids.
#[derive(Clone)]
pub struct StreamDecoder<'t> {
    tokenizer: &'t Tokenizer,
    state: StreamState,
}

/// A [`StreamDecoder`] without its tokenizer, to be kept where that cannot be borrowed.
#[derive(Debug, Clone)]
pub(crate) struct StreamState {
    options: DecodeOptions,
    /// Bytes that are not yet characters: at most three, between calls.
    pending: Vec<u8>,
    /// Whether a text begins, where a space is the tokenizer's own and not the text's.
    at_start: bool,
    /// Whether the tokenizer begins a text otherwise than it goes on.
    begins_texts: bool,
}

impl<'t> StreamDecoder<'t> {
    /// A decoder at the start of a text. Special tokens are left out.
    pub fn new(tokenizer: &'t Tokenizer) -> StreamDecoder<'t> {
        Self::with_options(tokenizer, DecodeOptions::default())
    }

    /// A decoder at the start of a text.
    pub fn with_options(tokenizer: &'t Tokenizer, options: DecodeOptions) -> StreamDecoder<'t> {
        let mut state = StreamState::continuing(options);
        state.begins_texts = tokenizer.begins_texts();
        state.at_start = state.begins_texts;
        StreamDecoder { tokenizer, state }
    }

    /// A decoder for tokens that go on after a text, such as the continuation of a prompt: a
    /// space at the start belongs to the text.
    pub fn continuing(tokenizer: &'t Tokenizer, options: DecodeOptions) -> StreamDecoder<'t> {
        let state = StreamState::continuing(options);
        StreamDecoder { tokenizer, state }
    }

    /// The characters that a token completes; often none, sometimes several.
    pub fn push(&mut self, id: u32) -> String {
        self.state.push(self.tokenizer, id)
    }

    /// The end of the text: U+FFFD if it stops inside a character. The decoder is then at a
    /// start again.
    pub fn finish(&mut self) -> String {
        self.state.at_start = self.tokenizer.begins_texts();
        self.state.finish()
    }

    /// Adds a token's bytes to those pending.
    pub(super) fn append(&mut self, id: u32) {
        self.state.append(self.tokenizer, id);
    }

    /// The bytes pending.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.state.pending
    }
}

impl StreamState {
    /// As [`StreamDecoder::continuing`].
    pub(crate) fn continuing(options: DecodeOptions) -> StreamState {
        StreamState {
            options,
            pending: Vec::new(),
            at_start: false,
            begins_texts: false,
        }
    }

    /// As [`StreamDecoder::push`].
    pub(crate) fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        self.append(tokenizer, id);
        self.whole()
    }

    /// The same, with the text of the token even if it is a control token where it `is_shown`.
    pub(crate) fn push_as(&mut self, tokenizer: &Tokenizer, id: u32, is_shown: bool) -> String {
        let options = self.options;
        self.options.special |= is_shown;
        let text = self.push(tokenizer, id);
        self.options = options;
        text
    }

    /// The whole characters of what is pending.
    fn whole(&mut self) -> String {
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    // Checked just now; lossy costs nothing then.
                    text.push_str(&String::from_utf8_lossy(valid));
                    let Some(bad) = error.error_len() else {
                        rest = after;
                        break;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &after[bad..];
                }
            }
        }
        let kept = rest.len();
        self.pending.drain(..self.pending.len() - kept);
        text
    }

    /// U+FFFD if the text stops inside a character.
    pub(crate) fn finish(&mut self) -> String {
        let unfinished = std::mem::take(&mut self.pending);
        String::from_utf8_lossy(&unfinished).into_owned()
    }

    fn append(&mut self, tokenizer: &Tokenizer, id: u32) {
        let Some(kind) = tokenizer.token_kind(id) else {
            return;
        };
        if kind.is_hidden() && !self.options.special {
            return;
        }
        if tokenizer.is_wordpiece() {
            return self.append_word(tokenizer, id, kind);
        }
        let mut bytes = tokenizer.token_bytes(id);
        if kind == TokenKind::Control {
            // A control token is part of no text: none has begun with it, and after it one begins.
            self.at_start |= self.begins_texts && self.options.special;
        } else if std::mem::take(&mut self.at_start) {
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        self.pending.extend_from_slice(bytes);
    }

    /// WordPiece, as its published decoder writes it: a space before every word but the first and before
    /// no full stop, comma, exclamation or question mark, and what goes on with a word that is not there
    /// after `##`.
    fn append_word(&mut self, tokenizer: &Tokenizer, id: u32, kind: TokenKind) {
        let bytes = tokenizer.token_bytes(id);
        let word = match kind.is_special() {
            true => Some(bytes),
            false => bytes.strip_prefix(b" "),
        };
        let is_first = std::mem::take(&mut self.at_start);
        match (word, is_first) {
            (Some(word), false) if !CLINGING.iter().any(|c| word.starts_with(c)) => {
                self.pending.push(b' ');
            }
            (None, true) => self.pending.extend_from_slice(b"##"),
            _ => {}
        }
        self.pending.extend_from_slice(word.unwrap_or(bytes));
    }
}
