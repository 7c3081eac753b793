//! What steps gave, handed out: tokens to their requests, errors to those that a failed step ends.

use std::time::Instant;

use super::callers::Listener;
use super::core::Core;
use super::spoilt;
use crate::Error;
use crate::exec::sample::NO_TOKEN;
use crate::serve::scheduler::{Choice, EndReason, RequestId, Wanted};
use crate::serve::session::Finish;

impl Core {
    /// Hands out what the oldest step gave.
    pub(super) fn complete_oldest(
        &mut self,
        tokens: &[u32],
        listener: &mut dyn Listener,
    ) -> Result<(), Error> {
        let Some(mut flight) = self.in_flight.pop_front() else {
            return Ok(());
        };
        let vocab_size = self.model.plan().vocab_size;
        let fetched = flight.logits.take();
        let logits: &[f32] = match &fetched {
            Some(logits) => logits,
            None if flight.has_host_rows => match self.executor.logits() {
                Ok(logits) => logits,
                Err(error) => {
                    self.in_flight.push_front(flight);
                    return Err(error);
                }
            },
            None => &[],
        };
        let chosen = spoilt::Chosen {
            tokens,
            logits,
            vocab_size,
        };
        let mut spoilt = spoilt::find(&flight, chosen, &self.live, &mut self.scheduler);
        let mut faults = Vec::new();
        let now = Instant::now();
        listener.results(now);
        let tokenizer = self.model.tokenizer();
        let (live, counters) = (&mut self.live, &mut self.counters);
        let mut gone = Vec::new();
        for &(id, done) in &flight.done {
            let Some(live) = live.get_mut(&id) else {
                continue;
            };
            if live.announce(done, listener).is_break() {
                gone.push(id);
            }
        }
        let mut choose = |wanted: Wanted| {
            let on_device = tokens.get(wanted.output).copied().unwrap_or(0);
            let mut live = live.get_mut(&wanted.request);
            if let Some(live) = &mut live {
                live.end_if_complete();
            }
            let Some(live) = live.filter(|live| !live.is_over()) else {
                return Choice {
                    token: on_device,
                    ends: true,
                };
            };
            let token = match live.is_chosen_by_host() {
                _ if spoilt.contains_key(&wanted.request) => NO_TOKEN,
                true => live.choose(&logits[wanted.output * vocab_size..][..vocab_size]),
                false => on_device,
            };
            if token == NO_TOKEN {
                faults.push((wanted.request, spoilt.remove(&wanted.request)));
                return Choice { token, ends: true };
            }
            counters.tokens += 1;
            match live.latest.replace(now) {
                None => counters.first_token.add(now - live.submitted),
                Some(before) => counters.inter_token.add(now - before),
            }
            Choice {
                token,
                ends: live.push(tokenizer, token, listener).is_break(),
            }
        };
        let ended = self.scheduler.complete(flight.ticket, &mut choose);
        let fetched = match faults.is_empty() {
            true => Ok(()),
            false => self.fetch_logits(),
        };
        for (id, spoilt) in faults {
            self.end_spoilt(id, spoilt, listener);
        }
        for ended in ended {
            let finish = match ended.reason {
                // The output knows why.
                EndReason::Stopped => Finish::Stopped,
                EndReason::MaxTokens => Finish::Length,
                EndReason::ContextFull => Finish::Context,
            };
            self.end(ended.request, finish, listener);
        }
        for id in gone {
            self.scheduler.cancel(id);
            self.end(id, Finish::Stopped, listener);
        }
        fetched
    }

    pub(super) fn end(&mut self, id: RequestId, finish: Finish, listener: &mut dyn Listener) {
        if let Some(live) = self.live.remove(&id) {
            self.by_key.remove(&live.key);
            tracing::debug!(key = live.key, ?finish, "ended");
            live.end(finish, listener);
        }
    }

    /// Ends the requests of the oldest step.
    pub(super) fn fail_oldest(&mut self, why: &dyn Fn() -> Error, listener: &mut dyn Listener) {
        let Some(flight) = self.in_flight.pop_front() else {
            return;
        };
        let failed = self.scheduler.fail(flight.ticket);
        tracing::warn!(requests = failed.len(), error = %why(), "a step failed");
        for id in failed {
            if let Some(live) = self.live.remove(&id) {
                self.by_key.remove(&live.key);
                listener.end(live.key, Err(why()));
            }
        }
    }

    /// Ends the requests of all steps that are queued; all there are if the executor is lost.
    pub(super) fn fail_all(&mut self, error: &Error, listener: &mut dyn Listener) {
        // What is there to be told of the error is told of it: emptying a lost executor says less.
        let is_lost = self.executor.abandon().is_err();
        let said = error.to_string();
        let why = || match is_lost {
            true => Error::Lost(said.clone()),
            false => Error::Step(said.clone()),
        };
        while !self.in_flight.is_empty() {
            self.fail_oldest(&why, listener);
        }
        if is_lost {
            for (id, live) in std::mem::take(&mut self.live) {
                self.scheduler.cancel(id);
                listener.end(live.key, Err(why()));
            }
            self.by_key.clear();
            tracing::error!(error = said, "the executor is lost");
            self.fail_embeddings(&said);
            self.lost = Some(said);
        }
    }
}
