//! Executors: what runs a plan.
//!
//! An executor owns the buffers and the cache; the caller owns the block table and says in each
//! [`Step`] which tokens run where. The same trait serves generation (run, read logits), parity
//! (poison, run unit by unit, read and overwrite any buffer) and measurement (statistics).

mod addresses;
pub mod cpu;
pub mod cuda;
mod decode;
pub(crate) mod host;
#[cfg(feature = "interp")]
pub mod interp;
mod limits;
pub mod load;
mod opening;
pub(crate) mod packed;
pub mod sample;

use std::ops::ControlFlow;

use crate::Error;
use crate::kv::{BLOCK_TOKENS, BlockTable};
use crate::lower::{Shape, StepKind, Unit};
use crate::plan::{Buf, Column, Plan};
use sample::Sampling;

pub use decode::{HostDecode, decode_on_host};
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

    /// What an input says of each row of its kind.
    #[must_use]
    pub fn column(&self, column: Column) -> &[u32] {
        match column {
            Column::Token => self.tokens,
            Column::Length => self.lengths,
            Column::Slot => self.slots,
            Column::Output => self.outputs,
        }
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

/// What a launch took, measured on the device.
#[derive(Debug, Clone, PartialEq)]
pub struct LaunchTime {
    /// The unit it belongs to: plan operation and buffer, or what follows the plan.
    pub unit: String,
    /// The kernel's name.
    pub kernel: String,
    /// Blocks.
    pub grid: [u32; 3],
    /// Bytes that it must move, given the keys that the step's rows see.
    pub bytes: u64,
    /// Seconds of each repeat, in the order they ran.
    pub seconds: Vec<f64>,
}

/// Counters since an executor was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Forward steps.
    pub steps: u64,
    /// Kernel launches, those of graphs not counted.
    pub launches: u64,
    /// Graph launches.
    pub graph_launches: u64,
    /// Host waits for the device.
    pub synchronizations: u64,
    /// Steps that were to run as a graph and ran eagerly, because the graph could not be built.
    pub fallbacks: u64,
}

/// Runs a plan.
pub trait Executor: Send {
    /// Name on the command line: `cpu`, `cuda-eager`, `cuda-graph`, `cuda-capture`, `interp`.
    fn name(&self) -> &'static str;

    /// What a user should know about how it runs, such as a graph that could not be built.
    fn notice(&self) -> Option<String> {
        None
    }

    /// The plan it runs.
    fn plan(&self) -> &Plan;

    /// Its sizes.
    fn limits(&self) -> Limits;

    /// What it took to make it; nothing where weights stay in the file.
    fn load(&self) -> Load {
        Load::default()
    }

    /// Runs a step.
    ///
    /// # Errors
    /// The device failed.
    fn run(&mut self, step: &Step<'_>) -> Result<(), Error>;

    /// Logits of the last step: `[outputs, vocab_size]`.
    ///
    /// # Errors
    /// The device failed.
    fn logits(&mut self) -> Result<&[f32], Error>;

    /// The most likely next token of each output row of the last step.
    ///
    /// # Errors
    /// The device failed.
    fn next(&mut self) -> Result<&[u32], Error>;

    /// Feeds each sequence its token, then each token that is chosen, for `steps` steps.
    /// `on_token(i, token)` gets what sequence `i` chose and ends that sequence by breaking; nothing
    /// of it is given out afterwards. Ends when all sequences have. The table must hold blocks that
    /// each sequence may write for all of its steps.
    ///
    /// # Errors
    /// More sequences or positions than the limits, two sequences of one slot, or the device failed.
    fn decode(
        &mut self,
        sequences: &[DecodeStart<'_>],
        steps: usize,
        table: &BlockTable,
        on_token: &mut dyn FnMut(usize, u32) -> ControlFlow<()>,
    ) -> Result<(), Error>;

    /// Device time of one step of [`Executor::decode`] in seconds, all of its launches back to back;
    /// `None` where there is no device to wait for.
    ///
    /// # Errors
    /// As [`Executor::decode`].
    fn device_step_time(
        &mut self,
        _sequences: &[DecodeStart<'_>],
        _steps: usize,
        _table: &BlockTable,
    ) -> Result<Option<f64>, Error> {
        Ok(None)
    }

    /// Runs a step of [`Executor::decode`] launch by launch, `repeats` times, and says what each
    /// took, those included that choose the tokens and feed them back; `None` where there are no
    /// launches. The table must hold blocks for a few steps.
    ///
    /// # Errors
    /// As [`Executor::decode`].
    fn profile(
        &mut self,
        _sequences: &[DecodeStart<'_>],
        _repeats: usize,
        _table: &BlockTable,
    ) -> Result<Option<Vec<LaunchTime>>, Error> {
        Ok(None)
    }

    /// Copies cache blocks, all layers and keys and values of each: `(from, to)`.
    ///
    /// # Errors
    /// A block outside the cache, or the device failed.
    fn copy_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<(), Error>;

    /// The pieces that [`Executor::run_unit`] runs for a step of this shape.
    ///
    /// # Errors
    /// A shape that cannot be lowered.
    fn units(&mut self, shape: Shape) -> Result<Vec<Unit>, Error>;

    /// Fills every buffer with NaN (ids with an impossible value).
    ///
    /// # Errors
    /// The device failed.
    fn poison(&mut self) -> Result<(), Error>;

    /// Sets the inputs of a step without running it.
    ///
    /// # Errors
    /// The device failed.
    fn begin(&mut self, step: &Step<'_>) -> Result<(), Error>;

    /// Runs one unit of the step that was begun.
    ///
    /// # Errors
    /// The device failed.
    fn run_unit(&mut self, step: &Step<'_>, unit: usize) -> Result<(), Error>;

    /// A buffer's contents for the last step, ids as floats; `None` where fusion never makes it.
    ///
    /// # Errors
    /// The device failed.
    fn read(&mut self, b: Buf) -> Result<Option<Vec<f32>>, Error>;

    /// Overwrites a buffer of the step that was begun; ignored where fusion never makes it.
    ///
    /// # Errors
    /// The device failed.
    fn write(&mut self, b: Buf, data: &[f32]) -> Result<(), Error>;

    /// Counters.
    fn stats(&self) -> Stats;
}
