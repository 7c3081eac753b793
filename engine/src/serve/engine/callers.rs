//! Who hears of requests: whoever drives a [`Core`](super::core::Core) says so with each call.
//!
//! The core knows requests by the numbers they were submitted with and no channels: a batch hands events
//! on at once, an engine sends them to handles.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::mpsc::Sender;
use std::time::Instant;

use super::request::{LogProbs, Update};
use crate::Error;
use crate::serve::session::{Event, Generation};

/// Gets what becomes of requests.
pub trait Listener {
    /// The results of a step are there; what follows is what they mean.
    fn results(&mut self, at: Instant) {
        let _ = at;
    }

    /// Something happened to a request; breaking ends it.
    fn hear(&mut self, key: u64, event: Event<'_>, log_probs: Option<LogProbs>) -> ControlFlow<()>;

    /// A request ended; nothing of it follows.
    fn end(&mut self, key: u64, result: Result<Generation, Error>);
}

/// Who hears the updates of a request; breaking ends it.
pub(super) type Hear = Box<dyn FnMut(Update) -> ControlFlow<()> + Send>;

/// Sends updates into a channel, until nobody reads it.
pub(super) fn into_channel(
    updates: Sender<Update>,
) -> impl FnMut(Update) -> ControlFlow<()> + Send {
    move |update| match updates.send(update) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    }
}

/// Where the updates of each request go that has not ended.
#[derive(Default)]
pub(super) struct Callers(HashMap<u64, Hear>);

impl Callers {
    pub(super) fn add(&mut self, key: u64, hear: Hear) {
        self.0.insert(key, hear);
    }
}

impl Listener for Callers {
    fn hear(&mut self, key: u64, event: Event<'_>, log_probs: Option<LogProbs>) -> ControlFlow<()> {
        let update = match event {
            Event::Prompt { done, total } => Update::Prompt { done, total },
            Event::Token { id, text } => Update::Token {
                id,
                text: text.to_owned(),
                log_probs,
            },
        };
        match self.0.get_mut(&key) {
            Some(caller) => caller(update),
            None => ControlFlow::Break(()),
        }
    }

    fn end(&mut self, key: u64, result: Result<Generation, Error>) {
        if let Some(mut caller) = self.0.remove(&key) {
            // It is over in any case.
            let _ = caller(Update::Ended(result));
        }
    }
}
