//! Ctrl-C while text is generated: what there is so far is kept, and told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::SIGINT;
use signal_hook::flag;

/// Whether somebody wants an end.
#[derive(Clone)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on the first Ctrl-C asks for an end; the second ends the process, as it does where this
    /// cannot be had.
    pub(crate) fn watch() -> Interrupt {
        let asked = Arc::new(AtomicBool::new(false));
        if flag::register_conditional_default(SIGINT, Arc::clone(&asked)).is_ok() {
            // Without it the first one, too, does what it always does.
            let _ = flag::register(SIGINT, Arc::clone(&asked));
        }
        Interrupt(asked)
    }

    /// Whether it was asked for.
    pub(crate) fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
