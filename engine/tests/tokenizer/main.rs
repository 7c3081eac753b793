//! Tokenizers against what others say: published test vectors, the reference library, hostile
//! vocabularies, and themselves (decoding undoes encoding, streams equal wholes).
//!
//! Vocabularies that may not be part of this repository are read from the folder that
//! `GANNET_SHARED` names; where it is absent, the test says so and verifies nothing.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

mod cases;
mod hostile;
mod linear;
mod made;
mod markers;
mod oracle;
mod published;
mod round_trip;
mod vectors;
mod words;

use std::path::PathBuf;

use gannet_engine::internals::text::tokenizer::{
    Error, Tokenizer, TokenizerOptions, from_metadata,
};
use gannet_engine::tokenizer::Algorithm;
use gannet_gguf::Gguf;
use unicode_normalization::UnicodeNormalization;

/// A path in the folder of shared test data, or in what of that the repository ships, if it is there.
fn shared(path: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("GANNET_SHARED").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared")),
        PathBuf::from,
    );
    let found = [folder.join(path), data(path)]
        .into_iter()
        .find(|path| path.exists());
    if found.is_none() {
        eprintln!("skipped: {} is not there", folder.join(path).display());
    }
    found
}

/// A folder of test data that is part of the repository.
fn data(folder: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data")).join(folder)
}

/// The model that is part of the repository.
fn embedded() -> Gguf {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../cli/models/rustdoc-tiny-Q4_K_M.gguf"
    );
    Gguf::open(path).expect("the embedded model opens")
}

fn load(model: &Gguf) -> Result<Tokenizer, Error> {
    from_metadata(model.metadata(), &TokenizerOptions::default())
}

fn load_as(model: &Gguf, pre: &str) -> Tokenizer {
    let options = TokenizerOptions {
        pre_override: Some(pre.to_owned()),
    };
    from_metadata(model.metadata(), &options).expect("a known pre-tokenizer")
}

/// A text without the characters for whose bytes a vocabulary has no tokens (Falcon's lacks
/// some): those are in no token, and decoding cannot give them back.
fn writable(tokenizer: &Tokenizer, text: &str) -> String {
    Writable::of(tokenizer).part(text)
}

/// The bytes that a vocabulary has tokens for.
struct Writable([bool; 256]);

impl Writable {
    fn of(tokenizer: &Tokenizer) -> Writable {
        let mut has = [false; 256];
        for id in 0..tokenizer.vocab_size() as u32 {
            if let &[byte] = tokenizer.token_bytes(id) {
                has[usize::from(byte)] = true;
            }
        }
        Writable(has)
    }

    /// A text without the characters that it has no tokens for.
    fn part(&self, text: &str) -> String {
        let is_writable = |c: &char| {
            let mut buffer = [0; 4];
            c.encode_utf8(&mut buffer)
                .bytes()
                .all(|b| self.0[usize::from(b)])
        };
        text.chars().filter(is_writable).collect()
    }
}

/// A text as decoding gives it back: composed, where the vocabulary is one of composed texts; and with
/// spaces for visible ones, where it has no others.
fn decoded(tokenizer: &Tokenizer, text: &str) -> String {
    match (tokenizer.composes(), tokenizer.kind()) {
        (true, _) => text.nfc().collect(),
        (_, Algorithm::SentencePiece) => text.replace('\u{2581}', " "),
        _ => text.to_owned(),
    }
}

/// Numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % limit
    }

    fn of<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// Text of the kinds of characters that splitting rules tell apart, in runs.
    fn text(&mut self, runs: u64) -> String {
        const KINDS: &[&[char]] = &[
            &['a', 'b', 'z', 'e', 't', 's', 'l', 'd', 'm'],
            &['A', 'B', 'S', 'T', 'L', '\u{c4}', '\u{1c5}', '\u{410}'],
            &['\u{e9}', '\u{df}', '\u{43d}', '\u{3b1}', '\u{17f}'],
            &[
                '\u{4e2d}', '\u{6587}', '\u{3042}', '\u{30ab}', '\u{ac00}', '\u{e01}', '\u{2b0}',
            ],
            &['\u{301}', '\u{94d}', '\u{20dd}', '\u{e31}'],
            &['0', '1', '9', '\u{663}', '\u{bd}', '\u{2167}'],
            &[' '],
            &[' ', '\t', '\u{a0}', '\u{3000}', '\u{b}'],
            &['\n'],
            &['\n', '\r', ' '],
            &[
                '.', ',', '!', '/', '-', '\'', '"', '(', ')', '\u{2026}', '\u{ff0c}', '\u{3002}',
            ],
            &['$', '+', '<', '|', '`', '~', '\u{20ac}', '\u{1f680}'],
            &['\'', 's', 'L', 'l', 'v', 'E'],
            &[
                '\0', '\u{7f}', '\u{200d}', '\u{fe0f}', '\u{e000}', '\u{378}',
            ],
        ];
        let mut text = String::new();
        for _ in 0..runs {
            let kind = self.of(KINDS);
            for _ in 0..=self.below(4) {
                text.push(self.of(kind));
            }
            if self.below(20) == 0 {
                text.extend(char::from_u32(self.below(0x11_0000) as u32));
            }
        }
        text
    }
}
