//! Where the arguments of launches lie: one map for every executor of kernels, whatever its pointers
//! are.

use crate::Error;
use crate::lower::{Arg, Shape};
use crate::plan::{Column, Plan};

/// The inputs of a step in the memory of an executor.
pub(crate) struct Inputs<P> {
    /// One for each of [`Column::ALL`].
    pub(crate) columns: Vec<P>,
    /// `u32[num_slots, max_blocks]`.
    pub(crate) block_table: P,
}

impl<P> Inputs<P> {
    /// The memory of a column.
    pub(crate) fn column(&self, column: Column) -> &P {
        &self.columns[column as usize]
    }
}

/// What launches name, by the places of the plan and of lowering.
pub(crate) struct Addresses<'a, P> {
    pub(crate) plan: &'a Plan,
    /// Of the step.
    pub(crate) shape: Shape,
    pub(crate) inputs: &'a Inputs<P>,
    pub(crate) weights: &'a [P],
    pub(crate) ropes: &'a [P],
    pub(crate) keys: &'a [P],
    pub(crate) values: &'a [P],
    /// `None` where fusion never makes the buffer.
    pub(crate) buffers: &'a [Option<P>],
    pub(crate) scratch: &'a P,
    pub(crate) counters: &'a P,
}

/// An argument as a launch passes it.
#[derive(Clone)]
pub(crate) enum Passed<'a, P> {
    Pointer(&'a P),
    Number(u32),
}

impl<'a, P> Addresses<'a, P> {
    /// What to pass for an argument.
    ///
    /// # Errors
    /// A buffer that nothing writes.
    pub(crate) fn of(&self, arg: Arg) -> Result<Passed<'a, P>, Error> {
        Ok(Passed::Pointer(match arg {
            Arg::Count(count) => return Ok(Passed::Number(count.of(self.shape))),
            Arg::Buffer(b) => self.buffers[b.0 as usize].as_ref().ok_or_else(|| {
                let name = &self.plan.buffer(b).name;
                Error::internal(format!("buffer {name} is read and never written"))
            })?,
            Arg::Weight(w) => &self.weights[w.0 as usize],
            Arg::Input(column) => self.inputs.column(column),
            Arg::BlockTable => &self.inputs.block_table,
            Arg::Keys(cache) => &self.keys[cache.0 as usize],
            Arg::Values(cache) => &self.values[cache.0 as usize],
            Arg::RopeTable(rope) => &self.ropes[rope.0 as usize],
            Arg::Scratch => self.scratch,
            Arg::Counters => self.counters,
        }))
    }
}
