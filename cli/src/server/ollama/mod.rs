//! The routes that clients of Ollama's API ask: what models there are, texts, conversations.
//!
//! Answers are lines of JSON unless a request says otherwise. Durations are nanoseconds.

mod answer;
pub(crate) mod chat;
pub(crate) mod embed;
pub(crate) mod generate;
mod keep;
pub(crate) mod listing;
mod messages;
mod options;
mod shown;
