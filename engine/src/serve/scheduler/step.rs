//! The rows of the next step: decoding first, then prompts, then prompts of those who join.
//!
//! Always holds: a request has rows of one stay in a step, and who gives way for another has none in
//! it, because rows are given out in the order of ranks and the last in rank gives way.

use super::Scheduler;
use super::request::{ChosenBy, Order, Place, Request, RequestId};
use super::share::Share;
use super::weakness::Weakness;
use super::work::{Group, QueuedStep, Ticket, TokenSource, Work, WorkRow};
use crate::kv::{BLOCK_TOKENS, PrefixKey};

/// A step in the making.
pub(super) struct Draft {
    pub(super) work: Work,
    pub(super) groups: Vec<Group>,
    /// Rows that still fit.
    pub(super) left: usize,
    /// Of these, such as prompts may have.
    pub(super) share: Share,
}

impl Scheduler {
    /// The next step, if there is anything to do.
    pub(super) fn queue_step(&mut self) -> Option<Work> {
        self.retire();
        let ticket = Ticket(self.next_ticket);
        let before = self.totals;
        let mut draft = Draft {
            work: Work {
                ticket,
                joined: Vec::new(),
                saves: Vec::new(),
                copies: Vec::new(),
                restores: Vec::new(),
                rows: Vec::new(),
            },
            groups: Vec::new(),
            left: self.rows,
            share: Share::all(self.rows),
        };
        let turn = self.turn();
        if turn.decodes {
            self.decode(&mut draft);
        }
        draft.share = turn.share(draft.work.rows.is_empty());
        self.go_on_with_prompts(&mut draft);
        self.admit(&mut draft);
        if draft.work.rows.is_empty() && !turn.decodes {
            // No prompt could go on.
            self.decode(&mut draft);
        }
        let Draft { work, groups, .. } = draft;
        if work.rows.is_empty() {
            // Nobody gives way for nothing; a step that is not queued saves nothing.
            self.lose_saved(ticket);
            return None;
        }
        for group in &groups {
            self.publish(group.request);
        }
        self.totals.add_step(&before);
        self.next_ticket += 1;
        self.prompts_are_next = turn.is_followed_by_prompts();
        self.in_flight.push_back(QueuedStep { ticket, groups });
        Some(work)
    }

    /// Frees what those have whose last row is queued.
    fn retire(&mut self) {
        for id in self.running.clone() {
            if self.requests.get(&id).is_some_and(|r| r.length() >= r.most) {
                self.publish(id);
                self.leave(id);
            }
        }
    }

    /// A row for each sequence that has one token left to feed.
    fn decode(&mut self, draft: &mut Draft) {
        let ahead = self.weak(Weakness::HostRunsAhead);
        let can = |r: &&Request| {
            let knows = r.chosen_by == ChosenBy::Device || r.awaited.is_empty() || ahead;
            r.rows_to_come() == 1 && knows
        };
        let running = self.running.iter().filter_map(|id| self.requests.get(id));
        let mut orders: Vec<Order> = running.filter(can).map(|r| r.order).collect();
        orders.sort_unstable();
        for Order { id, .. } in orders {
            while self.is_running(id) && !self.add_rows(id, 1, draft) {
                self.preempt(draft);
            }
        }
    }

    /// Sends the last in rank of those who run back to those who wait.
    fn preempt(&mut self, draft: &mut Draft) {
        let running = self.running.iter().filter_map(|id| self.requests.get(id));
        let orders = running.map(|r| r.order);
        let last = match self.weak(Weakness::PreemptsTheFirst) {
            true => orders.min(),
            false => orders.max(),
        };
        if let Some(Order { id, .. }) = last {
            self.publish(id);
            self.save(id, draft);
            self.send_back(id);
            tracing::debug!(request = ?id, "gave way");
            self.totals.preemptions += 1;
        }
    }

    /// Rows of prompts under way, in the order they joined.
    fn go_on_with_prompts(&mut self, draft: &mut Draft) {
        for id in self.running.clone() {
            let rows = self.requests.get(&id).map_or(0, Request::rows_to_come);
            // One row is there to decode, now or when its token is known.
            let rows = rows.min(draft.left).min(draft.share.rows);
            if rows > 1 || (rows == 1 && !self.decodes(id)) {
                self.add_rows(id, rows, draft);
                draft.share.take(rows);
            }
        }
    }

    /// Adds the next rows of a running request; false if there are too few blocks, and nothing was
    /// changed.
    pub(super) fn add_rows(&mut self, id: RequestId, rows: usize, draft: &mut Draft) -> bool {
        let Some(Request {
            place: Place::Running(seat),
            ..
        }) = self.requests.get(&id)
        else {
            return false;
        };
        let (slot, from, to) = (seat.slot, seat.cached, seat.cached + rows);
        if self.table.blocks_to_write(slot, from, to) > self.table.free_blocks()
            || self.table.reserve(slot, to).is_err()
        {
            return false;
        }
        if !self.weak(Weakness::WritesShared) {
            let Ok(copies) = self.table.make_writable(slot, from, to) else {
                return false;
            };
            self.totals.copied_blocks += copies.len() as u64;
            draft.work.copies.extend(copies);
        }
        self.queue_rows(id, to, draft);
        true
    }

    /// Queues the rows of a running request up to a position; its blocks are writable.
    fn queue_rows(&mut self, id: RequestId, to: usize, draft: &mut Draft) {
        let ticket = draft.work.ticket;
        let Some(request) = self.requests.get_mut(&id) else {
            return;
        };
        let length = request.length();
        let Place::Running(seat) = &mut request.place else {
            return;
        };
        let (slot, stay, from) = (seat.slot, seat.stay, seat.cached);
        let rows = (from..to).map(|position| WorkRow {
            request: id,
            slot,
            position,
            source: (request.tokens.get(position))
                .map_or(TokenSource::Chosen, |&t| TokenSource::Known(t)),
            wanted: position + 1 == length,
        });
        draft.work.rows.extend(rows);
        draft.left = draft.left.saturating_sub(to - from);
        seat.cached = to;
        let again = to.min(seat.known).saturating_sub(from);
        self.totals.prompt_rows += again as u64;
        self.totals.decode_rows += (to - from - again) as u64;
        let wanted = to == length;
        if wanted {
            request.awaited.push_back(ticket);
            request.awaited_of = stay;
        }
        let blocks = &self.table.blocks(slot)[from / BLOCK_TOKENS..to.div_ceil(BLOCK_TOKENS)];
        for &block in blocks {
            self.last_written[block as usize] = ticket;
        }
        draft.groups.push(Group {
            request: id,
            stay,
            wanted,
            fills: blocks.iter().map(|&b| self.table.life(b)).collect(),
        });
    }

    /// What a request's keys and values depend on besides tokens.
    pub(super) fn key_of(&self, id: RequestId) -> PrefixKey {
        match self.requests.get(&id) {
            Some(request) if !self.weak(Weakness::KeyIgnored) => request.key,
            Some(_) | None => PrefixKey::default(),
        }
    }
}
