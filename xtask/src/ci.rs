//! `cargo xtask ci`: every check that a change must pass, on a machine with Rust and Python 3.
//!
//! All steps run even when an earlier one fails, so that one run shows everything. The tests come
//! last and their closing line ends the output; the summary with each step's time stands above it.

use std::time::Instant;

use crate::{Outcome, no_arguments, ptx_check, test, tidy, workspace};

/// A step's name and what it does.
type Step = (&'static str, fn() -> Outcome);

const STEPS: &[Step] = &[
    ("fmt", || cargo(&["fmt", "--all", "--check"], &[])),
    ("clippy", || {
        let select = ["clippy", "--workspace", "--all-targets", "--all-features"];
        cargo(&[&select[..], &["--", "-D", "warnings"]].concat(), &[])
    }),
    ("doc", || {
        let arguments = ["doc", "--workspace", "--no-deps", "--all-features"];
        cargo(&arguments, &[("RUSTDOCFLAGS", "-D warnings")])
    }),
    ("tidy", || tidy::run(&[])),
    ("ptx-check", || ptx_check::run(&[])),
];

pub(crate) fn run(arguments: &[String]) -> Outcome {
    no_arguments(arguments)?;
    let mut rows = Vec::new();
    for (name, step) in STEPS {
        println!("== {name}");
        let start = Instant::now();
        let outcome = step();
        if let Err(line) = &outcome {
            println!("{name}: {line}");
        }
        rows.push((*name, start.elapsed(), outcome.is_ok()));
    }
    println!("== test");
    let start = Instant::now();
    let tally = test::tests(&[])?;
    rows.push(("test", start.elapsed(), tally.failed() == 0));

    println!("\nstep        seconds  result");
    for (name, time, passed) in &rows {
        let result = if *passed { "ok" } else { "FAILED" };
        println!("{name:<10} {:>8.1}  {result}", time.as_secs_f64());
    }
    let failed: Vec<&str> = rows
        .iter()
        .filter(|(_, _, passed)| !passed)
        .map(|(name, _, _)| *name)
        .collect();
    let closed = test::close(&tally);
    if failed.is_empty() {
        closed
    } else {
        Err(format!("{} failed", failed.join(", ")))
    }
}

fn cargo(arguments: &[&str], environment: &[(&str, &str)]) -> Outcome {
    let status = workspace::cargo()
        .args(arguments)
        .envs(environment.iter().copied())
        .status()
        .map_err(|e| format!("can't start cargo: {e}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("cargo {} failed", arguments[0]))
    }
}
