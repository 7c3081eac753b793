//! `cargo xtask ci`: every check that a change must pass, on a machine with Rust and Python 3.
//!
//! All steps run even when an earlier one fails, so that one run shows everything. The tests come
//! last and their closing line ends the output; the summary with each step's time stands above it.
//! A step that failed or was skipped counts in that line, so that the line alone tells the truth.

use std::time::{Duration, Instant};

use crate::ptx_check::{self, Verdict};
use crate::{Outcome, no_arguments, package, runner, test, tidy, workspace};

/// A step's name and what it does.
type Step = (&'static str, fn() -> Result<Verdict, String>);

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
    ("tidy", || tidy::run(&[]).map(|()| Verdict::Passed)),
    ("package", || package::run(&[]).map(|()| Verdict::Passed)),
    ("ptx-check", || ptx_check::check(&[])),
];

/// A step that ended.
struct Row {
    name: &'static str,
    time: Duration,
    outcome: Result<Verdict, String>,
}

pub(crate) fn run(arguments: &[String]) -> Outcome {
    no_arguments(arguments)?;
    let mut rows: Vec<Row> = STEPS.iter().map(run_step).collect();
    println!("== test");
    let start = Instant::now();
    let mut tally = test::tests(&[])?;
    let outcome = match tally.failed() {
        0 => Ok(Verdict::Passed),
        n => Err(format!("{n} tests failed")),
    };
    for row in &rows {
        match &row.outcome {
            Ok(Verdict::Passed) => {}
            Ok(Verdict::Skipped(why)) => tally.skipped_step(row.name, why),
            Err(line) => tally.failure(&format!("{}: {line}", row.name)),
        }
    }
    rows.push(Row {
        name: "test",
        time: start.elapsed(),
        outcome,
    });
    runner::print_reasons(&tally);
    print!("\n{}\n", table(&rows));
    test::close(&tally)
}

fn run_step(step: &Step) -> Row {
    let (name, work) = step;
    println!("== {name}");
    let start = Instant::now();
    let outcome = work();
    if let Err(line) = &outcome {
        println!("{name}: {line}");
    }
    Row {
        name,
        time: start.elapsed(),
        outcome,
    }
}

fn table(rows: &[Row]) -> String {
    let mut text = String::from("step        seconds  result\n");
    for row in rows {
        let result = match &row.outcome {
            Ok(Verdict::Passed) => "ok",
            Ok(Verdict::Skipped(_)) => "skipped",
            Err(_) => "FAILED",
        };
        text.push_str(&format!(
            "{:<10} {:>8.1}  {result}\n",
            row.name,
            row.time.as_secs_f64()
        ));
    }
    text
}

fn cargo(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Verdict, String> {
    let status = workspace::cargo()
        .args(arguments)
        .envs(environment.iter().copied())
        .status()
        .map_err(|e| format!("can't start cargo: {e}"))?;
    if status.success() {
        Ok(Verdict::Passed)
    } else {
        Err(format!("cargo {} failed", arguments[0]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_never_shows_a_skipped_step_as_passed() {
        let row = |name, outcome| Row {
            name,
            time: Duration::from_millis(1500),
            outcome,
        };
        let rows = [
            row("fmt", Ok(Verdict::Passed)),
            row("ptx-check", Ok(Verdict::Skipped("no ptxas".into()))),
            row("test", Err("2 tests failed".into())),
        ];
        let expected = "\
step        seconds  result
fmt             1.5  ok
ptx-check       1.5  skipped
test            1.5  FAILED
";
        assert_eq!(table(&rows), expected);
    }
}
