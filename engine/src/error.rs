//! What can go wrong between a model file and a token.
//!
//! Every message is one line that says what, where, and what would be right or what to do.

use std::path::PathBuf;

use crate::text::tokenizer;

/// An error of the engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The container could not be read.
    #[error(transparent)]
    Gguf(#[from] gannet_gguf::Error),
    /// The vocabulary could not be used.
    #[error("{}: {source}", file.display())]
    Tokenizer {
        /// The model file.
        file: PathBuf,
        /// What is wrong with the vocabulary.
        source: Box<tokenizer::Error>,
    },
    /// The safetensors container could not be read.
    #[error(transparent)]
    Safetensors(#[from] crate::files::safetensors::Error),
    /// The model's architecture has no family here.
    #[error("{}: general.architecture {arch:?} is not supported; supported: {supported}", file.display())]
    UnsupportedFamily {
        /// The model file.
        file: PathBuf,
        /// What the file names.
        arch: String,
        /// The names that work, comma-separated.
        supported: String,
    },
    /// A hyper-parameter is out of range.
    #[error("{}: {key} is {found}; {expected}", file.display())]
    HyperParameter {
        /// The model file.
        file: PathBuf,
        /// The metadata key.
        key: String,
        /// The value found.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// A tensor is missing or has the wrong shape or type.
    #[error("{}: tensor {tensor}: {problem}", file.display())]
    Tensor {
        /// The model file.
        file: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// A prompt and its continuation do not fit the context.
    #[error(
        "{tokens} tokens do not fit the context of {context}; shorten the prompt or raise --ctx"
    )]
    ContextFull {
        /// Tokens asked for.
        tokens: usize,
        /// Positions of the cache.
        context: usize,
    },
    /// A size out of the range that anything here can address.
    #[error("{found} {what} are too many; ask for at most {most}")]
    TooLarge {
        /// What there are too many of.
        what: &'static str,
        /// How many were asked for.
        found: usize,
        /// How many there may be.
        most: usize,
    },
    /// A cache that does not fit the memory of the machine.
    #[error(
        "a cache of {context} positions for {slots} sequences takes {needed_mib} MiB of memory, \
         {free_mib} MiB are free; lower --ctx, or the sequences at once"
    )]
    Memory {
        /// Positions of a sequence.
        context: usize,
        /// Sequences at once.
        slots: usize,
        /// What the cache and its tables take.
        needed_mib: u64,
        /// What there is.
        free_mib: u64,
    },
    /// A token id that the vocabulary lacks.
    #[error("token {token} is not in the vocabulary of {vocab_size} entries")]
    TokenOutOfRange {
        /// The id given.
        token: u32,
        /// Entries of the vocabulary.
        vocab_size: usize,
    },
    /// A request that makes no sense, such as a prompt without tokens.
    #[error("{0}")]
    Request(String),
    /// A `GANNET_*` variable that cannot be understood.
    #[error("{variable}={value:?} is not valid; expected {expected}")]
    Config {
        /// The variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// The GPU was asked for and cannot be used, or failed.
    #[error("cuda: {0}")]
    Cuda(String),
    /// An interpreted kernel was refused or broke a rule.
    #[error("interp: {0}")]
    Interp(String),
    /// A file of the user's could not be read or written.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl From<gannet_cuda_runtime::Error> for Error {
    fn from(e: gannet_cuda_runtime::Error) -> Self {
        Error::Cuda(e.to_string())
    }
}
