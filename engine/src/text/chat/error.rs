//! Why a conversation could not be read or written; every message is one line.

use gannet_gguf::shown;

/// What reading messages, and writing them by a template, refuses.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// Something about the messages or the tools.
    #[error("{param}: {problem}")]
    Input {
        /// Where: `messages[2].role`.
        param: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// The template itself refuses the messages (`raise_exception`).
    #[error("chat template {}{}: {}", shown(template), at(*line), shown(message))]
    Refused {
        /// The template's name.
        template: String,
        /// The line of the template, from 1, where it is known.
        line: Option<usize>,
        /// What the template says, as it says it.
        message: String,
    },
    /// The template cannot be understood, or fails.
    #[error("chat template {}{}: {}", shown(template), at(*line), shown(problem))]
    Template {
        /// The template's name.
        template: String,
        /// The line of the template, from 1, where it is known.
        line: Option<usize>,
        /// What is wrong.
        problem: String,
    },
    /// The template does more than a template may: steps, text or depth.
    #[error(
        "chat template {}{}: {what}; it is broken or not meant to end: use another",
        shown(template), at(*line)
    )]
    Limit {
        /// The template's name.
        template: String,
        /// The line of the template, from 1, where it is known.
        line: Option<usize>,
        /// Which limit.
        what: &'static str,
    },
    /// A model file without a template of the kind asked for.
    #[error("{file}: {problem}")]
    Missing {
        /// The model file, as messages show it.
        file: String,
        /// What is missing, and what to do.
        problem: String,
    },
    /// No built-in template has that name.
    #[error("no chat template is named {:?}; there are {names}", shown(name))]
    Unknown {
        /// The name given.
        name: String,
        /// Those that exist, comma-separated.
        names: String,
    },
}

impl ChatError {
    /// The part of the input that is wrong, such as `messages[2].role`, where a part of it is.
    pub fn param(&self) -> Option<&str> {
        match self {
            ChatError::Input { param, .. } => Some(param),
            _ => None,
        }
    }

    /// What the template says against the messages, as it says it, where the template refuses them.
    pub fn refusal(&self) -> Option<&str> {
        match self {
            ChatError::Refused { message, .. } => Some(message),
            _ => None,
        }
    }

    pub(super) fn input(param: impl Into<String>, problem: impl Into<String>) -> ChatError {
        ChatError::Input {
            param: param.into(),
            problem: problem.into(),
        }
    }
}

fn at(line: Option<usize>) -> String {
    line.map_or(String::new(), |line| format!(", line {line}"))
}
