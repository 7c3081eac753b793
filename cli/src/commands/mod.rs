//! The commands: one file each, and one row of the table below.
//!
//! A command is a struct of arguments (its doc comment is its help) and a `run` that gets the
//! console. Adding one is a file and a row; a test compares the two.

use crate::console::Console;
use crate::failure::Failure;

macro_rules! commands {
    ($($name:ident: $module:ident,)*) => {
        $(pub(crate) mod $module;)*

        /// What `gannet` is asked to do.
        #[derive(clap::Subcommand)]
        pub(crate) enum Command {
            $($name($module::$name),)*
        }

        impl Command {
            /// Does it.
            pub(crate) fn run(self, console: &mut Console) -> Result<(), Failure> {
                match self {
                    $(Command::$name(command) => command.run(console),)*
                }
            }
        }
    };
}

commands! {
    Run: run,
    Inspect: inspect,
    Tokenize: tokenize,
    Detokenize: detokenize,
    Template: template,
    Logits: logits,
    Perplexity: perplexity,
    Parity: parity,
    Bench: bench,
    Tune: tune,
    Ptx: ptx,
    Doctor: doctor,
    Synth: synth,
    Quantize: quantize,
    Imatrix: imatrix,
}
