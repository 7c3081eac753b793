//! Finding special tokens in a text before it is cut into words.
//!
//! The longest token anywhere wins, then the next longest in what is left, and so on; among
//! tokens of one length the lower id does. (Leftmost-first would differ where tokens overlap.)
//! One pass over the text finds out which tokens occur at all, so that a chat vocabulary of
//! hundreds of special tokens costs a table look-up at each `<`.

use super::vocab::{Index, TokenKind, Vocab};

/// The special tokens of a vocabulary.
pub(crate) struct Specials {
    index: Index,
    /// Longest first.
    ids: Vec<u32>,
    /// By first byte: the lengths, descending, of the tokens that begin with it.
    lengths: Vec<Vec<usize>>,
    /// Tokens that swallow the white space after them, ascending.
    strip_after: Vec<u32>,
}

/// A piece of a text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fragment<'a> {
    /// Ordinary text, not empty.
    Text(&'a str),
    /// A special token.
    Token(u32),
}

impl Specials {
    /// Collects the special tokens; `strip_after` says which swallow white space.
    pub(crate) fn new(vocab: &Vocab, strip_after: impl Fn(&[u8]) -> bool) -> Specials {
        let mut found = Specials {
            index: Index::default(),
            ids: Vec::new(),
            lengths: vec![Vec::new(); 256],
            strip_after: Vec::new(),
        };
        for id in vocab.ids(TokenKind::is_special) {
            let bytes = vocab.bytes(id);
            let Some(&first) = bytes.first() else {
                continue;
            };
            if found.index.insert(vocab, id).is_some() {
                continue;
            }
            found.ids.push(id);
            let lengths = &mut found.lengths[usize::from(first)];
            if let Err(at) = lengths.binary_search_by(|len| bytes.len().cmp(len)) {
                lengths.insert(at, bytes.len());
            }
            if strip_after(bytes) {
                found.strip_after.push(id);
            }
        }
        found
            .ids
            .sort_by_key(|&id| std::cmp::Reverse(vocab.bytes(id).len()));
        found
    }

    /// The special token that is written so.
    pub(crate) fn get(&self, vocab: &Vocab, text: &[u8]) -> Option<u32> {
        self.index.get(vocab, text)
    }

    /// Cuts a text at its special tokens: all of them, or only those that users defined.
    pub(crate) fn partition<'a>(
        &self,
        vocab: &Vocab,
        text: &'a str,
        parse_special: bool,
    ) -> Vec<Fragment<'a>> {
        let mut fragments = Vec::new();
        if text.is_empty() {
            return fragments;
        }
        fragments.push(Fragment::Text(text));
        let occurring = self.occurring(vocab, text.as_bytes(), parse_special);
        if occurring.is_empty() {
            return fragments;
        }
        for &id in self
            .ids
            .iter()
            .filter(|id| occurring.binary_search(id).is_ok())
        {
            let Ok(token) = std::str::from_utf8(vocab.bytes(id)) else {
                continue;
            };
            let strips = self.strip_after.binary_search(&id).is_ok();
            let mut cut = Vec::with_capacity(fragments.len() + 2);
            for fragment in fragments {
                match fragment {
                    Fragment::Text(text) => cut_at(text, token, id, strips, &mut cut),
                    token => cut.push(token),
                }
            }
            fragments = cut;
        }
        fragments
    }

    /// The ids, ascending, of the tokens that occur in a text.
    fn occurring(&self, vocab: &Vocab, text: &[u8], parse_special: bool) -> Vec<u32> {
        let mut found: Vec<u32> = Vec::new();
        for (at, &first) in text.iter().enumerate() {
            for &len in &self.lengths[usize::from(first)] {
                let Some(candidate) = text.get(at..at + len) else {
                    continue;
                };
                let Some(id) = self.index.get(vocab, candidate) else {
                    continue;
                };
                let wanted = parse_special || vocab.token_kind(id) == Some(TokenKind::UserDefined);
                if wanted && let Err(slot) = found.binary_search(&id) {
                    found.insert(slot, id);
                }
            }
        }
        found
    }
}

/// Cuts a text at every occurrence of one token.
fn cut_at<'a>(text: &'a str, token: &str, id: u32, strips: bool, out: &mut Vec<Fragment<'a>>) {
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(token) {
        if !before.is_empty() {
            out.push(Fragment::Text(before));
        }
        out.push(Fragment::Token(id));
        rest = if strips {
            after.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b')
        } else {
            after
        };
    }
    if !rest.is_empty() {
        out.push(Fragment::Text(rest));
    }
}

#[cfg(test)]
mod tests {
    use super::Fragment::{Text, Token};
    use super::*;
    use crate::text::tokenizer::Algorithm;

    fn vocab(tokens: &[(&str, TokenKind)]) -> Vocab {
        let mut vocab = Vocab::with_capacity(Algorithm::ByteLevelBpe, tokens.len());
        for &(text, kind) in tokens {
            vocab.push(text, kind);
        }
        vocab
    }

    #[test]
    fn the_longest_token_wins_wherever_it_is() {
        use TokenKind::{Control, UserDefined};
        let vocab = vocab(&[("<a>", Control), ("<a><b", Control), ("b>c", UserDefined)]);
        let specials = Specials::new(&vocab, |_| false);
        let cut = |text, special| specials.partition(&vocab, text, special);
        assert_eq!(
            cut("x<a><a><b>c", true),
            [Text("x"), Token(0), Token(1), Text(">c")]
        );
        assert_eq!(cut("x<a><b>c", false), [Text("x<a><"), Token(2)]);
        assert_eq!(cut("<a>", true), [Token(0)]);
        assert_eq!(cut("", true), []);
    }

    #[test]
    fn white_space_after_a_token_can_go() {
        let vocab = vocab(&[("<u>", TokenKind::Control)]);
        let specials = Specials::new(&vocab, |_| true);
        assert_eq!(
            specials.partition(&vocab, "<u> \n a <u>\n", true),
            [Token(0), Text("a "), Token(0)]
        );
    }
}
