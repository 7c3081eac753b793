//! The step state: every value that changes between steps, at fixed device addresses.

use std::sync::Arc;

use bytemuck::cast_slice;
use gannet_cuda_runtime::{Buffer, Context, Stream};

use crate::Error;
use crate::exec::addresses::Inputs;
use crate::exec::{Limits, Step};
use crate::kv::{BLOCK_TOKENS, BlockTable};
use crate::plan::Column;

/// Device arrays of the step's inputs.
pub(super) struct StepState {
    pub(super) inputs: Inputs<Buffer>,
    /// The columns, one after the other, so that one copy sets them.
    rows: Buffer,
    max_rows: usize,
    staged: Vec<u32>,
    uploaded_table: Vec<u32>,
}

impl StepState {
    pub(super) fn new(context: &Arc<Context>, limits: Limits) -> Result<StepState, Error> {
        let max_rows = limits.max_rows;
        let bytes = max_rows * 4;
        let rows = Buffer::new(context, Column::COUNT * bytes)?;
        let columns = (0..Column::COUNT).map(|i| rows.slice(i * bytes..(i + 1) * bytes));
        let max_blocks = limits.context.div_ceil(BLOCK_TOKENS);
        Ok(StepState {
            inputs: Inputs {
                columns: columns.collect::<Result<_, _>>()?,
                block_table: Buffer::new(context, limits.num_slots * max_blocks * 4)?,
            },
            rows,
            max_rows,
            staged: vec![0; Column::COUNT * max_rows],
            uploaded_table: Vec::new(),
        })
    }

    /// Copies a step's inputs to the device; rows past its own become dead.
    pub(super) fn upload(&mut self, stream: &Stream, step: &Step<'_>) -> Result<(), Error> {
        self.staged.fill(0);
        let columns = self.staged.chunks_exact_mut(self.max_rows);
        for (to, &column) in columns.zip(Column::ALL) {
            let from = step.column(column);
            to[..from.len()].copy_from_slice(from);
        }
        stream.copy_to_device(&self.rows, 0, cast_slice(&self.staged))?;
        self.upload_table(stream, step.table)
    }

    fn upload_table(&mut self, stream: &Stream, table: &BlockTable) -> Result<(), Error> {
        if self.uploaded_table != table.entries() {
            stream.copy_to_device(&self.inputs.block_table, 0, cast_slice(table.entries()))?;
            self.uploaded_table = table.entries().to_vec();
        }
        Ok(())
    }
}
