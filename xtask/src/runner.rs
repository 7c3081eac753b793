//! Runs `cargo test` and reads its output as it appears.
//!
//! Shared by `test`, `gpu` and `bless`. What passing tests print is hidden, everything else is passed
//! on, with *skipped* in place of *ok* where a test was; a build that fails, or an executable that dies without a report, is a failure in
//! the tally, so that nothing which did not run can read as passed.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc;

use crate::listing::Listing;
use crate::tally::Tally;
use crate::workspace;

enum Line {
    Out(String),
    Err(String),
}

/// Runs `cargo test <cargo_arguments> -- --show-output <test_arguments>`.
///
/// `Err` only when cargo can't be started; failed tests are in the tally.
pub(crate) fn cargo_test(
    cargo_arguments: &[String],
    test_arguments: &[&str],
    environment: &[(&str, &str)],
) -> Result<Tally, String> {
    let mut command = workspace::cargo();
    command
        .arg("test")
        .arg("--no-fail-fast")
        .args(cargo_arguments);
    command.args(["--", "--show-output"]).args(test_arguments);
    command.envs(environment.iter().copied());
    // Where nobody reads any more the tests go on, and their outcome is the exit code.
    run(command, |line| {
        let _ = match line {
            Line::Out(line) => writeln!(std::io::stdout(), "{line}"),
            Line::Err(line) => writeln!(std::io::stderr(), "{line}"),
        };
    })
}

/// Runs a command, reads both of its pipes, and hands on what a reader should see.
fn run(mut command: Command, mut show: impl FnMut(&Line)) -> Result<Tally, String> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .map_err(|e| format!("can't start cargo: {e}"))?;
    let (send, lines) = mpsc::channel();
    let out = child.stdout.take().map(|pipe| (pipe, send.clone()));
    let err = child.stderr.take().map(|pipe| (pipe, send));
    let (mut tally, mut listing) = (Tally::default(), Listing::default());
    std::thread::scope(|scope| {
        if let Some((pipe, send)) = out {
            scope.spawn(move || forward(BufReader::new(pipe), &send, Line::Out));
        }
        if let Some((pipe, send)) = err {
            scope.spawn(move || forward(BufReader::new(pipe), &send, Line::Err));
        }
        for line in lines {
            let shown = match line {
                Line::Out(text) => {
                    let shown = tally.line(&text);
                    let lines = listing.line(&text, shown, &mut tally);
                    lines.into_iter().map(Line::Out).collect()
                }
                Line::Err(text) => {
                    tally.error_line(&text);
                    vec![Line::Err(text)]
                }
            };
            let is_empty = |line: &Line| matches!(line, Line::Out(text) if text.is_empty());
            shown
                .iter()
                .filter(|line| !is_empty(line))
                .for_each(&mut show);
        }
    });
    let rest = listing.release(&mut tally);
    rest.into_iter().for_each(|line| show(&Line::Out(line)));
    let status = child.wait().map_err(|e| format!("cargo: {e}"))?;
    if !status.success() && tally.failed() == 0 {
        tally.failure("cargo test stopped without a failed test: a build error or a crash");
    }
    Ok(tally)
}

/// Sends a pipe's lines on; bytes that are not UTF-8 become replacement characters.
fn forward(mut pipe: impl BufRead, send: &mpsc::Sender<Line>, wrap: fn(String) -> Line) {
    let mut bytes = Vec::new();
    while pipe.read_until(b'\n', &mut bytes).is_ok_and(|n| n > 0) {
        let line = String::from_utf8_lossy(&bytes)
            .trim_end_matches(['\n', '\r'])
            .to_string();
        if send.send(wrap(line)).is_err() {
            return;
        }
        bytes.clear();
    }
}

/// Prints why tests were skipped and which failed, each on a line.
pub(crate) fn print_reasons(tally: &Tally) {
    for reason in &tally.reasons {
        println!("skipped: {reason}");
    }
    for failure in &tally.failures {
        println!("failed: {failure}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    fn shell(script: &str) -> Tally {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        // Shown nowhere: the run that runs this test reads what it prints.
        run(command, |_| {}).unwrap()
    }

    #[test]
    #[cfg(unix)]
    fn both_pipes_are_read() {
        let tally = shell(
            "echo 'test result: ok. 2 passed; 0 failed; 0 ignored'; echo 'skipped: x: why' >&2",
        );
        assert_eq!(tally.closing_line(), "1 passed, 0 failed, 1 skipped");
    }

    #[test]
    #[cfg(unix)]
    fn a_build_that_fails_is_a_failure() {
        assert_eq!(
            shell("exit 101").closing_line(),
            "0 passed, 1 failed, 0 skipped"
        );
    }
}
