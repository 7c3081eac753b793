//! What can be wrong with a safetensors file, one line each.
//!
//! Text taken from a file is quoted, escaped and cut before it enters a message, so that a message
//! stays on one short line whatever the file holds.

use std::io;
use std::path::PathBuf;

use gannet_gguf::shown_path;

/// Why a safetensors file was refused or could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{}: cannot {action}: {source}", shown_path(file))]
    Io {
        /// The file.
        file: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The header's length, first byte or text is wrong.
    #[error("{}: header {found}; expected {expected}", shown_path(file))]
    Header {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// The header is not the JSON that it should be.
    #[error("{}: header JSON: {problem}", shown_path(file))]
    Json {
        /// The file.
        file: PathBuf,
        /// Where and what, as the parser saw it.
        problem: String,
    },
    /// A tensor's description contradicts itself, another tensor or the file.
    #[error(
        "{}: tensor {tensor}: {field} {found}; expected {expected}",
        shown_path(file)
    )]
    Tensor {
        /// The file.
        file: PathBuf,
        /// The tensor's name, quoted.
        tensor: String,
        /// The part of the description that is wrong.
        field: &'static str,
        /// Its value.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// Bytes follow the last tensor.
    #[error(
        "{}: {bytes} trailing bytes after the last tensor; expected the file to end at byte {end}",
        shown_path(file)
    )]
    Trailing {
        /// The file.
        file: PathBuf,
        /// How many.
        bytes: u64,
        /// Where the last tensor ends.
        end: u64,
    },
    /// The index of a sharded model is wrong.
    #[error("{}: weight_map: {problem}", shown_path(file))]
    Index {
        /// The index file.
        file: PathBuf,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// A tensor that the caller asked for is absent.
    #[error("{}: tensor {tensor} is missing", shown_path(file))]
    Missing {
        /// The file.
        file: PathBuf,
        /// The name asked for, quoted.
        tensor: String,
    },
    /// A folder has no weights, or one cannot tell which.
    #[error(
        "{}: {found}; expected model.safetensors.index.json, model.safetensors or a single \
         .safetensors file",
        shown_path(folder)
    )]
    Weights {
        /// The folder.
        folder: PathBuf,
        /// What it has.
        found: String,
    },
    /// The file is sound, but it is no model that can be run.
    #[error(
        "{}: a lone safetensors file is not supported as a model; give its folder, with config.json and \
         tokenizer.json in it, or a GGUF file",
        shown_path(file)
    )]
    NotRunnable {
        /// The file.
        file: PathBuf,
    },
}

/// The longest stretch of a file's own text that a message repeats, in characters.
const QUOTED_CHARS: usize = 80;

/// The longest message of the JSON parser that is passed on, in characters.
const PROBLEM_CHARS: usize = 300;

/// Text from a file as a message may show it: quoted, without control characters, cut.
pub(super) fn quoted(text: &str) -> String {
    let mut shown = format!("{:?}", text.chars().take(QUOTED_CHARS).collect::<String>());
    if text.chars().nth(QUOTED_CHARS).is_some() {
        shown.push_str("...");
    }
    shown
}

/// A message of the JSON parser on one line, cut in the middle: its end says where.
pub(super) fn one_line(message: &str) -> String {
    let escape = |c: char| if c.is_control() { ' ' } else { c };
    let count = message.chars().count();
    if count <= PROBLEM_CHARS {
        return message.chars().map(escape).collect();
    }
    let half = PROBLEM_CHARS / 2;
    let head = message.chars().take(half);
    let tail = message.chars().skip(count - half);
    head.chain("...".chars()).chain(tail).map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_stay_on_one_short_line() {
        assert_eq!(quoted("a\nb"), "\"a\\nb\"");
        assert_eq!(quoted(&"x".repeat(70_000)).len(), QUOTED_CHARS + 5);
        assert_eq!(one_line("a\nb"), "a b");
        let long = one_line(&format!("{} at line 1", "x".repeat(70_000)));
        assert!(long.len() < 310 && long.ends_with(" at line 1"));
    }
}
