//! Rust source as words and marks, each with its line: what rules about items and paths read.
//!
//! Comes after `mask`, so comments and literals are gone. It is no parser: rules look for short
//! runs of tokens (`pub struct Name`, `crate::room::`). Test code is told apart here, once for all
//! rules: the items under `#[cfg(test)]`, or under an `all(test, ...)` of it.

use std::ops::Range;

/// A word (name, keyword or number), `::`, `->` or `=>`, or any other single character.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Token<'a> {
    pub(super) text: &'a str,
    /// 1-based.
    pub(super) line: usize,
}

impl Token<'_> {
    /// Whether this is a name, a keyword or a number.
    pub(super) fn is_word(&self) -> bool {
        self.text.starts_with(is_word)
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The tokens of `code`, which holds neither comments nor literals.
pub(super) fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    for (index, mut rest) in code.lines().enumerate() {
        while let Some(first) = rest.chars().next() {
            let length = if is_word(first) {
                rest.find(|c| !is_word(c)).unwrap_or(rest.len())
            } else {
                let pair = ["::", "->", "=>"].iter().any(|p| rest.starts_with(p));
                if pair { 2 } else { first.len_utf8() }
            };
            let (text, after) = rest.split_at(length);
            if !first.is_whitespace() {
                found.push(Token {
                    text,
                    line: index + 1,
                });
            }
            rest = after;
        }
    }
    found
}

/// Whether the tokens at `at` read as `texts`.
pub(super) fn reads(tokens: &[Token<'_>], at: usize, texts: &[&str]) -> bool {
    let found = tokens.get(at..at + texts.len());
    found.is_some_and(|found| found.iter().zip(texts).all(|(t, text)| t.text == *text))
}

/// The index after the bracket that closes the one at `open`; the end when none does.
pub(super) fn after_group(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    tokens.len()
}

/// The runs of `tokens` that are compiled for tests only, attributes included.
pub(super) fn test_runs(tokens: &[Token<'_>]) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let inner = usize::from(reads(tokens, at, &["#", "!"]));
        if tokens[at].text == "#" && is_test_condition(tokens, at + 1 + inner) {
            // `#![cfg(test)]` stands for the module around it: here always the file.
            let end = if inner == 1 {
                tokens.len()
            } else {
                after_item(tokens, after_group(tokens, at + 1))
            };
            runs.push(at..end);
            at = end;
        } else {
            at += 1;
        }
    }
    runs
}

/// `[cfg(test)]` or `[cfg(all(..., test, ...))]` at `at`.
fn is_test_condition(tokens: &[Token<'_>], at: usize) -> bool {
    if !reads(tokens, at, &["[", "cfg", "("]) {
        return false;
    }
    if reads(tokens, at + 3, &["test", ")"]) {
        return true;
    }
    if !reads(tokens, at + 3, &["all", "("]) {
        return false;
    }
    let end = after_group(tokens, at + 4);
    let mut depth = 0usize;
    tokens[at + 4..end].iter().any(|token| {
        match token.text {
            "(" => depth += 1,
            ")" => depth -= 1,
            _ => {}
        }
        depth == 1 && token.text == "test"
    })
}

/// What opens an item that its braces close.
const BLOCKS: &[&str] = &[
    "fn",
    "mod",
    "struct",
    "enum",
    "union",
    "trait",
    "impl",
    "macro_rules",
    "{",
];
/// What opens an item that a semicolon closes.
const LINES: &[&str] = &["use", "const", "static", "type", "let"];

/// The index after the item, field, arm or statement that begins at `at`, attributes included.
fn after_item(tokens: &[Token<'_>], mut at: usize) -> usize {
    while tokens.get(at).is_some_and(|t| t.text == "#") {
        at = after_group(tokens, at + 1);
    }
    let keyword = keyword(tokens, at);
    let is_block = BLOCKS.contains(&keyword);
    let is_part = !is_block && !LINES.contains(&keyword);
    while at < tokens.len() {
        match tokens[at].text {
            ";" => return at + 1,
            "," if is_part => return at + 1,
            // The end of what the item stands in.
            ")" | "]" | "}" => return at,
            "(" | "[" => at = after_group(tokens, at),
            "{" => {
                let is_arm = is_part && at > 0 && tokens[at - 1].text == "=>";
                at = after_group(tokens, at);
                if is_block || is_arm {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    at
}

/// The word that says what the item at `at` is, past visibility and qualifiers.
fn keyword<'a>(tokens: &[Token<'a>], mut at: usize) -> &'a str {
    if reads(tokens, at, &["pub", "("]) {
        at = after_group(tokens, at + 1);
    }
    let text = |at: usize| tokens.get(at).map_or("", |t| t.text);
    while ["pub", "unsafe", "async", "extern"].contains(&text(at))
        || text(at) == "const" && ["fn", "unsafe", "async", "extern"].contains(&text(at + 1))
    {
        at += 1;
    }
    text(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped(code: &str) -> String {
        let all = tokens(code);
        let runs = test_runs(&all);
        let kept = all.iter().enumerate();
        let kept = kept.filter(|(at, _)| !runs.iter().any(|run| run.contains(at)));
        kept.map(|(_, t)| t.text).collect::<Vec<&str>>().join(" ")
    }

    #[test]
    fn words_and_marks_carry_their_line() {
        let found = tokens("use a::b1;\n\nfn f<'x>() -> _y");
        let texts: Vec<&str> = found.iter().map(|t| t.text).collect();
        let expected = "use a :: b1 ; fn f < ' x > ( ) -> _y";
        assert_eq!(texts.join(" "), expected);
        assert_eq!(found[4].line, 1);
        assert_eq!(found[5].line, 3);
        assert!(found[3].is_word() && !found[2].is_word());
    }

    #[test]
    fn items_for_tests_are_told_apart() {
        assert_eq!(
            shipped("#[cfg(test)] mod tests { fn a() {} } fn b() {}"),
            "fn b ( ) { }"
        );
        assert_eq!(shipped("#[cfg(test)] mod tests; use b;"), "use b ;");
        assert_eq!(shipped("#[cfg(test)] use a::{b, c}; use d;"), "use d ;");
        assert_eq!(
            shipped("#[cfg(test)] const fn f<A, B>() -> [u8; 2] { [0; 2] } use d;"),
            "use d ;"
        );
        assert_eq!(
            shipped("#[cfg(test)] const A: T = T { x: 1 }; use d;"),
            "use d ;"
        );
        assert_eq!(
            shipped("#[cfg(test)] #[derive(A)] pub(crate) struct S { a: u8 } use d;"),
            "use d ;"
        );
        assert_eq!(
            shipped("struct S { #[cfg(test)] a: Vec<u8>, b: u8 }"),
            "struct S { b : u8 }"
        );
        assert_eq!(
            shipped("match a { #[cfg(test)] A => { f(); } B => g(), }"),
            "match a { B => g ( ) , }"
        );
        assert_eq!(
            shipped("struct S { #[cfg(test)] a: u8 } use d;"),
            "struct S { } use d ;"
        );
        assert_eq!(shipped("#![cfg(test)] use a; fn f() {}"), "");
    }

    #[test]
    fn conditions_that_hold_outside_tests_too_are_no_tests() {
        assert_eq!(shipped("#[cfg(all(unix, test))] use a; use b;"), "use b ;");
        let kept = [
            "#[cfg(any(test, unix))] use a;",
            "#[cfg(all(unix, any(test, windows)))] use a;",
            "#[cfg(not(test))] use a;",
        ];
        for code in kept {
            assert_eq!(
                shipped(code).replace(' ', ""),
                code.replace(' ', ""),
                "{code}"
            );
        }
    }

    #[test]
    fn an_open_end_is_no_panic() {
        for code in [
            "#",
            "#[",
            "#[cfg(",
            "#[cfg(test)]",
            "#[cfg(test)] mod a {",
            "#[cfg(all(",
        ] {
            test_runs(&tokens(code));
        }
    }
}
