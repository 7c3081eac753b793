//! Text and tokens: the tokenizer, and grammars that a text must match.

pub mod grammar;
pub mod tokenizer;
