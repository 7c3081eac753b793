//! Why a vocabulary cannot be used; every message is one line that names the key.

/// What [`from_metadata`](super::from_metadata) refuses.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A key is missing or of the wrong type.
    #[error(transparent)]
    Metadata(#[from] gannet_gguf::Error),
    /// The kind of tokenizer is not one of those that Gannet has.
    #[error(
        "tokenizer.ggml.model: the tokenizer '{model}' is not supported (supported: gpt2, llama, bert)"
    )]
    UnsupportedModel {
        /// The value of `tokenizer.ggml.model`.
        model: String,
    },
    /// No rule is known by which this family cuts text into words.
    #[error(
        "tokenizer.ggml.pre: unknown pre-tokenizer '{pre}'; \
         override it with the name of one that splits alike (such as default, llama-bpe or qwen2)"
    )]
    UnknownPre {
        /// The name, from the file or from the override.
        pre: String,
    },
    /// An array does not fit the vocabulary.
    #[error("{key}: {found}, must have {expected}")]
    Length {
        /// The metadata key.
        key: &'static str,
        /// What the file holds.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// The special tokens cannot be looked for.
    #[error("tokenizer.ggml.tokens: {count} special tokens cannot be searched for: {why}")]
    Specials {
        /// How many there are.
        count: usize,
        /// What the search says.
        why: String,
    },
    /// A vocabulary of words lacks what every one must have.
    #[error("{key}: {why}")]
    Words {
        /// The metadata key.
        key: &'static str,
        /// What is missing.
        why: &'static str,
    },
    /// A score cannot be ordered.
    #[error("tokenizer.ggml.scores: token {id} has the score NaN, must be a number")]
    Score {
        /// The token's id.
        id: usize,
    },
}
