//! Text and tokens.

pub mod tokenizer;
