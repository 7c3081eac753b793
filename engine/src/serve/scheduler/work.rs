//! What is to be queued on a device, and what the scheduler remembers of it until the result is known.

use super::request::{RequestId, StayId};
use crate::kv::BlockLife;

/// Names a step. Steps are queued, run and reported in the order of their tickets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub(super) u64);

/// Where the token of a row comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenSource {
    /// The host knows it.
    Known(u32),
    /// It is what the latest step before this one that chose a token for the row's slot chose.
    Chosen,
}

/// A row of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkRow {
    /// Whose it is.
    pub request: RequestId,
    /// Row of the block table.
    pub slot: usize,
    /// Index of its token in the sequence.
    pub position: usize,
    /// Its token.
    pub source: TokenSource,
    /// Whether the token that follows is to be chosen. That is the request's token number
    /// `position + 1`: a seeded choice by that number is the same when it is made again.
    pub wanted: bool,
}

/// A step to queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    /// Its name.
    pub ticket: Ticket,
    /// Requests that have their first rows in their slot in this step. What a device keeps for a slot
    /// besides blocks (how to choose, which tokens there were) is to be set for them before it, from
    /// [`Scheduler::tokens`](super::Scheduler::tokens): a request may join more than once.
    pub joined: Vec<RequestId>,
    /// Cache blocks to save on the host, `(block, place)`, before anything else. They are of requests
    /// without rows in the step; where they cannot be saved, the rest of the step can still be queued
    /// ([`Scheduler::lose_saved`](super::Scheduler::lose_saved)).
    pub saves: Vec<(u32, u32)>,
    /// Cache blocks to copy, `(from, to)`, one after the other, behind the saves.
    pub copies: Vec<(u32, u32)>,
    /// Saved blocks to restore, `(place, block)`, behind the copies.
    pub restores: Vec<(u32, u32)>,
    /// Rows: those of a request follow each other by position, at most one of them is wanted, and
    /// decoding ones go first.
    pub rows: Vec<WorkRow>,
}

/// A step that was queued and not reported.
#[derive(Debug)]
pub(super) struct QueuedStep {
    pub(super) ticket: Ticket,
    pub(super) groups: Vec<Group>,
}

/// The rows of one request in a step.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) request: RequestId,
    pub(super) stay: StayId,
    /// Whether they end with a wanted one.
    pub(super) wanted: bool,
    /// Blocks that they write.
    pub(super) fills: Vec<BlockLife>,
}

/// What a request was given when it joined.
#[derive(Debug)]
pub(super) struct Stay {
    pub(super) id: StayId,
    /// The step in which it joined.
    pub(super) first: Ticket,
    /// Blocks of a prefix that steps in flight were still to fill.
    pub(super) given: Vec<BlockLife>,
}
