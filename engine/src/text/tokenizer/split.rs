//! How byte-level BPE cuts a text into words before merging.
//!
//! Upstream tokenizers describe the cut by regular expressions applied one after another, each
//! to the pieces that the former left. Here each expression is a [`Pass`]: a hand-written
//! scanner over character classes that gives what the expression would, lookaheads and
//! backtracking included, in time linear in the text. A piece is never empty, and the pieces in
//! order are the text.

use super::class::{Class, Text};

/// One step of splitting. Matches become pieces, and so does each stretch between them.
pub(crate) enum Pass {
    /// Runs of `1..=max` characters of a set, with one white-space character before them if
    /// `lead` allows it.
    Runs {
        lead: bool,
        set: fn(char) -> bool,
        max: usize,
    },
    /// A run as above, where the character before may only be an ASCII space: `" ?[set]+"`.
    SpacedRuns(fn(char) -> bool),
    /// White space at the end of the piece: `\s+$`.
    TrailingSpace,
    /// The words of GPT-2.
    Gpt2,
    /// Words after the pattern of GPT-4 (cl100k), which most later vocabularies vary.
    Words(Words),
    /// Words that end where lower case turns into upper case, as in GPT-4o (o200k).
    Cased(Cased),
    /// The words of DeepSeek-V3.
    DeepSeek3,
}

/// The variations among the descendants of the cl100k pattern.
pub(crate) struct Words {
    /// English contractions (`'s`, `'ll`; any case) are words.
    pub(crate) contractions: bool,
    /// What words consist of.
    pub(crate) letters: Class,
    /// The longest run of digits.
    pub(crate) digits: usize,
    /// Whether newlines stick to the symbols before them.
    pub(crate) newlines_follow: bool,
}

/// The variations among the descendants of the o200k pattern.
pub(crate) struct Cased {
    /// English contractions belong to the word before them.
    pub(crate) contractions: bool,
    /// The longest run of digits.
    pub(crate) digits: usize,
}

/// Splits a text by all passes in turn and hands out the pieces in order.
pub(crate) fn split<'a>(text: &'a str, passes: &[Pass], emit: &mut dyn FnMut(&'a str)) {
    // Depth: the number of passes of a family, six at most.
    match passes {
        [] => emit(text),
        [last] => last.pieces(text, emit),
        [first, rest @ ..] => first.pieces(text, &mut |piece| split(piece, rest, emit)),
    }
}

impl Pass {
    /// The matches of this pass, and the stretches between them.
    fn pieces<'a>(&self, text: &'a str, emit: &mut dyn FnMut(&'a str)) {
        let t = Text(text);
        let (mut gap, mut at) = (0, 0);
        while at < text.len() {
            match self.find_at(t, at) {
                Some(end) if end > at => {
                    if gap < at {
                        emit(&text[gap..at]);
                    }
                    emit(&text[at..end]);
                    (gap, at) = (end, end);
                }
                _ => at = self.skip(t, at),
            }
        }
        if gap < at {
            emit(&text[gap..]);
        }
    }

    /// Where the next match can start at the earliest if none starts at `at`.
    #[inline]
    fn skip(&self, t: Text<'_>, at: usize) -> usize {
        let (class, next) = t.class(at);
        match self {
            // White space that does not end the piece does not from any of its characters.
            Pass::TrailingSpace if class.is(Class::SPACE) => t.run(next, Class::SPACE),
            _ => next,
        }
    }

    /// The end of the match that starts at `at`, if there is one.
    #[inline]
    fn find_at(&self, t: Text<'_>, at: usize) -> Option<usize> {
        match self {
            Pass::Runs { lead, set, max } => run_of(t, at, *set, *max).or_else(|| {
                let (class, next) = t.class(at);
                (*lead && class.is(Class::SPACE))
                    .then(|| run_of(t, next, *set, *max))
                    .flatten()
            }),
            Pass::SpacedRuns(set) => {
                run_of(t, at + usize::from(t.byte(at) == b' '), *set, usize::MAX)
            }
            Pass::TrailingSpace => {
                let end = t.run(at, Class::SPACE);
                (end > at && end == t.len()).then_some(end)
            }
            Pass::Gpt2 => gpt2(t, at),
            Pass::Words(rules) => rules.find_at(t, at),
            Pass::Cased(rules) => rules.find_at(t, at),
            Pass::DeepSeek3 => deepseek3(t, at),
        }
    }
}

/// `[set]{1,max}`
fn run_of(t: Text<'_>, start: usize, set: fn(char) -> bool, max: usize) -> Option<usize> {
    let mut at = start;
    for _ in 0..max {
        match t.char(at) {
            Some(c) if set(c) => at += c.len_utf8(),
            _ => break,
        }
    }
    (at > start).then_some(at)
}

/// `\s+(?!\S)|\s+`: all white space up to the end of the text, else all but the last
/// character, else that one.
fn space(t: Text<'_>, at: usize) -> Option<usize> {
    let end = t.run(at, Class::SPACE);
    if end == at || end == t.len() {
        return (end > at).then_some(end);
    }
    let last = t.before(end);
    Some(if last > at { last } else { end })
}

/// `\s*[\r\n]+`: white space up to and with its last newline.
fn lines(t: Text<'_>, at: usize) -> Option<usize> {
    let mut end = None;
    let mut at = at;
    loop {
        let (class, next) = t.class(at);
        if !class.is(Class::SPACE) {
            return end;
        }
        if class.is(Class::NEWLINE) {
            end = Some(next);
        }
        at = next;
    }
}

/// `\p{N}{1,max}`
fn digits(t: Text<'_>, start: usize, max: usize) -> Option<usize> {
    let mut at = start;
    for _ in 0..max {
        let (class, next) = t.class(at);
        if !class.is(Class::NUMBER) {
            break;
        }
        at = next;
    }
    (at > start).then_some(at)
}

/// `'s|'t|'re|'ve|'m|'ll|'d`, in any case or in lower case only. Unicode's case folding takes
/// the long s (U+017F) for an s, and so do the expressions this stands for.
fn contraction(t: Text<'_>, at: usize, any_case: bool) -> Option<usize> {
    if t.byte(at) != b'\'' {
        return None;
    }
    let fold = |b: u8| if any_case { b.to_ascii_lowercase() } else { b };
    match (fold(t.byte(at + 1)), fold(t.byte(at + 2))) {
        (b's' | b't' | b'm' | b'd', _) => Some(at + 2),
        (b'r' | b'v', b'e') | (b'l', b'l') => Some(at + 3),
        _ if any_case && t.char(at + 1) == Some('\u{17f}') => Some(at + 3),
        _ => None,
    }
}

/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
fn gpt2(t: Text<'_>, at: usize) -> Option<usize> {
    const WORD: Class = Class::SPACE.or(Class::LETTER).or(Class::NUMBER);
    if let Some(end) = contraction(t, at, false) {
        return Some(end);
    }
    // Only one of the alternatives can take the character after an optional space.
    let start = at + usize::from(t.byte(at) == b' ');
    let (class, next) = t.class(start);
    if class.is(Class::LETTER) {
        Some(t.run(next, Class::LETTER))
    } else if class.is(Class::NUMBER) {
        Some(t.run(next, Class::NUMBER))
    } else if class.is_char_outside(WORD) {
        Some(t.run_outside(next, WORD))
    } else {
        space(t, at)
    }
}

impl Words {
    /// `'(?i:[sdmt]|re|ve|ll)|[^\r\n\p{L}\p{N}]?[letters]+|\p{N}{1,digits}|
    /// ?[^\s\p{N}letters]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
    fn find_at(&self, t: Text<'_>, at: usize) -> Option<usize> {
        const NO_PREFIX: Class = Class::NEWLINE.or(Class::LETTER).or(Class::NUMBER);
        if self.contractions
            && let Some(end) = contraction(t, at, true)
        {
            return Some(end);
        }
        let (class, next) = t.class(at);
        if class.is(self.letters) {
            return Some(t.run(next, self.letters));
        }
        let (after, after_next) = t.class(next);
        if class.is_char_outside(NO_PREFIX) && after.is(self.letters) {
            return Some(t.run(after_next, self.letters));
        }
        if class.is(Class::NUMBER) {
            return digits(t, at, self.digits);
        }
        let word = Class::SPACE.or(Class::NUMBER).or(self.letters);
        let start = if t.byte(at) == b' ' { next } else { at };
        // Without newlines after symbols the set also lacks them, but white space has both.
        let end = t.run_outside(start, word);
        if end > start {
            return Some(if self.newlines_follow {
                t.run(end, Class::NEWLINE)
            } else {
                end
            });
        }
        lines(t, at).or_else(|| space(t, at))
    }
}

impl Cased {
    /// With `U = [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`, `W = [\p{Ll}\p{Lm}\p{Lo}\p{M}]` and `C` an
    /// optional contraction:
    /// `[^\r\n\p{L}\p{N}]?U*W+C|[^\r\n\p{L}\p{N}]?U+W*C|\p{N}{1,digits}|
    /// ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
    fn find_at(&self, t: Text<'_>, at: usize) -> Option<usize> {
        const NO_PREFIX: Class = Class::NEWLINE.or(Class::LETTER).or(Class::NUMBER);
        const WORD: Class = Class::SPACE.or(Class::LETTER).or(Class::NUMBER);
        let (class, next) = t.class(at);
        let prefixed = class.is_char_outside(NO_PREFIX).then_some(next);
        // In the order a backtracking engine tries them: the prefix is greedy, too.
        let word = prefixed
            .and_then(|start| lower_word(t, start))
            .or_else(|| lower_word(t, at))
            .or_else(|| prefixed.and_then(|start| upper_word(t, start)))
            .or_else(|| upper_word(t, at));
        if let Some(end) = word {
            let longer = self
                .contractions
                .then(|| contraction(t, end, true))
                .flatten();
            return Some(longer.unwrap_or(end));
        }
        if class.is(Class::NUMBER) {
            return digits(t, at, self.digits);
        }
        let start = if t.byte(at) == b' ' { next } else { at };
        let mut end = t.run_outside(start, WORD);
        if end > start {
            while matches!(t.byte(end), b'\r' | b'\n' | b'/') {
                end += 1;
            }
            return Some(end);
        }
        lines(t, at).or_else(|| space(t, at))
    }
}

/// `U` of [`Cased::find_at`].
const UPPERISH: Class = Class::UPPER.or(Class::CASELESS).or(Class::MARK);
/// `W` of [`Cased::find_at`].
const LOWERISH: Class = Class::LOWER.or(Class::CASELESS).or(Class::MARK);

/// `U*W+`
fn lower_word(t: Text<'_>, start: usize) -> Option<usize> {
    let upper = t.run(start, UPPERISH);
    let end = t.run(upper, LOWERISH);
    if end > upper {
        return Some(end);
    }
    // Give back characters until one of them can be the W; what follows it cannot.
    let mut at = upper;
    while at > start {
        let before = t.before(at);
        if t.class(before).0.is(LOWERISH) {
            return Some(at);
        }
        at = before;
    }
    None
}

/// `U+W*`
fn upper_word(t: Text<'_>, start: usize) -> Option<usize> {
    let upper = t.run(start, UPPERISH);
    (upper > start).then(|| t.run(upper, LOWERISH))
}

/// `[!-/:-@\[-`{-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|
/// \s*[\r\n]+|\s+(?!\S)|\s+`; digits and the like match nothing.
fn deepseek3(t: Text<'_>, at: usize) -> Option<usize> {
    const LETTERS: Class = Class::LETTER.or(Class::MARK);
    const SYMBOLS: Class = Class::PUNCTUATION.or(Class::SYMBOL);
    const NO_PREFIX: Class = Class::NEWLINE.or(Class::LETTER).or(SYMBOLS);
    if t.byte(at).is_ascii_punctuation() && t.byte(at + 1).is_ascii_alphabetic() {
        let mut end = at + 2;
        while t.byte(end).is_ascii_alphabetic() {
            end += 1;
        }
        return Some(end);
    }
    let (class, next) = t.class(at);
    if class.is(LETTERS) {
        return Some(t.run(next, LETTERS));
    }
    let (after, after_next) = t.class(next);
    if class.is_char_outside(NO_PREFIX) && after.is(LETTERS) {
        return Some(t.run(after_next, LETTERS));
    }
    let start = if t.byte(at) == b' ' { next } else { at };
    let end = t.run(start, SYMBOLS);
    if end > start {
        return Some(t.run(end, Class::NEWLINE));
    }
    lines(t, at).or_else(|| space(t, at))
}

#[cfg(test)]
mod tests {
    use super::super::pre::find;
    use super::*;

    fn pieces<'a>(pre: &str, text: &'a str) -> Vec<&'a str> {
        let mut out = Vec::new();
        split(text, find(pre).expect("a known name").passes, &mut |p| {
            out.push(p)
        });
        assert_eq!(out.concat(), text);
        assert!(out.iter().all(|p| !p.is_empty()));
        out
    }

    #[test]
    fn gpt2_words() {
        assert_eq!(
            pieces("gpt-2", "I'll 'LL  see\t\tyou2day!?\n "),
            [
                "I", "'ll", " '", "LL", " ", " see", "\t", "\t", "you", "2", "day", "!?", "\n "
            ]
        );
    }

    #[test]
    fn llama3_words() {
        assert_eq!(
            pieces("llama3", "I'LL (see) 12345  x\n\n  y !!\n\tz"),
            [
                "I", "'LL", " (", "see", ")", " ", "123", "45", " ", " x", "\n\n", " ", " y",
                " !!\n", "\tz"
            ]
        );
    }

    #[test]
    fn digits_by_family() {
        assert_eq!(pieces("qwen2", "1234"), ["1", "2", "3", "4"]);
        assert_eq!(pieces("falcon", "12345"), ["123", "45"]);
        assert_eq!(pieces("default", "12345"), ["123", "45"]);
        assert_eq!(pieces("gpt-2", "12345"), ["12345"]);
        assert_eq!(pieces("starcoder", "a 12"), ["a", " ", "1", "2"]);
        assert_eq!(pieces("deepseek-v3", "a1234 b"), ["a", "123", "4", " b"]);
    }

    #[test]
    fn case_changes_end_words_of_gpt4o() {
        assert_eq!(pieces("gpt-4o", "HelloWorld"), ["Hello", "World"]);
        assert_eq!(
            pieces("gpt-4o", "HTTPServer don't"),
            ["HTTPServer", " don't"]
        );
        assert_eq!(pieces("tekken", "don't"), ["don", "'t"]);
        assert_eq!(pieces("gpt-4o", "\u{4e2d}ABC"), ["\u{4e2d}", "ABC"]);
        assert_eq!(pieces("gpt-4o", "a//\n/b"), ["a", "//\n/", "b"]);
    }

    #[test]
    fn deepseek_passes() {
        assert_eq!(
            pieces("deepseek-v3", ".foo bar\u{4e2d}\u{6587}!?\n"),
            [".foo", " bar", "\u{4e2d}\u{6587}", "!?\n"]
        );
        assert_eq!(
            pieces("deepseek-llm", "a  b\n  "),
            ["a", " ", " b", "\n", "  "]
        );
        // White space that ends the text is a piece, none before it is.
        assert_eq!(pieces("deepseek-llm", "  1 \t"), ["  ", "1", " \t"]);
        assert_eq!(pieces("deepseek-llm", " \t"), [" \t"]);
        assert_eq!(pieces("deepseek-llm", "  1"), ["  ", "1"]);
        assert_eq!(
            pieces("deepseek-coder", "fn f() {}"),
            ["fn", " f", "()", " {}"]
        );
    }

    #[test]
    fn bloom_splits_at_sentence_punctuation() {
        assert_eq!(pieces("bloom", "a, b.. c"), ["a", ",", " b", "..", " c"]);
    }
}
