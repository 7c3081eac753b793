//! How a scheduler is doing, as numbers.

use super::Scheduler;
use super::request::{Place, Request};

/// Numbers of a scheduler: how things are now, and what happened since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SchedulerCounters {
    /// Requests without a slot that have rows to come.
    pub waiting: usize,
    /// Requests in a slot.
    pub running: usize,
    /// Requests that only await their last tokens.
    pub leaving: usize,
    /// Steps whose results are not known.
    pub steps_in_flight: usize,
    /// Blocks that nobody owns.
    pub blocks_free: usize,
    /// Blocks that running requests hold, each counted once.
    pub blocks_held: usize,
    /// Blocks that nobody holds, of prefixes that are known until somebody needs the room.
    pub blocks_cached: usize,
    /// Places on the host that hold no saved block.
    pub places_free: usize,
    /// Rows that prompts may have of a step while sequences decode: of the next one, or of the next that is
    /// theirs where steps take turns. Where nothing decodes, what they would have beside one that does.
    pub prompt_budget: usize,
    /// Tokens that were there already when a request joined.
    pub prefix_hits: u64,
    /// Rows of prompts, and of what was computed again after a request was sent back.
    pub prompt_rows: u64,
    /// Rows of single tokens on the way to the next.
    pub decode_rows: u64,
    /// Steps that had rows of prompts only.
    pub prompt_steps: u64,
    /// Steps that had rows of single tokens only.
    pub decode_steps: u64,
    /// Steps that had both.
    pub mixed_steps: u64,
    /// Blocks copied because several had them and one was to write.
    pub copied_blocks: u64,
    /// Times that a request gave its blocks back to others.
    pub preemptions: u64,
    /// Blocks saved on the host for those.
    pub saved_blocks: u64,
    /// Blocks restored from there.
    pub restored_blocks: u64,
    /// Times that a request was sent back because it stood on what a failed step was to compute.
    pub restarts: u64,
    /// Requests that were cancelled.
    pub cancellations: u64,
    /// Steps that failed.
    pub failed_steps: u64,
    /// Requests that failed with them.
    pub failed_requests: u64,
}

impl SchedulerCounters {
    /// Counts a step by the rows that were added to those `before` it.
    pub(super) fn add_step(&mut self, before: &SchedulerCounters) {
        let reads = self.prompt_rows > before.prompt_rows;
        let decodes = self.decode_rows > before.decode_rows;
        match (reads, decodes) {
            (true, true) => self.mixed_steps += 1,
            (true, false) => self.prompt_steps += 1,
            (false, true) => self.decode_steps += 1,
            (false, false) => {}
        }
    }
}

impl Scheduler {
    /// How things are, and what happened so far.
    #[must_use]
    pub fn counters(&self) -> SchedulerCounters {
        let leaves = |request: &&Request| match request.place {
            Place::Leaving => true,
            Place::Waiting { .. } | Place::Running(_) => false,
        };
        SchedulerCounters {
            waiting: self.waiting.len(),
            running: self.running.len(),
            leaving: self.requests.values().filter(leaves).count(),
            steps_in_flight: self.in_flight.len(),
            blocks_free: self.table.unowned_blocks(),
            blocks_held: self.table.blocks_in_use(),
            blocks_cached: self.table.free_blocks() - self.table.unowned_blocks(),
            places_free: self.free_places.len(),
            prompt_budget: self.prompt_rows_beside_decoding(),
            ..self.totals
        }
    }
}
