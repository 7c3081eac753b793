//! Text to tokens and back, conversations as prompts, grammars that a text must match, and replies that call
//! tools.

pub mod chat;
pub mod grammar;
pub mod tokenizer;
pub mod tools;
