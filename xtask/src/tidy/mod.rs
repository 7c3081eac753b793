//! `cargo xtask tidy`: the style rules that a program can check.
//!
//! Rules about one Rust file are in `rust`, about manifests in `manifest`, about the tree as a
//! whole in `tree`; `mask` tells code from strings and comments. A rule is a pure function from
//! text to findings, so each is tested on planted bad snippets. There is no list of exceptions:
//! where a rule allows something, the rule says where.

use std::fmt;

use crate::{Outcome, no_arguments, workspace};

mod manifest;
mod mask;
mod rust;
mod tree;

/// A broken rule: where, and what to do about it.
#[derive(Debug, PartialEq)]
struct Finding {
    path: String,
    /// 1-based; 0 when the finding is about the whole file.
    line: usize,
    what: String,
}

impl Finding {
    fn new(path: &str, line: usize, what: impl Into<String>) -> Finding {
        Finding {
            path: path.into(),
            line,
            what: what.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.what),
            line => write!(f, "{}:{line}: {}", self.path, self.what),
        }
    }
}

pub(crate) fn run(arguments: &[String]) -> Outcome {
    no_arguments(arguments)?;
    let root = workspace::root();
    let files = workspace::files(&root)?;
    let mut findings = tree::layout(&files);
    let mut bytes = 0;
    for path in &files {
        let content = std::fs::read(root.join(path)).map_err(|e| format!("{path}: {e}"))?;
        bytes += content.len() as u64;
        findings.extend(tree::size(path, content.len() as u64));
        let Ok(text) = String::from_utf8(content) else {
            continue;
        };
        if tree::is_binary(&text) {
            continue;
        }
        findings.extend(tree::text(path, &text));
        if path.ends_with(".rs") {
            findings.extend(rust::check(path, &text));
        }
        if path.ends_with("Cargo.toml") {
            findings.extend(manifest::check(path, &text));
        }
        if path == "Cargo.lock" {
            findings.extend(manifest::lock(path, &text));
        }
    }
    findings.extend(tree::total(bytes));
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => {
            println!("tidy: {} files, nothing to say", files.len());
            Ok(())
        }
        n => Err(format!("{n} findings")),
    }
}
