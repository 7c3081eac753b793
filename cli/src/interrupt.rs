//! Ctrl-C: what there is so far is kept, and told. A generation ends with it; what measures tells how far
//! it came, and the process ends.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use signal_hook::consts::SIGINT;
use signal_hook::flag;
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::partial;

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

/// What is to be told at an interruption.
type Tale = Box<dyn FnOnce() + Send>;

static TALE: Mutex<Option<Tale>> = Mutex::new(None);

fn tale() -> MutexGuard<'static, Option<Tale>> {
    TALE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// While this lives, an interruption tells something before it ends the process.
pub(crate) struct Telling(());

impl Telling {
    /// `what` prints by [`print()`] and by what goes to standard error.
    pub(crate) fn at_interruption(what: impl FnOnce() + Send + 'static) -> Telling {
        *tale() = Some(Box::new(what));
        partial::watch();
        Telling(())
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        // Where it is being told, the end of the process is waited for.
        *tale() = None;
    }
}

/// Tells what there is to tell; the process is to end before what it gives back is dropped.
pub(crate) fn tell() -> impl Sized {
    let mut tale = tale();
    if let Some(tell) = tale.take() {
        tell();
    }
    tale
}

/// Prints to standard output while the command's own thread goes on with something else.
pub(crate) fn print(text: &str) {
    let mut out = io::stdout().lock();
    // The process ends in any case.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
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

/// Ctrl-C in a conversation: it ends the reply that is under way. Where none is, it does what it always
/// does.
pub(crate) struct Interruptions {
    came: Arc<AtomicBool>,
    idle: Arc<AtomicBool>,
}

/// While this lives, Ctrl-C is for the reply that is under way.
pub(crate) struct Working<'a>(&'a Interruptions);

impl Interruptions {
    pub(crate) fn watch() -> Interruptions {
        let (came, idle) = (Arc::default(), Arc::new(AtomicBool::new(true)));
        // In this order: where nothing is under way the process ends. Where nothing can be registered,
        // Ctrl-C does what it always does.
        if flag::register_conditional_default(SIGINT, Arc::clone(&idle)).is_ok() {
            let _ = flag::register(SIGINT, Arc::clone(&came));
        }
        Interruptions { came, idle }
    }

    /// A reply is under way from now on.
    pub(crate) fn begin(&self) -> Working<'_> {
        self.came.store(false, Ordering::SeqCst);
        self.idle.store(false, Ordering::SeqCst);
        Working(self)
    }

    /// The next Ctrl-C ends the process.
    pub(crate) fn end(&self) {
        self.idle.store(true, Ordering::SeqCst);
    }

    /// Whether it came since a reply began.
    pub(crate) fn came(&self) -> bool {
        self.came.load(Ordering::SeqCst)
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}
