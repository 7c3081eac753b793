//! What a preempted request had, kept on the host until it joins again.
//!
//! The step in which a request gives way copies its blocks to the host before anything else, so they are
//! as all steps in front leave them: the keys and values of each of its queued rows. It joins again once
//! that step is settled, as it waits for the tokens that are queued for it; so what is restored is never
//! in doubt. Places on the host are free as blocks are, the moment that is decided: copies out of them
//! are queued in front of copies into them.
//!
//! It is all or nothing: with too few places, and where a save fails or stands on a step that does, the
//! request is computed again.

use super::Scheduler;
use super::failure::Damage;
use super::request::{Request, RequestId, StayId};
use super::step::Draft;
use super::weakness::Weakness;
use super::work::Ticket;
use crate::kv::BLOCK_TOKENS;

/// Positions of a request on the host.
#[derive(Debug)]
pub(super) struct Saved {
    /// The stay that they are of.
    pub(super) stay: StayId,
    /// The step that copies them.
    pub(super) step: Ticket,
    pub(super) positions: usize,
    /// Where each block is.
    pub(super) places: Vec<u32>,
}

impl Scheduler {
    /// Saves what a running request has, if there is room for all of it.
    pub(super) fn save(&mut self, id: RequestId, draft: &mut Draft) {
        let Some(seat) = self.requests.get(&id).and_then(Request::seat) else {
            return;
        };
        let (stay, positions) = (seat.stay, seat.cached);
        let blocks = &self.table.blocks(seat.slot)[..positions.div_ceil(BLOCK_TOKENS)];
        let Some(left) = self.free_places.len().checked_sub(blocks.len()) else {
            return;
        };
        let places = self.free_places.split_off(left);
        let pairs = blocks.iter().copied().zip(places.iter().copied());
        draft.work.saves.extend(pairs);
        self.totals.saved_blocks += places.len() as u64;
        let saved = Saved {
            stay,
            step: draft.work.ticket,
            positions,
            places,
        };
        if let Some(request) = self.requests.get_mut(&id) {
            request.saved = Some(saved);
        }
    }

    /// Positions of a waiting request that can be restored.
    pub(super) fn saved_positions(&self, id: RequestId) -> usize {
        let saved = self.requests.get(&id).and_then(|r| r.saved.as_ref());
        saved.map_or(0, |saved| saved.positions)
    }

    /// Whether what a request saved may still turn out to be nothing.
    pub(super) fn is_saving(&self, id: RequestId) -> bool {
        let saved = self.requests.get(&id).and_then(|r| r.saved.as_ref());
        saved.is_some_and(|saved| saved.step >= self.first_unsettled())
            && !self.weak(Weakness::RestoredEarly)
    }

    /// Restores what a request in a slot lacks behind its first `known` positions, and takes what it
    /// saved for used. Returns the blocks.
    pub(super) fn restore(
        &mut self,
        id: RequestId,
        slot: usize,
        known: usize,
        draft: &mut Draft,
    ) -> Vec<u32> {
        let request = self.requests.get_mut(&id);
        let Some(saved) = request.and_then(|request| request.saved.take()) else {
            return Vec::new();
        };
        let lacking = known / BLOCK_TOKENS..saved.places.len();
        let places = saved.places.get(lacking.clone()).unwrap_or_default();
        let blocks = self.table.blocks(slot).get(lacking).unwrap_or_default();
        let blocks = blocks[..places.len()].to_vec();
        let pairs = places.iter().copied().zip(blocks.iter().copied());
        draft.work.restores.extend(pairs);
        self.totals.restored_blocks += blocks.len() as u64;
        self.free(saved);
        blocks
    }

    /// Gives up what a request saved.
    pub(super) fn forget_saved(&mut self, id: RequestId) {
        let request = self.requests.get_mut(&id);
        if let Some(saved) = request.and_then(|request| request.saved.take()) {
            self.free(saved);
        }
    }

    fn free(&mut self, saved: Saved) {
        if !self.weak(Weakness::PlacesLeak) {
            self.free_places.extend(saved.places);
        }
    }

    /// Takes it that nothing could be saved in a step that is queued; its requests lose nothing else.
    pub fn lose_saved(&mut self, step: Ticket) {
        self.forget_saved_if(|saved| saved.step == step);
    }

    /// Gives up what was saved in a step that failed, or stands on one.
    pub(super) fn forget_damaged(&mut self, damage: &Damage, step: Ticket) {
        if !self.weak(Weakness::FailureStaysSaved) {
            self.forget_saved_if(|saved| saved.step == step || damage.stays.contains(&saved.stay));
        }
    }

    fn forget_saved_if(&mut self, is_lost: impl Fn(&Saved) -> bool) {
        let lost = |(id, request): (&RequestId, &Request)| {
            request.saved.as_ref().is_some_and(&is_lost).then_some(*id)
        };
        let lost: Vec<RequestId> = self.requests.iter().filter_map(lost).collect();
        for id in lost {
            self.forget_saved(id);
        }
    }
}
