//! Finding special tokens in a text before it is cut into words.
//!
//! Of the tokens that begin first the longest is taken, and the search goes on behind it: as the
//! published tokenizers do. One automaton finds all tokens, a second those that users defined alone:
//! the time is linear in the text, however many there are.

use aho_corasick::{AhoCorasick, Input, MatchKind};

use super::vocab::{Index, TokenKind, VISIBLE_SPACE, Vocab};
use super::{Algorithm, Error};

/// The most bytes that the special tokens of a vocabulary may have together: some hundred times what any
/// has, and what an automaton takes some hundred megabytes for.
const MAX_BYTES: usize = 16 << 20;

/// The special tokens of a vocabulary.
pub(crate) struct Specials {
    index: Index,
    /// All of them.
    all: Option<Scanner>,
    /// Those that are taken from any text.
    of_users: Option<Scanner>,
    /// Tokens that swallow the white space after them, ascending.
    strip_after: Vec<u32>,
}

/// Finds some tokens.
struct Scanner {
    automaton: AhoCorasick,
    /// By the automaton's pattern.
    ids: Vec<u32>,
}

/// A special token in a text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    /// Its id.
    pub(crate) id: u32,
    /// Its first byte.
    pub(crate) start: usize,
    /// The byte after it.
    pub(crate) end: usize,
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
    ///
    /// # Errors
    /// There are more than an automaton can hold.
    pub(crate) fn new(
        vocab: &Vocab,
        strip_after: impl Fn(&[u8]) -> bool,
    ) -> Result<Specials, Error> {
        let mut index = Index::default();
        let mut ids: Vec<u32> = Vec::new();
        for id in vocab.ids(TokenKind::is_special) {
            let is_new = !vocab.bytes(id).is_empty() && index.insert(vocab, id).is_none();
            if is_new {
                ids.push(id);
            }
        }
        let bytes: usize = ids.iter().map(|&id| vocab.bytes(id).len()).sum();
        if bytes > MAX_BYTES {
            return Err(Error::Specials {
                count: ids.len(),
                why: format!("they have {bytes} bytes together, at most {MAX_BYTES} can be"),
            });
        }
        let strips = |&id: &u32| strip_after(vocab.bytes(id));
        let is_of_user = |&id: &u32| vocab.token_kind(id) == Some(TokenKind::UserDefined);
        Ok(Specials {
            of_users: Scanner::new(vocab, ids.iter().copied().filter(is_of_user).collect())?,
            strip_after: ids.iter().copied().filter(strips).collect(),
            all: Scanner::new(vocab, ids)?,
            index,
        })
    }

    /// The special token that is written so.
    pub(crate) fn get(&self, vocab: &Vocab, text: &[u8]) -> Option<u32> {
        self.index.get(vocab, text)
    }

    /// The first special token in a text from a byte on: of all of them, or only of those that users
    /// defined.
    pub(crate) fn next(&self, text: &[u8], from: usize, parse_special: bool) -> Option<Found> {
        let scanner = match parse_special {
            true => self.all.as_ref(),
            false => self.of_users.as_ref(),
        };
        let scanner = scanner?;
        let found = scanner.automaton.find(Input::new(text).range(from..))?;
        Some(Found {
            id: *scanner.ids.get(found.pattern().as_usize())?,
            start: found.start(),
            end: found.end(),
        })
    }

    /// The end of a token with the white space that it swallows where control tokens are parsed: plain
    /// text stays as it is.
    pub(crate) fn end_of(&self, found: Found, text: &[u8], parse_special: bool) -> usize {
        if !parse_special || self.strip_after.binary_search(&found.id).is_err() {
            return found.end;
        }
        let mut end = found.end;
        while let Some(space) = leading_space(text.get(end..).unwrap_or_default()) {
            end += space;
        }
        end
    }

    /// Cuts a text at its special tokens: all of them, or only those that users defined.
    pub(crate) fn partition<'a>(&self, text: &'a str, parse_special: bool) -> Vec<Fragment<'a>> {
        let mut fragments = Vec::new();
        let mut at = 0;
        while let Some(found) = self.next(text.as_bytes(), at, parse_special) {
            fragments.extend(fragment(text, at, found.start));
            fragments.push(Fragment::Token(found.id));
            at = self.end_of(found, text.as_bytes(), parse_special);
        }
        fragments.extend(fragment(text, at, text.len()));
        fragments
    }
}

/// The bytes of the white-space character that a text begins with.
fn leading_space(text: &[u8]) -> Option<usize> {
    // No white space takes four bytes.
    let first = (1..=text.len().min(3)).find_map(|n| std::str::from_utf8(&text[..n]).ok())?;
    let is_space = first.starts_with(char::is_whitespace);
    is_space.then_some(first.len())
}

/// A part of a text, unless there is nothing in it.
fn fragment(text: &str, start: usize, end: usize) -> Option<Fragment<'_>> {
    let part = text.get(start..end).filter(|part| !part.is_empty());
    part.map(Fragment::Text)
}

impl Scanner {
    /// `None` without tokens.
    fn new(vocab: &Vocab, ids: Vec<u32>) -> Result<Option<Scanner>, Error> {
        if ids.is_empty() {
            return Ok(None);
        }
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(ids.iter().map(|&id| pattern(vocab, id)))
            .map_err(|e| Error::Specials {
                count: ids.len(),
                why: e.to_string(),
            })?;
        Ok(Some(Scanner { automaton, ids }))
    }
}

/// What is looked for: with spaces where texts have them by then.
fn pattern(vocab: &Vocab, id: u32) -> Vec<u8> {
    let bytes = vocab.bytes(id);
    match vocab.algorithm() {
        Algorithm::ByteLevelBpe | Algorithm::WordPiece => bytes.to_vec(),
        Algorithm::SentencePiece => String::from_utf8_lossy(bytes)
            .replace(VISIBLE_SPACE, " ")
            .into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::Fragment::{Text, Token};
    use super::*;

    fn specials(tokens: &[(&str, TokenKind)]) -> Specials {
        let mut vocab = Vocab::with_capacity(Algorithm::ByteLevelBpe, tokens.len());
        for &(text, kind) in tokens {
            vocab.push(text, kind);
        }
        Specials::new(&vocab, |text| text == b"<u>").unwrap()
    }

    #[test]
    fn the_longest_token_wins_wherever_it_is() {
        use TokenKind::{Control, UserDefined};
        let specials = specials(&[("<a>", Control), ("<a><b", Control), ("b>c", UserDefined)]);
        let cut = |text, special| specials.partition(text, special);
        assert_eq!(
            cut("x<a><a><b>c", true),
            [Text("x"), Token(0), Token(1), Text(">c")]
        );
        assert_eq!(cut("x<a><b>c", false), [Text("x<a><"), Token(2)]);
        assert_eq!(cut("<a>", true), [Token(0)]);
        assert_eq!(cut("", true), []);
    }

    #[test]
    fn of_tokens_that_overlap_the_one_that_begins_first_wins() {
        let user = TokenKind::UserDefined;
        let specials = specials(&[("ab", user), ("bcdef", user), ("abx", user)]);
        let cut = |text| specials.partition(text, false);
        assert_eq!(cut("abcdef"), [Token(0), Text("cdef")]);
        assert_eq!(cut("abxbcdef"), [Token(2), Token(1)]);
        assert_eq!(cut("aabxb"), [Text("a"), Token(2), Text("b")]);
    }

    #[test]
    fn what_no_automaton_can_hold_is_refused() {
        let mut vocab = Vocab::with_capacity(Algorithm::ByteLevelBpe, 2);
        vocab.push(&"a".repeat(MAX_BYTES), TokenKind::Control);
        vocab.push("b", TokenKind::Control);
        let Err(error) = Specials::new(&vocab, |_| false) else {
            panic!("too many bytes");
        };
        let line = error.to_string();
        assert!(
            line.contains("tokenizer.ggml.tokens: 2 special tokens"),
            "{line}"
        );
    }

    #[test]
    fn white_space_after_a_token_can_go() {
        let specials = specials(&[("<u>", TokenKind::Control)]);
        assert_eq!(
            specials.partition("<u> \n\u{a0}a <u>\n", true),
            [Token(0), Text("a "), Token(0)]
        );
    }
}
