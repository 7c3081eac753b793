//! One test's figures: what was timed, and what follows from the times.

use serde::Serialize;

use crate::exec::LaunchTime;

/// What a row measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BenchKind {
    /// The wait for the first token after a prompt of [`FIRST_TOKEN_PROMPT`](super::FIRST_TOKEN_PROMPT) tokens.
    FirstToken,
    /// A prompt from an empty cache.
    Prompt,
    /// Tokens one after the other.
    Generate,
}

/// One test's result.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BenchRow {
    /// What was measured.
    pub kind: BenchKind,
    /// Tokens of each sequence computed in each repeat.
    pub tokens: usize,
    /// Tokens in the cache before.
    pub depth: usize,
    /// Sequences at once.
    pub batch: usize,
    /// Time of each repeat in seconds, in the order they ran.
    pub seconds: Vec<f64>,
    /// Of all sequences together, by the median repeat.
    pub tokens_per_second: f64,
    /// Slowest minus fastest repeat, over the median.
    pub spread: f64,
    /// Bytes that a step must read: weights as stored in the file, and the keys and values of the
    /// average position of each sequence. Only for generation, where it is what bounds the speed.
    pub bytes_per_step: Option<u64>,
    /// `bytes_per_step / step_seconds / 1e9`.
    pub gb_per_second: Option<f64>,
    /// `gb_per_second` over the measured ceiling.
    pub share_of_ceiling: Option<f64>,
    /// Seconds that the device itself needs for a step, its launches back to back; the rest of a
    /// step's time is the host's doing.
    pub device_step_seconds: Option<f64>,
    /// `tokens_per_second` over that of the default kernels, measured in the same run; present where
    /// every row was to be computed alike however many there are.
    pub share_of_default: Option<f64>,
    /// Times that the host waited for the device between two tokens.
    pub synchronizations_per_token: Option<f64>,
    /// What each launch of a step took, where that was asked for.
    #[serde(skip)]
    pub launches: Vec<LaunchTime>,
}

impl BenchRow {
    /// A row of one sequence, with what follows from the times of its repeats.
    pub(super) fn new(kind: BenchKind, tokens: usize, depth: usize, seconds: Vec<f64>) -> BenchRow {
        let middle = median(&seconds).max(1e-12);
        let slowest = seconds.iter().copied().fold(0.0, f64::max);
        let fastest = seconds.iter().copied().fold(f64::INFINITY, f64::min);
        BenchRow {
            kind,
            tokens,
            depth,
            batch: 1,
            tokens_per_second: tokens as f64 / middle,
            spread: (slowest - fastest) / middle,
            seconds,
            bytes_per_step: None,
            gb_per_second: None,
            share_of_ceiling: None,
            device_step_seconds: None,
            share_of_default: None,
            synchronizations_per_token: None,
            launches: Vec::new(),
        }
    }

    /// Short name: `pp512`, `tg128`, `tg128@d4096`, `tg128x32`, `ttft32`.
    #[must_use]
    pub fn name(&self) -> String {
        let kind = match self.kind {
            BenchKind::FirstToken => "ttft",
            BenchKind::Prompt => "pp",
            BenchKind::Generate => "tg",
        };
        let batch = if self.batch > 1 {
            format!("x{}", self.batch)
        } else {
            String::new()
        };
        let depth = if self.depth > 0 {
            format!("@d{}", self.depth)
        } else {
            String::new()
        };
        format!("{kind}{}{batch}{depth}", self.tokens)
    }

    /// Time of a step as the caller sees it, in seconds.
    #[must_use]
    pub fn step_seconds(&self) -> f64 {
        self.median() / self.tokens.max(1) as f64
    }

    /// The median repeat in seconds.
    #[must_use]
    pub fn median(&self) -> f64 {
        median(&self.seconds)
    }
}

/// The middle value; the mean of the middle two of an even number; 0 of none.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.len(), sorted.len() % 2) {
        (0, _) => 0.0,
        (_, 1) => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_give_the_median_and_the_spread() {
        let r = BenchRow::new(BenchKind::Generate, 100, 4096, vec![1.0, 4.0, 2.0]);
        assert_eq!((r.tokens_per_second, r.spread), (50.0, 1.5));
        assert_eq!(r.name(), "tg100@d4096");
        assert_eq!(
            BenchRow::new(BenchKind::Prompt, 512, 0, vec![1.0, 3.0]).median(),
            2.0
        );
    }
}
