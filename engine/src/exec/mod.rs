//! Executors: what runs a plan.
//!
//! An executor owns the buffers and the cache; the caller owns the block table and says in each
//! [`Step`] which tokens run where. It has three sides: [`Executor`] serves (run, read logits,
//! decode), [`Inspect`] shows what is in it (poison, run unit by unit, read and overwrite any
//! buffer), and [`Measure`] says what its launches take.

pub mod cpu;
pub mod cuda;
mod decode;
mod executor;
pub(crate) mod host;
#[cfg(feature = "interp")]
pub mod interp;
mod limits;
pub mod load;
mod opening;
pub(crate) mod packed;
pub mod sample;

use crate::Error;
use crate::kv::{BLOCK_TOKENS, BlockTable};
use crate::lower::{Shape, StepKind};
use sample::Sampling;

pub use decode::{HostDecode, decode_on_host};
pub use executor::{Executor, ExecutorKind, Inspect, LaunchTime, Measure, Stats};
pub use limits::Limits;
pub(crate) use limits::limits;
pub use load::{Load, LoadReport};
pub use opening::Opening;

/// What one forward step computes: a row for each token.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// Token of each row.
    pub tokens: &'a [u32],
    /// Keys that each row may see: its position plus one. 0 marks a row that does nothing.
    pub lengths: &'a [u32],
    /// Slot (row of the block table) of each row.
    pub slots: &'a [u32],
    /// Rows whose logits are wanted, ascending.
    pub outputs: &'a [u32],
    /// Where the cache blocks of each slot are.
    pub table: &'a BlockTable,
}

impl Step<'_> {
    /// Rows of the step.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// The shape that it is lowered to: rows of one slot at consecutive positions are a prompt.
    #[must_use]
    pub fn shape(&self) -> Shape {
        let one_slot = self.slots.windows(2).all(|w| w[0] == w[1]);
        let consecutive = self
            .lengths
            .windows(2)
            .all(|w| w[0] != 0 && w[1] == w[0] + 1);
        let kind = if one_slot && consecutive {
            StepKind::Prompt
        } else {
            StepKind::Batch
        };
        Shape {
            rows: self.rows(),
            outputs: self.outputs.len(),
            kind,
        }
    }

    /// Refuses a step that would make a kernel leave its buffers.
    ///
    /// # Errors
    /// More rows, outputs or positions than the limits, or a token, slot or row outside.
    pub fn check(&self, limits: Limits, vocab_size: usize) -> Result<(), Error> {
        let rows = self.rows();
        let lengths_match = self.lengths.len() == rows && self.slots.len() == rows;
        let in_range = self.lengths.iter().all(|&l| l as usize <= limits.context)
            && self.slots.iter().all(|&s| (s as usize) < limits.num_slots)
            && self.tokens.iter().all(|&t| (t as usize) < vocab_size)
            && self.outputs.iter().all(|&o| (o as usize) < rows);
        let table = limits.num_slots * limits.context.div_ceil(BLOCK_TOKENS);
        let fits = rows <= limits.max_rows
            && self.outputs.len() <= limits.max_outputs
            && self.table.entries().len() == table
            && self
                .table
                .entries()
                .iter()
                .all(|&b| (b as usize) < limits.cache_blocks);
        if lengths_match && in_range && fits {
            return Ok(());
        }
        Err(Error::Request(format!(
            "a step of {rows} rows and {} outputs does not fit an executor of {} rows, {} \
             outputs, {} slots and {} positions, or names a token, slot, row or position outside",
            self.outputs.len(),
            limits.max_rows,
            limits.max_outputs,
            limits.num_slots,
            limits.context
        )))
    }
}

/// Where a sequence's decode starts, and how its tokens are chosen.
#[derive(Debug, Clone, Copy)]
pub struct DecodeStart<'a> {
    /// The token to feed first.
    pub token: u32,
    /// Keys it may see: its position plus one.
    pub length: u32,
    /// Its slot.
    pub slot: u32,
    /// How its tokens are chosen.
    pub sampling: &'a Sampling,
    /// Tokens before and including `token`, for the penalties.
    pub history: &'a [u32],
    /// Draws that the sequence has made: its place in the random sequence of its seed.
    pub draws: u64,
}

impl<'a> DecodeStart<'a> {
    /// Goes on behind all of `tokens`, of which the cache of the slot lacks the last. Nothing has been
    /// drawn yet.
    #[must_use]
    pub fn after(slot: usize, tokens: &'a [u32], sampling: &'a Sampling) -> DecodeStart<'a> {
        DecodeStart {
            token: tokens.last().copied().unwrap_or(0),
            length: tokens.len() as u32,
            slot: slot as u32,
            sampling,
            history: tokens,
            draws: 0,
        }
    }
}
