//! The `gannet` command.
//!
//! Reads arguments, calls the engine, formats what comes back; nothing here computes. What always
//! holds for scripts: exit code 0 is done, 1 is failed with one line on standard error that starts
//! with `error:`, 2 is bad usage; a reader that closes the pipe early is not an error; results go
//! to standard output, figures and notices to standard error.

mod commands;
mod console;
mod embedded;
mod failure;
mod figures;
mod flags;
mod input;
mod launches;
mod output;
mod partial;
mod progress;
mod requests;
mod table;
mod times;

use std::process::ExitCode;

use clap::Parser;

use commands::Command;
use console::Console;
use failure::Failure;

/// Runs quantised language models from GGUF files, on the CPU and on NVIDIA GPUs.
#[derive(Parser)]
#[command(name = "gannet", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => {
            // Help that nobody reads to its end is still help: a closed pipe does not matter.
            let _ = usage.print();
            return ExitCode::from(if usage.use_stderr() { 2 } else { 0 });
        }
    };
    // Where the system refuses, a file that is cut short ends the program without a line.
    let _ = gannet_gguf::exit_on_fault();
    let mut console = Console::new();
    let result = cli
        .command
        .run(&mut console)
        .and_then(|()| console.finish());
    match result {
        Ok(()) | Err(Failure::ClosedPipe) => ExitCode::SUCCESS,
        Err(Failure::Work(message)) => {
            console::say(&format!("error: {}", failure::one_line(&message)));
            ExitCode::from(1)
        }
        Err(Failure::Usage(message)) => {
            console::say(&format!("error: {}", failure::one_line(&message)));
            ExitCode::from(2)
        }
    }
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
