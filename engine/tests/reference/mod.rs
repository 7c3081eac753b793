//! Dense decoders in f64: what the logits of an executor are held against.
//!
//! A [`Reference`] reads a GGUF file by the keys and tensor names that llama.cpp gives it and
//! computes every position at once with plain loops. It shares the container's reader and the
//! bit-exact expansion of weights with the engine, and nothing else: no plan, no table of angles, no
//! cache, no activation is rounded. A key under the architecture's prefix or a tensor that nothing reads
//! is an error, but for keys that say nothing about arithmetic ([`silent`]).
//!
//! [`micro`] makes small models of random weights with every switch of a family, and [`cases`]
//! lists those that executors are held against.

#![allow(dead_code, unreachable_pub, reason = "each test target uses its part")]
// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

pub mod cases;
mod config;
mod forward;
pub mod micro;
mod rope;
mod rounding;
mod silent;
mod tensors;

use std::path::Path;

use gannet_gguf::Gguf;

use config::Config;
pub use rounding::Rounding;
use tensors::Weights;

/// A model whose weights are f64.
pub struct Reference {
    config: Config,
    weights: Weights,
}

impl Reference {
    /// Opens a GGUF file.
    ///
    /// # Errors
    /// The file is no container, its family is none of [`config::FAMILIES`], or a key or tensor is
    /// missing, misshapen or not read by its family.
    pub fn open(path: &Path) -> Result<Reference, String> {
        Reference::of(&Gguf::open(path).map_err(|e| e.to_string())?)
    }

    /// The model of an open file.
    ///
    /// # Errors
    /// As [`Reference::open`].
    pub fn of(gguf: &Gguf) -> Result<Reference, String> {
        let config = Config::read(gguf)?;
        let weights = Weights::read(gguf, &config)?;
        Ok(Reference { config, weights })
    }

    /// Rounds in products from here on, and nowhere else.
    pub fn round_products(&mut self, rounding: Rounding) {
        self.weights.round_products(rounding);
    }

    /// Entries of the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.weights.embedding.rows
    }

    /// Logits `[tokens, vocab]` of tokens that follow each other from position 0. `context` is the
    /// number of positions that the sequence may grow to, which decides on the factors of a long
    /// rope.
    pub fn logits(&self, tokens: &[u32], context: usize) -> Vec<f64> {
        assert!(tokens.len() <= context, "{} tokens", tokens.len());
        forward::logits(&self.config, &self.weights, tokens, context)
    }
}

/// Probabilities of a row of logits.
pub fn softmax64(row: &[f64]) -> Vec<f64> {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = row.iter().map(|v| (v - max).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|p| p / sum).collect()
}

/// `KL(softmax(reference) || softmax(other))` of two rows of logits, in nats; infinite where one of
/// them is no number.
pub fn kld(reference: &[f64], other: &[f64]) -> f64 {
    assert_eq!(reference.len(), other.len());
    let log_sum = |row: &[f64]| {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        max + row.iter().map(|v| (v - max).exp()).sum::<f64>().ln()
    };
    let (r, o) = (log_sum(reference), log_sum(other));
    let terms = reference.iter().zip(other).map(|(a, b)| {
        let (a, b) = (a - r, b - o);
        a.exp() * (a - b)
    });
    let sum: f64 = terms.sum();
    if sum.is_nan() { f64::INFINITY } else { sum }
}
