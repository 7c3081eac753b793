//! What kind of character each position of a text holds.
//!
//! Splitting rules are written in Unicode general categories and White_Space. Here every
//! character gets exactly one [`Class`] (newlines one bit more), so that a rule's `[^\s\p{L}\p{N}]`
//! is one mask. ASCII never leaves a 128-entry table. The end of the text has the empty class,
//! which is in no set: lookaheads need no bounds check of their own.

use unicode_general_category::{GeneralCategory as G, get_general_category};

/// A set of character classes, one bit each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Class(u16);

impl Class {
    /// The class of the position after the last character.
    pub(crate) const END: Class = Class(0);
    /// Lu and Lt.
    pub(crate) const UPPER: Class = Class(1 << 0);
    /// Ll.
    pub(crate) const LOWER: Class = Class(1 << 1);
    /// Lm and Lo: letters without case, which fit wherever either case does.
    pub(crate) const CASELESS: Class = Class(1 << 2);
    /// `\p{M}`.
    pub(crate) const MARK: Class = Class(1 << 3);
    /// `\p{N}`.
    pub(crate) const NUMBER: Class = Class(1 << 4);
    /// `\p{P}`.
    pub(crate) const PUNCTUATION: Class = Class(1 << 5);
    /// `\p{S}`.
    pub(crate) const SYMBOL: Class = Class(1 << 6);
    /// `\s`: White_Space, which covers all of `\p{Z}` and six control characters.
    pub(crate) const SPACE: Class = Class(1 << 7);
    /// Everything else: other control characters, format, private use, unassigned.
    pub(crate) const OTHER: Class = Class(1 << 8);
    /// Carriage return and line feed, besides `SPACE`.
    pub(crate) const NEWLINE: Class = Class(1 << 9);
    /// `\p{L}`.
    pub(crate) const LETTER: Class = Self::UPPER.or(Self::LOWER).or(Self::CASELESS);

    /// The union of two sets.
    pub(crate) const fn or(self, other: Class) -> Class {
        Class(self.0 | other.0)
    }

    /// Whether the character is of one of the classes of `set`.
    #[inline]
    pub(crate) const fn is(self, set: Class) -> bool {
        self.0 & set.0 != 0
    }

    /// Whether there is a character and it is of none of the classes of `set`.
    #[inline]
    pub(crate) const fn is_char_outside(self, set: Class) -> bool {
        self.0 != 0 && self.0 & set.0 == 0
    }
}

/// Classes of the ASCII characters.
const ASCII: [Class; 128] = {
    let mut table = [Class::OTHER; 128];
    let mut i = 0;
    while i < 128 {
        table[i] = match i as u8 {
            b'\r' | b'\n' => Class::SPACE.or(Class::NEWLINE),
            b'\t' | 0x0b | 0x0c | b' ' => Class::SPACE,
            b'0'..=b'9' => Class::NUMBER,
            b'A'..=b'Z' => Class::UPPER,
            b'a'..=b'z' => Class::LOWER,
            b'$' | b'+' | b'<' | b'=' | b'>' | b'^' | b'`' | b'|' | b'~' => Class::SYMBOL,
            b'!'..=b'~' => Class::PUNCTUATION,
            _ => Class::OTHER,
        };
        i += 1;
    }
    table
};

/// The class of a character.
pub(crate) fn class_of(c: char) -> Class {
    if let Some(&class) = ASCII.get(c as usize) {
        return class;
    }
    if c.is_whitespace() {
        return Class::SPACE;
    }
    match get_general_category(c) {
        G::UppercaseLetter | G::TitlecaseLetter => Class::UPPER,
        G::LowercaseLetter => Class::LOWER,
        G::ModifierLetter | G::OtherLetter => Class::CASELESS,
        G::NonspacingMark | G::SpacingMark | G::EnclosingMark => Class::MARK,
        G::DecimalNumber | G::LetterNumber | G::OtherNumber => Class::NUMBER,
        G::ConnectorPunctuation
        | G::DashPunctuation
        | G::OpenPunctuation
        | G::ClosePunctuation
        | G::InitialPunctuation
        | G::FinalPunctuation
        | G::OtherPunctuation => Class::PUNCTUATION,
        G::MathSymbol | G::CurrencySymbol | G::ModifierSymbol | G::OtherSymbol => Class::SYMBOL,
        _ => Class::OTHER,
    }
}

/// A text read by byte positions that always lie on character boundaries.
#[derive(Clone, Copy)]
pub(crate) struct Text<'a>(pub(crate) &'a str);

impl<'a> Text<'a> {
    pub(crate) fn len(self) -> usize {
        self.0.len()
    }

    /// The byte at a position; 0 past the end.
    #[inline]
    pub(crate) fn byte(self, at: usize) -> u8 {
        self.0.as_bytes().get(at).copied().unwrap_or(0)
    }

    /// The character at a position, if the text has not ended.
    #[inline]
    pub(crate) fn char(self, at: usize) -> Option<char> {
        self.0.get(at..)?.chars().next()
    }

    /// The class of the character at a position and the position after it.
    #[inline]
    pub(crate) fn class(self, at: usize) -> (Class, usize) {
        match self.0.as_bytes().get(at) {
            None => (Class::END, at),
            Some(&b) if b < 128 => (ASCII[b as usize], at + 1),
            Some(_) => match self.char(at) {
                Some(c) => (class_of(c), at + c.len_utf8()),
                None => (Class::END, self.len()),
            },
        }
    }

    /// The end of the longest run of characters of `set` that starts at a position.
    #[inline]
    pub(crate) fn run(self, mut at: usize, set: Class) -> usize {
        loop {
            let (class, next) = self.class(at);
            if !class.is(set) {
                return at;
            }
            at = next;
        }
    }

    /// As [`Text::run`], for the characters outside `set`.
    #[inline]
    pub(crate) fn run_outside(self, mut at: usize, set: Class) -> usize {
        loop {
            let (class, next) = self.class(at);
            if !class.is_char_outside(set) {
                return at;
            }
            at = next;
        }
    }

    /// The start of the character that ends at `at`.
    pub(crate) fn before(self, at: usize) -> usize {
        self.0
            .get(..at)
            .and_then(|s| s.char_indices().next_back())
            .map_or(0, |(i, _)| i)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ascii_table_agrees_with_unicode() {
        for c in (0u8..128).map(char::from) {
            let want = match get_general_category(c) {
                _ if c.is_whitespace() => Class::SPACE,
                G::UppercaseLetter => Class::UPPER,
                G::LowercaseLetter => Class::LOWER,
                G::DecimalNumber => Class::NUMBER,
                G::MathSymbol | G::CurrencySymbol | G::ModifierSymbol => Class::SYMBOL,
                G::Control => Class::OTHER,
                _ => Class::PUNCTUATION,
            };
            assert!(class_of(c).is(want), "{c:?}");
            assert_eq!(class_of(c).is(Class::NEWLINE), matches!(c, '\r' | '\n'));
        }
    }

    #[test]
    fn every_character_has_one_class() {
        for c in ('\0'..=char::MAX).filter(|&c| c != '\r' && c != '\n') {
            assert_eq!(class_of(c).0.count_ones(), 1, "{c:?}");
        }
    }
}
