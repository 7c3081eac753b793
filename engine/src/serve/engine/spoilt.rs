//! Requests of which a row of logits is no numbers: what it takes to find out what made them so, and what
//! others must not see of them.
//!
//! What such a request computed is made unknown, since it may be no numbers either, where it is right alone,
//! too: in a step of a prompt NaN of a later token comes to earlier ones. Who was given its blocks before that
//! is known ends with an error of its own.
//!
//! To find the cause its steps run again, behind all steps in flight. That changes nothing which those
//! read or leave for the host: blocks are such as nobody has then, tokens are kept apart, and logits that are
//! still to be fetched are fetched before.

use std::collections::HashMap;

use super::callers::Listener;
use super::core::{Core, Flight};
use super::live::Live;
use crate::Error;
use crate::error::NotFinite;
use crate::exec::Executor;
use crate::exec::sample::NO_TOKEN;
use crate::exec::trace::{Replay, is_finite};
use crate::kv::BLOCK_TOKENS;
use crate::serve::scheduler::{RequestId, Scheduler, WorkRow};

/// A row whose logits are no numbers.
pub(super) struct Spoilt {
    tokens: Vec<u32>,
    slot: usize,
    /// From here on it alone has its blocks; `None`: it has none any more.
    from: Option<usize>,
}

impl Spoilt {
    /// What is known of it while its request is.
    fn of(row: &WorkRow, scheduler: &Scheduler) -> Option<Spoilt> {
        let tokens = scheduler.tokens(row.request)?.get(..=row.position)?;
        let (len, table) = (tokens.len(), scheduler.table());
        let is_own = |&from: &usize| table.blocks_to_write(row.slot, from, len) == 0;
        let from = (0..len).step_by(BLOCK_TOKENS).find(is_own);
        Some(Spoilt {
            tokens: tokens.to_vec(),
            slot: row.slot,
            from: from.filter(|_| scheduler.has_slot(row.request, row.slot)),
        })
    }

    /// The error that says what made them so: all is computed again in blocks that nobody has, and where
    /// there are too few in its own.
    fn explain(&self, scheduler: &mut Scheduler, executor: &mut dyn Executor) -> Error {
        let spare = scheduler.spare_table(self.tokens.len());
        let (table, slot, from) = match (&spare, self.from) {
            (Some(spare), _) => (spare, 0, 0),
            (None, Some(from)) => (scheduler.table(), self.slot, from),
            (None, None) => {
                let position = self.tokens.len() - 1;
                let origin = None;
                return NotFinite { position, origin }.into();
            }
        };
        let replay = Replay {
            tokens: &self.tokens,
            from,
            slot,
            table,
        };
        replay.explain(executor.inspect())
    }
}

/// What came of a step.
pub(super) struct Chosen<'a> {
    /// What the device chose of each output.
    pub(super) tokens: &'a [u32],
    /// `[outputs, vocab_size]`, where the host chooses for one.
    pub(super) logits: &'a [f32],
    pub(super) vocab_size: usize,
}

/// The requests of a step that are to be given a token and have no numbers. What they computed is made
/// unknown.
pub(super) fn find(
    flight: &Flight,
    chosen: Chosen<'_>,
    live: &HashMap<RequestId, Live>,
    scheduler: &mut Scheduler,
) -> HashMap<RequestId, Spoilt> {
    let Chosen {
        tokens,
        logits,
        vocab_size,
    } = chosen;
    let is_spoilt = |(output, row): &(usize, &WorkRow)| {
        let live = live.get(&row.request).filter(|live| !live.is_over());
        live.is_some_and(|live| match live.is_chosen_by_host() {
            true => !is_finite(&logits[output * vocab_size..][..vocab_size]),
            false => tokens.get(*output) == Some(&NO_TOKEN),
        })
    };
    let rows = flight.wanted.iter().enumerate().filter(is_spoilt);
    let mut found = HashMap::new();
    for (_, row) in rows {
        scheduler.forget_computed(row.request);
        found.extend(Spoilt::of(row, scheduler).map(|spoilt| (row.request, spoilt)));
    }
    found
}

impl Core {
    /// Fetches the logits that a step in flight leaves for the host, before other steps run behind it. It is
    /// the last one, if there is one.
    pub(super) fn fetch_logits(&mut self) -> Result<(), Error> {
        let last = self.in_flight.back_mut();
        let last = last.filter(|f| f.has_host_rows && f.failed.is_none() && f.logits.is_none());
        if let Some(flight) = last {
            flight.logits = Some(self.executor.logits()?.to_vec());
        }
        Ok(())
    }

    /// Ends a request whose logits are no numbers. Nothing was given its blocks yet, and what runs to find
    /// out why runs behind all steps in flight: it changes nothing that they read, and their tokens are kept
    /// apart.
    pub(super) fn end_spoilt(
        &mut self,
        id: RequestId,
        spoilt: Option<Spoilt>,
        listener: &mut dyn Listener,
    ) {
        let Some(mut live) = self.live.remove(&id) else {
            return;
        };
        self.by_key.remove(&live.key);
        let error = match spoilt {
            Some(spoilt) => spoilt.explain(&mut self.scheduler, self.executor.as_mut()),
            None => Error::Request(live.why_none()),
        };
        listener.end(live.key, Err(error));
    }
}
