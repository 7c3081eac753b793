//! Requests of which a row of logits is no numbers: what it takes to find out what made them so.

use crate::Error;
use crate::exec::Executor;
use crate::exec::trace::Replay;
use crate::kv::{BLOCK_TOKENS, BlockTable};
use crate::serve::scheduler::{Scheduler, WorkRow};

/// A row whose logits are no numbers.
pub(super) struct Spoilt {
    tokens: Vec<u32>,
    slot: usize,
    /// From here on it alone has its blocks.
    from: usize,
}

impl Spoilt {
    /// What is known of it while its request still has its blocks.
    pub(super) fn of(row: &WorkRow, scheduler: &Scheduler) -> Option<Spoilt> {
        let tokens = scheduler.tokens(row.request)?.get(..=row.position)?;
        let (len, table) = (tokens.len(), scheduler.table());
        let is_own = |&from: &usize| table.blocks_to_write(row.slot, from, len) == 0;
        Some(Spoilt {
            tokens: tokens.to_vec(),
            slot: row.slot,
            from: (0..len).step_by(BLOCK_TOKENS).find(is_own)?,
        })
    }

    /// The error that says what made them so.
    pub(super) fn explain(&self, table: &BlockTable, executor: &mut dyn Executor) -> Error {
        let replay = Replay {
            tokens: &self.tokens,
            from: self.from,
            slot: self.slot,
            table,
        };
        replay.explain(executor.inspect())
    }
}
