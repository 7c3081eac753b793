//! Ctrl-C while text is generated: what there is so far is kept, and told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::SIGINT;
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

/// Interruptions that come so close to the first are the same one: a program that ends another sends it
/// to the process and to its group.
const SAME: Duration = Duration::from_millis(500);

/// Whether somebody wants an end.
#[derive(Clone)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on the first Ctrl-C asks for an end; a later one ends the process, as the first does
    /// where this cannot be had.
    pub(crate) fn watch() -> Interrupt {
        let asked = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&asked);
        let thread = std::thread::Builder::new().name("interruptions".to_owned());
        // Without a thread nothing is registered, and Ctrl-C does what it always does.
        let _ = thread.spawn(move || wait(&theirs));
        Interrupt(asked)
    }

    /// Whether it was asked for.
    pub(crate) fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

fn wait(asked: &AtomicBool) {
    let Ok(mut signals) = Signals::new([SIGINT]) else {
        return;
    };
    let mut first: Option<Instant> = None;
    for signal in signals.forever() {
        asked.store(true, Ordering::Relaxed);
        if first.get_or_insert_with(Instant::now).elapsed() >= SAME {
            let _ = emulate_default_handler(signal);
        }
    }
}
