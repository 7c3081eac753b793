//! BERT's normalisation, and where its words end.
//!
//! After the published tokenizer: controls go, white space becomes a space, Chinese characters stand
//! apart; where the vocabulary is without accents, texts are decomposed and their nonspacing marks go;
//! where it is without capitals, letters become small ones. Words end at white space, and each
//! punctuation mark is one. What a control, a mark or punctuation is follows `unicode_categories`, the
//! Unicode of the published tokenizer: one more mark in a word would be another word.

use unicode_categories::UnicodeCategories;
use unicode_normalization::{UnicodeNormalization, is_nfd};

/// What a vocabulary has none of, and texts are therefore rid of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Folding {
    /// Capitals become small letters.
    pub(crate) lowercase: bool,
    /// Texts are decomposed, and nonspacing marks go.
    pub(crate) strip_accents: bool,
}

impl Folding {
    /// A text as the vocabulary may write it, words being what lies between spaces.
    pub(crate) fn normalized(self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        if text.is_ascii() {
            let kept = text.chars().filter_map(cleaned);
            out.extend(kept.map(|c| match self.lowercase {
                true => c.to_ascii_lowercase(),
                false => c,
            }));
            return out;
        }
        let cleaned = text.chars().filter_map(cleaned).flat_map(apart);
        match self.strip_accents {
            true => {
                let bare = cleaned.nfd().filter(|c| !c.is_mark_nonspacing());
                self.push(bare, &mut out);
            }
            false => self.push(cleaned, &mut out),
        }
        out
    }

    /// Appends characters, small ones where the vocabulary has no others.
    fn push(self, chars: impl Iterator<Item = char>, out: &mut String) {
        match self.lowercase {
            true => out.extend(chars.flat_map(char::to_lowercase)),
            false => out.extend(chars),
        }
    }
}

/// A character of a cleaned text; nothing for a control.
fn cleaned(c: char) -> Option<char> {
    match c {
        '\t' | '\n' | '\r' => Some(' '),
        '\0' | char::REPLACEMENT_CHARACTER => None,
        ' '..='~' => Some(c),
        _ if c.is_other() => None,
        _ if c.is_whitespace() => Some(' '),
        _ => Some(c),
    }
}

/// A Chinese character between spaces, others as they are.
fn apart(c: char) -> impl Iterator<Item = char> {
    let space = is_chinese(c).then_some(' ');
    space.into_iter().chain([c]).chain(space)
}

/// Whether a character lies in one of the blocks of Chinese characters.
fn is_chinese(c: char) -> bool {
    matches!(
        c,
        '\u{4e00}'..='\u{9fff}'
            | '\u{3400}'..='\u{4dbf}'
            | '\u{20000}'..='\u{2a6df}'
            | '\u{2a700}'..='\u{2b73f}'
            | '\u{2b740}'..='\u{2b81f}'
            | '\u{2b920}'..='\u{2ceaf}'
            | '\u{f900}'..='\u{faff}'
            | '\u{2f800}'..='\u{2fa1f}'
    )
}

/// Whether a text has no capitals.
pub(crate) fn is_lowercase(text: &str) -> bool {
    text.chars().flat_map(char::to_lowercase).eq(text.chars())
}

/// Whether a text is decomposed and has no accents.
pub(crate) fn is_bare(text: &str) -> bool {
    let bare = |text: &str| text.nfd().all(|c| !c.is_mark_nonspacing());
    text.is_ascii() || (is_nfd(text) && bare(text))
}

/// Hands out the words of a normalised text.
pub(crate) fn words<'a>(text: &'a str, mut emit: impl FnMut(&'a str)) {
    let mut start = 0;
    for (at, c) in text.char_indices() {
        let is_mark = is_punctuation(c);
        if !is_mark && !c.is_whitespace() {
            continue;
        }
        let end = at + c.len_utf8();
        for part in [&text[start..at], if is_mark { &text[at..end] } else { "" }] {
            if !part.is_empty() {
                emit(part);
            }
        }
        start = end;
    }
    if start < text.len() {
        emit(&text[start..]);
    }
}

/// Whether a character is a word of its own.
fn is_punctuation(c: char) -> bool {
    match c.is_ascii() {
        true => c.is_ascii_punctuation(),
        false => c.is_punctuation(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNCASED: Folding = Folding {
        lowercase: true,
        strip_accents: true,
    };
    const CASED: Folding = Folding {
        lowercase: false,
        strip_accents: false,
    };

    fn cut(folding: Folding, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        words(&folding.normalized(text), |word| {
            found.push(word.to_owned())
        });
        found
    }

    #[test]
    fn texts_become_words() {
        assert_eq!(
            cut(UNCASED, " H\u{c9}llo,\tw\u{7}or\u{ad}ld\u{a0}x\n"),
            ["hello", ",", "world", "x"]
        );
        assert_eq!(cut(CASED, "H\u{c9}llo!!"), ["H\u{c9}llo", "!", "!"]);
        assert_eq!(
            cut(UNCASED, "ab\u{4e2d}\u{6587}c"),
            ["ab", "\u{4e2d}", "\u{6587}", "c"]
        );
        assert_eq!(
            cut(UNCASED, "\u{2014}a\u{2026}"),
            ["\u{2014}", "a", "\u{2026}"]
        );
        assert_eq!(cut(UNCASED, " \0\u{fffd}\u{feff}"), [""; 0]);
    }

    /// The published tokenizer's words of a text.
    fn published(folding: Folding, text: &str) -> Vec<String> {
        use tokenizers::normalizers::BertNormalizer;
        use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
        use tokenizers::{
            NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString,
            PreTokenizer,
        };
        let strips = Some(folding.strip_accents);
        let normalizer = BertNormalizer::new(true, true, strips, folding.lowercase);
        let mut text = NormalizedString::from(text);
        normalizer.normalize(&mut text).expect("normalises");
        let mut cut = PreTokenizedString::from(text.get());
        BertPreTokenizer.pre_tokenize(&mut cut).expect("cuts");
        cut.get_splits(OffsetReferential::Original, OffsetType::Byte)
            .into_iter()
            .map(|(word, _, _)| word.to_owned())
            .collect()
    }

    /// Characters that Unicode 14 and later decompose, which the published tokenizer does not know yet.
    fn is_newer(c: char) -> bool {
        matches!(c, '\u{105c9}' | '\u{105e4}' | '\u{11383}' | '\u{11385}' | '\u{1138e}' | '\u{11391}'
            | '\u{113c5}' | '\u{113c7}' | '\u{113c8}' | '\u{11938}' | '\u{16121}'..='\u{16128}'
            | '\u{16d68}'..='\u{16d6a}')
    }

    /// Whether a character is one of many that are alike, and not one to look at.
    fn is_one_of_many(c: char) -> bool {
        use unicode_general_category::GeneralCategory::{OtherLetter, PrivateUse, Unassigned};
        let category = unicode_general_category::get_general_category(c);
        let is_alike = matches!(category, OtherLetter | PrivateUse | Unassigned);
        is_alike && is_nfd(c.encode_utf8(&mut [0; 4])) && !(c as u32).is_multiple_of(61)
    }

    #[test]
    fn every_character_is_what_the_published_tokenizer_says() {
        let all: Vec<char> = ('\0'..=char::MAX)
            .filter(|&c| !is_newer(c) && !is_one_of_many(c))
            .collect();
        assert!(all.len() > 30_000, "{}", all.len());
        // Between letters, and before a mark.
        let text = |c: &char| format!("a{c}B {c}\u{301}x ");
        for folding in [UNCASED, CASED] {
            for some in all.chunks(64) {
                let texts: String = some.iter().map(text).collect();
                if cut(folding, &texts) == published(folding, &texts) {
                    continue;
                }
                for c in some {
                    let text = text(c);
                    assert_eq!(cut(folding, &text), published(folding, &text), "{c:?}");
                }
            }
        }
    }

    #[test]
    fn case_and_accents_go_one_by_one() {
        let lower = Folding {
            lowercase: true,
            strip_accents: false,
        };
        let bare = Folding {
            lowercase: false,
            strip_accents: true,
        };
        assert_eq!(lower.normalized("\u{c4}pfel"), "\u{e4}pfel");
        assert_eq!(bare.normalized("\u{c4}pfel"), "Apfel");
        assert_eq!(UNCASED.normalized("\u{130}"), "i");
        // Small letters without a mark stay: there is no accent that is one.
        assert_eq!(UNCASED.normalized("\u{141}\u{d8}"), "\u{142}\u{f8}");
    }
}
