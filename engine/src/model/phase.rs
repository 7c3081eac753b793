//! The steps on the way from a file to a first token, and when each ran.
//!
//! Always holds: a phase is measured where it runs, and phases may overlap.

use std::fmt;
use std::time::Instant;

use serde::Serialize;

/// A step on the way from a file to a first token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Phase {
    /// The file mapped, its header read and checked.
    File,
    /// The vocabulary built.
    Vocabulary,
    /// Hyper-parameters read, tensors bound, the plan written.
    Plan,
    /// The driver found and initialised.
    Driver,
    /// A context made on the device.
    Context,
    /// Kernels written, found in the cache or compiled, and loaded.
    Kernels,
    /// Device memory for the weights.
    Memory,
    /// Pinned memory that weights pass through; a part of [`Phase::Weights`].
    Staging,
    /// Weights packed and moved to the device.
    Weights,
    /// The cache of keys and values, rope tables and workspace.
    Cache,
    /// The device held against the CPU; next to nothing where that was done before.
    Gate,
    /// Every step that an engine can queue lowered, its kernels loaded and its graphs built.
    WarmUp,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::File => "file",
            Phase::Vocabulary => "vocabulary",
            Phase::Plan => "plan",
            Phase::Driver => "driver",
            Phase::Context => "context",
            Phase::Kernels => "kernels",
            Phase::Memory => "memory",
            Phase::Staging => "staging",
            Phase::Weights => "weights",
            Phase::Cache => "cache",
            Phase::Gate => "gate",
            Phase::WarmUp => "warm-up",
        })
    }
}

/// When a phase ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// What ran.
    pub phase: Phase,
    /// When it began.
    pub start: Instant,
    /// When it was done.
    pub end: Instant,
}

impl Span {
    /// Runs `body` and takes its time.
    pub fn time<T>(phase: Phase, body: impl FnOnce() -> T) -> (T, Span) {
        let start = Instant::now();
        let value = body();
        let end = Instant::now();
        (value, Span { phase, start, end })
    }
}
