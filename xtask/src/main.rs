//! Workflows of a contributor: `cargo xtask <command>`; alone it lists the commands.
//!
//! Everything that a check or a release needs and that cargo does not do by itself is a command
//! here, so that a laptop and a build server run the same lines. Nothing ships from this crate.
//! A command returns `Err(line)` when its work failed; the exit code is then 1 (2 for bad usage).

use std::io::Write;
use std::process::ExitCode;

mod bless;
mod bundle;
mod ci;
mod dist;
mod gpu;
mod listing;
mod package;
mod ptx_check;
mod runner;
mod tally;
mod test;
mod tidy;
mod workspace;

/// What a command returns: nothing, or the line that says what failed.
type Outcome = Result<(), String>;

/// A row of the command table: name, arguments, what it does, and the function.
struct Command {
    name: &'static str,
    arguments: &'static str,
    about: &'static str,
    run: fn(&[String]) -> Outcome,
}

const COMMANDS: &[Command] = &[
    Command {
        name: "test",
        arguments: "[cargo test arguments]",
        about: "every test and doctest; counts passed, failed and skipped",
        run: test::run,
    },
    Command {
        name: "tidy",
        arguments: "",
        about: "the style rules that a program can check",
        run: tidy::run,
    },
    Command {
        name: "ptx-check",
        arguments: "[KERNEL]",
        about: "every kernel on every target through ptxas: no spills, costs as before",
        run: ptx_check::run,
    },
    Command {
        name: "ci",
        arguments: "",
        about: "format, clippy, docs, tidy, packages, ptx-check and test, as .ci/run does",
        run: ci::run,
    },
    Command {
        name: "bless",
        arguments: "",
        about: "rewrites goldens, snapshots and kernel costs from what the code does now",
        run: bless::run,
    },
    Command {
        name: "gpu",
        arguments: "",
        about: "the GPU tests, here; fails without a GPU",
        run: gpu::run,
    },
    Command {
        name: "bundle",
        arguments: "[--models Q4_K_M,Q8_0]",
        about: "packs the GPU tests into bundle/ for a machine without Rust",
        run: bundle::run,
    },
    Command {
        name: "package",
        arguments: "[--verify]",
        about: "every crate as it would be published, and what is in it",
        run: package::run,
    },
    Command {
        name: "dist",
        arguments: "",
        about: "the archive of a release for Linux on x86-64, in target/dist",
        run: dist::run,
    },
];

/// What asks for the list of commands; no argument does too.
const HELP: &[&str] = &["help", "--help", "-h"];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (name, rest) = match arguments.split_first() {
        Some((name, rest)) if !HELP.contains(&name.as_str()) => (name, rest),
        _ => {
            print(&usage());
            return ExitCode::SUCCESS;
        }
    };
    let Some(command) = COMMANDS.iter().find(|c| c.name == name) else {
        eprint!("xtask: there is no command '{name}'\n\n{}", usage());
        return ExitCode::from(2);
    };
    if rest
        .first()
        .is_some_and(|first| HELP.contains(&first.as_str()))
    {
        print(&format!(
            "usage: cargo xtask {}\n\n{}\n",
            format!("{} {}", command.name, command.arguments).trim_end(),
            command.about
        ));
        return ExitCode::SUCCESS;
    }
    match (command.run)(rest) {
        Ok(()) => ExitCode::SUCCESS,
        Err(line) => {
            eprintln!("xtask {name}: {line}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> String {
    let mut text = String::from("usage: cargo xtask <command>\n\n");
    for c in COMMANDS {
        text.push_str(&format!("  {}", row(c)));
    }
    text
}

/// A line about a command.
fn row(c: &Command) -> String {
    let call = format!("{} {}", c.name, c.arguments);
    format!("{call:<31} {}\n", c.about)
}

/// Prints what was asked for; that nobody reads it to its end is no failure.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Refuses arguments, for a command that takes none.
fn no_arguments(arguments: &[String]) -> Outcome {
    match arguments.first() {
        None => Ok(()),
        Some(first) => Err(format!("takes no arguments, got '{first}'")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_lists_every_command_once() {
        let text = usage();
        for c in COMMANDS {
            let rows = text
                .lines()
                .filter(|l| l.trim_start().starts_with(&format!("{} ", c.name)));
            assert_eq!(rows.count(), 1, "{}", c.name);
        }
    }
}
