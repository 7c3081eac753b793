//! One request: what was asked for, which of its tokens are known, and where it is.
//!
//! Always holds: tokens that queued steps choose for it and that are not reported yet (`awaited`) all
//! come from one stay in a slot, and it does not join again while there are any: a sequence is
//! computed again from known tokens only.

use std::collections::VecDeque;
use std::fmt;

use super::saved::Saved;
use super::work::Ticket;
use crate::kv::PrefixKey;

/// Names a request of a scheduler; never used again for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub(super) u64);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who chooses the tokens of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChosenBy {
    /// The device, which feeds them back: steps are queued ahead.
    #[default]
    Device,
    /// The host, from logits: the next row is made once the token is reported.
    Host,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entry {
    /// The tokens to continue.
    pub prompt: Vec<u32>,
    /// How many tokens to choose at most.
    pub max_tokens: usize,
    /// Its class; 0 is the most urgent.
    pub priority: u8,
    /// What its keys and values depend on besides tokens.
    pub key: PrefixKey,
    /// Who chooses its tokens.
    pub chosen_by: ChosenBy,
}

/// Why a request is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is nothing to continue.
    #[error("the prompt has no tokens; give some text")]
    EmptyPrompt,
    /// There is nothing to choose.
    #[error("no tokens are asked for; ask for at least one")]
    NoTokens,
    /// It would not fit if it were alone.
    #[error("the prompt has {tokens} tokens; the context, or the cache, holds {context}")]
    TooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Positions that a sequence can have.
        context: usize,
    },
}

/// The place of a request among all: the smaller goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Order {
    pub(super) rank: u64,
    pub(super) id: RequestId,
}

/// A request's time in a slot, from joining to leaving. Later ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(super) struct StayId(pub(super) u64);

/// A request that has not ended.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) order: Order,
    pub(super) key: PrefixKey,
    pub(super) chosen_by: ChosenBy,
    pub(super) prompt_len: usize,
    /// Tokens after which it ends, its prompt's among them.
    pub(super) most: usize,
    /// Whether that is all that was asked for, or all that there is room for.
    pub(super) most_is_asked: bool,
    /// Prompt and reported tokens.
    pub(super) tokens: Vec<u32>,
    /// The steps that choose tokens after those, in order.
    pub(super) awaited: VecDeque<Ticket>,
    /// The stay whose rows those are.
    pub(super) awaited_of: StayId,
    pub(super) place: Place,
    /// What it had when it was preempted. Only who waits has any.
    pub(super) saved: Option<Saved>,
    /// From here on it computed itself what it made known, whole blocks of positions.
    pub(super) own_from: usize,
    /// Joins of requests behind it while it waited for a prefix under way.
    pub(super) passed: u64,
}

/// Where a request is.
#[derive(Debug)]
pub(super) enum Place {
    /// It has no slot, and rows to come.
    Waiting {
        /// The prefix that it waits for.
        behind: Option<Behind>,
    },
    /// It has a slot.
    Running(Seat),
    /// It has no slot and no rows to come, only tokens.
    Leaving,
}

/// A prefix that another request is about to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Behind {
    pub(super) request: RequestId,
    pub(super) stay: StayId,
    /// Positions that they have in common.
    pub(super) positions: usize,
}

/// A request's place in a slot.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) slot: usize,
    pub(super) stay: StayId,
    /// Positions whose keys and values are there, or will be once all queued steps have run.
    pub(super) cached: usize,
    /// Positions that were made known, whole blocks of them.
    pub(super) published: usize,
    /// Tokens that it joined with.
    pub(super) known: usize,
}

impl Request {
    /// One that waits, in a cache for `context` positions.
    pub(super) fn new(order: Order, entry: Entry, context: usize) -> Request {
        let asked = entry.prompt.len().saturating_add(entry.max_tokens);
        Request {
            order,
            key: entry.key,
            chosen_by: entry.chosen_by,
            prompt_len: entry.prompt.len(),
            most: asked.min(context + 1),
            most_is_asked: asked <= context + 1,
            tokens: entry.prompt,
            awaited: VecDeque::new(),
            awaited_of: StayId::default(),
            place: Place::Waiting { behind: None },
            saved: None,
            own_from: usize::MAX,
            passed: 0,
        }
    }

    /// Its slot, if it has one.
    pub(super) fn seat(&self) -> Option<&Seat> {
        match &self.place {
            Place::Running(seat) => Some(seat),
            Place::Waiting { .. } | Place::Leaving => None,
        }
    }

    /// Tokens that are known, or will be once all queued steps have run.
    pub(super) fn length(&self) -> usize {
        self.tokens.len() + self.awaited.len()
    }

    /// Rows that can follow now: those before the next token to be chosen.
    pub(super) fn rows_to_come(&self) -> usize {
        let cached = self.seat().map_or(0, |seat| seat.cached);
        if self.length() < self.most {
            self.length() - cached
        } else {
            0
        }
    }
}
