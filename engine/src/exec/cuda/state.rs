//! The step state: every value that changes between steps, at fixed device addresses.

use std::sync::Arc;

use bytemuck::cast_slice;
use gannet_cuda_runtime::{Buffer, Context, Stream};

use crate::Error;
use crate::exec::{Limits, Step};
use crate::kv::{BLOCK_TOKENS, BlockTable};

/// Device arrays of the step's inputs.
pub(super) struct StepState {
    pub(super) tokens: Buffer,
    pub(super) lengths: Buffer,
    pub(super) slots: Buffer,
    pub(super) outputs: Buffer,
    pub(super) table: Buffer,
    /// The four arrays of rows, one after the other, so that one copy sets them.
    rows: Buffer,
    max_rows: usize,
    staged: Vec<u32>,
    uploaded_table: Vec<u32>,
}

impl StepState {
    pub(super) fn new(context: &Arc<Context>, limits: Limits) -> Result<StepState, Error> {
        let max_rows = limits.max_rows;
        let rows = Buffer::new(context, 4 * max_rows * 4)?;
        let array = |i: usize| rows.slice(i * max_rows * 4..(i + 1) * max_rows * 4);
        let max_blocks = limits.context.div_ceil(BLOCK_TOKENS);
        Ok(StepState {
            tokens: array(0)?,
            lengths: array(1)?,
            slots: array(2)?,
            outputs: array(3)?,
            table: Buffer::new(context, limits.num_slots * max_blocks * 4)?,
            rows,
            max_rows,
            staged: vec![0; 4 * max_rows],
            uploaded_table: Vec::new(),
        })
    }

    /// Copies a step's inputs to the device; rows past its own become dead.
    pub(super) fn upload(&mut self, stream: &Stream, step: &Step<'_>) -> Result<(), Error> {
        self.staged.fill(0);
        let arrays = [step.tokens, step.lengths, step.slots, step.outputs];
        for (to, from) in self.staged.chunks_exact_mut(self.max_rows).zip(arrays) {
            to[..from.len()].copy_from_slice(from);
        }
        stream.copy_to_device(&self.rows, 0, cast_slice(&self.staged))?;
        self.upload_table(stream, step.table)
    }

    fn upload_table(&mut self, stream: &Stream, table: &BlockTable) -> Result<(), Error> {
        if self.uploaded_table != table.entries() {
            stream.copy_to_device(&self.table, 0, cast_slice(table.entries()))?;
            self.uploaded_table = table.entries().to_vec();
        }
        Ok(())
    }
}
