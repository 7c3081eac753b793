//! Vocabularies made up for a test.

use gannet_engine::internals::text::tokenizer::{Tokenizer, TokenizerOptions, from_metadata};
use gannet_gguf::{Gguf, Writer};

pub(crate) const NORMAL: i32 = 1;
pub(crate) const UNKNOWN: i32 = 2;
pub(crate) const CONTROL: i32 = 3;
pub(crate) const USER: i32 = 4;
pub(crate) const UNUSED: i32 = 5;
pub(crate) const BYTE: i32 = 6;

/// A vocabulary: texts as files write them, their types and scores, in order of ids.
#[derive(Clone, Default)]
pub(crate) struct Made {
    pub(crate) texts: Vec<String>,
    pub(crate) types: Vec<i32>,
    pub(crate) scores: Vec<f32>,
    pub(crate) merges: Vec<String>,
    /// Whether it is WordPiece's.
    pub(crate) is_words: bool,
}

/// The character by which byte-level vocabularies write a byte.
pub(crate) fn letter(byte: u8) -> char {
    let is_itself = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if is_itself(byte) {
        return char::from(byte);
    }
    let shifted = (0..byte).filter(|&b| !is_itself(b)).count() as u32;
    char::from_u32(0x100 + shifted).expect("a character")
}

/// Text as byte-level vocabularies write it.
pub(crate) fn letters(text: &str) -> String {
    text.bytes().map(letter).collect()
}

impl Made {
    /// The 256 bytes of a byte-level vocabulary.
    pub(crate) fn bytes() -> Made {
        let mut made = Made::default();
        for byte in 0..=255 {
            made.add(&letter(byte).to_string(), NORMAL);
        }
        made
    }

    /// `<unk>`, `<s>`, `</s>`, and the byte tokens of SentencePiece.
    pub(crate) fn pieces() -> Made {
        let mut made = Made::default();
        made.add("<unk>", UNKNOWN);
        made.add("<s>", CONTROL);
        made.add("</s>", CONTROL);
        for byte in 0..=255u8 {
            made.add(&format!("<0x{byte:02X}>"), BYTE);
        }
        made
    }

    /// The control tokens of WordPiece.
    pub(crate) fn words() -> Made {
        let mut made = Made {
            is_words: true,
            ..Made::default()
        };
        for text in ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] {
            made.add(text, CONTROL);
        }
        made
    }

    /// Adds a token; returns its id.
    pub(crate) fn add(&mut self, text: &str, ty: i32) -> u32 {
        self.scored(text, ty, 0.0)
    }

    pub(crate) fn scored(&mut self, text: &str, ty: i32, score: f32) -> u32 {
        self.texts.push(text.to_owned());
        self.types.push(ty);
        self.scores.push(score);
        self.texts.len() as u32 - 1
    }

    /// Adds the merges of a byte-level text and the tokens that they give.
    pub(crate) fn merge(&mut self, text: &str) -> u32 {
        let all = letters(text);
        let mut ends: Vec<usize> = all.char_indices().map(|(at, _)| at).skip(1).collect();
        ends.push(all.len());
        let mut id = 0;
        for (&middle, &end) in ends.iter().zip(&ends[1..]) {
            let joined = &all[..end];
            let merge = format!("{} {}", &all[..middle], &all[middle..end]);
            id = match self.texts.iter().position(|t| t == joined) {
                Some(id) if self.merges.contains(&merge) => id as u32,
                _ => {
                    self.merges.push(merge);
                    self.add(joined, NORMAL)
                }
            };
        }
        id
    }

    /// The file, with what `more` writes.
    pub(crate) fn file(&self, pre: Option<&str>, more: impl FnOnce(&mut Writer)) -> Gguf {
        let mut writer = Writer::new();
        let model = match pre {
            _ if self.is_words => "bert",
            Some(_) => "gpt2",
            None => "llama",
        };
        writer.set("tokenizer.ggml.model", model).unwrap();
        if let Some(pre) = pre {
            writer.set("tokenizer.ggml.pre", pre).unwrap();
            let merges = &self.merges;
            writer.set_array("tokenizer.ggml.merges", merges).unwrap();
        } else {
            let scores = &self.scores;
            writer.set_array("tokenizer.ggml.scores", scores).unwrap();
        }
        let texts = &self.texts;
        writer.set_array("tokenizer.ggml.tokens", texts).unwrap();
        if !self.types.is_empty() {
            let types = &self.types;
            writer
                .set_array("tokenizer.ggml.token_type", types)
                .unwrap();
        }
        more(&mut writer);
        let bytes = writer.start(Vec::new()).unwrap().finish().unwrap();
        Gguf::from_vec("made.gguf", bytes).unwrap()
    }

    /// The tokenizer of the file.
    pub(crate) fn tokenizer(&self, pre: Option<&str>, more: impl FnOnce(&mut Writer)) -> Tokenizer {
        let file = self.file(pre, more);
        from_metadata(file.metadata(), &TokenizerOptions::default()).expect("loads")
    }
}
