//! Text to token ids and back, by the vocabulary of a model file.
//!
//! Two kinds of tokenizer cover the models in use: byte-level BPE (`gpt2`), whose families differ
//! in how they cut text into words (`pre.rs`, one row each), and SentencePiece's BPE (`llama`).
//! A third, WordPiece (`bert`), is that of encoders. Others are refused by name. The vocabulary is read
//! from the file's metadata alone.
//!
//! What always holds: encoding never fails, and gives only ids of the vocabulary; with the 256
//! bytes in the vocabulary and no special tokens parsed, decoding gives the text back (composed,
//! where the vocabulary is one of composed texts); a stream gives whole characters and in the end the
//! same text as decoding at once. WordPiece forgets white space, accents and case: its decoding gives
//! what the published decoder gives.
//!
//! ```
//! use gannet_engine::Model;
//! use gannet_engine::tokenizer::{EncodeOptions, StreamDecoder};
//!
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../cli/models/rustdoc-tiny-Q4_K_M.gguf");
//! let model = Model::open(path)?;
//! let tokenizer = model.tokenizer();
//! let ids = tokenizer.encode("Ownership is \u{1f980}", EncodeOptions::default());
//!
//! // The crab takes four tokens, one a byte, and arrives with the last of them.
//! let mut stream = StreamDecoder::new(tokenizer);
//! let parts: Vec<String> = ids.iter().map(|&id| stream.push(id)).collect();
//! assert_eq!(parts.concat(), "Ownership is \u{1f980}");
//! assert_eq!(parts.last().map(String::as_str), Some("\u{1f980}"));
//! assert_eq!(stream.finish(), "");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod bert;
mod bpe;
mod bytes;
mod class;
mod encode;
mod ends;
mod error;
mod kinds;
mod load;
mod normal;
mod pre;
mod special;
mod split;
mod spm;
mod stream;
mod unread;
mod vocab;
mod wordpiece;

use std::borrow::Cow;

use gannet_gguf::Metadata;

pub use error::Error;
pub use stream::StreamDecoder;
pub(crate) use stream::StreamState;

use bpe::Bpe;
use special::Specials;
use spm::Spm;
use vocab::{Index, TokenKind, VISIBLE_SPACE, Vocab, parse_byte};
use wordpiece::WordPiece;

/// The kinds of tokenizer, by `tokenizer.ggml.model`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Algorithm {
    /// `gpt2`: words are cut by rules, then their bytes merged by rank.
    ByteLevelBpe,
    /// `llama`: characters are merged by the score of the result, bytes being the fallback.
    SentencePiece,
    /// `bert`: words, lower-cased and without accents where the vocabulary is, become their longest
    /// beginnings in the vocabulary.
    WordPiece,
}

/// What the reader of a file may decide against it.
#[derive(Clone, Debug, Default)]
pub struct TokenizerOptions {
    /// Used in place of `tokenizer.ggml.pre`: one of [`pre_tokenizers`].
    pub pre_override: Option<String>,
}

/// How to read a text.
#[derive(Clone, Copy, Debug, Default)]
pub struct EncodeOptions {
    /// Add the beginning- and end-of-sequence tokens that the model wants around a text.
    pub add_special: bool,
    /// Take the text of control tokens (such as `<|im_end|>`) for the tokens. Tokens that users
    /// defined are always taken so. Not for text from strangers.
    pub parse_special: bool,
}

/// How to write tokens.
#[derive(Clone, Copy, Debug, Default)]
pub struct DecodeOptions {
    /// Write control and unknown tokens, too.
    pub special: bool,
}

/// The tokenizer of one model file.
pub struct Tokenizer {
    kind: Algorithm,
    pre: String,
    vocab: Vocab,
    /// What merging can give.
    index: Index,
    specials: Specials,
    model: Model,
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    add_space_prefix: bool,
    /// Of several spaces in a row one is read, and none at the ends of a text.
    merges_spaces: bool,
    /// Texts are composed (NFC) first.
    composes: bool,
    /// Tokens that end a generation, ascending.
    ends: Vec<u32>,
    warnings: Vec<String>,
}

/// How words become tokens.
enum Model {
    Bpe(Bpe),
    Spm(Spm),
    WordPiece(WordPiece),
}

/// The names of the known pre-tokenizers, for [`TokenizerOptions::pre_override`].
pub fn pre_tokenizers() -> impl Iterator<Item = &'static str> {
    pre::names()
}

/// The tokenizer of a model file's metadata alone, whatever the model is.
///
/// # Errors
/// One line that names the key: an unsupported kind of tokenizer, an unknown pre-tokenizer,
/// a vocabulary array missing, of a wrong type or too short, a score that is not a number.
pub fn from_metadata(meta: &Metadata, options: &TokenizerOptions) -> Result<Tokenizer, Error> {
    Tokenizer::read(meta, options)
}

impl Tokenizer {
    /// The text of some ids. Bytes that are not UTF-8 become U+FFFD; ids that the vocabulary
    /// lacks are left out, and so is the space that [`encode`](Self::encode) put in front.
    pub fn decode(&self, ids: &[u32], options: DecodeOptions) -> String {
        match String::from_utf8(self.decode_bytes(ids, options)) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        }
    }

    /// As [`decode`](Self::decode), the bytes as they are.
    pub fn decode_bytes(&self, ids: &[u32], options: DecodeOptions) -> Vec<u8> {
        let mut decoder = StreamDecoder::with_options(self, options);
        for &id in ids {
            decoder.append(id);
        }
        decoder.into_bytes()
    }

    /// The bytes that a token stands for (a special token's are its text); none for an id that
    /// the vocabulary lacks.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.vocab.bytes(id)
    }

    /// Appends [`token_bytes`](Self::token_bytes).
    pub fn append_bytes(&self, id: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(self.vocab.bytes(id));
    }

    /// A token as the file writes it: `Ġthe`, `▁the`, `<0x0A>`.
    pub fn token_text(&self, id: u32) -> Option<Cow<'_, str>> {
        self.vocab.text(id)
    }

    /// The id of a token as the file writes it; of several, a special one, else the lowest.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        let raw = match self.kind {
            Algorithm::ByteLevelBpe => Cow::Borrowed(text),
            Algorithm::SentencePiece => Cow::Owned(text.replace(VISIBLE_SPACE, " ")),
            Algorithm::WordPiece => match text.strip_prefix(VISIBLE_SPACE) {
                Some(word) => Cow::Owned(format!(" {word}")),
                None => Cow::Borrowed(text),
            },
        };
        let special = |text: &str| self.specials.get(&self.vocab, text.as_bytes());
        // A word's space is none of a token's that users defined.
        let unspaced = || special(raw.strip_prefix(' ').filter(|_| self.is_wordpiece())?);
        let found = special(text).or_else(|| special(&raw));
        if let Some(id) = found.or_else(unspaced) {
            return Some(id);
        }
        let is_written_so = |&id: &u32| self.vocab.text(id).as_deref() == Some(text);
        let mut bytes = Vec::with_capacity(text.len());
        if self.kind != Algorithm::ByteLevelBpe || !bytes::push_bytes(text, &mut bytes) {
            bytes.extend_from_slice(raw.as_bytes());
        }
        let byte = || {
            let byte = [parse_byte(text)?];
            self.vocab
                .ids(|kind| kind == TokenKind::Byte)
                .find(|&id| self.token_bytes(id) == byte)
        };
        let found = self.index.get(&self.vocab, &bytes);
        found
            .filter(is_written_so)
            .or_else(byte)
            .or_else(|| self.vocab.foreign().iter().copied().find(is_written_so))
    }

    /// The beginning-of-sequence token, if the model has one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The end-of-sequence token, if the model has one; WordPiece's separator.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Whether [`EncodeOptions::add_special`] adds the beginning-of-sequence token.
    pub fn adds_bos(&self) -> bool {
        self.add_bos
    }

    /// Whether a token ends a generation.
    pub fn is_eog(&self, id: u32) -> bool {
        self.ends.binary_search(&id).is_ok()
    }

    /// The number of tokens.
    pub fn vocab_size(&self) -> usize {
        self.vocab.len()
    }

    /// What is odd about the file's vocabulary, a line each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The kind of tokenizer.
    pub fn kind(&self) -> Algorithm {
        self.kind
    }

    /// The name of the pre-tokenizer in use; SentencePiece and WordPiece have none and ignore it.
    pub fn pre(&self) -> &str {
        &self.pre
    }

    /// Whether texts are composed (Unicode's NFC) before they are cut: decoding then gives them back
    /// composed.
    pub fn composes(&self) -> bool {
        self.composes
    }

    /// The text of a token that decoding leaves out unless asked for it.
    pub(crate) fn hidden_text(&self, id: u32) -> Option<&str> {
        let is_hidden = self.token_kind(id).is_some_and(TokenKind::is_hidden);
        std::str::from_utf8(self.token_bytes(id))
            .ok()
            .filter(|_| is_hidden)
    }

    /// Whether decoding leaves a token out unless asked for it.
    pub(crate) fn is_hidden(&self, id: u32) -> bool {
        self.token_kind(id).is_some_and(TokenKind::is_hidden)
    }

    /// Whether a token stands for a byte that the vocabulary may have no other for.
    pub(crate) fn is_byte(&self, id: u32) -> bool {
        self.token_kind(id) == Some(TokenKind::Byte)
    }

    /// Tokens that end a generation, ascending.
    pub(crate) fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// Whether a text does not begin as it goes on.
    fn begins_texts(&self) -> bool {
        self.add_space_prefix || self.is_wordpiece()
    }

    fn is_wordpiece(&self) -> bool {
        self.kind == Algorithm::WordPiece
    }

    fn token_kind(&self, id: u32) -> Option<TokenKind> {
        self.vocab.token_kind(id)
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("kind", &self.kind)
            .field("pre", &self.pre)
            .field("vocab_size", &self.vocab.len())
            .finish_non_exhaustive()
    }
}
