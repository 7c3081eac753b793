//! The repository as rules read it: every file's text, and Rust files as code.
//!
//! A tree is read once and handed to every rule. Tests make one of a few lines of text, so a rule
//! is seen to find what is planted and to keep quiet about the twin without it.

use std::path::Path;

use super::mask::{self, Class};
use super::tokens::{self, Token};
use super::tree;
use crate::workspace;

/// All files of the repository, sorted by path.
pub(super) struct Tree {
    pub(super) files: Vec<File>,
}

/// One file. Paths are relative to the root and use `/`.
pub(super) struct File {
    pub(super) path: String,
    pub(super) bytes: u64,
    /// What it says; `None` where it holds data.
    pub(super) text: Option<String>,
    /// What it means to the compiler, where it is Rust.
    pub(super) rust: Option<Rust>,
}

/// A Rust file's code: the source with comments, and then literals, blanked out.
pub(super) struct Rust {
    /// Without comments and literals.
    pub(super) code: String,
    /// Without comments.
    pub(super) speech: String,
    /// For each line, whether only tests compile it.
    pub(super) tests: Vec<bool>,
    /// Whether the whole file is a test by its place.
    pub(super) is_test: bool,
}

impl Tree {
    /// Reads the repository at `root`.
    pub(super) fn read(root: &Path) -> Result<Tree, String> {
        let mut files = Vec::new();
        for path in workspace::files(root)? {
            let content = std::fs::read(root.join(&path)).map_err(|e| format!("{path}: {e}"))?;
            files.push(File::new(path, content));
        }
        Ok(Tree { files })
    }

    /// A tree of these paths and texts.
    #[cfg(test)]
    pub(super) fn of(files: &[(&str, &str)]) -> Tree {
        let file = |(path, text): &(&str, &str)| File::new(path.to_string(), (*text).into());
        Tree {
            files: files.iter().map(file).collect(),
        }
    }

    /// The Rust files whose path `selects`.
    pub(super) fn rust(&self, selects: fn(&str) -> bool) -> impl Iterator<Item = (&str, &Rust)> {
        let rust = self.files.iter().filter(move |file| selects(&file.path));
        rust.filter_map(|file| Some((file.path.as_str(), file.rust.as_ref()?)))
    }

    /// The file at `path`.
    pub(super) fn text(&self, path: &str) -> Option<&str> {
        let file = self.files.iter().find(|file| file.path == path)?;
        file.text.as_deref()
    }
}

impl File {
    fn new(path: String, content: Vec<u8>) -> File {
        let bytes = content.len() as u64;
        let text = String::from_utf8(content).ok();
        let text = text.filter(|text| !tree::is_binary(text));
        let rust = text
            .as_ref()
            .filter(|_| path.ends_with(".rs"))
            .map(|text| Rust::new(&path, text));
        File {
            path,
            bytes,
            text,
            rust,
        }
    }
}

impl Rust {
    pub(super) fn new(path: &str, source: &str) -> Rust {
        let classes = mask::classes(source);
        let code = mask::only(source, &classes, &[Class::Code]);
        let speech = mask::only(source, &classes, &[Class::Code, Class::Literal]);
        let is_test = is_test_file(path);
        let mut tests = vec![is_test; code.lines().count()];
        let all = tokens::tokens(&code);
        for run in tokens::test_runs(&all) {
            let last = all[run.end - 1].line;
            tests[all[run.start].line - 1..last].fill(true);
        }
        Rust {
            code,
            speech,
            tests,
            is_test,
        }
    }

    /// The tokens that are compiled outside tests too.
    pub(super) fn shipped(&self) -> Vec<Token<'_>> {
        if self.is_test {
            return Vec::new();
        }
        let mut kept = tokens::tokens(&self.code);
        for run in tokens::test_runs(&kept).into_iter().rev() {
            kept.drain(run);
        }
        kept
    }
}

/// Files under `tests`, `benches` and `examples`, and files named `tests.rs`.
fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs")
        || path
            .split('/')
            .any(|part| ["tests", "benches", "examples"].contains(&part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_told_from_code_by_place_and_by_condition() {
        let code = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n";
        let here = Rust::new("engine/src/a.rs", code);
        assert_eq!(here.tests, [false, true, true, true, true, false]);
        assert!(here.shipped().iter().all(|t| t.text != "b"));
        for path in [
            "engine/tests/a.rs",
            "engine/src/kv/tests.rs",
            "engine/src/kv/tests/a.rs",
        ] {
            let there = Rust::new(path, code);
            assert_eq!(there.tests, [true; 6], "{path}");
            assert_eq!(there.shipped(), []);
        }
    }

    #[test]
    fn data_has_no_text_and_only_rust_has_code() {
        let tree = Tree::of(&[("a.gguf", "GGUF\0"), ("a.md", "a"), ("a.rs", "a")]);
        let known: Vec<(bool, bool)> = tree
            .files
            .iter()
            .map(|f| (f.text.is_some(), f.rust.is_some()))
            .collect();
        assert_eq!(known, [(false, false), (true, false), (true, true)]);
        assert_eq!(tree.text("a.md"), Some("a"));
        assert_eq!(tree.text("b.md"), None);
    }
}
