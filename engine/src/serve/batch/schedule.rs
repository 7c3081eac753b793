//! Who joins, who gives way, and for how long to decode.
//!
//! Sequences join in the order they came. One joins only if blocks are left for those that decode to
//! go on, so that it is not sent away at once; one is sent away only if another could not go on
//! otherwise, the youngest first. The oldest is never sent away, and alone it fits: every sequence
//! ends.

use std::ops::ControlFlow;

use super::{Batch, Finished, Live, OnEvent, Sequence};
use crate::Error;
use crate::serve::session::{Event, Finish};

/// Tokens that are decoded in one go while nobody waits. Long enough that queueing a decode costs
/// nothing, short enough that who comes next does not notice.
const STEPS: usize = 32;

/// As [`STEPS`], while somebody waits for a slot or has a prompt to compute.
const STEPS_TO_JOIN: usize = 8;

impl Batch {
    /// Lets sequences join and computes prompts: until somebody can decode, and on until a chunk of
    /// rows was computed.
    pub(super) fn join(
        &mut self,
        finished: &mut Vec<Finished>,
        on_event: &mut OnEvent<'_>,
    ) -> Result<(), Error> {
        let before = self.stats.computed;
        while let Some(mut live) = self.filling.take().or_else(|| self.admit()) {
            let rows = self.stats.computed - before;
            // A prompt that is there already costs nothing.
            let computes = live.cached < live.sequence.output.history().len();
            if computes && rows >= self.limits.max_rows as u64 && !self.live.is_empty() {
                self.filling = Some(live);
                break;
            }
            match self.fill(&mut live, on_event) {
                Ok(true) if live.sequence.output.finished().is_some() => {
                    finished.push(self.finish(live, on_event));
                }
                Ok(true) => self.live.push(live),
                Ok(false) => self.filling = Some(live),
                Err(e) => {
                    self.filling = Some(live);
                    return Err(e);
                }
            }
        }
        Ok(())
    }

    /// The next sequence with a slot and blocks for its tokens; `None` where there is none, or no
    /// room for it.
    fn admit(&mut self) -> Option<Live> {
        let &slot = self.free_slots.last()?;
        let first = self.waiting.front()?;
        let tokens = first.output.history();
        // Whoever decodes may need a block soon.
        let spare = self.live.len();
        let twin = (self.live.iter()).find(|l| {
            let usable = (l.after_prompt.as_ref()).is_some_and(|next| first.can_use(next));
            usable && l.sequence.output.prompt() == tokens
        });
        let (fits, cached, after_prompt) = if let Some(twin) = twin {
            let shared = self.table.share(twin.slot, slot, tokens.len()).is_ok();
            let fits = shared && spare < self.table.free_blocks();
            (fits, tokens.len(), twin.after_prompt.clone())
        } else {
            // The last token is always computed, for its logits.
            let known = self.table.attach(slot, &tokens[..tokens.len() - 1]);
            let needed = self.table.blocks_to_write(slot, known, tokens.len());
            let fits = needed + spare <= self.table.free_blocks();
            (
                fits && self.table.reserve(slot, tokens.len()).is_ok(),
                known,
                None,
            )
        };
        if !fits {
            self.table.release(slot);
            return None;
        }
        self.stats.shared += cached as u64;
        self.free_slots.pop();
        Some(Live {
            sequence: self.waiting.pop_front()?,
            slot,
            cached,
            after_prompt,
        })
    }

    /// Goes on with a prompt; true once its sequence can decode, or is over.
    fn fill(&mut self, live: &mut Live, on_event: &mut OnEvent<'_>) -> Result<bool, Error> {
        let total = live.sequence.output.history().len();
        let next = match live.after_prompt.take() {
            Some(next) if live.cached == total => Some(next),
            _ => self.run_chunk(live)?,
        };
        if announce(live, on_event).is_break() {
            live.sequence.output.end(Finish::Stopped);
            return Ok(true);
        }
        let Some(next) = next else {
            return Ok(false);
        };
        self.table
            .publish(live.slot, live.sequence.output.history());
        if live.sequence.output.finished().is_some() {
            return Ok(true);
        }
        // A sequence that comes back has more behind it than its prompt.
        let at_prompt = live.sequence.output.generated() == 0;
        let id = live.sequence.id;
        let token = live.sequence.choose(&next);
        live.after_prompt = at_prompt.then_some(next);
        let output = &mut live.sequence.output;
        // The output knows why it is over.
        let _ = output.push(self.model.tokenizer(), token, &mut |event| {
            on_event(id, event)
        });
        if live.cached == self.context() {
            live.sequence.output.end(Finish::Length);
        }
        Ok(true)
    }

    /// Decides how many steps to decode, and sends away whoever there are no blocks for.
    pub(super) fn make_room(&mut self) -> usize {
        loop {
            let others_wait = self.filling.is_some() || !self.waiting.is_empty();
            let most = if others_wait { STEPS_TO_JOIN } else { STEPS };
            let context = self.context();
            let useful = self.live.iter().map(|l| l.remaining(context)).max();
            let mut steps = most.min(useful.unwrap_or(0));
            while steps > 1 && !self.has_room(steps) {
                steps /= 2;
            }
            // Alone it has room: `context` is no more than the cache.
            if self.has_room(steps) || self.running() <= 1 {
                return steps;
            }
            self.preempt();
        }
    }

    fn has_room(&self, steps: usize) -> bool {
        let needed = |l: &Live| {
            let to = self.written(l, steps);
            self.table.blocks_to_write(l.slot, l.cached, to)
        };
        self.live.iter().map(needed).sum::<usize>() <= self.table.free_blocks()
    }

    /// Positions that a sequence has behind so many steps, or behind the last of its own.
    fn written(&self, live: &Live, steps: usize) -> usize {
        live.cached + steps.min(live.remaining(self.context()))
    }

    /// Gives every live sequence blocks of its own for its next positions.
    pub(super) fn make_writable(&mut self, steps: usize) -> Result<(), Error> {
        let mut copies = Vec::new();
        for live in &self.live {
            let (from, to) = (live.cached, self.written(live, steps));
            self.table.reserve(live.slot, to)?;
            copies.extend(self.table.make_writable(live.slot, from, to)?);
        }
        if copies.is_empty() {
            return Ok(());
        }
        self.stats.copied_blocks += copies.len() as u64;
        self.executor.copy_blocks(&copies)
    }

    /// Sends the youngest sequence back to those that wait. What waits is younger than what runs, so
    /// it is the next to join again.
    fn preempt(&mut self) {
        if let Some(youngest) = self.filling.take().or_else(|| self.live.pop()) {
            let sequence = self.leave(youngest);
            self.waiting.push_front(sequence);
            self.stats.preempted += 1;
        }
    }

    /// Takes a sequence out of its slot. Its keys and values stay known while nobody needs the
    /// blocks.
    pub(super) fn leave(&mut self, live: Live) -> Sequence {
        let tokens = &live.sequence.output.history()[..live.cached];
        self.table.publish(live.slot, tokens);
        self.table.release(live.slot);
        self.free_slots.push(live.slot);
        live.sequence
    }
}

/// Says how far a prompt is. When a sequence comes back its prompt is nobody's news.
fn announce(live: &Live, on_event: &mut OnEvent<'_>) -> ControlFlow<()> {
    let output = &live.sequence.output;
    if output.generated() > 0 {
        return ControlFlow::Continue(());
    }
    let event = Event::Prompt {
        done: live.cached,
        total: output.prompt().len(),
    };
    on_event(live.sequence.id, event)
}
