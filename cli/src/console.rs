//! Standard output and standard error.
//!
//! Results go to standard output through [`Console`], which knows that a closed pipe is not an
//! error; `println!` would panic there. Notices and figures go to standard error, where a failing
//! write is ignored: there is nobody left to tell.

use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use gannet_gguf::shown;
use serde_json::Value;

use crate::failure::Failure;
use crate::logging;

/// The two streams of a command.
pub(crate) struct Console {
    out: BufWriter<Stdout>,
    /// Notices held back until there is a result to go with them, so that a command that fails
    /// before it has done anything leaves one line.
    notes: Vec<String>,
    ends_with_newline: bool,
}

impl Console {
    pub(crate) fn new() -> Console {
        Console {
            out: BufWriter::new(io::stdout()),
            notes: Vec::new(),
            ends_with_newline: true,
        }
    }

    /// Adds text to standard output.
    pub(crate) fn print(&mut self, text: &str) -> Result<(), Failure> {
        if let Some(last) = text.chars().next_back() {
            self.ends_with_newline = last == '\n';
        }
        self.out
            .write_all(text.as_bytes())
            .map_err(|e| Failure::stdout(&e))
    }

    /// Adds a line to standard output.
    pub(crate) fn line(&mut self, text: &str) -> Result<(), Failure> {
        self.print(text)?;
        self.print("\n")
    }

    /// Adds text to standard output and makes it visible now.
    pub(crate) fn stream(&mut self, text: &str) -> Result<(), Failure> {
        self.print(text)?;
        self.flush()
    }

    /// Makes visible what was printed so far.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.out.flush().map_err(|e| Failure::stdout(&e))
    }

    /// One JSON value, on one line.
    pub(crate) fn json(&mut self, value: &Value) -> Result<(), Failure> {
        self.line(&value.to_string())
    }

    /// Ends a line that text left open, so that no figures run into it. A terminal gets a line break; a
    /// pipe gets the text and no more, and the line break goes in front of the figures, since both
    /// streams may lead to one place.
    pub(crate) fn end_text(&mut self) -> Result<(), Failure> {
        let is_open = !self.ends_with_newline;
        let ends_here = is_open && io::stdout().is_terminal();
        if ends_here {
            self.print("\n")?;
        }
        self.flush()?;
        if is_open && !ends_here {
            say("");
        }
        Ok(())
    }

    /// Keeps a notice for [`Console::show_notes`].
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Writes the notices held back to standard error.
    pub(crate) fn show_notes(&mut self) {
        for note in self.notes.drain(..) {
            // Who wants no figures still hears that a result may not be what it seems.
            match note.starts_with("warning: ") {
                true => complain(&note),
                false => say(&note),
            }
        }
    }

    /// The end of a command that worked.
    pub(crate) fn finish(&mut self) -> Result<(), Failure> {
        self.flush()?;
        self.show_notes();
        Ok(())
    }
}

/// Whether figures, notices and progress are left out.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Leaves out figures, notices and progress from now on.
pub(crate) fn be_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

/// Whether they are left out.
pub(crate) fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// A figure or a notice: one line on standard error.
pub(crate) fn say(line: &str) {
    if !is_quiet() {
        complain(line);
    }
}

/// What is said in any case: a line on standard error, or those of a table. Whatever it repeats, it does
/// not speak to a terminal.
pub(crate) fn complain(text: &str) {
    let lines: Vec<String> = text.split('\n').map(shown).collect();
    let text = logging::in_form(&lines.join("\n"));
    let _ = writeln!(io::stderr().lock(), "{text}");
}
