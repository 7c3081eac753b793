//! Text to tokens and back, conversations as prompts, and replies as what they say and do.

pub mod chat;
pub mod grammar;
pub mod tokenizer;
