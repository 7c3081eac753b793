//! The guide is true: its commands run and print what it says, its messages are those of the sources, its routes
//! those of the server, and it forgets none.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]
// Its commands run the model that the binary carries.
#![cfg(feature = "embedded-model")]

mod blocks;
mod commands;
mod messages;
mod server;

use std::path::{Path, PathBuf};

/// A folder of this package.
fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Names and texts of the pages, in order.
fn pages() -> Vec<(String, String)> {
    let entries = std::fs::read_dir(folder("docs")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|e| e == "md"))
        .collect();
    paths.sort();
    let named = paths.iter().map(|path| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, std::fs::read_to_string(path).unwrap())
    });
    named.collect()
}

/// Every page is listed on the first one, is a module of the documentation, and links to pages that there are.
#[test]
fn pages_lead_to_each_other() {
    let pages = pages();
    assert!(pages.len() > 8, "{}", pages.len());
    let library = std::fs::read_to_string(folder("src/lib.rs")).unwrap();
    let (_, first) = pages.iter().find(|(name, _)| name == "README.md").unwrap();
    for (name, text) in &pages {
        assert!(library.contains(&format!("\"../docs/{name}\"")), "{name}");
        assert!(
            name == "README.md" || first.contains(&format!("]: {name}\n")),
            "{name}"
        );
        for (label, target) in text
            .lines()
            .filter_map(|line| line.strip_prefix('[')?.split_once("]: "))
        {
            assert!(
                pages.iter().any(|(name, _)| name == target),
                "{name}: {target}"
            );
            assert!(
                text.contains(&format!("][{label}]")),
                "{name} defines [{label}] for nobody"
            );
        }
    }
}
