//! Progress on a terminal; nothing at all elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar or a spinner on standard error that leaves nothing behind when it is dropped.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// A bar from 0 to `total`.
    pub(crate) fn bar(what: &'static str, total: u64) -> Progress {
        Progress::new(what, Some(total), "{msg} {wide_bar} {pos}/{len} {eta}")
    }

    /// A bar of bytes from 0 to `total`.
    pub(crate) fn bytes(what: &'static str, total: u64) -> Progress {
        Progress::new(
            what,
            Some(total),
            "{msg} {wide_bar} {bytes}/{total_bytes} {eta}",
        )
    }

    /// A spinner for work of unknown length.
    pub(crate) fn spinner(what: &'static str) -> Progress {
        let progress = Progress::new(what, None, "{spinner} {msg} {elapsed}");
        if !progress.0.is_hidden() {
            progress.0.enable_steady_tick(Duration::from_millis(120));
        }
        progress
    }

    fn new(what: &'static str, total: Option<u64>, template: &str) -> Progress {
        let target = if std::io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(total, target).with_message(what);
        // A template that does not parse would be a mistake here; the default style then serves.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Progress(bar)
    }

    /// Moves the bar.
    pub(crate) fn set(&self, done: u64) {
        self.0.set_position(done);
    }

    /// Moves the bar and says how far of how much.
    pub(crate) fn set_of(&self, done: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(done);
    }

    /// Replaces the text beside the bar.
    pub(crate) fn message(&self, text: String) {
        self.0.set_message(text);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
