//! `cargo xtask tidy`: the style rules that a program can check.
//!
//! A row of the table below is a rule: a pure function from the tree to findings, in a file of its
//! own, so each is tested on planted bad snippets. `source` is the tree, `mask` and `tokens` tell
//! code from strings, comments and tests, `paths` reads what code names. Where a rule allows
//! something, the rule says where; a list of what is left to mend only gets shorter.

use std::fmt;

use self::source::Tree;
use crate::{Outcome, no_arguments, workspace};

mod circles;
mod executors;
mod length;
mod manifest;
mod mask;
mod params;
mod paths;
mod rooms;
mod rust;
mod source;
mod table;
mod tokens;
mod tree;
mod twins;

/// A row of the table of rules.
struct Rule {
    /// What its findings begin with.
    name: &'static str,
    check: fn(&Tree) -> Vec<Finding>,
}

const RULES: &[Rule] = &[
    Rule {
        name: "layout",
        check: tree::check,
    },
    Rule {
        name: "manifests",
        check: manifest::check,
    },
    Rule {
        name: "words",
        check: rust::check,
    },
    Rule {
        name: "rooms",
        check: rooms::check,
    },
    Rule {
        name: "executors",
        check: executors::check,
    },
    Rule {
        name: "twins",
        check: twins::check,
    },
    Rule {
        name: "parameters",
        check: params::check,
    },
    Rule {
        name: "length",
        check: length::check,
    },
];

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
    let tree = Tree::read(&workspace::root())?;
    let mut count = 0;
    for Rule { name, check } in RULES {
        for finding in check(&tree) {
            println!("{name}: {finding}");
            count += 1;
        }
    }
    match count {
        0 => {
            println!("tidy: {} files, nothing to say", tree.files.len());
            Ok(())
        }
        n => Err(format!("{n} findings")),
    }
}
