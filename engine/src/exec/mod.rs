//! Executors: what runs a plan.
//!
//! An executor owns the buffers and the cache; the caller owns the block table and says in each
//! [`Step`] which tokens run where. The same trait serves generation (run, read logits), parity
//! (poison, run unit by unit, read and overwrite any buffer) and measurement (statistics).

pub mod cpu;
pub mod cuda;
#[cfg(feature = "interp")]
pub mod interp;
mod packed;

use std::ops::ControlFlow;

use crate::Error;
use crate::kv::{BLOCK_TOKENS, BlockTable};
use crate::lower::{Shape, StepKind};
use crate::plan::{Buf, Plan};

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
            && self.table.entries().len() == table;
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

/// Sizes fixed when an executor is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Rows of the largest step.
    pub max_rows: usize,
    /// Rows of the largest step whose logits are wanted.
    pub max_outputs: usize,
    /// Positions of a sequence.
    pub context: usize,
    /// Sequences at once.
    pub num_slots: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_rows: 512,
            max_outputs: 1,
            context: 2048,
            num_slots: 1,
        }
    }
}

/// The arithmetic of the matrix products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// f32 activations everywhere: the reference.
    Exact,
    /// What is fastest within the stated tolerance.
    #[default]
    Fast,
}

/// A smallest piece that an executor can run alone: a plan operation or a fused launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// What it is called in a report.
    pub name: String,
    /// The last plan operation that it covers.
    pub last_op: usize,
    /// Buffers it reads.
    pub reads: Vec<Buf>,
    /// Buffers it writes.
    pub writes: Vec<Buf>,
}

/// Whether buffers with disjoint lifetimes share memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Buffers {
    /// They do.
    #[default]
    Shared,
    /// Every buffer has its own memory, so that all can be read after a step.
    Distinct,
}

/// Where a greedy decode starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeStart {
    /// The token to feed first.
    pub token: u32,
    /// Keys it may see: its position plus one.
    pub length: u32,
    /// Its slot.
    pub slot: u32,
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
}

/// Runs a plan.
pub trait Executor: Send {
    /// Name on the command line: `cpu`, `cuda-eager`, `cuda-graph`.
    fn name(&self) -> &'static str;

    /// The plan it runs.
    fn plan(&self) -> &Plan;

    /// Its sizes.
    fn limits(&self) -> Limits;

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

    /// Feeds `start.token`, then each most likely token, for `steps` steps or until `on_token`
    /// breaks. The table must hold blocks for all of them.
    ///
    /// # Errors
    /// The device failed.
    fn decode_greedy(
        &mut self,
        start: DecodeStart,
        steps: usize,
        table: &BlockTable,
        on_token: &mut dyn FnMut(u32) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let mut token = start.token;
        for i in 0..steps {
            self.run(&Step {
                tokens: &[token],
                lengths: &[start.length + i as u32],
                slots: &[start.slot],
                outputs: &[0],
                table,
            })?;
            token = self.next()?[0];
            if on_token(token).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// The pieces that [`Executor::run_unit`] runs for a step of this shape.
    fn units(&mut self, rows: usize, outputs: usize) -> Result<Vec<Unit>, Error>;

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
