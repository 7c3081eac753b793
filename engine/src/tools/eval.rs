//! Teacher-forced evaluation: logits of given tokens, perplexity of a text, divergence of two
//! distributions.
//!
//! Nothing here samples; every function feeds tokens that the caller chose.

use crate::Error;
use crate::exec::trace::{Replay, is_finite};
use crate::exec::{Executor, StepRows};
use crate::kv::BlockTable;

/// Feeds tokens from an empty cache and hands `sink` the logits of every position from `first` on,
/// in order.
///
/// # Errors
/// The tokens do not fit the executor's context, logits are not finite, or the device failed.
pub fn logits(
    executor: &mut dyn Executor,
    tokens: &[u32],
    first: usize,
    mut sink: impl FnMut(usize, &[f32]) -> Result<(), Error>,
) -> Result<(), Error> {
    let limits = executor.limits();
    if tokens.len() > limits.context {
        return Err(Error::ContextFull {
            tokens: tokens.len(),
            context: limits.context,
        });
    }
    let vocab_size = executor.plan().vocab_size;
    let mut table = BlockTable::new(1, limits.context, BlockTable::blocks_for(1, limits.context));
    table.reserve(0, tokens.len())?;
    let mut start = 0;
    while start < tokens.len() {
        // Rows without outputs fill a chunk to the first wanted position, or to the limit of rows.
        let most = if start < first {
            (first - start).min(limits.max_rows)
        } else {
            limits.max_outputs
        };
        let end = (start + most).min(tokens.len());
        let mut rows = StepRows::prompt(&tokens[start..end], 0, start);
        if start >= first {
            rows = rows.with_outputs(0..(end - start) as u32);
        }
        executor.run(&rows.step(&table))?;
        if start >= first {
            let mut spoilt = None;
            for (i, row) in executor.logits()?.chunks_exact(vocab_size).enumerate() {
                if !is_finite(row) {
                    spoilt = Some(start + i);
                    break;
                }
                sink(start + i, row)?;
            }
            if let Some(position) = spoilt {
                let replay = Replay {
                    tokens: &tokens[..end],
                    from: 0,
                    slot: 0,
                    table: &table,
                };
                return Err(replay.explain_from(position, executor.inspect()));
            }
        }
        start = end;
    }
    Ok(())
}

/// Perplexity of a text, as the field computes it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Perplexity {
    /// `exp(mean negative log likelihood)`.
    pub value: f64,
    /// Tokens that were predicted.
    pub scored: usize,
    /// Windows of `context` tokens.
    pub chunks: usize,
}

/// Perplexity by windows: the text is cut into windows of `context` tokens, the rest is dropped;
/// where the vocabulary starts texts with `bos`, each window's first token is replaced by it; the
/// second half of each window (positions `context / 2 .. context - 1`, each predicting the next
/// token) is scored. `progress` gets the windows done, of how many, and the value so far.
///
/// # Errors
/// The text is shorter than one window, the window does not fit the executor, logits are not finite, or
/// the device failed.
pub fn perplexity(
    executor: &mut dyn Executor,
    tokens: &[u32],
    bos: Option<u32>,
    context: usize,
    mut progress: impl FnMut(usize, usize, f64),
) -> Result<Perplexity, Error> {
    let chunks = tokens.len() / context.max(1);
    if context < 4 || chunks == 0 {
        let (count, plural) = match tokens.len() {
            1 => (1, ""),
            count => (count, "s"),
        };
        return Err(Error::Request(format!(
            "no window of {context} in {count} token{plural}; use a longer text or a smaller -c (at \
             least 4)"
        )));
    }
    let (mut sum, mut scored) = (0.0, 0);
    for (i, chunk) in tokens.chunks_exact(context).enumerate() {
        let mut window = chunk.to_vec();
        if let Some(bos) = bos {
            window[0] = bos;
        }
        let scoring = logits(
            executor,
            &window[..context - 1],
            context / 2,
            |position, row| {
                sum -= log_probability(row, window[position + 1]);
                scored += 1;
                Ok(())
            },
        );
        scoring.map_err(|error| in_text(error, i * context))?;
        progress(i + 1, chunks, (sum / scored as f64).exp());
    }
    Ok(Perplexity {
        value: (sum / scored as f64).exp(),
        scored,
        chunks,
    })
}

/// An error of a window that begins at a position of the text.
fn in_text(error: Error, start: usize) -> Error {
    match error {
        Error::NotFinite(mut found) => {
            found.position += start;
            found.origin.iter_mut().for_each(|o| o.position += start);
            Error::NotFinite(found)
        }
        other => other,
    }
}

/// Natural logarithm of a token's probability under a row of logits.
#[must_use]
pub fn log_probability(logits: &[f32], token: u32) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&l| f64::from(l - max).exp()).sum();
    f64::from(logits[token as usize] - max) - sum.ln()
}

/// Kullback-Leibler divergence `KL(softmax(reference) || softmax(other))` of two rows, in nats.
#[must_use]
pub fn kl_divergence(reference: &[f32], other: &[f32]) -> f64 {
    let log_sum = |row: &[f32]| {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row
            .iter()
            .map(|&l| (f64::from(l) - f64::from(max)).exp())
            .sum();
        f64::from(max) + sum.ln()
    };
    let (r, o) = (log_sum(reference), log_sum(other));
    reference
        .iter()
        .zip(other)
        .map(|(&a, &b)| {
            let (a, b) = (f64::from(a) - r, f64::from(b) - o);
            a.exp() * (a - b)
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_is_zero_for_shifted_logits_and_matches_a_hand_computation() {
        let a = [1.0, 2.0, 3.0];
        assert!(kl_divergence(&a, &a.map(|v| v + 5.0)).abs() < 1e-12);
        // p = (1/2, 1/2), q = (1/4, 3/4).
        let kl = kl_divergence(&[0.0, 0.0], &[0.0, 3f32.ln()]);
        let expected = 0.5 * (0.5f64 / 0.25).ln() + 0.5 * (0.5f64 / 0.75).ln();
        assert!((kl - expected).abs() < 1e-7);
    }

    #[test]
    fn log_probabilities_sum_to_one() {
        let row = [0.3, -2.0, 5.0, 1e-3];
        let sum: f64 = (0..4).map(|t| log_probability(&row, t).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-12);
    }
}
