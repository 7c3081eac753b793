//! Grammars: what a generated text must match, and which tokens may come next.
//!
//! A [`Grammar`] is compiled once for all requests that have it ([`Grammars::compile`], `kept.rs`): the work of
//! the `llguidance` crate, over a trie of the vocabulary that is made once for a model (`env.rs`). Schemas are read by
//! `schema.rs` first, which refuses what would be ignored and says what llguidance gets wrong in terms
//! that it gets right. A [`Matcher`] then follows one text token by token.
//!
//! Always holds: compiling takes bounded time and memory whatever the grammar is, and its errors are one
//! line; a text that a matcher calls complete matches the whole grammar.

mod compile;
mod env;
mod formats;
mod kept;
mod keywords;
mod lark;
mod locate;
mod matcher;
mod numerals;
mod schema;

use crate::text::tools::Turn;

pub use compile::Grammars;
pub(crate) use compile::{embedded, embedded_object};
pub use kept::GrammarCounts;
pub use matcher::{Allowed, Matcher};

/// What a generated text must match, as a whole.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Grammar {
    /// A JSON value that a schema accepts; the schema as text. Drafts 4 to 2020-12, but for keywords
    /// that cannot be followed token by token, which are refused by name. White space between the parts of
    /// the value is bounded, so that a text comes to its end.
    JsonSchema(String),
    /// A JSON object.
    JsonObject,
    /// A regular expression in the syntax of Rust's `regex` crate, matched as a whole. No look-around
    /// and no back references.
    Regex(String),
    /// A grammar in llguidance's dialect of Lark; the text matches its rule `start`.
    Lark(String),
    /// A whole turn of a model that may call tools; see [`tool_grammar`](crate::text::tools::tool_grammar).
    Turn(Box<Turn>),
}

/// Why a grammar cannot be used: one line that says what and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("grammar: {0}")]
pub struct GrammarError(pub(crate) String);

/// The error of a reason.
pub(crate) fn refused<T>(why: impl Into<String>) -> Result<T, GrammarError> {
    Err(GrammarError(why.into()))
}
