//! The `gannet` command.
//!
//! Reads arguments, calls the engine, formats what comes back; nothing here computes. What always
//! holds for scripts: exit code 0 is done, 1 is failed with one line on standard error that starts
//! with `error:`, 2 is bad usage, 130 is ended by Ctrl-C; a reader that closes the pipe early is not an
//! error; results go to standard output, figures and notices to standard error.

mod answers;
mod arguments;
mod chat;
mod clients;
mod commands;
mod console;
mod embedded;
mod failure;
mod figures;
mod flags;
mod input;
mod interrupt;
mod launches;
mod lines;
mod logging;
mod output;
mod partial;
mod progress;
mod prompt;
mod requests;
mod sampling;
mod server;
mod stream;
mod table;
mod threads;
mod times;

use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser};

use commands::Command;
use console::Console;
use failure::Failure;
use logging::{LogFormat, Unasked};

/// Runs quantised language models from GGUF files, on the CPU and on NVIDIA GPUs.
#[derive(Parser)]
#[command(name = "gannet", version)]
struct Cli {
    /// Print results and errors, no figures, notices or progress
    #[arg(short, long, global = true)]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let mut command = Cli::command();
    command.build();
    let args = match arguments::understood(std::env::args_os().collect(), &command) {
        Ok(args) => args,
        Err(answer) => return ended(Err(Failure::Usage(answer))),
    };
    let parsed = command.try_get_matches_from(args).and_then(|matches| {
        let threads = threads_asked(&matches);
        let log = log_asked(&matches);
        Ok((Cli::from_arg_matches(&matches)?, threads, log))
    });
    let (cli, threads, log) = match parsed {
        Ok(parsed) => parsed,
        Err(usage) => {
            // Help that nobody reads to its end is still help: a closed pipe does not matter.
            let _ = usage.print();
            return ExitCode::from(if usage.use_stderr() { 2 } else { 0 });
        }
    };
    if cli.quiet {
        console::be_quiet();
    }
    // Where the system refuses, a file that is cut short ends the program without a line.
    let _ = gannet_gguf::exit_on_fault();
    let mut console = Console::new();
    let run = || {
        logging::start(log.unwrap_or_default(), unasked(log, cli.quiet))?;
        threads::start(threads)?;
        cli.command.run(&mut console)?;
        console.finish()
    };
    ended(run())
}

/// What `--threads` says, of a command that has it.
fn threads_asked(matches: &ArgMatches) -> Option<usize> {
    let (_, of_command) = matches.subcommand()?;
    let threads = of_command.try_get_one::<u16>("threads").ok().flatten();
    threads.copied().map(usize::from)
}

/// What `--log-format` says, of a command that has it: one that goes on and on, and tells how.
fn log_asked(matches: &ArgMatches) -> Option<LogFormat> {
    let (_, of_command) = matches.subcommand()?;
    let format = of_command.try_get_one::<LogFormat>("log_format");
    format.ok().flatten().copied()
}

/// Which events are told where `RUST_LOG` says nothing.
fn unasked(log: Option<LogFormat>, is_quiet: bool) -> Unasked {
    match log.is_some() && !is_quiet {
        true => Unasked::Server,
        false => Unasked::Warnings,
    }
}

/// Says why a command ended, where there is something to say.
fn ended(result: Result<(), Failure>) -> ExitCode {
    let (message, code) = match result {
        Ok(()) | Err(Failure::ClosedPipe) => return ExitCode::SUCCESS,
        Err(Failure::Interrupted) => return ExitCode::from(130),
        Err(Failure::Work(message)) => (message, 1),
        Err(Failure::Usage(message)) => (message, 2),
    };
    console::complain(&format!("error: {}", failure::one_line(&message)));
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Every command is a row of the registry and a file, and says in one line what it does.
    #[test]
    fn every_command_has_a_file_and_a_description() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/commands");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|e| {
                e.unwrap()
                    .path()
                    .file_stem()
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned()
            })
            .filter(|name| name != "mod")
            .collect();
        files.sort();
        let cli = Cli::command();
        let mut commands: Vec<_> = cli.get_subcommands().collect();
        commands.sort_by_key(|c| c.get_name());
        let names: Vec<_> = commands.iter().map(|c| c.get_name()).collect();
        assert_eq!(names, files);
        for command in commands {
            assert!(
                command.get_about().is_some(),
                "{} has no description",
                command.get_name()
            );
        }
    }
}
