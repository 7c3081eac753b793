//! Standard output and standard error.
//!
//! Results go to standard output through [`Console`], which knows that a closed pipe is not an
//! error; `println!` would panic there. Notices and figures go to standard error, where a failing
//! write is ignored: there is nobody left to tell.

use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

use serde_json::Value;

use crate::failure::Failure;

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

    /// Ends a line that text left open, where a person reads: a pipe gets the text and no more.
    pub(crate) fn end_text(&mut self) -> Result<(), Failure> {
        if !self.ends_with_newline && io::stdout().is_terminal() {
            self.print("\n")?;
        }
        self.flush()
    }

    /// Keeps a notice for [`Console::show_notes`].
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Writes the notices held back to standard error.
    pub(crate) fn show_notes(&mut self) {
        for note in self.notes.drain(..) {
            say(&note);
        }
    }

    /// The end of a command that worked.
    pub(crate) fn finish(&mut self) -> Result<(), Failure> {
        self.flush()?;
        self.show_notes();
        Ok(())
    }
}

/// One line on standard error.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}
