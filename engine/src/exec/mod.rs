//! Executors: what runs a plan.
//!
//! An executor owns the buffers and the cache; the caller owns the block table and says in each
//! [`Step`] which tokens run where. It has three sides: [`Executor`] serves (run, read logits,
//! decode), [`Inspect`] shows what is in it (poison, run unit by unit, read and overwrite any
//! buffer), and [`Measure`] says what its launches take.

mod addresses;
pub mod cpu;
pub mod cuda;
mod decode;
pub(crate) mod embed;
mod executor;
pub(crate) mod faulty;
pub(crate) mod guarded;
pub(crate) mod host;
#[cfg(feature = "interp")]
pub mod interp;
mod limits;
pub mod load_report;
mod opening;
pub(crate) mod packed;
mod queue;
mod ranks;
pub mod sample;
mod step;
pub mod trace;

use crate::plan::StepRow;
use sample::Sampling;

pub use decode::{HostDecode, decode_on_host};
pub use executor::{Executor, ExecutorKind, Inspect, LaunchTime, Measure, Stats, StepTimes};
pub use limits::Limits;
pub(crate) use limits::limits;
pub use load_report::{Load, LoadReport};
pub use opening::Opening;
pub use queue::{HostQueue, SlotChoice};
pub use ranks::RankedExecutor;
pub use step::{Step, StepRows};

/// Where a sequence's decode starts, and how its tokens are chosen.
#[derive(Debug, Clone, Copy)]
pub struct DecodeStart<'a> {
    /// What is fed first.
    pub row: StepRow,
    /// How its tokens are chosen.
    pub sampling: &'a Sampling,
    /// Tokens before and including the one that is fed first, for the penalties.
    pub history: &'a [u32],
    /// Draws that the sequence has made: its place in the random sequence of its seed.
    pub draws: u64,
}

impl<'a> DecodeStart<'a> {
    /// How many of `steps` steps are its own: it does nothing more behind its limit.
    pub(crate) fn own_steps(&self, steps: usize) -> usize {
        match self.row.limit {
            0 => steps,
            limit => steps.min((limit + 1).saturating_sub(self.row.length) as usize),
        }
    }

    /// How its tokens are chosen.
    pub(crate) fn choice(&self) -> SlotChoice<'a> {
        SlotChoice {
            slot: self.row.slot,
            sampling: self.sampling,
            history: self.history,
            draws: self.draws,
        }
    }

    /// Goes on behind all of `tokens`, of which the cache of the slot lacks the last. Nothing has been
    /// drawn yet.
    #[must_use]
    pub fn after(slot: usize, tokens: &'a [u32], sampling: &'a Sampling) -> DecodeStart<'a> {
        DecodeStart {
            row: StepRow::last(tokens, slot),
            sampling,
            history: tokens,
            draws: 0,
        }
    }
}
