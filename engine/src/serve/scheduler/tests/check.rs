//! What always holds of a scheduler, whatever was asked of it.

use std::collections::BTreeSet;

use super::super::request::Place;
use super::super::{Scheduler, Ticket};
use crate::kv::BLOCK_TOKENS;

impl Scheduler {
    /// Panics unless every request is in one place, every slot has one owner, every block as many as
    /// there are, and every awaited token a step in flight.
    pub(super) fn check(&self) {
        self.table.check();
        let mut waiting = BTreeSet::new();
        let mut stays = Vec::new();
        let mut places = self.free_places.clone();
        let mut slots: BTreeSet<usize> = self.free_slots.iter().copied().collect();
        assert_eq!(slots.len(), self.free_slots.len(), "a slot is free twice");
        let tickets: Vec<Ticket> = self.in_flight.iter().map(|step| step.ticket).collect();
        for (id, request) in &self.requests {
            assert_eq!(*id, request.order.id);
            assert!(request.length() <= request.most, "{request:?}");
            assert!(request.tokens.len() < request.most, "{request:?}");
            assert!(
                request.awaited.iter().all(|t| tickets.contains(t)),
                "{request:?}"
            );
            assert!(request.awaited.iter().is_sorted());
            let waits = matches!(request.place, Place::Waiting { .. });
            assert!(waits || request.saved.is_none(), "{request:?}");
            places.extend(request.saved.iter().flat_map(|saved| &saved.places));
            match &request.place {
                Place::Waiting { .. } => {
                    waiting.insert(request.order);
                }
                Place::Running(seat) => {
                    assert!(slots.insert(seat.slot), "slot {} twice", seat.slot);
                    assert!(seat.cached <= self.table.held(seat.slot) * BLOCK_TOKENS);
                    assert!(seat.cached < request.length(), "{request:?}");
                    let of_stay = request.awaited_of == seat.stay;
                    assert!(of_stay || request.awaited.is_empty(), "{request:?}");
                    assert!(seat.published <= seat.cached);
                    assert!(seat.published.is_multiple_of(BLOCK_TOKENS));
                    stays.push((seat.stay, *id));
                }
                Place::Leaving => {
                    assert_eq!(request.length(), request.most, "{request:?}");
                }
            }
        }
        places.sort_unstable();
        assert!(
            places.windows(2).all(|p| p[0] < p[1]),
            "a place is free or used twice"
        );
        stays.sort_unstable();
        let stays: Vec<_> = stays.into_iter().map(|(_, id)| id).collect();
        assert_eq!(self.running, stays, "in the order they joined");
        assert_eq!(self.waiting, waiting);
        assert_eq!(slots, (0..slots.len()).collect(), "no slot is lost");
        for &slot in &self.free_slots {
            assert_eq!(self.table.held(slot), 0, "slot {slot} is free");
        }
        assert!(self.stays.iter().is_sorted_by_key(|stay| stay.id));
    }
}
