//! Text and tokens: the tokenizer, grammars that a text must match, and replies that call tools.

pub mod grammar;
pub mod tokenizer;
pub mod tools;
