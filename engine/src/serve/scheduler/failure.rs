//! What a step that failed takes with it, and what it does not.
//!
//! A failed step wrote nothing that can be relied on: neither its rows nor its copies. Its *damage*
//! is found through stays: one with rows in the step is damaged, and so are all blocks that its rows
//! fill in this step and in those behind it, which have run on top of it or will; and a stay is
//! damaged if it was given one of those blocks. A stay is given blocks once, when it begins, and only
//! such as were filled by earlier stays, so one pass in the order of stays finds all. A block is
//! damaged in the life in which it was filled, not in a later one.
//!
//! - A damaged block is not known any more, and nothing that goes on from it, whoever filled it and
//!   whether that request still exists.
//! - A request with rows in the step that were of use to it fails. Rows of earlier stays are of use
//!   only if their token is still awaited.
//! - A request in a damaged stay, or that awaits tokens of one, goes back to those who wait, without
//!   an error: awaited tokens are dropped, known ones were reported before the step and are good.
//! - What was saved in the step, or of a damaged stay, is given up.
//! - Everyone else stays as it was.

use std::collections::BTreeSet;

use super::Scheduler;
use super::request::{Request, RequestId, StayId};
use super::weakness::Weakness;
use super::work::{Group, QueuedStep, Ticket};
use crate::kv::BlockLife;

/// What a failed step spoils.
pub(super) struct Damage {
    pub(super) stays: BTreeSet<StayId>,
    blocks: BTreeSet<BlockLife>,
}

impl Scheduler {
    /// Takes the failure of the oldest step in flight. Returns the requests that it ends, which are
    /// forgotten.
    ///
    /// # Panics
    /// The ticket is not that of the oldest step in flight.
    pub fn fail(&mut self, ticket: Ticket) -> Vec<RequestId> {
        let step = self.take_step(ticket);
        self.totals.failed_steps += 1;
        let damage = self.damage(&step);
        self.forget(&damage);
        self.forget_damaged(&damage, ticket);
        let mut failed = Vec::new();
        for group in &step.groups {
            let request = self.requests.get(&group.request);
            if request.is_some_and(|request| is_of_use(group, request, ticket)) {
                self.remove(group.request);
                failed.push(group.request);
            }
        }
        self.totals.failed_requests += failed.len() as u64;
        if !self.weak(Weakness::DependentsGoOn) {
            self.send_back_damaged(&damage);
        }
        failed
    }

    fn damage(&self, step: &QueuedStep) -> Damage {
        let mut damage = Damage {
            stays: BTreeSet::new(),
            blocks: BTreeSet::new(),
        };
        for group in &step.groups {
            damage.stays.insert(group.stay);
            damage.blocks.extend(&group.fills);
            self.add_fills(group.stay, &mut damage);
        }
        for stay in &self.stays {
            let is_damaged = stay.given.iter().any(|block| damage.blocks.contains(block));
            if is_damaged && damage.stays.insert(stay.id) {
                self.add_fills(stay.id, &mut damage);
            }
        }
        damage
    }

    /// Adds what a stay fills in the steps in flight.
    fn add_fills(&self, stay: StayId, damage: &mut Damage) {
        if self.weak(Weakness::DamageEndsWithTheStep) {
            return;
        }
        let groups = self.in_flight.iter().flat_map(|step| &step.groups);
        for group in groups.filter(|group| group.stay == stay) {
            damage.blocks.extend(&group.fills);
        }
    }

    /// Makes damaged blocks unknown.
    fn forget(&mut self, damage: &Damage) {
        if self.weak(Weakness::FailureStaysKnown) {
            return;
        }
        let only_living = self.weak(Weakness::ForgetsOfTheLivingOnly);
        let living = |block: &BlockLife| {
            let seats = self.requests.values().filter_map(Request::seat);
            let mut blocks = seats.flat_map(|seat| self.table.blocks(seat.slot));
            blocks.any(|&held| held == block.block)
        };
        let blocks = damage.blocks.iter().filter(|b| !only_living || living(b));
        let blocks: Vec<BlockLife> = blocks.copied().collect();
        for block in blocks {
            self.table.forget(block);
        }
    }

    /// Sends back who stands on damaged blocks.
    fn send_back_damaged(&mut self, damage: &Damage) {
        let is_damaged = |request: &&Request| {
            let in_damaged = |stay: &StayId| damage.stays.contains(stay);
            let sits = request.seat().is_some_and(|seat| in_damaged(&seat.stay));
            sits || !request.awaited.is_empty() && in_damaged(&request.awaited_of)
        };
        let damaged = self.requests.values().filter(is_damaged);
        let damaged: Vec<RequestId> = damaged.map(|request| request.order.id).collect();
        for id in damaged {
            self.send_back(id);
            self.totals.restarts += 1;
            if !self.weak(Weakness::ZombieCounted)
                && let Some(request) = self.requests.get_mut(&id)
            {
                request.awaited.clear();
            }
        }
    }
}

/// Whether rows of a step are of use to their request.
fn is_of_use(group: &Group, request: &Request, ticket: Ticket) -> bool {
    let sits = request.seat().is_some_and(|seat| seat.stay == group.stay);
    sits || request.awaited.contains(&ticket)
}
