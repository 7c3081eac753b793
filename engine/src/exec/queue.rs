//! Steps that queue: the caller queues several before it knows the tokens of the first.
//!
//! A row whose token is [`StepRow::CHOSEN`] is fed what the latest step in front chose for its slot.
//! How that is chosen is said once for a slot ([`SlotChoice`]). Steps run in the order in which they
//! were queued, and so do copies of blocks between them: what a step writes is there for every one
//! behind it.
//!
//! A device has queues of its own; [`HostQueue`] is that of executors that compute at once.

use std::collections::VecDeque;

use super::sample::{NO_TOKEN, Sampler, Sampling, argmax};
use super::{Executor, Step};
use crate::Error;
use crate::plan::{Column, StepRow};
use crate::settings::SamplerOn;

/// How the tokens of a slot are chosen from now on.
#[derive(Debug, Clone, Copy)]
pub struct SlotChoice<'a> {
    /// The slot.
    pub slot: u32,
    /// How.
    pub sampling: &'a Sampling,
    /// Tokens of the sequence so far, for the penalties.
    pub history: &'a [u32],
    /// Draws that the sequence has made: its place in the random sequence of its seed.
    pub draws: u64,
}

/// The queue of an executor without one: every step is run when it is queued.
#[derive(Debug, Default)]
pub struct HostQueue {
    slots: Vec<Slot>,
    done: VecDeque<Vec<u32>>,
    /// Who finds the most likely token; tokens are drawn on the CPU.
    sampler_on: SamplerOn,
}

#[derive(Debug, Clone, Default)]
struct Slot {
    /// `None` takes the most likely token.
    sampler: Option<Sampler>,
    history: Vec<u32>,
    latest: u32,
}

impl HostQueue {
    /// Says who finds the most likely token from now on.
    pub fn set_sampler_on(&mut self, place: SamplerOn) {
        self.sampler_on = place;
    }

    fn slot(&mut self, slot: u32) -> &mut Slot {
        let slot = slot as usize;
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, Slot::default);
        }
        &mut self.slots[slot]
    }

    /// Sets how tokens of a slot are chosen.
    pub fn set(&mut self, choice: &SlotChoice<'_>) {
        let sampling = choice.sampling;
        let sampler =
            (!sampling.is_greedy()).then(|| Sampler::with_draws(sampling.clone(), choice.draws));
        let slot = self.slot(choice.slot);
        slot.history = choice.history.to_vec();
        slot.sampler = sampler;
    }

    /// Runs a step on an executor and keeps its tokens.
    ///
    /// # Errors
    /// As [`Executor::run`].
    pub fn run<E: Executor + ?Sized>(
        &mut self,
        executor: &mut E,
        step: &Step<'_>,
    ) -> Result<(), Error> {
        let mut rows = step.inputs.clone();
        for (row, &slot) in step.slots().iter().enumerate() {
            if step.tokens()[row] == StepRow::CHOSEN {
                let latest = self.slot(slot).latest;
                rows.column_mut(Column::Token)[row] = latest;
            }
        }
        executor.run(&rows.step(step.table))?;
        let vocab_size = executor.plan().vocab_size;
        let slots = step.column(Column::OutputSlot);
        let mut chosen = Vec::with_capacity(slots.len());
        let greedy = slots.iter().all(|&slot| self.slot(slot).sampler.is_none());
        if greedy && self.sampler_on == SamplerOn::Device && !slots.is_empty() {
            chosen.extend_from_slice(executor.next()?);
            // A dead row is of no slot.
            let lengths = step.column(Column::OutputLength);
            let live = chosen.iter().zip(slots).zip(lengths);
            for ((&token, &slot), _) in live.filter(|(_, length)| **length > 0) {
                self.slot(slot).latest = if token == NO_TOKEN { 0 } else { token };
            }
        } else if !slots.is_empty() {
            let logits = executor.logits()?.chunks_exact(vocab_size);
            let lengths = step.column(Column::OutputLength);
            for ((logits, &slot), &length) in logits.zip(slots).zip(lengths) {
                chosen.push(match length {
                    0 => 0,
                    _ => self.slot(slot).choose(logits),
                });
            }
        }
        self.done.push_back(chosen);
        Ok(())
    }

    /// The tokens of the oldest step that were not taken.
    pub fn take(&mut self) -> Option<Vec<u32>> {
        self.done.pop_front()
    }

    /// Forgets what was not taken.
    pub fn clear(&mut self) {
        self.done.clear();
    }
}

impl Slot {
    fn choose(&mut self, logits: &[f32]) -> u32 {
        let token = match &mut self.sampler {
            Some(sampler) => sampler.sample(logits, &self.history),
            None => argmax(logits),
        };
        if self.sampler.is_some() {
            self.history.push(token);
        }
        // A step behind it may be fed what it chose, if only to be dropped.
        self.latest = if token == NO_TOKEN { 0 } else { token };
        token
    }
}
