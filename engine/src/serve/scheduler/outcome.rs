//! What a step chose, and which requests that ends.
//!
//! A result counts if its request still awaits it. Others are of zombies: the request ended, or was
//! sent back to be computed again, after the row was queued. Nobody is asked about them.

use super::Scheduler;
use super::request::RequestId;
use super::weakness::Weakness;
use super::work::{QueuedStep, Ticket};

/// A result that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Whose token it is.
    pub request: RequestId,
    /// Which of the wanted rows of the step chose it, from 0.
    pub output: usize,
    /// Which of the tokens chosen for the request it is, from 0.
    pub index: usize,
}

/// What was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The token.
    pub token: u32,
    /// Whether the request is over with it.
    pub ends: bool,
}

/// Why a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// The caller said so of its last token.
    Stopped,
    /// It has all tokens that were asked for.
    MaxTokens,
    /// The context, or the cache, holds no more.
    ContextFull,
}

/// A request that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// The request.
    pub request: RequestId,
    /// Why.
    pub reason: EndReason,
}

impl Scheduler {
    /// Takes the result of the oldest step in flight. `choose` is asked for each wanted row whose
    /// result counts, in the order of rows. Returns the requests that ended, which are forgotten.
    ///
    /// # Panics
    /// The ticket is not that of the oldest step in flight.
    pub fn complete(
        &mut self,
        ticket: Ticket,
        mut choose: impl FnMut(Wanted) -> Choice,
    ) -> Vec<Ended> {
        let step = self.take_step(ticket);
        let mut ended = Vec::new();
        let wanted = step.groups.iter().filter(|group| group.wanted);
        for (output, group) in wanted.enumerate() {
            let id = group.request;
            let Some(request) = self.requests.get_mut(&id) else {
                continue;
            };
            if request.awaited.front() != Some(&ticket) {
                continue;
            }
            request.awaited.pop_front();
            let choice = choose(Wanted {
                request: id,
                output,
                index: request.tokens.len() - request.prompt_len,
            });
            request.tokens.push(choice.token);
            let reason = if choice.ends {
                Some(EndReason::Stopped)
            } else if request.tokens.len() < request.most {
                None
            } else if request.most_is_asked {
                Some(EndReason::MaxTokens)
            } else {
                Some(EndReason::ContextFull)
            };
            match reason {
                None => self.publish(id),
                Some(reason) => {
                    self.publish(id);
                    self.remove(id);
                    ended.push(Ended {
                        request: id,
                        reason,
                    });
                }
            }
        }
        ended
    }

    /// The oldest step in flight, which is settled now.
    pub(super) fn take_step(&mut self, ticket: Ticket) -> QueuedStep {
        let oldest = self.in_flight.pop_front();
        let Some(step) = oldest.filter(|step| step.ticket == ticket) else {
            panic!("steps are reported in the order of their tickets, and {ticket:?} is not next");
        };
        // Who joined in this step, or earlier, was given what settled steps fill.
        let early = u64::from(self.weak(Weakness::SettledTooEarly));
        while (self.stays.front()).is_some_and(|s| s.first.0 <= ticket.0 + early) {
            self.stays.pop_front();
        }
        step
    }
}
