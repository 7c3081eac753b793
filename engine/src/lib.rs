//! Models to tokens.
