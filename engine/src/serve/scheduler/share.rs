//! How much of a step prompts may have while sequences decode: their next tokens wait for every step.
//!
//! Products of as many rows as the largest batch cost a small multiple of those of one row, and those of
//! more rows a large one. So prompts have at most what decoding leaves of a batch ([`PromptBudget::Batch`]);
//! where that is next to nothing, steps take turns: one that decodes, then one of prompts. Rows deep in a
//! prompt cost more, since each attends to all keys before it, so there are fewer of them: between two tokens
//! of whoever decodes there is no more than [`SLOWDOWN`] of the time of a step without prompts, by
//! [`RowCosts`]. Many short prompts that wait together are the exception: in pieces they would take as long as
//! in one step, and get their first tokens later.

use super::Scheduler;
use super::request::{Request, RequestId};

/// Rows of prompts in steps while sequences decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptBudget {
    /// As many as steps have room for.
    All,
    /// So many.
    Rows(usize),
    /// What decoding leaves of a batch.
    Batch(BatchBudget),
}

/// The sizes by which steps are shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchBudget {
    /// Rows of the largest batch.
    pub rows: usize,
    /// Rows of prompts for which decoding makes room in its step; where there are fewer, steps take turns.
    pub least: usize,
    /// Rows of a prompt that is short, and of the steps of prompts in turns.
    pub short: usize,
    /// Waiting requests that are many.
    pub many: usize,
    /// What rows cost.
    pub costs: RowCosts,
}

/// What steps cost, in the time that products take for a row more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowCosts {
    /// A step beside its rows: reading the weights.
    pub step: usize,
    /// Keys that a row of a prompt attends to in that time.
    pub keys: usize,
}

/// Between two tokens of who decodes, with prompts, at most: a fraction of the time without.
const SLOWDOWN: (usize, usize) = (5, 2);

impl BatchBudget {
    /// Rows of prompts beside `decoding` rows, or in a turn of their own, `depth` keys in front of them.
    pub(super) fn affordable(&self, decoding: usize, depth: usize, is_own_turn: bool) -> usize {
        let alone = self.costs.step + decoding;
        let more = alone * SLOWDOWN.0 / SLOWDOWN.1 - alone;
        let more = more.saturating_sub(usize::from(is_own_turn) * self.costs.step);
        let keys = self.costs.keys.max(1);
        (more * keys / (keys + depth)).max(1)
    }

    /// Rows of prompts beside so many that decode; `None` where a batch leaves too few to share a step.
    fn beside(&self, decoding: usize, depth: usize) -> Option<usize> {
        let left = self.rows.saturating_sub(decoding);
        let is_enough = left >= self.least.max(1);
        is_enough.then(|| left.min(self.affordable(decoding, depth, false)))
    }

    /// Rows of prompts in a turn of their own.
    fn of_turn(&self, decoding: usize, depth: usize) -> usize {
        let rows = self.affordable(decoding, depth, true);
        self.short.max(1).min(rows)
    }
}

/// What prompts may have of a step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    /// Rows.
    pub(super) rows: usize,
    /// Rows of a request that joins beyond that, whatever the others have.
    short: usize,
}

impl Share {
    /// Everything.
    pub(super) fn all(rows: usize) -> Share {
        Share { rows, short: 0 }
    }

    /// Rows that one may have who joins with so many to come.
    pub(super) fn of_joining(&self, rows: usize) -> usize {
        match rows <= self.short {
            true => rows,
            false => rows.min(self.rows),
        }
    }

    /// Whether nobody may join any more.
    pub(super) fn is_gone(&self) -> bool {
        self.rows == 0 && self.short == 0
    }

    /// Gives rows away.
    pub(super) fn take(&mut self, rows: usize) {
        self.rows = self.rows.saturating_sub(rows);
    }
}

/// What a step is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    /// Whether it decodes.
    pub(super) decodes: bool,
    share: Share,
    /// What prompts have where nothing decodes after all.
    alone: usize,
}

impl Turn {
    /// What prompts may have, where decoding took no row or some.
    pub(super) fn share(&self, is_empty: bool) -> Share {
        let rows = match is_empty && self.decodes {
            true => self.share.rows.max(self.alone),
            false => self.share.rows,
        };
        Share { rows, ..self.share }
    }

    /// Whether the next step is of prompts.
    pub(super) fn is_followed_by_prompts(&self) -> bool {
        self.decodes && self.share.rows == 0
    }
}

impl Scheduler {
    /// Whether a running request is past its prompt.
    pub(super) fn decodes(&self, id: RequestId) -> bool {
        let request = self.requests.get(&id);
        request.is_some_and(|r| r.length() > r.prompt_len && r.rows_to_come() <= 1)
    }

    /// Rows of prompts in a step beside those that decode, of which there is at least one.
    pub(super) fn prompt_rows_beside_decoding(&self) -> usize {
        let decoding = self.running.iter().filter(|&&id| self.decodes(id)).count();
        let rows = match self.prompt_budget {
            PromptBudget::All => self.rows,
            PromptBudget::Rows(rows) => rows.max(1),
            PromptBudget::Batch(batch) => {
                let (decoding, depth) = (decoding.max(1), self.depth());
                let beside = batch.beside(decoding, depth);
                beside.unwrap_or_else(|| batch.of_turn(decoding, depth))
            }
        };
        rows.min(self.rows)
    }

    /// What the next step is for.
    pub(super) fn turn(&self) -> Turn {
        let decoding = self.running.iter().filter(|&&id| self.decodes(id)).count();
        let whole = |rows| Turn {
            decodes: true,
            share: Share::all(rows),
            alone: self.rows,
        };
        let batch = match self.prompt_budget {
            _ if decoding == 0 => return whole(self.rows),
            PromptBudget::All => return whole(self.rows),
            PromptBudget::Rows(rows) => return whole(rows.clamp(1, self.rows)),
            PromptBudget::Batch(batch) => batch,
        };
        let short = match self.waiting.len() >= batch.many {
            true => batch.short,
            false => 0,
        };
        let depth = self.depth();
        let turn = |decodes, rows: usize| Turn {
            decodes,
            share: Share {
                rows: rows.min(self.rows),
                short,
            },
            alone: batch.short.max(1),
        };
        match batch.beside(decoding, depth) {
            Some(rows) => turn(true, rows),
            None if self.prompts_are_next && self.anybody_reads() => {
                turn(false, batch.of_turn(decoding, depth))
            }
            None => Turn {
                share: Share::all(0),
                ..turn(true, 0)
            },
        }
    }

    /// Running requests whose prompts are under way.
    fn reading(&self) -> impl Iterator<Item = &Request> {
        let running = self.running.iter().filter_map(|id| self.requests.get(id));
        running.filter(|request| request.rows_to_come() > 1)
    }

    /// Keys in front of the next row of a prompt, the most that there are.
    fn depth(&self) -> usize {
        let cached = self
            .reading()
            .filter_map(Request::seat)
            .map(|seat| seat.cached);
        cached.max().unwrap_or(0)
    }

    /// Whether a prompt is under way, or one could join.
    fn anybody_reads(&self) -> bool {
        self.reading().next().is_some() || (!self.waiting.is_empty() && !self.free_slots.is_empty())
    }
}
