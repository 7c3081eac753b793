//! From text to ids: special tokens first, then what lies between them.

use super::bpe::{Bpe, Scratch};
use super::special::{Found, Fragment};
use super::spm::Spm;
use super::vocab::{TokenKind, VISIBLE_SPACE};
use super::wordpiece::WordPiece;
use super::{EncodeOptions, Model, Tokenizer, normal};

/// The special tokens that a text itself begins and ends with.
#[derive(Clone, Copy, Default)]
struct Edges {
    first: Option<u32>,
    last: Option<u32>,
}

impl Edges {
    fn of(fragments: &[Fragment<'_>]) -> Edges {
        let token = |fragment: Option<&Fragment<'_>>| match fragment {
            Some(&Fragment::Token(id)) => Some(id),
            _ => None,
        };
        Edges {
            first: token(fragments.first()),
            last: token(fragments.last()),
        }
    }
}

/// How a part of a text is read.
#[derive(Clone, Copy)]
struct Reading {
    /// Control tokens are taken from the text.
    parse_special: bool,
    /// A text begins here, and does not go on.
    begins: bool,
}

impl Tokenizer {
    /// The ids of a whole text.
    ///
    /// A text that begins with the beginning-of-sequence token, or ends with the end-of-sequence token,
    /// as a special token that is parsed, gets no second one.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Vec<u32> {
        let reading = Reading {
            parse_special: options.parse_special,
            begins: true,
        };
        let add_bos = options.add_special && self.add_bos;
        let (mut ids, edges) = self.encode_with_bos(text, reading, add_bos);
        if options.add_special && self.add_eos && edges.last != self.eos {
            ids.extend(self.eos);
        }
        ids
    }

    /// The ids of a text that a model is to go on with, behind the tokens `before` it.
    ///
    /// At the start, where there are none before it, the beginning-of-sequence token is added if the
    /// model wants it and the text does not begin with it. Behind others neither that is added nor the
    /// space by which a text begins. The end-of-sequence token never is: the text goes on.
    pub fn encode_prompt(&self, before: &[u32], text: &str, parse_special: bool) -> Vec<u32> {
        let is_control = |&id: &u32| self.vocab.token_kind(id) == Some(TokenKind::Control);
        let reading = Reading {
            parse_special,
            begins: before.last().is_none_or(is_control),
        };
        let add_bos = before.is_empty() && self.add_bos;
        self.encode_with_bos(text, reading, add_bos).0
    }

    /// The ids of a part of a text, which does not begin there; no control tokens are read.
    pub(crate) fn encode_within(&self, text: &str) -> Vec<u32> {
        let reading = Reading {
            parse_special: false,
            begins: false,
        };
        self.encode_with_bos(text, reading, false).0
    }

    fn encode_with_bos(&self, text: &str, reading: Reading, add_bos: bool) -> (Vec<u32>, Edges) {
        let mut ids = Vec::with_capacity(text.len() / 4 + 2);
        let bos = self.bos.filter(|_| add_bos);
        ids.extend(bos);
        let edges = match &self.model {
            Model::Bpe(bpe) => self.append_words(bpe, text, reading, &mut ids),
            Model::Spm(spm) => self.append_pieces(spm, text, reading, &mut ids),
            Model::WordPiece(words) => {
                self.append_wordpieces(words, text, reading.parse_special, &mut ids)
            }
        };
        if bos.is_some() && edges.first == bos {
            ids.remove(0);
        }
        (ids, edges)
    }

    /// Byte-level BPE: words between special tokens.
    fn append_words(&self, bpe: &Bpe, text: &str, reading: Reading, ids: &mut Vec<u32>) -> Edges {
        let mut fragments = self.specials.partition(text, reading.parse_special);
        let composed;
        if self.composes && !normal::is_composed(text) {
            composed = normal::composed(&fragments);
            fragments = normal::recut(&fragments, &composed.0, &composed.1);
        }
        let mut scratch = Scratch::default();
        for &fragment in &fragments {
            match fragment {
                Fragment::Token(id) => ids.push(id),
                Fragment::Text(text) => {
                    bpe.encode(&self.vocab, &self.index, text, &mut scratch, ids);
                }
            }
        }
        Edges::of(&fragments)
    }

    /// WordPiece: words between special tokens.
    fn append_wordpieces(
        &self,
        words: &WordPiece,
        text: &str,
        parse_special: bool,
        ids: &mut Vec<u32>,
    ) -> Edges {
        let fragments = self.specials.partition(text, parse_special);
        for &fragment in &fragments {
            match fragment {
                Fragment::Token(id) => ids.push(id),
                Fragment::Text(text) => words.encode(&self.vocab, &self.index, text, ids),
            }
        }
        Edges::of(&fragments)
    }

    /// SentencePiece: pieces between special tokens. A text begins with a space of the tokenizer's, at
    /// the start and behind each control token; what users defined goes on with the text before it.
    fn append_pieces(&self, spm: &Spm, text: &str, reading: Reading, ids: &mut Vec<u32>) -> Edges {
        let mut edges = Edges::default();
        // One byte in front, for the space.
        let mut bytes = Vec::with_capacity(text.len() + 1);
        bytes.push(b' ');
        self.push_spaced(text, &mut bytes);
        let (mut begin, mut begins) = (1, reading.begins && self.add_space_prefix);
        while begin < bytes.len() {
            let control =
                |found: &Found| self.vocab.token_kind(found.id) != Some(TokenKind::UserDefined);
            let find = |bytes: &[u8], from| self.specials.next(bytes, from, reading.parse_special);
            let mut start = begin;
            let mut found = find(&bytes, start);
            // Nothing lies between two control tokens, not even the space.
            if begins && !found.is_some_and(|f| control(&f) && f.start == begin) {
                start = begin - 1;
                bytes[start] = b' ';
                found = find(&bytes, start);
            }
            let end = found.map_or(bytes.len(), |found| found.start);
            let text = String::from_utf8_lossy(bytes.get(start..end).unwrap_or_default());
            spm.encode(&self.vocab, &self.index, &text, ids);
            let Some(found) = found else {
                edges.last = None;
                break;
            };
            if begin == 1 && found.start == 1 {
                edges.first = Some(found.id);
            }
            edges.last = Some(found.id);
            ids.push(found.id);
            begins = control(&found) && self.add_space_prefix;
            begin = self.specials.end_of(found, &bytes, reading.parse_special);
        }
        edges
    }

    /// Appends a text with its visible spaces as spaces: the vocabulary has no others.
    fn push_spaced(&self, text: &str, bytes: &mut Vec<u8>) {
        let text = match self.merges_spaces {
            true => text.trim_matches(' '),
            false => text,
        };
        let mut after_space = false;
        for c in text.chars() {
            let is_extra = self.merges_spaces && after_space && c == ' ';
            after_space = c == ' ';
            if is_extra {
                continue;
            }
            let c = if c == VISIBLE_SPACE { ' ' } else { c };
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
}
