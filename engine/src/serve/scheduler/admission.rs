//! Who joins: a slot, blocks, and nobody about to compute the same.
//!
//! A request joins in a step that has a row for it, so that copies and rows of a request are in the
//! same step from the first on. It is given blocks for all tokens that it has, so that a prompt under
//! way never needs another; and it joins only if each running request could have a block more, so
//! that it is not sent away at once.
//!
//! No deadlock: who waits for a prefix holds nothing, and waits for a running request whose turn comes
//! without it: prompts have rows in the order they joined, and every step has some for the first. If
//! that request leaves, the prefix is looked for again. Where nobody runs nobody is waited for, and
//! one alone fits.

use std::ops::Bound::{Excluded, Unbounded};

use super::Scheduler;
use super::request::{Behind, Order, Place, Request, RequestId, Seat};
use super::step::Draft;
use super::weakness::Weakness;
use super::work::Stay;
use crate::kv::BLOCK_TOKENS;

/// What became of a request that was to join.
enum Join {
    Joined,
    /// It waits for a prefix under way.
    Behind,
    /// There are too few blocks, or tokens of it are still to be reported.
    NotYet,
}

/// What a slot was given of a request's tokens, and what it takes to go on.
struct Given {
    /// Tokens of the known prefix.
    known: usize,
    /// Those of them that need no row.
    positions: usize,
    fits: bool,
}

impl Scheduler {
    /// Lets requests join in the order of their ranks and adds rows of their prompts.
    pub(super) fn admit(&mut self, draft: &mut Draft) {
        let mut passed: Vec<RequestId> = Vec::new();
        let mut last: Option<Order> = None;
        while draft.left > 0 && !draft.share.is_gone() && !self.free_slots.is_empty() {
            let after = last.map_or(Unbounded, Excluded);
            let Some(&order) = self.waiting.range((after, Unbounded)).next() else {
                break;
            };
            last = Some(order);
            match self.join(order, draft) {
                Join::Joined => {
                    for id in &passed {
                        if let Some(request) = self.requests.get_mut(id) {
                            request.passed += 1;
                        }
                    }
                }
                Join::Behind if self.may_be_passed(order.id) => passed.push(order.id),
                Join::Behind | Join::NotYet => break,
            }
            // Who is at the bound lets nobody else pass.
            if !passed.iter().all(|&id| self.may_be_passed(id)) {
                break;
            }
        }
    }

    fn may_be_passed(&self, id: RequestId) -> bool {
        let passed = self.requests.get(&id).map_or(0, |r| r.passed);
        passed < self.overtakes || self.weak(Weakness::PassedWithoutEnd)
    }

    fn join(&mut self, order: Order, draft: &mut Draft) -> Join {
        let (id, Some(&slot)) = (order.id, self.free_slots.last()) else {
            return Join::NotYet;
        };
        let Some(request) = self.requests.get(&id) else {
            return Join::NotYet;
        };
        if !request.awaited.is_empty() && !self.weak(Weakness::ResumedEarly) {
            return Join::NotYet;
        }
        if self.is_saving(id) {
            return Join::NotYet;
        }
        if let Place::Waiting { behind: Some(b) } = request.place
            && self.is_under_way(b)
        {
            return Join::Behind;
        }
        let length = request.tokens.len();
        let mut given = self.give(slot, id, length);
        let saved = self.saved_positions(id);
        let there = given.known.max(saved - saved % BLOCK_TOKENS);
        if let Some(behind) = self.find_under_way(id, there) {
            self.table.release(slot);
            if let Some(request) = self.requests.get_mut(&id) {
                let behind = Some(behind);
                request.place = Place::Waiting { behind };
            }
            return Join::Behind;
        }
        // A copy takes a block more than computing the last one does.
        if !given.fits {
            given = self.give(slot, id, length - 1);
        }
        if !given.fits || self.table.reserve(slot, length).is_err() {
            self.table.release(slot);
            return Join::NotYet;
        }
        let to_come = length - given.positions;
        if draft.share.of_joining(to_come) == 0 {
            self.table.release(slot);
            return Join::NotYet;
        }
        let restored = self.restore(id, slot, given.known, draft);
        let positions = match restored.is_empty() {
            true => given.positions,
            false => saved,
        };
        self.seat(order, &given, positions, draft);
        let rows = draft.share.of_joining(length - positions).min(draft.left);
        self.add_rows(id, rows, draft);
        draft.share.take(rows);
        self.fill(id, &restored, draft);
        Join::Joined
    }

    /// Gives a slot what is known of the first tokens of a request. The last one is computed in any
    /// case.
    fn give(&mut self, slot: usize, id: RequestId, tokens: usize) -> Given {
        let key = self.key_of(id);
        let Some(request) = self.requests.get(&id) else {
            return Given {
                known: 0,
                positions: 0,
                fits: false,
            };
        };
        let known = (self.table).attach_under(key, slot, &request.tokens[..tokens]);
        let length = request.tokens.len();
        let positions = known.min(length - 1);
        let needed = self.table.blocks_to_write(slot, positions, length);
        Given {
            known,
            positions,
            fits: needed + self.running.len() <= self.table.free_blocks(),
        }
    }

    /// Counts restored blocks among those that a request's rows in the step fill: they fail with it.
    fn fill(&mut self, id: RequestId, restored: &[u32], draft: &mut Draft) {
        if self.weak(Weakness::RestoredAtOnce) {
            return;
        }
        let group = draft.groups.last_mut().filter(|g| g.request == id);
        if let Some(group) = group {
            for &block in restored {
                self.last_written[block as usize] = draft.work.ticket;
                group.fills.push(self.table.life(block));
            }
        }
    }

    /// Puts a waiting request in the next slot, which was given what is known of it, and has its first
    /// `positions` and blocks for the rest.
    fn seat(&mut self, order: Order, given: &Given, positions: usize, draft: &mut Draft) {
        let stay = self.new_stay();
        let (Some(slot), Some(request)) = (self.free_slots.pop(), self.requests.get_mut(&order.id))
        else {
            return;
        };
        request.place = Place::Running(Seat {
            slot,
            stay,
            cached: positions,
            published: given.positions - given.positions % BLOCK_TOKENS,
            known: request.tokens.len(),
        });
        request.own_from = request.own_from.min(given.known);
        self.waiting.remove(&order);
        draft.work.joined.push(order.id);
        self.running.push(order.id);
        self.totals.prefix_hits += given.positions as u64;
        let unsettled = self.first_unsettled();
        let known = given.positions.div_ceil(BLOCK_TOKENS);
        let blocks = self.table.blocks(slot)[..known].iter();
        let in_flight = blocks.filter(|&&b| self.last_written[b as usize] >= unsettled);
        self.stays.push_back(Stay {
            id: stay,
            first: draft.work.ticket,
            given: in_flight.map(|&b| self.table.life(b)).collect(),
        });
        if self.weak(Weakness::KnownTooEarly)
            && let Some(request) = self.requests.get(&order.id)
        {
            (self.table).publish_under(request.key, slot, &request.tokens);
        }
    }

    /// The running request that is about to compute what a waiting one lacks next, after `known`
    /// positions.
    fn find_under_way(&self, id: RequestId, known: usize) -> Option<Behind> {
        let request = self.requests.get(&id)?;
        let end = (known / BLOCK_TOKENS + 1) * BLOCK_TOKENS;
        let wanted = request.tokens.get(..end)?;
        let same = |other: &&Request| {
            // What is queued in the step in the making is not known yet.
            let computes = other.seat().is_some_and(|seat| {
                let known = match self.weak(Weakness::DraftTakenForKnown) {
                    true => seat.cached,
                    false => seat.published,
                };
                known < end
            });
            computes && other.key == request.key && other.tokens.get(..end) == Some(wanted)
        };
        let mut running = self.running.iter().filter_map(|id| self.requests.get(id));
        let other = running.find(same)?;
        let blocks = |r: &Request| r.tokens.as_chunks::<BLOCK_TOKENS>().0.len();
        let most = blocks(request).min(blocks(other)) * BLOCK_TOKENS;
        let common = (request.tokens[..most].iter().zip(&other.tokens[..most]))
            .take_while(|(a, b)| a == b)
            .count();
        (!self.weak(Weakness::NoPrefixWait)).then_some(Behind {
            request: other.order.id,
            stay: other.seat()?.stay,
            positions: common - common % BLOCK_TOKENS,
        })
    }

    /// Whether a prefix is still to be queued by who was to compute it.
    fn is_under_way(&self, behind: Behind) -> bool {
        let seat = self.requests.get(&behind.request).and_then(Request::seat);
        seat.is_some_and(|s| s.stay == behind.stay && s.published < behind.positions)
    }
}
