//! The vocabulary: what each id stands for, and which id stands for some bytes.
//!
//! All tokens' bytes lie in one arena; an index is a hash table of ids that compares by looking
//! into it. A vocabulary of 150,000 tokens thus is a handful of allocations. Tokens are kept as
//! the bytes they *mean*: the byte alphabet of byte-level BPE is undone, SentencePiece's U+2581
//! is a space again, a `<0x0A>` is one byte, and so is the U+2581 by which WordPiece begins words.
//! Control tokens are kept as they are written, and so are those that users defined where the vocabulary
//! is not SentencePiece's.

use std::borrow::Cow;

use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;

use super::Algorithm;
use super::bytes;

/// SentencePiece's visible space.
pub(crate) const VISIBLE_SPACE: char = '\u{2581}';

/// The values of `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TokenKind {
    /// Made by merging.
    Normal,
    /// Stands for what the vocabulary cannot write.
    Unknown,
    /// Steers the model; part of no text.
    Control,
    /// Text that is never cut.
    UserDefined,
    /// Made by merging, though no training text held it.
    Unused,
    /// One byte, written `<0xHH>`.
    Byte,
}

impl TokenKind {
    /// The kind of a number in the file; what is not defined counts as normal.
    pub(crate) fn from_id(id: i32) -> TokenKind {
        match id {
            2 => TokenKind::Unknown,
            3 => TokenKind::Control,
            4 => TokenKind::UserDefined,
            5 => TokenKind::Unused,
            6 => TokenKind::Byte,
            _ => TokenKind::Normal,
        }
    }

    /// Whether the token is matched as a whole, before a text is cut into words.
    pub(crate) fn is_special(self) -> bool {
        matches!(
            self,
            TokenKind::Unknown | TokenKind::Control | TokenKind::UserDefined
        )
    }

    /// Whether decoding leaves the token out unless special tokens are asked for.
    pub(crate) fn is_hidden(self) -> bool {
        matches!(self, TokenKind::Unknown | TokenKind::Control)
    }
}

/// Ids by their bytes; the bytes themselves are the vocabulary's.
#[derive(Default)]
pub(crate) struct Index {
    table: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Index {
    /// Room for `len` ids.
    pub(crate) fn with_capacity(len: usize) -> Index {
        Index {
            table: HashTable::with_capacity(len),
            hasher: DefaultHashBuilder::default(),
        }
    }

    /// The id of some bytes.
    #[inline]
    pub(crate) fn get(&self, vocab: &Vocab, bytes: &[u8]) -> Option<u32> {
        self.table
            .find(self.hasher.hash_one(bytes), |&id| vocab.bytes(id) == bytes)
            .copied()
    }

    /// Adds an id, unless its bytes have one already; then that is returned.
    pub(crate) fn insert(&mut self, vocab: &Vocab, id: u32) -> Option<u32> {
        let bytes = vocab.bytes(id);
        let hash = self.hasher.hash_one(bytes);
        if let Some(&first) = self.table.find(hash, |&other| vocab.bytes(other) == bytes) {
            return Some(first);
        }
        let hasher = &self.hasher;
        self.table
            .insert_unique(hash, id, |&other| hasher.hash_one(vocab.bytes(other)));
        None
    }
}

/// What each id stands for.
pub(crate) struct Vocab {
    kind: Algorithm,
    arena: Vec<u8>,
    /// Where each token's bytes end; they begin where the former's end.
    ends: Vec<usize>,
    kinds: Vec<TokenKind>,
    /// Tokens that are not written in the vocabulary's alphabet, ascending: ordinary ones of a
    /// byte-level vocabulary, those of SentencePiece with a plain space, and words of WordPiece's
    /// without a U+2581.
    foreign: Vec<u32>,
}

impl Vocab {
    /// An empty vocabulary with room for `len` tokens.
    pub(crate) fn with_capacity(kind: Algorithm, len: usize) -> Vocab {
        Vocab {
            kind,
            arena: Vec::with_capacity(len.saturating_mul(8)),
            ends: Vec::with_capacity(len),
            kinds: Vec::with_capacity(len),
            foreign: Vec::new(),
        }
    }

    /// Adds the token of the next id by its text in the file. False when the text says that the
    /// token is a byte but not which one; it then counts as normal.
    pub(crate) fn push(&mut self, text: &str, kind: TokenKind) -> bool {
        let byte = if kind == TokenKind::Byte {
            parse_byte(text)
        } else {
            None
        };
        let is_odd = kind == TokenKind::Byte && byte.is_none();
        let kind = match (kind, byte) {
            (TokenKind::Byte, None) => TokenKind::Normal,
            (kind, _) => kind,
        };
        match (kind, self.kind) {
            (TokenKind::Byte, _) => self.arena.extend(byte),
            (TokenKind::Normal | TokenKind::Unused, Algorithm::ByteLevelBpe) => {
                if !bytes::push_bytes(text, &mut self.arena) {
                    self.foreign.push(self.len() as u32);
                    self.arena.extend_from_slice(text.as_bytes());
                }
            }
            (
                TokenKind::Normal | TokenKind::Unused | TokenKind::UserDefined,
                Algorithm::SentencePiece,
            ) => self.push_piece(text),
            (
                TokenKind::Normal | TokenKind::Unused | TokenKind::UserDefined,
                Algorithm::WordPiece,
            ) => self.push_word(text, kind == TokenKind::UserDefined),
            _ => self.arena.extend_from_slice(text.as_bytes()),
        }
        self.ends.push(self.arena.len());
        self.kinds.push(kind);
        !is_odd
    }

    /// The bytes of a token of SentencePiece's.
    fn push_piece(&mut self, text: &str) {
        if text.contains(' ') {
            self.foreign.push(self.len() as u32);
        }
        let mut parts = text.split(VISIBLE_SPACE);
        self.arena
            .extend_from_slice(parts.next().unwrap_or_default().as_bytes());
        for part in parts {
            self.arena.push(b' ');
            self.arena.extend_from_slice(part.as_bytes());
        }
    }

    /// The bytes of a token of WordPiece's: those that begin a word have a space in front. What is in
    /// brackets is a word, whether it is written as one or not.
    fn push_word(&mut self, text: &str, is_of_user: bool) {
        let word = text.strip_prefix(VISIBLE_SPACE).filter(|w| !w.is_empty());
        let is_word = word.is_some() || (text.starts_with('[') && text.ends_with(']'));
        if word.is_none() && (is_word || is_of_user) {
            self.foreign.push(self.len() as u32);
        }
        if is_word && !is_of_user {
            self.arena.push(b' ');
        }
        self.arena
            .extend_from_slice(word.unwrap_or(text).as_bytes());
    }

    /// The kind of tokenizer that it is made for.
    pub(crate) fn algorithm(&self) -> Algorithm {
        self.kind
    }

    /// Whether a token is not written in the vocabulary's alphabet.
    pub(crate) fn is_foreign(&self, id: u32) -> bool {
        self.foreign.binary_search(&id).is_ok()
    }

    /// The tokens that are not written in the vocabulary's alphabet, ascending.
    pub(crate) fn foreign(&self) -> &[u32] {
        &self.foreign
    }

    /// The number of tokens.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes that a token stands for; none for an id the vocabulary lacks.
    #[inline]
    pub(crate) fn bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let start = id
            .checked_sub(1)
            .and_then(|i| self.ends.get(i))
            .copied()
            .unwrap_or(0);
        self.ends
            .get(id)
            .and_then(|&end| self.arena.get(start..end))
            .unwrap_or_default()
    }

    /// The kind of a token.
    #[inline]
    pub(crate) fn token_kind(&self, id: u32) -> Option<TokenKind> {
        self.kinds.get(id as usize).copied()
    }

    /// The ids of some kinds, ascending.
    pub(crate) fn ids(&self, wanted: fn(TokenKind) -> bool) -> impl Iterator<Item = u32> {
        (0..)
            .zip(&self.kinds)
            .filter(move |&(_, &kind)| wanted(kind))
            .map(|(id, _)| id)
    }

    /// A token as the file writes it.
    pub(crate) fn text(&self, id: u32) -> Option<Cow<'_, str>> {
        let kind = self.token_kind(id)?;
        let bytes = self.bytes(id);
        // What is not a single byte came from text and was cut nowhere: this borrows.
        let as_written = String::from_utf8_lossy(bytes);
        Some(match (kind, self.kind) {
            (TokenKind::Byte, _) => {
                Cow::Owned(format!("<0x{:02X}>", bytes.first().copied().unwrap_or(0)))
            }
            (TokenKind::Normal | TokenKind::Unused, Algorithm::ByteLevelBpe) => {
                if self.is_foreign(id) {
                    as_written
                } else {
                    Cow::Owned(bytes::to_text(bytes))
                }
            }
            (
                TokenKind::Normal | TokenKind::Unused | TokenKind::UserDefined,
                Algorithm::SentencePiece,
            ) if bytes.contains(&b' ') && !self.is_foreign(id) => {
                Cow::Owned(as_written.replace(' ', VISIBLE_SPACE.encode_utf8(&mut [0; 4])))
            }
            (
                TokenKind::Normal | TokenKind::Unused | TokenKind::UserDefined,
                Algorithm::WordPiece,
            ) => {
                let word = as_written.strip_prefix(' ');
                let is_word = word.is_some() || kind == TokenKind::UserDefined;
                match (word, is_word && !self.is_foreign(id)) {
                    (_, true) => {
                        let word = word.unwrap_or(&as_written);
                        Cow::Owned(format!("{VISIBLE_SPACE}{word}"))
                    }
                    (Some(word), false) => Cow::Owned(word.to_owned()),
                    (None, false) => as_written,
                }
            }
            _ => as_written,
        })
    }
}

/// The byte of `<0xHH>`.
pub(crate) fn parse_byte(text: &str) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_hex = hex.len() == 2 && hex.bytes().all(|b| b.is_ascii_hexdigit());
    if is_hex {
        u8::from_str_radix(hex, 16).ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_kept_as_what_they_mean() {
        let mut v = Vocab::with_capacity(Algorithm::SentencePiece, 4);
        assert!(v.push("\u{2581}a\u{2581}", TokenKind::Normal));
        assert!(v.push("<0x0a>", TokenKind::Byte));
        assert!(!v.push("<0xZZ>", TokenKind::Byte));
        assert!(v.push("\u{2581}x", TokenKind::UserDefined));
        assert!(v.push("  x", TokenKind::UserDefined));
        assert!(v.push("\u{2581}", TokenKind::Control));
        assert_eq!(
            (v.bytes(0), v.bytes(1), v.bytes(9)),
            (&b" a "[..], &b"\n"[..], &b""[..])
        );
        assert_eq!(v.text(0).as_deref(), Some("\u{2581}a\u{2581}"));
        assert_eq!(v.text(1).as_deref(), Some("<0x0A>"));
        assert_eq!(v.text(2).as_deref(), Some("<0xZZ>"));
        // Users may write a space either way.
        assert_eq!((v.bytes(3), v.bytes(4)), (&b" x"[..], &b"  x"[..]));
        assert_eq!(v.text(3).as_deref(), Some("\u{2581}x"));
        assert_eq!(v.text(4).as_deref(), Some("  x"));
        assert_eq!(v.bytes(5), "\u{2581}".as_bytes());
        assert_eq!(v.text(6), None);
    }

    #[test]
    fn words_begin_with_a_space() {
        use TokenKind::{Control, Normal, UserDefined};
        let tokens = [
            ("\u{2581}a", Normal, " a"),
            ("a", Normal, "a"),
            ("[unused0]", Normal, " [unused0]"),
            ("\u{2581}", Normal, "\u{2581}"),
            ("\u{2581}\u{2581}", Normal, " \u{2581}"),
            ("[", Normal, "["),
            ("[CLS]", Control, "[CLS]"),
            ("\u{2581}<x>", UserDefined, "<x>"),
            ("<y>", UserDefined, "<y>"),
        ];
        let mut v = Vocab::with_capacity(Algorithm::WordPiece, tokens.len());
        for (text, kind, _) in tokens {
            assert!(v.push(text, kind));
        }
        for (id, (text, _, bytes)) in (0..).zip(tokens) {
            assert_eq!(v.bytes(id), bytes.as_bytes(), "{text}");
            assert_eq!(v.text(id).as_deref(), Some(text));
        }
    }

    #[test]
    fn the_first_of_two_equal_tokens_has_the_bytes() {
        let mut v = Vocab::with_capacity(Algorithm::ByteLevelBpe, 2);
        let mut index = Index::default();
        for text in ["\u{120}a", "b", "\u{120}a"] {
            v.push(text, TokenKind::Normal);
        }
        assert_eq!(
            [0, 1, 2].map(|id| index.insert(&v, id)),
            [None, None, Some(0)]
        );
        assert_eq!(index.get(&v, b" a"), Some(0));
        assert_eq!(index.get(&v, b"c"), None);
    }

    #[test]
    fn bytes_are_two_hex_digits() {
        assert_eq!(parse_byte("<0xfF>"), Some(255));
        for bad in ["<0x-1>", "<0x+1>", "<0x1>", "<0x001>", "0x01", ""] {
            assert_eq!(parse_byte(bad), None, "{bad}");
        }
    }
}
