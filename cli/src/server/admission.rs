//! Who is let in: choices of a model that are under way, how many there may be, and that each is counted
//! once when it ends, whether it came to its end, was given up, or its client left.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use gannet_engine::Generation;

use super::error::{ApiError, ENGINE_LOST};
use super::metrics::Metrics;

/// Why an engine was lost, once one was: the process is not to be trusted any more.
pub(crate) type Lost = Arc<Mutex<Option<String>>>;

/// What is under way on a model.
pub(crate) struct Tally {
    /// Choices that have not ended, those that wait among them.
    active: AtomicUsize,
    /// How many of these there may be.
    most: usize,
    slots: usize,
    used: Mutex<Instant>,
    metrics: Arc<Metrics>,
    lost: Lost,
}

impl Tally {
    pub(crate) fn new(slots: usize, queue: usize, metrics: Arc<Metrics>, lost: Lost) -> Tally {
        Tally {
            active: AtomicUsize::new(0),
            most: slots + queue,
            slots,
            used: Mutex::new(Instant::now()),
            metrics,
            lost,
        }
    }

    /// Choices that have not ended.
    pub(crate) fn active(&self) -> usize {
        self.active.load(Ordering::Acquire)
    }

    /// Since when nothing has been under way; `None` while something is.
    pub(crate) fn is_idle_since(&self) -> Option<Instant> {
        (self.active() == 0).then(|| *lock(&self.used))
    }

    /// Counts choices in, if there is room for them.
    pub(crate) fn admit(self: &Arc<Self>, choices: usize) -> Result<Admitted, ApiError> {
        let room = |active: usize| (active + choices <= self.most).then_some(active + choices);
        let admitted = (self.active).fetch_update(Ordering::AcqRel, Ordering::Acquire, room);
        let Err(active) = admitted else {
            *lock(&self.used) = Instant::now();
            return Ok(Admitted {
                tally: Arc::clone(self),
                left: AtomicUsize::new(choices),
            });
        };
        self.metrics.refused(active);
        if choices <= self.most {
            return Err(ApiError::busy(active.saturating_sub(self.slots)));
        }
        let message = format!(
            "{choices} answers at once are more than this server takes ({}); ask for fewer",
            self.most
        );
        Err(ApiError::param("n", message))
    }
}

/// Choices that were let in. It knows nothing of the engine that runs them, whose thread may hold it.
pub(crate) struct Admitted {
    tally: Arc<Tally>,
    /// Those that have not ended.
    left: AtomicUsize,
}

impl Admitted {
    /// A choice has ended.
    pub(crate) fn ended(&self, result: &Result<Generation, ApiError>, begun: Instant) {
        let tally = &self.tally;
        if let Err(error) = result {
            self.note(error);
        }
        let one_less = |left: usize| left.checked_sub(1);
        // Those that were given up have been counted.
        let counted = (self.left).fetch_update(Ordering::AcqRel, Ordering::Acquire, one_less);
        if counted.is_ok() {
            tally.metrics.ended(result, begun.elapsed());
            self.give_back(1);
        }
    }

    /// Something went wrong: an engine that is lost is never trusted again.
    pub(crate) fn note(&self, error: &ApiError) {
        if error.code == Some(ENGINE_LOST) {
            lock(&self.tally.lost).get_or_insert_with(|| error.message.clone());
        }
    }

    /// All of it is done, and was no generation.
    pub(crate) fn done(&self) {
        self.give_back(self.left.swap(0, Ordering::AcqRel));
    }

    /// What has not ended is given up.
    pub(crate) fn give_up(&self) {
        let left = self.left.swap(0, Ordering::AcqRel);
        if left > 0 {
            self.tally.metrics.abandoned(left as u64);
            self.give_back(left);
        }
    }

    fn give_back(&self, choices: usize) {
        *lock(&self.tally.used) = Instant::now();
        self.tally.active.fetch_sub(choices, Ordering::AcqRel);
    }
}

/// A lock whose holder cannot leave anything half done.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
