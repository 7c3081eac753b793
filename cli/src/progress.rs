//! Progress on a terminal; nothing at all elsewhere.
//!
//! Something moves within a fraction of a second of anything that takes longer, and goes on moving
//! while nothing is reported: a spinner, the time that it took, and an estimate that counts down.

use std::fmt::Write;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::console;

/// How often something moves.
const TICK: Duration = Duration::from_millis(120);

/// A bar or a spinner on standard error that leaves nothing behind when it is dropped.
pub(crate) struct Progress {
    bar: ProgressBar,
    estimate: Arc<Mutex<Estimate>>,
}

/// When it will be done, as of the latest report.
struct Estimate {
    began: Instant,
    /// The time of the latest report and what was left then; `None` before the first.
    latest: Option<(Instant, Duration)>,
}

impl Estimate {
    fn new(began: Instant) -> Estimate {
        let latest = None;
        Estimate { began, latest }
    }

    /// Takes a report.
    fn update(&mut self, now: Instant, done: u64, total: u64) {
        if done == 0 {
            return;
        }
        let passed = now.saturating_duration_since(self.began).as_secs_f64();
        let left = passed * total.saturating_sub(done) as f64 / done as f64;
        self.latest = Some((now, Duration::from_secs_f64(left)));
    }

    /// What is left: it goes down while nothing is reported, and stays unsaid where nothing is known or
    /// it has run out.
    fn left(&self, now: Instant) -> Option<Duration> {
        let (at, left) = self.latest?;
        let left = left.saturating_sub(now.saturating_duration_since(at));
        (left >= Duration::from_secs(1)).then_some(left)
    }
}

impl Progress {
    /// A bar from 0 to `total`.
    pub(crate) fn bar(what: &'static str, total: u64) -> Progress {
        let template = "{spinner} {msg} {wide_bar} {pos}/{len} {elapsed}{left}";
        Progress::new(what, Some(total), template)
    }

    /// A bar of bytes from 0 to `total`.
    pub(crate) fn bytes(what: &'static str, total: u64) -> Progress {
        let template = "{spinner} {msg} {wide_bar} {bytes}/{total_bytes} {elapsed}{left}";
        Progress::new(what, Some(total), template)
    }

    /// A spinner for work of unknown length.
    pub(crate) fn spinner(what: impl Into<String>) -> Progress {
        Progress::new(what, None, "{spinner} {msg} {elapsed}")
    }

    fn new(what: impl Into<String>, total: Option<u64>, template: &str) -> Progress {
        let is_shown = std::io::stderr().is_terminal() && !console::is_quiet();
        let target = match is_shown {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let estimate = Arc::new(Mutex::new(Estimate::new(Instant::now())));
        let bar = ProgressBar::with_draw_target(total, target).with_message(what.into());
        let shown = Arc::clone(&estimate);
        let left = move |_: &ProgressState, out: &mut dyn Write| {
            let estimate = shown.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(left) = estimate.left(Instant::now()) {
                // What cannot be written is not shown.
                let _ = write!(out, ", {:#} left", HumanDuration(left));
            }
        };
        // A template that does not parse would be a mistake here; the default style then serves.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.with_key("left", left));
        }
        // The bar moves by a thread of its own, which it does not expect to be refused.
        if is_shown && std::thread::Builder::new().spawn(|| {}).is_ok() {
            bar.enable_steady_tick(TICK);
        }
        Progress { bar, estimate }
    }

    /// Whether it has a length.
    pub(crate) fn is_bar(&self) -> bool {
        self.bar.length().is_some()
    }

    /// Moves the bar.
    pub(crate) fn set(&self, done: u64) {
        self.set_of(done, self.bar.length().unwrap_or(done));
    }

    /// Moves the bar and says how far of how much.
    pub(crate) fn set_of(&self, done: u64, total: u64) {
        let mut estimate = self.estimate.lock().unwrap_or_else(PoisonError::into_inner);
        estimate.update(Instant::now(), done, total);
        drop(estimate);
        self.bar.set_length(total);
        self.bar.set_position(done);
    }

    /// Replaces the text beside the bar.
    pub(crate) fn message(&self, text: String) {
        self.bar.set_message(text);
    }

    /// What takes the bar away from another thread, for good.
    pub(crate) fn remover(&self) -> impl FnOnce() + Send + 'static {
        let bar = self.bar.clone();
        move || bar.finish_and_clear()
    }

    /// Takes the bar away while something else is printed.
    pub(crate) fn suspend<R>(&self, print: impl FnOnce() -> R) -> R {
        self.bar.suspend(print)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Between two reports it counts down, and it never says that nothing is left.
    #[test]
    fn an_estimate_does_not_freeze() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let mut estimate = Estimate::new(began);
        assert_eq!(estimate.left(at(5)), None);
        estimate.update(at(5), 0, 100);
        assert_eq!(estimate.left(at(5)), None);
        estimate.update(at(10), 25, 100);
        let left = |estimate: &Estimate, now| estimate.left(at(now)).map(|d| d.as_secs());
        assert_eq!(left(&estimate, 10), Some(30));
        assert_eq!(left(&estimate, 14), Some(26));
        assert_eq!(left(&estimate, 60), None);
        estimate.update(at(60), 50, 100);
        assert_eq!(left(&estimate, 60), Some(60));
        estimate.update(at(90), 100, 100);
        assert_eq!(left(&estimate, 90), None);
    }
}
