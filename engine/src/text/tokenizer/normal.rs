//! Unicode normalisation: characters composed as far as they can be (NFC).
//!
//! Several published tokenizers compose a text before they cut it: their vocabularies hold no
//! decomposed words. Special tokens are found before that, and what lies between two of them is
//! composed by itself.

use unicode_normalization::{UnicodeNormalization, is_nfc};

use super::special::Fragment;

/// Whether every part of a text is composed as it is.
pub(crate) fn is_composed(text: &str) -> bool {
    text.is_ascii() || is_nfc(text)
}

/// The composed text of all fragments, one after another, and where each ends.
pub(crate) fn composed(fragments: &[Fragment<'_>]) -> (String, Vec<usize>) {
    let mut text = String::new();
    let mut end = |fragment: &Fragment<'_>| {
        if let Fragment::Text(part) = fragment {
            text.extend(part.nfc());
        }
        text.len()
    };
    let ends = fragments.iter().map(&mut end).collect();
    (text, ends)
}

/// Fragments of a composed text, by where each ends.
pub(crate) fn recut<'a>(
    fragments: &[Fragment<'_>],
    text: &'a str,
    ends: &[usize],
) -> Vec<Fragment<'a>> {
    let starts = std::iter::once(&0).chain(ends);
    let cut = |(fragment, (&start, &end)): (&Fragment<'_>, (&usize, &usize))| match *fragment {
        Fragment::Token(id) => Fragment::Token(id),
        Fragment::Text(_) => Fragment::Text(text.get(start..end).unwrap_or_default()),
    };
    fragments.iter().zip(starts.zip(ends)).map(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::Fragment::{Text, Token};
    use super::*;

    #[test]
    fn fragments_are_composed_one_by_one() {
        let fragments = [
            Text("Cafe\u{301}"),
            Token(7),
            Text("\u{301}e"),
            Text("\u{212b}"),
        ];
        let (text, ends) = composed(&fragments);
        assert_eq!(
            recut(&fragments, &text, &ends),
            [
                Text("Caf\u{e9}"),
                Token(7),
                Text("\u{301}e"),
                Text("\u{c5}")
            ]
        );
        assert!(is_composed(&text) && !is_composed("e\u{301}"));
    }
}
