//! How an engine is doing, as one plain struct.

use std::time::Duration;

use crate::exec::Stats;
use crate::serve::scheduler::SchedulerCounters;

/// Times in buckets that double: the first holds what took less than a tenth of a millisecond, the last
/// all that took longer than the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Histogram {
    /// How many fell into each.
    pub buckets: [u64; Histogram::BUCKETS],
    /// All of them together.
    pub total: Duration,
}

impl Histogram {
    /// Buckets.
    pub const BUCKETS: usize = 24;

    /// What the first bucket holds less than.
    pub const FIRST: Duration = Duration::from_micros(100);

    /// What a bucket holds less than; `None` of the last.
    #[must_use]
    pub fn bound(bucket: usize) -> Option<Duration> {
        (bucket + 1 < Histogram::BUCKETS).then(|| Histogram::FIRST * (1 << bucket))
    }

    /// Adds a time.
    pub fn add(&mut self, time: Duration) {
        let fits = |&bucket: &usize| Histogram::bound(bucket).is_none_or(|bound| time < bound);
        let bucket = (0..Histogram::BUCKETS).find(fits);
        self.buckets[bucket.unwrap_or(Histogram::BUCKETS - 1)] += 1;
        self.total += time;
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// How an engine is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct EngineCounters {
    /// Requests, blocks and rows.
    pub scheduler: SchedulerCounters,
    /// Steps, launches, waits and compilations of the executor.
    pub executor: Stats,
    /// Requests that were taken.
    pub requests: u64,
    /// Requests that were refused.
    pub refused: u64,
    /// Requests whose grammar was compiled for an earlier one; all engines of a model count together.
    pub grammar_hits: u64,
    /// Times that a grammar was compiled.
    pub grammar_misses: u64,
    /// Tokens that were given out.
    pub tokens: u64,
    /// Requests that ran out of time.
    pub late: u64,
    /// From a request to its first token.
    pub first_token: Histogram,
    /// From one token to the next.
    pub inter_token: Histogram,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_fall_into_the_bucket_that_holds_them() {
        let mut times = Histogram::default();
        for (micros, bucket) in [(0, 0), (99, 0), (100, 1), (199, 1), (200, 2), (1_000, 4)] {
            let before = times.buckets[bucket];
            times.add(Duration::from_micros(micros));
            assert_eq!(times.buckets[bucket], before + 1, "{micros}");
        }
        times.add(Duration::from_secs(1 << 30));
        assert_eq!(times.buckets[Histogram::BUCKETS - 1], 1);
        assert_eq!(times.count(), 7);
    }
}
