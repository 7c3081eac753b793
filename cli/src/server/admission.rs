//! Who is let in: choices of a model that are under way, how many there may be, and that each is counted
//! once when it ends, whether it came to its end, was given up, or its client left.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gannet_engine::Generation;

use super::error::{ApiError, ENGINE_LOST};
use super::metrics::Metrics;
use super::record::{self, Record};

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
    /// How long the model stays without use, where a request said so.
    keep: Mutex<Option<Duration>>,
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
            keep: Mutex::new(None),
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

    /// Lets the model stay so long without use.
    pub(crate) fn keep_for(&self, time: Duration) {
        *lock(&self.keep) = Some(time);
    }

    /// How much longer the model stays if nobody uses it, where `idle` holds unless a request said otherwise.
    pub(crate) fn goes_in(&self, idle: Duration) -> Duration {
        let keep = lock(&self.keep).unwrap_or(idle);
        match self.is_idle_since() {
            Some(since) => keep.saturating_sub(since.elapsed()),
            None => keep,
        }
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
                record: record::current(),
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
    /// Of the request that they are for.
    record: Option<Arc<Record>>,
}

impl Admitted {
    /// A choice has ended.
    pub(crate) fn ended(&self, result: &Result<Generation, ApiError>, begun: Instant) {
        if let Err(error) = result {
            self.note(error);
        }
        let one_less = |left: usize| left.checked_sub(1);
        // Those that were given up have been counted.
        let counted = (self.left).fetch_update(Ordering::AcqRel, Ordering::Acquire, one_less);
        if counted.is_ok() {
            if let Some(record) = &self.record {
                match result {
                    Ok(generation) => record.generated(generation),
                    Err(error) => record.failed(&error.message),
                }
            }
            self.tally.metrics.ended(result, begun.elapsed());
            self.give_back(1);
        }
    }

    /// Something went wrong: an engine that is lost is never trusted again.
    pub(crate) fn note(&self, error: &ApiError) {
        if error.code == Some(ENGINE_LOST) {
            lock(&self.tally.lost).get_or_insert_with(|| error.message.clone());
        }
    }

    /// All of it is done.
    pub(crate) fn done(&self) {
        let left = self.left.swap(0, Ordering::AcqRel);
        self.give_back(left);
    }

    /// What has not ended is given up.
    pub(crate) fn give_up(&self) {
        let left = self.left.swap(0, Ordering::AcqRel);
        if left > 0 {
            self.tally.metrics.abandoned(left as u64);
            if let Some(record) = &self.record {
                record.abandoned();
            }
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
