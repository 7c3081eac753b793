//! No parameter lists hidden in tuples.
//!
//! `fn f((rows, columns): (usize, usize))` has two parameters and says that it has one. A struct
//! names what belongs together, and a caller can't swap its fields.

use super::Finding;
use super::source::Tree;
use super::tokens::{Token, after_group};

/// Every parameter of a function whose pattern is a tuple.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, code) in tree.rust(|path| path.contains("/src/")) {
        let tokens = code.shipped();
        for (at, token) in tokens.iter().enumerate() {
            if token.text != "fn" || !tokens.get(at + 1).is_some_and(Token::is_word) {
                continue;
            }
            let name = tokens[at + 1].text;
            findings.extend(parameters(&tokens, at + 2).into_iter().filter_map(|start| {
                let first = tokens[start..]
                    .iter()
                    .find(|t| !["&", "mut", "ref"].contains(&t.text))?;
                let what = format!("a tuple as a parameter of {name}: name each, or make a struct");
                (first.text == "(").then(|| Finding::new(file, first.line, what))
            }));
        }
    }
    findings
}

/// Where each parameter begins, of the function whose name ends before `at`; past attributes.
fn parameters(tokens: &[Token<'_>], at: usize) -> Vec<usize> {
    let Some(open) = list(tokens, at) else {
        return Vec::new();
    };
    let close = after_group(tokens, open) - 1;
    let mut starts = Vec::new();
    let mut at = open + 1;
    while at < close {
        while at < close && tokens[at].text == "#" {
            at = after_group(tokens, at + 1);
        }
        starts.push(at);
        let mut angles = 0usize;
        while at < close && (tokens[at].text != "," || angles > 0) {
            at = match tokens[at].text {
                "(" | "[" | "{" => after_group(tokens, at),
                text => {
                    match text {
                        "<" => angles += 1,
                        ">" => angles = angles.saturating_sub(1),
                        _ => {}
                    }
                    at + 1
                }
            };
        }
        at += 1;
    }
    // After the last comma there is none.
    starts.retain(|&start| start < close);
    starts
}

/// The bracket that opens the parameters, past the generics at `at`.
fn list(tokens: &[Token<'_>], mut at: usize) -> Option<usize> {
    let mut angles = 0usize;
    while let Some(token) = tokens.get(at) {
        match token.text {
            "(" if angles == 0 => return Some(at),
            "(" | "[" | "{" => {
                at = after_group(tokens, at);
                continue;
            }
            "<" => angles += 1,
            ">" => angles = angles.saturating_sub(1),
            _ if angles == 0 => return None,
            _ => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(code: &str) -> Vec<usize> {
        let tree = Tree::of(&[("engine/src/a.rs", code)]);
        check(&tree).iter().map(|f| f.line).collect()
    }

    #[test]
    fn tuples_as_parameters_are_found() {
        let planted = [
            "fn f((a, b): (u8, u8)) {}",
            "fn f(&self, x: Map<A, B>, (a, b): (u8, u8)) -> u8 {}",
            "fn f<T: Fn(A, B) -> C>(mut x: T, &(a, b): &(u8, u8)) {}",
            "pub(crate) const fn f<'a, const N: usize>(#[cfg(x)] (a, b): (u8, u8),) {}",
            "impl A { fn f(self, [a, b]: [u8; 2], (c, d): D) {} }",
        ];
        for code in planted {
            assert_eq!(lines(code), [1], "{code}");
        }
        assert_eq!(lines("fn f(\n    (a, b): C,\n    (d, e): F,\n) {}"), [2, 3]);
    }

    #[test]
    fn tuples_elsewhere_are_quiet() {
        let quiet = [
            "fn f(a: (u8, u8), b: Map<(A, B), C>) {}",
            "fn f<T: Into<(A, B)>>(a: T) -> (A, B) {}",
            "fn f(a: A) { let (b, c) = a; g((b, c)); x.map(|(b, c)| b); }",
            "type F = fn((u8, u8)) -> u8;",
            "#[cfg(test)] mod tests { fn f((a, b): C) {} }",
            "// fn f((a, b): C) {}",
            "fn f() {}",
        ];
        for code in quiet {
            assert_eq!(lines(code), [0; 0], "{code}");
        }
        let tree = Tree::of(&[("engine/tests/a.rs", "fn f((a, b): C) {}")]);
        assert_eq!(check(&tree), []);
    }

    #[test]
    fn an_open_end_is_no_panic() {
        for code in [
            "fn f", "fn f(", "fn f<", "fn f(#", "fn f(#[", "fn f(a,", "fn f<(>(",
        ] {
            lines(code);
        }
    }
}
