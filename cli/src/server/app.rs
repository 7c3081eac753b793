//! What every route shares: the models, the counters, the keys, and whether the server is leaving.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::metrics::Metrics;
use super::models::Models;

/// What every route shares.
pub(crate) struct Shared {
    pub(crate) models: Models,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) config: Config,
    draining: AtomicBool,
}

/// A handle of it.
pub(crate) type App = Arc<Shared>;

/// What was asked of the server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Config {
    /// Keys, one of which a request needs; none: everybody may ask.
    pub(crate) keys: Vec<String>,
    /// Origins whose pages may ask; `*` for all.
    pub(crate) origins: Vec<String>,
    /// Hosts that requests may name besides this machine; `*` for all.
    pub(crate) hosts: Vec<String>,
    /// Bytes of a body at most.
    pub(crate) max_body: usize,
    /// The longest that a request may take.
    pub(crate) timeout: Option<Duration>,
    /// How long a connection may stand still, with half a request or an answer that nobody reads.
    pub(crate) patience: Duration,
    /// Whether the page is served.
    pub(crate) page: bool,
}

impl Shared {
    pub(crate) fn new(models: Models, metrics: Arc<Metrics>, config: Config) -> Shared {
        Shared {
            models,
            metrics,
            config,
            draining: AtomicBool::new(false),
        }
    }

    /// From now on nothing new is taken.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether nothing new is taken.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}
