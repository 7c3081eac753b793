//! Compiled grammars, kept for those who come with the same ones.
//!
//! The last few are kept, as many as there is room for, each at the start of a text: whoever asks has a copy of
//! his own. Requests that come while the same grammar is being compiled wait for that, whatever comes of
//! it. A grammar that is refused is not kept.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Grammar, GrammarError, Matcher};

/// Grammars that are kept.
const MOST: usize = 32;

/// Bytes that they take together, by their own estimate.
const MOST_BYTES: usize = 64 << 20;

/// One that takes more is not kept: copies of it would take as much.
const LARGEST: usize = MOST_BYTES / 4;

/// A grammar at the start of a text, and the bytes that it takes.
pub(super) struct Compiled {
    pub(super) matcher: Matcher,
    pub(super) bytes: usize,
}

/// What became of a grammar.
enum State {
    /// Nobody has compiled it yet.
    New,
    Ready(Box<Matcher>),
    /// It is refused, or too large to be kept: whoever waited hears why, or compiles for himself.
    Refused(GrammarError),
    TooLarge,
}

struct Entry {
    grammar: Grammar,
    bytes: usize,
    state: Arc<Mutex<State>>,
}

/// How often a grammar was there, and how often it had to be compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GrammarCounts {
    /// Times that it was there.
    pub hits: u64,
    /// Times that it was compiled.
    pub misses: u64,
}

/// The grammars of one vocabulary.
#[derive(Default)]
pub(super) struct Kept {
    /// The one used last is the last.
    entries: Mutex<VecDeque<Entry>>,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Kept {
    /// The grammar at the start of a text: one that is kept, or what `compile` makes of it.
    pub(super) fn get(
        &self,
        grammar: &Grammar,
        compile: impl FnOnce() -> Result<Compiled, GrammarError>,
    ) -> Result<Matcher, GrammarError> {
        let shared = self.entry(grammar);
        let mut state = lock(&shared);
        match &*state {
            State::Ready(matcher) => {
                self.hits.fetch_add(1, Ordering::Relaxed);
                return Ok(matcher.fork());
            }
            State::Refused(why) => {
                self.hits.fetch_add(1, Ordering::Relaxed);
                return Err(why.clone());
            }
            State::TooLarge => {
                drop(state);
                self.misses.fetch_add(1, Ordering::Relaxed);
                return Ok(compile()?.matcher);
            }
            State::New => {}
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        match compile() {
            Ok(Compiled { matcher, bytes }) if bytes <= LARGEST => {
                let mine = matcher.fork();
                *state = State::Ready(Box::new(matcher));
                self.weigh(&shared, bytes);
                Ok(mine)
            }
            Ok(Compiled { matcher, .. }) => {
                *state = State::TooLarge;
                self.forget(&shared);
                Ok(matcher)
            }
            Err(why) => {
                *state = State::Refused(why.clone());
                self.forget(&shared);
                Err(why)
            }
        }
    }

    /// How often grammars were there.
    pub(super) fn counts(&self) -> GrammarCounts {
        GrammarCounts {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
        }
    }

    /// The state of a grammar, which is the last used from now on.
    fn entry(&self, grammar: &Grammar) -> Arc<Mutex<State>> {
        let mut entries = lock(&self.entries);
        let known = entries.iter().position(|entry| &entry.grammar == grammar);
        let entry = known.and_then(|at| entries.remove(at));
        let entry = entry.unwrap_or_else(|| Entry {
            grammar: grammar.clone(),
            bytes: 0,
            state: Arc::new(Mutex::new(State::New)),
        });
        let state = Arc::clone(&entry.state);
        entries.push_back(entry);
        if entries.len() > MOST {
            entries.pop_front();
        }
        state
    }

    /// Notes what a grammar takes, and makes room for it.
    fn weigh(&self, state: &Arc<Mutex<State>>, bytes: usize) {
        let mut entries = lock(&self.entries);
        for entry in entries.iter_mut() {
            if Arc::ptr_eq(&entry.state, state) {
                entry.bytes = bytes;
            }
        }
        let mut all: usize = entries.iter().map(|entry| entry.bytes).sum();
        while all > MOST_BYTES {
            let Some(oldest) = entries.pop_front() else {
                break;
            };
            all -= oldest.bytes;
        }
    }

    fn forget(&self, state: &Arc<Mutex<State>>) {
        lock(&self.entries).retain(|entry| !Arc::ptr_eq(&entry.state, state));
    }
}

/// Nothing that it guards is left half changed by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
