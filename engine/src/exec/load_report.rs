//! Where the time of a load goes: which phase ran when, how many bytes reached the device, how fast.
//!
//! Always holds: phases are measured where they run and may overlap, since a device is opened and
//! kernels are compiled beside other work; a report orders them by their start.

use std::time::Instant;

use serde::Serialize;

use super::Executor;
use crate::model::{Model, Phase, Span};

/// What an executor did to get ready.
#[derive(Debug, Clone, Default)]
pub struct Load {
    /// When each phase ran.
    pub spans: Vec<Span>,
    /// Bytes of the file that were moved to the device; 0 where weights stay in the file.
    pub bytes: u64,
    /// Kernels loaded.
    pub kernels: u64,
    /// Those of them that were not in the cache.
    pub compiled: u64,
}

/// A phase of a [`LoadReport`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PhaseTime {
    /// What ran.
    pub phase: Phase,
    /// Seconds from the start of the first phase to the start of this one.
    pub start_seconds: f64,
    /// Seconds it took.
    pub seconds: f64,
}

/// A whole load, from opening the file to an executor that is ready.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LoadReport {
    /// The start of the first phase.
    #[serde(skip)]
    pub origin: Option<Instant>,
    /// Seconds from the start of the first phase to the end of the last one.
    pub seconds: f64,
    /// Bytes of the file that were moved to the device; 0 where weights stay in the file.
    pub bytes: u64,
    /// `bytes` over the time of [`Phase::Weights`], in `1e9` bytes a second; `None` where weights
    /// stay in the file.
    pub gb_per_second: Option<f64>,
    /// Kernels loaded.
    pub kernels: u64,
    /// Those of them that were not in the cache.
    pub compiled: u64,
    /// Every phase, by its start.
    pub phases: Vec<PhaseTime>,
}

impl LoadReport {
    /// What it took to open `model` and to put it on `executor`.
    pub(crate) fn new(model: &Model, executor: &dyn Executor) -> LoadReport {
        let load = executor.load();
        let spans = model.opening().iter().chain(&load.spans).copied().collect();
        LoadReport::of(spans, &load)
    }

    /// Tells whoever listens.
    pub(crate) fn tell(&self) {
        for PhaseTime { phase, seconds, .. } in &self.phases {
            tracing::debug!(?phase, seconds, "loading");
        }
        let (seconds, bytes, kernels) = (self.seconds, self.bytes, self.kernels);
        tracing::debug!(seconds, bytes, kernels, compiled = self.compiled, "ready");
    }

    fn of(mut spans: Vec<Span>, load: &Load) -> LoadReport {
        spans.sort_by_key(|span| span.start);
        let origin = spans.first().map(|span| span.start);
        let since = |at: Instant| {
            origin.map_or(0.0, |origin| {
                at.saturating_duration_since(origin).as_secs_f64()
            })
        };
        let phases: Vec<PhaseTime> = spans
            .iter()
            .map(|span| PhaseTime {
                phase: span.phase,
                start_seconds: since(span.start),
                seconds: since(span.end) - since(span.start),
            })
            .collect();
        let mut report = LoadReport {
            origin,
            seconds: spans.iter().map(|s| since(s.end)).fold(0.0, f64::max),
            bytes: load.bytes,
            gb_per_second: None,
            kernels: load.kernels,
            compiled: load.compiled,
            phases,
        };
        let moving = report.phase_seconds(Phase::Weights);
        report.gb_per_second = (load.bytes > 0).then(|| load.bytes as f64 / 1e9 / moving.max(1e-9));
        report
    }

    /// Seconds of all runs of a phase.
    #[must_use]
    pub fn phase_seconds(&self, phase: Phase) -> f64 {
        let runs = self.phases.iter().filter(|time| time.phase == phase);
        // A sum of nothing would be -0.
        runs.fold(0.0, |all, time| all + time.seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn phases_are_ordered_and_may_overlap() {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let span = |phase, start, end| Span {
            phase,
            start: at(start),
            end: at(end),
        };
        let spans = vec![
            span(Phase::Weights, 300, 400),
            span(Phase::Driver, 0, 200),
            span(Phase::File, 10, 60),
            span(Phase::Kernels, 300, 450),
        ];
        let load = Load {
            bytes: 2_000_000_000,
            kernels: 20,
            compiled: 1,
            ..Load::default()
        };
        let report = LoadReport::of(spans, &load);
        let order: Vec<Phase> = report.phases.iter().map(|time| time.phase).collect();
        let first = [Phase::Driver, Phase::File, Phase::Weights, Phase::Kernels];
        assert_eq!(order, first);
        assert!((report.seconds - 0.45).abs() < 1e-9, "{report:?}");
        assert!((report.gb_per_second.unwrap() - 20.0).abs() < 1e-6);
        assert!((report.phases[1].start_seconds - 0.01).abs() < 1e-9);
        assert_eq!((report.kernels, report.compiled), (20, 1));
    }

    #[test]
    fn nothing_loaded_is_a_report_too() {
        let report = LoadReport::of(Vec::new(), &Load::default());
        assert_eq!((report.seconds, report.gb_per_second), (0.0, None));
        assert_eq!(report.phase_seconds(Phase::Weights), 0.0);
    }
}
