//! Text and tokens.

pub mod chat;
pub mod tokenizer;
