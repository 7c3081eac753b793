//! No two public types of one name in the library crates.
//!
//! A reader who meets a name asks once what it is. Structs, enums, unions, traits and type aliases
//! that are `pub` count, in whatever module; `Error` is each crate's own by custom.

use std::collections::BTreeMap;

use super::Finding;
use super::source::Tree;
use super::tokens::{Token, reads};

/// The crates whose types others see.
const LIBRARIES: &[&str] = &[
    "gguf/src/",
    "quant/src/",
    "ptx-gen/src/",
    "cuda-runtime/src/",
    "engine/src/",
];
const KINDS: &[&str] = &["struct", "enum", "union", "trait", "type"];
/// The name that every crate may have.
const COMMON: &str = "Error";
/// Names with twins that wait for another. A name that has none any more is a finding here.
const KNOWN: &[&str] = &[];

/// All findings about public types.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    judge(&types(tree), KNOWN)
}

/// Where types are, by name.
type Places = BTreeMap<String, Vec<(String, usize)>>;

fn types(tree: &Tree) -> Places {
    let mut places = Places::new();
    for (file, code) in tree.rust(|path| LIBRARIES.iter().any(|l| path.starts_with(l))) {
        let tokens = code.shipped();
        for at in 0..tokens.len() {
            if let Some(name) = public_type(&tokens, at).filter(|name| name.text != COMMON) {
                let of_name = places.entry(name.text.into()).or_default();
                of_name.push((file.into(), name.line));
            }
        }
    }
    places
}

/// The name in `pub struct Name` and its like at `at`; names that a macro puts in are none.
fn public_type<'a>(tokens: &[Token<'a>], at: usize) -> Option<Token<'a>> {
    if !reads(tokens, at, &["pub"]) {
        return None;
    }
    let qualifiers = ["unsafe", "auto"];
    let qualified = tokens
        .get(at + 1)
        .is_some_and(|t| qualifiers.contains(&t.text));
    let kind = at + 1 + usize::from(qualified);
    let is_kind = KINDS.contains(&tokens.get(kind)?.text);
    let name = tokens.get(kind + 1)?;
    (is_kind && name.is_word()).then_some(*name)
}

fn judge(places: &Places, known: &[&str]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, of_name) in places {
        let [first, others @ ..] = &of_name[..] else {
            continue;
        };
        if known.contains(&name.as_str()) {
            continue;
        }
        for (path, line) in others {
            let (twin, at) = first;
            let what = format!("a second public type {name}: the other is at {twin}:{at}");
            findings.push(Finding::new(path, *line, what));
        }
    }
    let has_twin = |name: &str| places.get(name).is_some_and(|of_name| of_name.len() > 1);
    let stale = known.iter().filter(|name| !has_twin(name));
    findings.extend(stale.map(|name| {
        let what = format!("{name} has no twin any more: take it out of the list");
        Finding::new("xtask/src/tidy/twins.rs", 0, what)
    }));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(first: &str, second: &str, known: &[&str]) -> Vec<String> {
        let tree = Tree::of(&[("gguf/src/a.rs", first), ("engine/src/b.rs", second)]);
        let findings = judge(&types(&tree), known);
        findings.iter().map(|f| f.to_string()).collect()
    }

    #[test]
    fn twins_are_found_with_both_places() {
        for kind in [
            "struct Shape;",
            "enum Shape {}",
            "trait Shape {}",
            "unsafe trait Shape {}",
            "type Shape = u8;",
        ] {
            let said = says("pub struct Shape(u8);", &format!("//! x\npub {kind}"), &[]);
            let expected =
                "engine/src/b.rs:2: a second public type Shape: the other is at gguf/src/a.rs:1";
            assert_eq!(said, [expected], "{kind}");
        }
        let said = says("pub struct Shape; mod a { pub struct Shape; }", "", &[]);
        assert_eq!(said.len(), 1);
    }

    #[test]
    fn what_is_private_tested_common_or_another_kind_is_quiet() {
        let quiet = [
            "pub struct Shapes;",
            "struct Shape;",
            "pub(crate) struct Shape;",
            "pub fn Shape() {}",
            "// pub struct Shape;",
            "#[cfg(test)] mod tests { pub struct Shape; }",
            "macro_rules! m { () => { pub struct $Shape; } }",
            "trait T { type Shape; }",
        ];
        for second in quiet {
            assert_eq!(says("pub struct Shape;", second, &[]), [""; 0], "{second}");
        }
        assert_eq!(says("pub enum Error {}", "pub enum Error {}", &[]), [""; 0]);
        let tree = Tree::of(&[
            ("cli/src/a.rs", "pub struct A;"),
            ("gguf/src/a.rs", "pub struct A;"),
        ]);
        assert_eq!(
            check(&tree)
                .iter()
                .filter(|f| f.what.contains(" A:"))
                .count(),
            0
        );
    }

    #[test]
    fn known_twins_are_known_until_they_are_gone() {
        assert_eq!(
            says("pub struct Shape;", "pub struct Shape;", &["Shape"]),
            [""; 0]
        );
        let said = says("pub struct Shape;", "", &["Shape"]);
        assert_eq!(said.len(), 1);
        assert!(said[0].contains("Shape has no twin"), "{said:?}");
    }
}
