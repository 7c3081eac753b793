//! What can be wrong with a file, one line each.
//!
//! Every message names the file, the field or tensor, the value found and what would be right, so
//! that somebody with a broken download knows which byte to distrust. Text taken from the file is
//! quoted, escaped and cut by [`quoted`], so that a message always stays on one short line.

use std::io;
use std::path::Path;

/// Why a file was refused, a key could not be read, or a file could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{file}: cannot {action}: {source}")]
    Io {
        /// The file as the caller named it.
        file: String,
        /// What was attempted.
        action: &'static str,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The file ends inside something.
    #[error("{file}: truncated: {what} at byte {offset} needs {needed} bytes, {remaining} remain")]
    Truncated {
        /// The file.
        file: String,
        /// The thing that does not fit.
        what: String,
        /// Where it starts.
        offset: u64,
        /// The bytes it needs from there.
        needed: u64,
        /// The bytes there are.
        remaining: u64,
    },
    /// A field of the fixed header is wrong.
    #[error("{file}: {field} is {found}, must be {expected}")]
    Header {
        /// The file.
        file: String,
        /// The field, by the name of the format's specification.
        field: &'static str,
        /// Its value.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// A metadata entry is malformed.
    #[error("{file}: metadata key {key}: {found}, must be {expected}")]
    Metadata {
        /// The file.
        file: String,
        /// The key, quoted, or its position where it cannot be read.
        key: String,
        /// What the entry holds.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// A tensor's description is malformed, or its data is not where it should be.
    #[error("{file}: tensor {tensor}: {field} is {found}, must be {expected}")]
    Tensor {
        /// The file.
        file: String,
        /// The tensor's name, quoted, or its position where it has none yet.
        tensor: String,
        /// The part of the description that is wrong.
        field: &'static str,
        /// Its value.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// The shards of a split model do not fit together.
    #[error("{file}: split model: {found}, must be {expected}")]
    Split {
        /// The shard (or the first one, when another is missing).
        file: String,
        /// What is wrong.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// A key that the caller needs is absent.
    #[error("{file}: metadata key {key:?} is missing, must be {expected}")]
    MissingKey {
        /// The file.
        file: String,
        /// The key asked for.
        key: String,
        /// The type asked for.
        expected: &'static str,
    },
    /// A key holds a value of another type, or one that the type asked for cannot represent.
    #[error("{file}: metadata key {key:?} is {found}, must be {expected}")]
    WrongType {
        /// The file.
        file: String,
        /// The key asked for.
        key: String,
        /// The type and value found.
        found: String,
        /// The type asked for.
        expected: &'static str,
    },
}

/// The longest stretch of a file's own text that a message repeats, in characters.
const QUOTED_CHARS: usize = 80;

/// Text from a file as a message may show it: quoted, without control characters, cut.
pub(crate) fn quoted(text: &str) -> String {
    let mut shown = format!("{:?}", text.chars().take(QUOTED_CHARS).collect::<String>());
    if text.chars().nth(QUOTED_CHARS).is_some() {
        shown.push_str("...");
    }
    shown
}

/// A path as a message may show it: control characters escaped, so that a name cannot break the line
/// or speak to a terminal. An ordinary path is shown as it is.
///
/// ```
/// assert_eq!(gannet_gguf::shown_path("a\u{1b}[2J\n b.gguf".as_ref()), "a\\u{1b}[2J\\n b.gguf");
/// ```
#[must_use]
pub fn shown_path(path: &Path) -> String {
    shown(&path.display().to_string())
}

/// As [`shown_path`], of any text.
#[must_use]
pub fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // What reorders a line is as bad as what breaks it.
        let reorders = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        match c.is_control() || reorders || matches!(c, '\u{2028}' | '\u{2029}') {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_text_stays_on_one_short_line() {
        assert_eq!(quoted("a\nb"), "\"a\\nb\"");
        assert_eq!(quoted(&"x".repeat(70_000)).len(), QUOTED_CHARS + 5);
    }
}
