//! The step state: every value that changes between steps, at fixed device addresses.
//!
//! It is set by copies that the stream orders and the host does not wait for: steps queue ahead.

use std::sync::Arc;

use bytemuck::cast_slice;
use gannet_cuda_runtime::{Buffer, Context, Stream};

use super::staging::Staging;
use crate::Error;
use crate::exec::addresses::Inputs;
use crate::exec::{Limits, Step};
use crate::kv::{BLOCK_TOKENS, BlockTable};
use crate::plan::Column;

/// Device arrays of the step's inputs.
pub(super) struct StepState {
    pub(super) inputs: Inputs<Buffer>,
    /// `u32[num_slots]`: the token that was chosen last for each slot.
    pub(super) latest: Buffer,
    /// The columns, one after the other, so that one copy sets them.
    rows: Buffer,
    max_rows: usize,
    filled: Vec<u32>,
    uploaded_table: Vec<u32>,
    staging: Staging,
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
            latest: Buffer::new(context, limits.num_slots * 4)?,
            rows,
            max_rows,
            filled: vec![0; Column::COUNT * max_rows],
            uploaded_table: Vec::new(),
            staging: Staging::new(context)?,
        })
    }

    /// Other small data that has to be on the device before what is queued next.
    pub(super) fn staging(&mut self) -> &mut Staging {
        &mut self.staging
    }

    /// Queues the copy of a step's inputs to the device; rows past its own become dead.
    pub(super) fn upload(&mut self, stream: &Stream, step: &Step<'_>) -> Result<(), Error> {
        self.filled.fill(0);
        let columns = self.filled.chunks_exact_mut(self.max_rows);
        for (to, &column) in columns.zip(Column::ALL) {
            let from = step.column(column);
            to[..from.len()].copy_from_slice(from);
        }
        let filled = cast_slice(&self.filled);
        self.staging.copy(stream, &self.rows, 0, filled)?;
        self.upload_table(stream, step.table)
    }

    /// Queues the copy of what has changed in the table.
    pub(super) fn upload_table(
        &mut self,
        stream: &Stream,
        table: &BlockTable,
    ) -> Result<(), Error> {
        let (old, new) = (&mut self.uploaded_table, table.entries());
        if old.len() != new.len() {
            // What no block has is different from everything.
            *old = vec![u32::MAX; new.len()];
        }
        let differs = |i: &usize| old[*i] != new[*i];
        let Some(first) = (0..new.len()).find(differs) else {
            return Ok(());
        };
        let last = (first..new.len()).rfind(differs).unwrap_or(first);
        let changed = &new[first..=last];
        let to = &self.inputs.block_table;
        self.staging
            .copy(stream, to, first * 4, cast_slice(changed))?;
        old[first..=last].copy_from_slice(changed);
        Ok(())
    }
}
