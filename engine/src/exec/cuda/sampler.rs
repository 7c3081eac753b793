//! Choosing tokens on the device: the settings and the recent tokens of every slot, and the launches
//! that read them.
//!
//! The kernels keep both up to date, so that any number of steps can be queued.

use bytemuck::cast_slice;
use gannet_cuda_runtime::{Buffer, LoadedKernel, Stream};
use gannet_ptx_gen::kernels::{SampleParams, SampleSpec};
use gannet_ptx_gen::target::Target;

use super::decode::Listed;
use super::open::Gpu;
use super::prepare::{Kernels, args_by_name, launch_of};
use super::staging::Staging;
use super::state::StepState;
use crate::Error;
use crate::exec::SlotChoice;
use crate::exec::addresses::Inputs;
use crate::exec::sample::MAX_WINDOW;
use crate::lower::{KernelSpec, Named, SampleDraw, SampleFilter};
use crate::plan::Column;

/// Bytes of a slot's settings.
const PARAMS: usize = SampleParams::WORDS * 4;

/// How to choose among `vocab_size` tokens.
fn chooser(target: Target, vocab_size: usize) -> SampleSpec {
    SampleSpec {
        target,
        vocab_size: vocab_size as u32,
        window_max: MAX_WINDOW as u32,
    }
}

/// The kernels that choose among `vocab_size` tokens, in the order of their launches.
pub(super) fn kernels(target: Target, vocab_size: usize) -> [KernelSpec; 2] {
    let spec = chooser(target, vocab_size);
    [SampleFilter(spec).into(), SampleDraw(spec).into()]
}

/// The rows of logits from which tokens are chosen, and where it says whose they are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows {
    count: usize,
    lengths: Column,
    slots: Column,
}

impl Rows {
    /// Every row of a step.
    pub(super) fn all(count: usize) -> Rows {
        Rows {
            count,
            lengths: Column::Length,
            slots: Column::Slot,
        }
    }

    /// The outputs of a step.
    pub(super) fn outputs(count: usize) -> Rows {
        Rows {
            count,
            lengths: Column::OutputLength,
            slots: Column::OutputSlot,
        }
    }
}

/// The sampling state of all slots, and the kernels that choose.
pub(super) struct SlotSamplers {
    spec: SampleSpec,
    filter: LoadedKernel,
    draw: LoadedKernel,
    memory: SlotMemory<Buffer>,
}

/// The memory that the kernels share.
struct SlotMemory<B> {
    /// `u32[num_slots, SampleParams::WORDS]`.
    settings: B,
    /// `u32[num_slots, MAX_WINDOW]`: the latest tokens of each slot, a ring.
    history: B,
    /// `u32[rows, 4]`: what the first kernel tells the second.
    found: B,
    /// `f32` and `u32`, [`SampleSpec::scratch`] of each: the best of each block.
    best_values: B,
    best_indices: B,
    /// `u32[rows]`, zero between launches.
    counters: B,
}

impl<B> SlotMemory<B> {
    /// What both kernels take, by the names of their parameters.
    fn given<'a>(
        &'a self,
        logits: &'a B,
        inputs: &'a Inputs<B>,
        rows: Rows,
    ) -> [(&'static str, &'a B); 9] {
        [
            ("logits", logits),
            ("lengths", inputs.column(rows.lengths)),
            ("slots", inputs.column(rows.slots)),
            ("settings", &self.settings),
            ("history", &self.history),
            ("best_values", &self.best_values),
            ("best_indices", &self.best_indices),
            ("counters", &self.counters),
            ("found", &self.found),
        ]
    }
}

impl SlotSamplers {
    pub(super) fn new(
        gpu: &Gpu,
        stream: &Stream,
        compiled: &mut Kernels,
        num_slots: usize,
        vocab_size: usize,
    ) -> Result<SlotSamplers, Error> {
        let spec = chooser(gpu.target, vocab_size);
        spec.check().map_err(|why| Error::Unsupported {
            what: format!("a vocabulary of {vocab_size}"),
            why,
        })?;
        let specs = kernels(gpu.target, vocab_size);
        compiled.compile(gpu, &specs)?;
        let [filter, draw] = specs.each_ref().map(|spec| compiled.get(spec).cloned());
        // Steps have a power of two of rows.
        let rows = num_slots.next_power_of_two();
        let words = |n: usize| Buffer::new(&gpu.context, n * 4);
        let zeroed = |n: usize| -> Result<Buffer, Error> {
            let buffer = words(n)?;
            stream.memset_d32(&buffer, 0)?;
            Ok(buffer)
        };
        Ok(SlotSamplers {
            spec,
            filter: filter?,
            draw: draw?,
            memory: SlotMemory {
                settings: Buffer::new(&gpu.context, num_slots * PARAMS)?,
                history: Buffer::new(&gpu.context, num_slots * MAX_WINDOW * 4)?,
                // Not what was there: a first kernel that did not run must not name tokens that do not
                // exist.
                found: zeroed(rows * 4)?,
                best_values: words(spec.scratch(rows))?,
                best_indices: words(spec.scratch(rows))?,
                counters: zeroed(rows)?,
            },
        })
    }

    /// Sets how the tokens of a slot are chosen from now on.
    pub(super) fn set(
        &self,
        stream: &Stream,
        staging: &mut Staging,
        choice: &SlotChoice<'_>,
    ) -> Result<(), Error> {
        let (params, ring) = choice.sampling.slot(choice.history, choice.draws);
        let (params, slot) = (params.words(), choice.slot as usize);
        let settings = &self.memory.settings;
        staging.copy(stream, settings, slot * PARAMS, cast_slice(&params))?;
        let history = &self.memory.history;
        staging.copy(stream, history, slot * MAX_WINDOW * 4, cast_slice(&ring))
    }

    /// What chooses the tokens of rows of logits, in order.
    pub(super) fn launches(
        &self,
        gpu: &Gpu,
        logits: &Buffer,
        state: &StepState,
        next: &Buffer,
        rows: Rows,
    ) -> Result<[Listed; 2], Error> {
        let both = self.memory.given(logits, &state.inputs, rows);
        let rows = rows.count;
        let all = both.into_iter().chain([("out", next)]);
        let [filters, draws] = kernels(self.spec.target, self.spec.vocab_size as usize);
        let listed = |unit, spec: KernelSpec, kernel, given| -> Result<Listed, Error> {
            let args = args_by_name(&spec, kernel, &given, None)?;
            let launch = launch_of(gpu, kernel, spec.grid(rows as u32), args);
            Ok(Listed::after(unit, spec, rows, launch))
        };
        Ok([
            listed("filter", filters, &self.filter, Named::new(both))?,
            listed("draw", draws, &self.draw, Named::new(all))?,
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kernels_take_what_they_are_given() {
        let memory = SlotMemory {
            settings: 20,
            history: 21,
            found: 22,
            best_values: 23,
            best_indices: 24,
            counters: 25,
        };
        let inputs = Inputs {
            columns: (0..Column::COUNT).collect(),
            block_table: 99,
        };
        let (lengths, slots) = (Column::Length as usize, Column::Slot as usize);
        let [filter, draw] = kernels(Target::Sm80, 1000);
        let both = memory.given(&10, &inputs, Rows::all(1));
        let args = Named::new(both).bind(&filter).unwrap();
        let shared = [&10, &lengths, &slots, &20, &21];
        assert_eq!(args[..5], shared);
        assert_eq!(args[5..], [&23, &24, &25, &22]);
        let all = both.into_iter().chain([("out", &11)]);
        let args = Named::new(all).bind(&draw).unwrap();
        assert_eq!(args[..5], shared);
        assert_eq!(args[5..], [&22, &23, &24, &25, &11]);
        // One too many, and one too few.
        assert!(Named::new(both).bind(&draw).is_err());
        let all = both.into_iter().chain([("out", &11)]);
        assert!(Named::new(all).bind(&filter).is_err());
    }
}
