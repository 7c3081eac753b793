//! Why a command ended early, and what the process says about it.
//!
//! Every error of the crates below is one line already; here they become text, except for the one
//! that is no error: a closed pipe.

use std::fmt::Display;
use std::io;
use std::path::Path;

use gannet_gguf::{shown, shown_path};

/// What ends a command before its time.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Whoever read standard output has closed it. Exit code 0, silent.
    ClosedPipe,
    /// The work failed: what, where, what to do. Exit code 1.
    Work(String),
    /// The arguments make no sense together. Exit code 2.
    Usage(String),
    /// Somebody pressed Ctrl-C, and what there was has been told. Exit code 130, silent.
    Interrupted,
}

impl Failure {
    /// A file of the user's could not be read or written.
    pub(crate) fn file(path: &Path, action: &str, source: &io::Error) -> Failure {
        Failure::Work(format!("{}: cannot {action}: {source}", shown_path(path)))
    }

    /// An output could not be written; whoever read it may have closed it.
    pub(crate) fn output(path: &Path, source: &io::Error) -> Failure {
        match source.kind() {
            io::ErrorKind::BrokenPipe => Failure::ClosedPipe,
            _ => Failure::file(path, "write", source),
        }
    }

    /// Standard output could not be written.
    pub(crate) fn stdout(source: &io::Error) -> Failure {
        match source.kind() {
            io::ErrorKind::BrokenPipe => Failure::ClosedPipe,
            _ => Failure::Work(format!("standard output: cannot write: {source}")),
        }
    }

    /// A failure with the message of an error.
    pub(crate) fn of(error: impl Display) -> Failure {
        Failure::Work(error.to_string())
    }
}

impl From<gannet_engine::Error> for Failure {
    fn from(error: gannet_engine::Error) -> Self {
        match error {
            gannet_engine::Error::Io { source, .. }
                if source.kind() == io::ErrorKind::BrokenPipe =>
            {
                Failure::ClosedPipe
            }
            gannet_engine::Error::Idle { .. } => Failure::Usage(error.to_string()),
            _ => Failure::of(error),
        }
    }
}

impl From<gannet_gguf::Error> for Failure {
    fn from(error: gannet_gguf::Error) -> Self {
        Failure::of(error)
    }
}

/// A message on one line: a compiler's log inside it keeps its words and loses its line breaks.
pub(crate) fn one_line(message: &str) -> String {
    let message = message.replace('\t', " ");
    let parts: Vec<_> = message
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    // Whatever a message repeats, it does not speak to a terminal.
    shown(&parts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_fit_one_line() {
        assert_eq!(
            one_line("ptxas failed:\n  line 3: x\n\n  line 4: y\n"),
            "ptxas failed:; line 3: x; line 4: y"
        );
        assert_eq!(one_line("a\u{1b}[2Jb"), "a\\u{1b}[2Jb");
    }

    #[test]
    fn a_closed_pipe_is_not_an_error() {
        let closed = io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(matches!(Failure::stdout(&closed), Failure::ClosedPipe));
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert!(matches!(Failure::stdout(&full), Failure::Work(_)));
    }
}
