//! Requests in, steps out: which rows of which sequences run next, and in which blocks.
//!
//! A [`Scheduler`] knows no executor, no model, no clock and no thread. Whoever has those asks it for
//! [`Work`], queues that on a device, and tells it later what became of it: [`Scheduler::complete`]
//! or [`Scheduler::fail`], in the order of tickets. It is deterministic, so that tests can explore
//! orders of events by the hundred thousand.
//!
//! # Steps run ahead of the host
//!
//! Several steps may be queued before the first result is known. What a step needs of earlier ones
//! is named, not awaited: a row's token is [`TokenSource::Chosen`] where an earlier step chooses it.
//! All of it stands on one rule of the executor: **steps run in the order they were queued, each as
//! if the one before had ended** (one stream). Then, although the device is behind:
//!
//! - *Blocks and slots are free the moment the scheduler decides it.* Rows of a request that turned
//!   out to be over (zombies) may still be queued. They read and write only blocks that the request
//!   had when they were queued, and run before any step that was queued later. Whoever gets such a
//!   block writes each position before it or anyone reads it, so nothing that a zombie leaves behind
//!   is ever read. A known prefix has positions of known tokens only; the one zombie that can be
//!   among them is that of the last token, and what it writes is right.
//! - *A prefix is known as soon as the step that fills its last block is queued*, to steps queued
//!   later. Not to the same step: rows of one sequence do not read what another's write in it.
//! - *A request whose last row is queued gives its slot and blocks up before the next step*, though
//!   its tokens are still to come.
//! - *Copies of a step* run before its rows, one after the other, and only for requests with rows in
//!   it: they fail together.
//!
//! # Who goes first
//!
//! Every request has a rank that never changes: the number of its submission plus
//! [`SchedulerConfig::overtakes`] for each class that its priority is below the most urgent. Smaller
//! ranks go first everywhere: in joining, in decoding, and in staying when blocks run out. This is
//! priority and ageing in one number, and a bound: a request of class `p` joins after at most
//! `p * overtakes` requests that were submitted later, and `overtakes` more that pass it
//! while it waits for a prefix under way ([`Scheduler::next`] says more). After that, nobody behind
//! it joins before it.
//!
//! A step has a row of every sequence that can decode, then rows of prompts in the order that they
//! joined, as far as the budget of rows goes (a smaller one while sequences decode, whose tokens wait for
//! every step): the last that fits is cut. There are never more running
//! sequences than a step has rows and outputs, so that decoding never leaves a prompt without a row.
//!
//! When a decoding sequence needs a block and none is left, the running one of the largest rank is
//! *preempted*: its blocks go back (its known prefix stays, until evicted), and it waits by its old
//! rank. What it had is saved on the host if there is room, and restored when it joins again once the
//! tokens that are queued are reported (`saved.rs`); otherwise it is computed again from its tokens. The
//! running one of the smallest rank is never preempted, and alone every request fits, so it ends; then
//! another is the first. Every request ends.
//!
//! # What is not here
//!
//! State that is not of positions (recurrent layers): saved and restored at the position where a request
//! stands, it goes the way of the blocks, once a model has any. Prefixes are shared
//! in whole blocks, and a whole prompt that is known is copied in its last block for the one row that
//! it takes to have logits; parts of a block are computed anew. A request does not share the
//! *result* of another's prompt: who asks for many samples of a prompt computes one row each.

mod admission;
mod counters;
mod failure;
mod outcome;
mod request;
mod saved;
mod share;
mod step;
#[cfg(test)]
mod tests;
mod weakness;
mod work;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use request::{Order, Place, Request, StayId};
use weakness::Weakness;
use work::{QueuedStep, Stay};

use crate::exec::Limits;
use crate::kv::{BLOCK_TOKENS, BlockTable};

pub use counters::SchedulerCounters;
pub use outcome::{Choice, EndReason, Ended, Wanted};
pub use request::{ChosenBy, Entry, Refusal, RequestId};
pub use share::{BatchBudget, PromptBudget, RowCosts};
pub use work::{Ticket, TokenSource, Work, WorkRow};

/// What a scheduler may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// The sizes of the executor.
    pub limits: Limits,
    /// Rows of a step at most; prompts share what decoding leaves of them. No more than the
    /// executor's.
    pub rows: usize,
    /// Steps that may be queued with their results unknown.
    pub steps_ahead: usize,
    /// How many requests that were submitted later may join before one, for each class that its
    /// priority is below the most urgent; and how many may pass one while it waits for a prefix.
    pub overtakes: u64,
}

/// Decides what runs next.
#[derive(Debug)]
pub struct Scheduler {
    table: BlockTable,
    /// Positions of a sequence.
    context: usize,
    rows: usize,
    /// Rows of prompts in a step while sequences decode.
    prompt_budget: PromptBudget,
    /// Whether the next step is of prompts, where steps take turns.
    prompts_are_next: bool,
    steps_ahead: usize,
    overtakes: u64,
    requests: BTreeMap<RequestId, Request>,
    /// Those without a slot that have rows to come.
    waiting: BTreeSet<Order>,
    /// Those with a slot, in the order they joined.
    running: Vec<RequestId>,
    free_slots: Vec<usize>,
    /// Places for saved blocks that hold none.
    free_places: Vec<u32>,
    in_flight: VecDeque<QueuedStep>,
    /// The stays that may have been given blocks which a step in flight fills, in order.
    stays: VecDeque<Stay>,
    /// The last step that writes each block.
    last_written: Vec<Ticket>,
    next_request: u64,
    next_stay: u64,
    /// Of the next step; steps before those in flight are settled.
    next_ticket: u64,
    totals: SchedulerCounters,
    #[cfg(test)]
    weakness: Option<Weakness>,
}

impl Scheduler {
    /// A scheduler with nothing to do. Numbers of zero are taken for one. Slots beyond the rows or
    /// the outputs of a step stay empty.
    #[must_use]
    pub fn new(config: &SchedulerConfig) -> Scheduler {
        let limits = config.limits;
        let rows = config.rows.min(limits.max_rows).max(1);
        let slots = limits.num_slots.min(limits.max_outputs).min(rows).max(1);
        Scheduler {
            table: BlockTable::new(limits.num_slots.max(1), limits.context, limits.cache_blocks),
            context: limits.context.min(limits.cache_blocks * BLOCK_TOKENS),
            rows,
            prompt_budget: PromptBudget::All,
            prompts_are_next: false,
            steps_ahead: config.steps_ahead.max(1),
            overtakes: config.overtakes.max(1),
            requests: BTreeMap::new(),
            waiting: BTreeSet::new(),
            running: Vec::new(),
            free_slots: (0..slots).rev().collect(),
            free_places: (0..limits.saved_blocks as u32).rev().collect(),
            in_flight: VecDeque::new(),
            stays: VecDeque::new(),
            last_written: vec![Ticket(0); limits.cache_blocks],
            next_request: 0,
            next_stay: 0,
            next_ticket: 1,
            totals: SchedulerCounters::default(),
            #[cfg(test)]
            weakness: None,
        }
    }

    /// Positions that a sequence can have: those of the context, or all of the cache if that is
    /// smaller.
    #[must_use]
    pub fn context(&self) -> usize {
        self.context
    }

    /// Says how many rows of prompts a step may have while sequences decode: their next tokens wait for it.
    pub fn set_prompt_budget(&mut self, budget: PromptBudget) {
        self.prompt_budget = budget;
    }

    /// Rows of prompts that a step may have while sequences decode.
    #[must_use]
    pub fn prompt_budget(&self) -> PromptBudget {
        self.prompt_budget
    }

    /// Where the blocks of every slot are, as rows of the latest [`Work`] have them. It is valid for
    /// that work until the scheduler is told or asked anything else.
    #[must_use]
    pub fn table(&self) -> &BlockTable {
        &self.table
    }

    /// Whether every request has ended and no step is in flight.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.requests.is_empty() && self.in_flight.is_empty()
    }

    /// The tokens of a request that are known: its prompt, and what was reported. `None` once it has
    /// ended.
    #[must_use]
    pub fn tokens(&self, id: RequestId) -> Option<&[u32]> {
        Some(&self.requests.get(&id)?.tokens)
    }

    /// Adds a request. Nothing is computed for it before [`Scheduler::next`].
    ///
    /// # Errors
    /// It asks for nothing, or could not run if it were alone.
    pub fn submit(&mut self, entry: Entry) -> Result<RequestId, Refusal> {
        let (tokens, context) = (entry.prompt.len(), self.context);
        if tokens == 0 {
            return Err(Refusal::EmptyPrompt);
        }
        if entry.max_tokens == 0 {
            return Err(Refusal::NoTokens);
        }
        // The last token that is chosen needs no position.
        if tokens > context {
            return Err(Refusal::TooLong { tokens, context });
        }
        let id = RequestId(self.next_request);
        self.next_request += 1;
        let ageing = match self.weak(Weakness::NoAgeing) {
            true => 1 << 32,
            false => self.overtakes,
        };
        let behind = ageing.saturating_mul(entry.priority.into());
        let rank = id.0.saturating_add(behind);
        let order = Order { rank, id };
        (self.requests).insert(id, Request::new(order, entry, context));
        self.waiting.insert(order);
        Ok(id)
    }

    /// Ends a request, wherever it is; false if it has ended already. Rows of it that are queued are
    /// zombies.
    pub fn cancel(&mut self, id: RequestId) -> bool {
        if self.weak(Weakness::CancelKeepsBlocks) && self.is_running(id) {
            self.running.retain(|&other| other != id);
            self.requests.remove(&id);
            return true;
        }
        self.publish(id);
        let found = self.remove(id).is_some();
        self.totals.cancellations += u64::from(found);
        found
    }

    /// Takes a request out of everything.
    fn remove(&mut self, id: RequestId) -> Option<Request> {
        self.leave(id);
        self.forget_saved(id);
        let request = self.requests.remove(&id)?;
        self.waiting.remove(&request.order);
        Some(request)
    }

    /// Takes a request out of its slot, if it has one, with no rows to come.
    fn leave(&mut self, id: RequestId) {
        let Some(request) = self.requests.get_mut(&id) else {
            return;
        };
        if let Place::Running(seat) = &request.place {
            let slot = seat.slot;
            request.place = Place::Leaving;
            self.release(slot);
            self.free_slots.push(slot);
            self.running.retain(|&other| other != id);
        }
    }

    /// Takes a request out of its slot, if it has one, to join again.
    fn send_back(&mut self, id: RequestId) {
        self.leave(id);
        if let Some(request) = self.requests.get_mut(&id) {
            request.place = Place::Waiting { behind: None };
            self.waiting.insert(request.order);
        }
    }

    fn release(&mut self, slot: usize) {
        #[cfg(test)]
        if self.weak(Weakness::FreesTwice) {
            self.table.release_twice(slot);
            return;
        }
        self.table.release(slot);
    }

    /// Makes known what a running request's queued rows fill: whole blocks of known tokens.
    fn publish(&mut self, id: RequestId) {
        let key = self.key_of(id);
        let Some(request) = self.requests.get_mut(&id) else {
            return;
        };
        if let Place::Running(seat) = &mut request.place {
            let known = seat.cached.min(request.tokens.len());
            let whole = known - known % BLOCK_TOKENS;
            if whole > seat.published {
                seat.published = whole;
                (self.table).publish_under(key, seat.slot, &request.tokens[..whole]);
            }
        }
    }

    /// Makes unknown what a request has computed, now and for good: numbers of it are none. A prefix that it
    /// was given stays known. Who was given its blocks before has them and finds out by itself.
    pub fn forget_computed(&mut self, id: RequestId) {
        let key = self.key_of(id);
        let Some(request) = self.requests.get_mut(&id) else {
            return;
        };
        if let Place::Running(seat) = &mut request.place {
            seat.published = usize::MAX;
        }
        let from = request.own_from / BLOCK_TOKENS;
        (self.table).forget_under(key, &request.tokens, from);
    }

    /// Whether a request has that slot now.
    #[must_use]
    pub fn has_slot(&self, id: RequestId, slot: usize) -> bool {
        let request = self.requests.get(&id);
        request.is_some_and(|r| r.seat().is_some_and(|seat| seat.slot == slot))
    }

    /// A table whose first slot has blocks for so many positions that nobody has: whoever writes there
    /// behind all steps in flight, and before the next one is asked for, disturbs nobody. `None` where there
    /// are too few; known prefixes that nobody uses give way.
    pub fn spare_table(&mut self, positions: usize) -> Option<BlockTable> {
        self.table.spare(positions)
    }

    fn is_running(&self, id: RequestId) -> bool {
        let request = self.requests.get(&id);
        request.is_some_and(|r| r.seat().is_some())
    }

    /// The first step whose result is not known.
    fn first_unsettled(&self) -> Ticket {
        let first = self.in_flight.front().map(|step| step.ticket);
        first.unwrap_or(Ticket(self.next_ticket))
    }

    /// The next step to queue, if one may be queued and there is something to do.
    ///
    /// Of the requests that wait, the first in rank joins if a slot is free, and blocks for all of its
    /// tokens and one more for each running request; if there are too few, nobody behind it joins
    /// either. One whose next whole block a running request is about to compute waits for that
    /// instead of computing it, and lets others pass meanwhile. It holds nothing while it waits, and
    /// computes the block itself if the other is gone without having queued it.
    #[expect(clippy::should_implement_trait, reason = "it may go on after `None`")]
    pub fn next(&mut self) -> Option<Work> {
        (self.in_flight.len() < self.steps_ahead).then(|| self.queue_step())?
    }

    #[cfg(test)]
    fn weak(&self, weakness: Weakness) -> bool {
        self.weakness == Some(weakness)
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "the same call as in tests")]
    fn weak(&self, _: Weakness) -> bool {
        false
    }

    /// A number of its own for a stay in a slot.
    fn new_stay(&mut self) -> StayId {
        self.next_stay += 1;
        StayId(self.next_stay)
    }
}
