//! How a model makes one vector of a text: the key `{arch}.pooling_type` of its file.

use std::fmt;

use super::keys::Keys;
use crate::Error;

/// How the vectors of a text's tokens become one. The numbers of the key are those of llama.cpp's
/// `enum llama_pooling_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Not at all: the file says nothing, or 0.
    None,
    /// Their mean (1).
    Mean,
    /// The vector of the first token (2), which models that attend causally have no use for.
    First,
    /// The vector of the last token (3).
    Last,
    /// A rank that a head of its own computes (4).
    Rank,
}

impl Pooling {
    /// What the file says. Text is continued alike whatever that is.
    pub(super) fn read(keys: &Keys<'_>) -> Result<Pooling, Error> {
        let number = keys.opt_int("pooling_type", 0, 4)?;
        Ok(match number {
            Some(1) => Pooling::Mean,
            Some(2) => Pooling::First,
            Some(3) => Pooling::Last,
            Some(4) => Pooling::Rank,
            _ => Pooling::None,
        })
    }
}

impl fmt::Display for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Pooling::None => "none",
            Pooling::Mean => "mean",
            Pooling::First => "first token",
            Pooling::Last => "last token",
            Pooling::Rank => "rank",
        })
    }
}
