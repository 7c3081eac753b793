//! WordPiece: a word becomes the longest token that it begins with, what is left of it the longest that
//! goes on with a word, and so on; a word that cannot be written so to its end is unknown as a whole.
//!
//! Words are those of `bert.rs`. In the vocabulary a token that begins a word has a space in front. The
//! time is linear in the text: words of more than [`LONGEST_WORD`] characters are unknown, as in the
//! published tokenizer.

use super::bert::{Folding, is_bare, is_lowercase, words};
use super::vocab::{Index, TokenKind, Vocab};

/// The most characters of a word that is looked up.
const LONGEST_WORD: usize = 100;

/// Of so many tokens one may be written as no text is: a step of normalisation is a vocabulary's own
/// where it changes fewer.
const ODD_ONES: usize = 1000;

/// How words become tokens.
pub(crate) struct WordPiece {
    folding: Folding,
    /// Stands for what the vocabulary cannot write.
    unknown: u32,
    /// The bytes of the longest token, its space included.
    longest: usize,
}

impl WordPiece {
    /// For a vocabulary; `unknown` stands for words that it lacks.
    pub(crate) fn new(vocab: &Vocab, folding: Folding, unknown: u32) -> WordPiece {
        let lengths = vocab.ids(is_made_of_text).map(|id| vocab.bytes(id).len());
        WordPiece {
            folding,
            unknown,
            longest: lengths.max().unwrap_or(0),
        }
    }

    /// Appends the tokens of a text without special tokens.
    pub(crate) fn encode(&self, vocab: &Vocab, index: &Index, text: &str, out: &mut Vec<u32>) {
        let text = self.folding.normalized(text);
        let mut spaced = String::new();
        words(&text, |word| {
            let start = out.len();
            spaced.clear();
            spaced.push(' ');
            spaced.push_str(word);
            let is_long = word.len() > LONGEST_WORD && word.chars().count() > LONGEST_WORD;
            if is_long || !self.push_word(vocab, index, &spaced, out) {
                out.truncate(start);
                out.push(self.unknown);
            }
        });
    }

    /// Appends the tokens of a word with a space in front, as far as it can be written; whether that is
    /// to its end.
    fn push_word(&self, vocab: &Vocab, index: &Index, word: &str, out: &mut Vec<u32>) -> bool {
        let mut start = 0;
        while start < word.len() {
            // The space alone begins no word.
            let least = start + 1 + usize::from(start == 0);
            let most = word.len().min(start + self.longest);
            let found = (least..=most).rev().find_map(|end| {
                let bytes = word.get(start..end)?.as_bytes();
                Some((end, index.get(vocab, bytes)?))
            });
            let Some((end, id)) = found else {
                return false;
            };
            out.push(id);
            start = end;
        }
        true
    }
}

/// Whether tokens of a kind are made of a text's words.
fn is_made_of_text(kind: TokenKind) -> bool {
    matches!(kind, TokenKind::Normal | TokenKind::Unused)
}

/// What the words of a vocabulary say about its normalisation: a step that would change them is not
/// one that they went through. Accents go only where capitals do, as in the published tokenizer.
pub(crate) fn told_by(vocab: &Vocab) -> Folding {
    let hold = |is_so: fn(&str) -> bool| {
        let is_plain = |id: &u32| !vocab.is_foreign(*id);
        let ids = vocab.ids(is_made_of_text).filter(is_plain);
        let texts = ids.filter_map(|id| std::str::from_utf8(vocab.bytes(id)).ok());
        texts.filter(|text| !is_so(text)).count() * ODD_ONES <= vocab.len()
    };
    let lowercase = hold(is_lowercase);
    Folding {
        lowercase,
        strip_accents: lowercase && hold(is_bare),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Algorithm;
    use super::*;

    fn vocab(tokens: &[&str]) -> (Vocab, Index) {
        let mut vocab = Vocab::with_capacity(Algorithm::WordPiece, tokens.len());
        let mut index = Index::default();
        for (id, text) in (0..).zip(tokens) {
            vocab.push(text, TokenKind::Normal);
            index.insert(&vocab, id);
        }
        (vocab, index)
    }

    #[test]
    fn the_longest_beginning_is_taken() {
        let tokens = [
            "[UNK]",
            "\u{2581}un",
            "\u{2581}unaff",
            "aff",
            "able",
            "ab",
            "\u{2581}a",
        ];
        let (vocab, index) = vocab(&tokens);
        let words = WordPiece::new(&vocab, told_by(&vocab), 0);
        let encode = |text: &str| {
            let mut ids = Vec::new();
            words.encode(&vocab, &index, text, &mut ids);
            ids
        };
        assert_eq!(encode("unaffable"), [2, 4]);
        assert_eq!(encode("Un a"), [1, 6]);
        // The longest first: nothing is tried again with a shorter one.
        assert_eq!(encode("unabl"), [0]);
        assert_eq!(encode("unaff aff"), [2, 0]);
        assert_eq!(encode(" "), [] as [u32; 0]);
        let long = |count| encode(&format!("a{}", "ab".repeat(count))).len();
        assert_eq!((long(49), long(50)), (50, 1));
    }

    #[test]
    fn vocabularies_say_what_they_have_none_of() {
        let told = |tokens: &[&str]| {
            let Folding {
                lowercase,
                strip_accents,
            } = told_by(&vocab(tokens).0);
            (lowercase, strip_accents)
        };
        assert_eq!(
            told(&["[UNK]", "\u{2581}a", "\u{2581}\u{4e2d}"]),
            (true, true)
        );
        assert_eq!(told(&["\u{2581}a", "\u{e4}"]), (true, false));
        assert_eq!(told(&["\u{2581}a", "\u{2581}B"]), (false, false));
    }
}
