//! How much of a step prompts may have while sequences decode: their next tokens wait for every step.
//!
//! A step of as many rows as the largest batch costs about what decoding alone does; a larger one costs a
//! multiple. So prompts have what a batch leaves ([`PromptBudget::Batch`]). Where that is next to nothing,
//! steps take turns: one that decodes, then one of prompts. Many short prompts that wait together are the
//! exception: in pieces they would take as long as in one step, and get their first tokens later.

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
}

impl BatchBudget {
    /// Rows of prompts beside so many that decode; `None` where that is too few to share a step.
    fn left(&self, decoding: usize) -> Option<usize> {
        let left = self.rows.saturating_sub(decoding);
        (left >= self.least.max(1)).then_some(left)
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
            PromptBudget::Batch(batch) => match batch.left(decoding.max(1)) {
                Some(left) => left,
                None => batch.short.max(1),
            },
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
        let turn = |decodes, rows: usize| Turn {
            decodes,
            share: Share {
                rows: rows.min(self.rows),
                short,
            },
            alone: batch.short.max(1),
        };
        match batch.left(decoding) {
            Some(left) => turn(true, left),
            None if self.prompts_are_next && self.anybody_reads() => {
                turn(false, batch.short.max(1))
            }
            None => Turn {
                share: Share::all(0),
                ..turn(true, 0)
            },
        }
    }

    /// Whether a prompt is under way, or one could join.
    fn anybody_reads(&self) -> bool {
        let running = self.running.iter().filter_map(|id| self.requests.get(id));
        let mut reading = running.map(Request::rows_to_come);
        reading.any(|rows| rows > 1) || (!self.waiting.is_empty() && !self.free_slots.is_empty())
    }
}
