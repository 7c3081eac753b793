//! Counters: what a context was asked to do, so that "no synchronisation per token" is a test.
//!
//! Always holds: counting costs one relaxed atomic add and never fails.

use std::ops::Sub;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of a context, read with [`crate::Context::statistics`]; subtract two to see what
/// happened in between.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// Kernels launched one by one on a stream.
    pub launches: u64,
    /// Executable graphs launched.
    pub graph_launches: u64,
    /// Times the host waited for the device: streams, events, synchronous copies.
    pub synchronizations: u64,
    /// Device and pinned allocations.
    pub allocations: u64,
    /// Copies and fills queued outside graphs.
    pub copies: u64,
    /// Modules loaded, from PTX or from the cache.
    pub modules: u64,
    /// Those of them that were compiled: not in the cache.
    pub compilations: u64,
}

impl Sub for Statistics {
    type Output = Statistics;

    fn sub(self, earlier: Statistics) -> Statistics {
        Statistics {
            launches: self.launches.saturating_sub(earlier.launches),
            graph_launches: self.graph_launches.saturating_sub(earlier.graph_launches),
            synchronizations: self
                .synchronizations
                .saturating_sub(earlier.synchronizations),
            allocations: self.allocations.saturating_sub(earlier.allocations),
            copies: self.copies.saturating_sub(earlier.copies),
            modules: self.modules.saturating_sub(earlier.modules),
            compilations: self.compilations.saturating_sub(earlier.compilations),
        }
    }
}

/// The live counters behind [`Statistics`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) launches: Counter,
    pub(crate) graph_launches: Counter,
    pub(crate) synchronizations: Counter,
    pub(crate) allocations: Counter,
    pub(crate) copies: Counter,
    pub(crate) modules: Counter,
    pub(crate) compilations: Counter,
}

impl Counters {
    pub(crate) fn snapshot(&self) -> Statistics {
        Statistics {
            launches: self.launches.get(),
            graph_launches: self.graph_launches.get(),
            synchronizations: self.synchronizations.get(),
            allocations: self.allocations.get(),
            copies: self.copies.get(),
            modules: self.modules.get(),
            compilations: self.compilations.get(),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn difference() {
        let counters = Counters::default();
        counters.launches.add();
        let before = counters.snapshot();
        counters.launches.add();
        counters.copies.add();
        let during = counters.snapshot() - before;
        assert_eq!(
            during,
            Statistics {
                launches: 1,
                copies: 1,
                ..Statistics::default()
            }
        );
    }
}
