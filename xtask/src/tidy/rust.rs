//! Rules about one Rust file.
//!
//! Test code may read the environment and hold text in any script.

use super::Finding;
use super::source::{Rust, Tree};

/// What is never committed, with what to do instead.
const BANNED: &[(&str, &str)] = &[
    ("todo!", "finish it or leave it out"),
    ("unimplemented!", "finish it or leave it out"),
    ("dbg!", "remove it"),
    (
        "#[ignore",
        "make the test print `skipped: <why>` and return",
    ),
];
/// The places that may hold `unsafe`: the file map, SIMD kernels, the driver.
const UNSAFE_PLACES: &[&str] = &[
    "gguf/src/source.rs",
    "gguf/src/fault.rs",
    "quant/src/cpu",
    "cuda-runtime/",
];
/// The one place that reads the environment.
const ENVIRONMENT_PLACE: &str = "engine/src/settings/environment.rs";

/// All findings in Rust files, one by one.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let rust = tree.files.iter().filter_map(|file| {
        let (text, rust) = (file.text.as_ref()?, file.rust.as_ref()?);
        Some(check_file(&file.path, text, rust))
    });
    rust.flatten().collect()
}

fn check_file(path: &str, source: &str, rust: &Rust) -> Vec<Finding> {
    let Rust {
        code,
        speech,
        tests,
        ..
    } = rust;
    let mut findings = opening(path, source);
    for (index, line) in code.lines().enumerate() {
        let mut found = |what: String| findings.push(Finding::new(path, index + 1, what));
        for (word, instead) in BANNED {
            if has_word(line, word) {
                found(format!("`{word}` is not allowed: {instead}"));
            }
        }
        if has_word(line, "unsafe") && !UNSAFE_PLACES.iter().any(|p| path.starts_with(p)) {
            found(format!(
                "`unsafe` belongs in {} only",
                UNSAFE_PLACES.join(", ")
            ));
        }
        if tests[index] {
            continue;
        }
        if reads_environment(line) && path != ENVIRONMENT_PLACE && !path.starts_with("xtask/") {
            found(format!(
                "the environment is read in {ENVIRONMENT_PLACE} only"
            ));
        }
        if line.contains("clippy::unwrap_used") {
            found("`unwrap` outside tests: return an error, or `expect` the invariant".into());
        }
    }
    for (index, line) in speech.lines().enumerate() {
        if !tests[index] && !line.is_ascii() {
            findings.push(Finding::new(
                path,
                index + 1,
                "write non-ASCII text as \\u{...}",
            ));
        }
    }
    findings
}

fn opening(path: &str, source: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !source.starts_with("//!") {
        let what = "open with //!: what it is, why it exists, what always holds";
        findings.push(Finding::new(path, 1, what));
    }
    findings
}

/// Whether `word` occurs with no name character around it.
fn has_word(line: &str, word: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(is_name) && !after.is_some_and(is_name)
    })
}

fn reads_environment(line: &str) -> bool {
    ["env::var(", "env::var_os(", "env::vars(", "env::vars_os("]
        .iter()
        .any(|f| line.contains(f))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `check` says about `//! x` followed by `source`, as `line: text`.
    fn says(path: &str, source: &str) -> Vec<String> {
        let findings = check(&Tree::of(&[(path, &format!("//! x\n{source}"))]));
        findings
            .iter()
            .map(|f| format!("{}: {}", f.line, f.what))
            .collect()
    }

    fn assert_one(path: &str, source: &str, part: &str) {
        let said = says(path, source);
        assert!(said.len() == 1 && said[0].contains(part), "{said:?}");
    }

    #[test]
    fn planted_words_are_found() {
        assert_one("engine/src/a.rs", "fn f() { todo!() }", "2: `todo!`");
        assert_one(
            "engine/src/a.rs",
            "fn f() { unimplemented!() }",
            "`unimplemented!`",
        );
        assert_one("engine/src/a.rs", "fn f() { dbg!(1); }", "`dbg!`");
        assert_one(
            "engine/tests/a.rs",
            "#[test]\n#[ignore]\nfn f() {}",
            "3: `#[ignore`",
        );
        assert_one(
            "engine/tests/a.rs",
            "#[ignore = \"slow\"]\nfn f() {}",
            "2: `#[ignore`",
        );
    }

    #[test]
    fn words_in_comments_strings_and_names_are_not() {
        let source = "// todo!() unsafe\nconst A: &str = \"dbg! unsafe\";\n#[allow(unsafe_code)]";
        assert_eq!(says("engine/src/a.rs", source), [""; 0]);
    }

    #[test]
    fn unsafe_has_its_places() {
        let source = "fn f() { unsafe { g() } }";
        assert_one("engine/src/a.rs", source, "`unsafe` belongs");
        assert_one("gguf/src/lib.rs", source, "`unsafe` belongs");
        for path in [
            "gguf/src/source.rs",
            "gguf/src/fault.rs",
            "quant/src/cpu/avx2.rs",
            "cuda-runtime/src/a.rs",
        ] {
            assert_eq!(says(path, source), [""; 0], "{path}");
        }
    }

    #[test]
    fn the_environment_is_read_in_one_place() {
        let source = "fn f() { std::env::var(\"GANNET_X\"); }";
        assert_one("cli/src/a.rs", source, "the environment");
        assert_eq!(says("engine/src/settings/environment.rs", source), [""; 0]);
        assert_eq!(says("engine/tests/a.rs", source), [""; 0]);
        let in_tests = format!("#[cfg(test)]\nmod tests {{\n    {source}\n}}");
        assert_eq!(says("engine/src/a.rs", &in_tests), [""; 0]);
        assert_one(
            "engine/src/a.rs",
            &format!("{in_tests}\n{source}"),
            "6: the environment",
        );
        let elsewhere = format!("#[cfg(test)]\nmod tests;\n{source}");
        assert_one("engine/src/a.rs", &elsewhere, "4: the environment");
    }

    #[test]
    fn text_is_ascii_outside_comments_and_tests() {
        assert_one(
            "engine/src/a.rs",
            "const A: char = '\u{2581}';",
            "2: write non-ASCII",
        );
        assert_eq!(
            says("engine/src/a.rs", "/// \u{2265} 1\nconst A: u8 = 1;"),
            [""; 0]
        );
        assert_eq!(
            says("engine/tests/a.rs", "const A: char = '\u{2581}';"),
            [""; 0]
        );
    }

    #[test]
    fn unwrap_is_not_let_in_by_the_back_door() {
        assert_one(
            "quant/src/a.rs",
            "#[allow(clippy::unwrap_used)]\nfn f() {}",
            "`unwrap`",
        );
    }

    #[test]
    fn files_open_with_a_comment() {
        let findings = check(&Tree::of(&[("cli/src/a.rs", "use std::fmt;\n")]));
        assert_eq!(findings.len(), 1);
        assert!(findings[0].what.contains("open with //!"));
    }
}
