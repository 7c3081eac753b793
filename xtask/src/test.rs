//! `cargo xtask test`: every test and doctest of the workspace, and an honest count.
//!
//! Closes with `N passed, N failed, N skipped` alone on its line, above it the reason of every
//! skipped test. Arguments go to `cargo test`; with `-p` only that package is tested.

use std::time::Instant;

use crate::Outcome;
use crate::ptx_check;
use crate::runner;
use crate::tally::Tally;

pub(crate) fn run(arguments: &[String]) -> Outcome {
    let start = Instant::now();
    let tally = tests(arguments)?;
    println!();
    runner::print_reasons(&tally);
    println!("tests took {:.0} s", start.elapsed().as_secs_f64());
    close(&tally)
}

/// Runs the tests and counts.
pub(crate) fn tests(arguments: &[String]) -> Result<Tally, String> {
    // Tests that assemble what they wrote use the assembler that ptx-check left here, if any.
    let ptxas = ptx_check::local_ptxas();
    let ptxas = ptxas.as_ref().and_then(|path| path.to_str());
    let environment: Vec<_> = ptxas.map(|path| ("PTXAS", path)).into_iter().collect();
    runner::cargo_test(&selection(arguments), &[], &environment)
}

/// Prints the closing line; `Err` when a test failed.
pub(crate) fn close(tally: &Tally) -> Outcome {
    println!("{}", tally.closing_line());
    match tally.failed() {
        0 => Ok(()),
        n => Err(format!("{n} failed")),
    }
}

/// The whole workspace with every feature, unless the caller selects packages.
fn selection(arguments: &[String]) -> Vec<String> {
    let selects = |a: &String| a.starts_with("-p") || a.starts_with("--package");
    let mut all = Vec::new();
    if !arguments.iter().any(selects) {
        all.push("--workspace".to_string());
    }
    all.push("--all-features".to_string());
    all.extend_from_slice(arguments);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_replaces_the_workspace() {
        assert_eq!(selection(&[]), ["--workspace", "--all-features"]);
        let one = selection(&["-p".into(), "gannet-gguf".into()]);
        assert_eq!(one, ["--all-features", "-p", "gannet-gguf"]);
    }
}
