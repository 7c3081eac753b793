//! `cargo xtask bless`: rewrites golden files and snapshots from what the code does now.
//!
//! Three kinds exist: raw `.ptx` goldens, which the `golden` test of ptx-gen writes when it sees
//! `GANNET_BLESS=1`; insta snapshots, which insta writes under `INSTA_UPDATE=always`; and the
//! baseline of the kernels' costs, which needs ptxas and is left as it is without. Only test
//! targets that hold a golden or a snapshot run. The review is the diff that follows.

use std::path::Path;

use crate::ptx_check::{self, Verdict};
use crate::workspace::{self, CRATES};
use crate::{Outcome, no_arguments};

const ENVIRONMENT: &[(&str, &str)] = &[
    ("GANNET_BLESS", "1"),
    ("INSTA_UPDATE", "always"),
    ("INSTA_FORCE_PASS", "1"),
];

pub(crate) fn run(arguments: &[String]) -> Outcome {
    no_arguments(arguments)?;
    let mut failed = Vec::new();
    for &(folder, package, _) in CRATES {
        let selection = selection(folder);
        if selection.is_empty() {
            continue;
        }
        println!("blessing {package}: {}", selection.join(" "));
        let status = workspace::cargo()
            .args(["test", "--quiet", "--no-fail-fast", "-p", package])
            .args(&selection)
            .envs(ENVIRONMENT.iter().copied())
            .status()
            .map_err(|e| format!("can't start cargo: {e}"))?;
        if !status.success() {
            failed.push(package);
        }
    }
    println!("blessing the costs of kernels");
    let costs = ptx_check::bless();
    if let Ok(Verdict::Skipped(why)) = &costs {
        println!("skipped: the costs of kernels: {why}");
    }
    if !failed.is_empty() {
        return Err(format!(
            "tests of {} fail for another reason",
            failed.join(", ")
        ));
    }
    costs?;
    println!("done; `git diff` shows what changed");
    Ok(())
}

/// The test targets of a crate that hold goldens or snapshots, as arguments of `cargo test`.
fn selection(folder: &str) -> Vec<String> {
    let crate_dir = workspace::root().join(folder);
    let mut arguments = Vec::new();
    let manifest = std::fs::read_to_string(crate_dir.join("Cargo.toml")).unwrap_or_default();
    if manifest.contains("\ninsta") && holds(&crate_dir.join("src"), "insta::") {
        let library = crate_dir.join("src/lib.rs").is_file();
        arguments.push(if library { "--lib" } else { "--bins" }.to_string());
    }
    for target in workspace::test_targets(folder, "") {
        let tests = crate_dir.join("tests");
        let paths = [tests.join(format!("{target}.rs")), tests.join(&target)];
        if paths
            .iter()
            .any(|p| holds(p, "insta::") || holds(p, "GANNET_BLESS"))
        {
            arguments.extend(["--test".to_string(), target]);
        }
    }
    arguments
}

/// Whether a file, or any `.rs` file in a folder, contains `word`.
fn holds(path: &Path, word: &str) -> bool {
    if path.is_dir() {
        let entries = workspace::entries(path).unwrap_or_default();
        return entries.iter().any(|entry| holds(entry, word));
    }
    path.extension().is_some_and(|e| e == "rs")
        && std::fs::read_to_string(path).is_ok_and(|text| text.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rust_files_are_searched() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("deep")).unwrap();
        std::fs::write(dir.path().join("deep/a.txt"), "insta::").unwrap();
        assert!(!holds(dir.path(), "insta::"));
        std::fs::write(dir.path().join("deep/a.rs"), "insta::assert_snapshot!(x)").unwrap();
        assert!(holds(dir.path(), "insta::"));
        assert!(!holds(&dir.path().join("absent.rs"), "insta::"));
    }
}
