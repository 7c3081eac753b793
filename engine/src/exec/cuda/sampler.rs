//! Choosing tokens on the device: the settings and the recent tokens of every slot, and the launches
//! that read them.
//!
//! The kernels keep both up to date, so that any number of steps can be queued.

use bytemuck::cast_slice;
use gannet_cuda_runtime::{Args, Buffer, Kernel, Stream};
use gannet_ptx_gen::kernels::{SampleParams, SampleSpec};
use gannet_ptx_gen::target::Target;

use super::decode::Listed;
use super::open::Gpu;
use super::prepare::{Kernels, launch_of};
use super::state::StepState;
use crate::Error;
use crate::exec::DecodeStart;
use crate::exec::sample::MAX_WINDOW;
use crate::lower::{KernelSpec, SampleDraw, SampleFilter};

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

/// The sampling state of all slots, and the kernels that choose.
pub(super) struct SlotSamplers {
    spec: SampleSpec,
    filter: Kernel,
    draw: Kernel,
    /// `u32[num_slots, SampleParams::WORDS]`.
    params: Buffer,
    /// `u32[num_slots, MAX_WINDOW]`: the latest tokens of each slot, a ring.
    history: Buffer,
    /// `u32[rows, 4]`: what the first kernel tells the second.
    found: Buffer,
    /// `f32` and `u32`, [`SampleSpec::scratch`] of each: the best of each block.
    best_values: Buffer,
    best_indices: Buffer,
    /// `u32[rows]`, zero between launches.
    arrived: Buffer,
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
            params: Buffer::new(&gpu.context, num_slots * PARAMS)?,
            history: Buffer::new(&gpu.context, num_slots * MAX_WINDOW * 4)?,
            // Not what was there: a first kernel that did not run must not name tokens that do not
            // exist.
            found: zeroed(rows * 4)?,
            best_values: words(spec.scratch(rows))?,
            best_indices: words(spec.scratch(rows))?,
            arrived: zeroed(rows)?,
        })
    }

    /// Sets the slots of sequences that start.
    pub(super) fn set(&self, stream: &Stream, sequences: &[DecodeStart<'_>]) -> Result<(), Error> {
        for s in sequences {
            let (params, ring) = s.sampling.slot(s.history, s.draws);
            let slot = s.slot as usize;
            stream.copy_to_device(&self.params, slot * PARAMS, cast_slice(&params.words()))?;
            stream.copy_to_device(&self.history, slot * MAX_WINDOW * 4, cast_slice(&ring))?;
        }
        Ok(())
    }

    /// What chooses the tokens of `rows` rows of logits, in order.
    pub(super) fn launches(
        &self,
        gpu: &Gpu,
        logits: &Buffer,
        state: &StepState,
        next: &Buffer,
        rows: usize,
    ) -> Result<[Listed; 2], Error> {
        let args = |kernel| {
            Args::for_kernel(kernel)
                .ptr(logits)
                .ptr(&state.lengths)
                .ptr(&state.slots)
                .ptr(&self.params)
                .ptr(&self.history)
        };
        let parts = |args: Args| {
            args.ptr(&self.best_values)
                .ptr(&self.best_indices)
                .ptr(&self.arrived)
        };
        let filter = parts(args(&self.filter)).ptr(&self.found).finish()?;
        let draw = parts(args(&self.draw).ptr(&self.found))
            .ptr(next)
            .finish()?;
        let [filters, draws] = kernels(self.spec.target, self.spec.vocab_size as usize);
        let listed = |unit, spec: KernelSpec, kernel, args| {
            let launch = launch_of(gpu, kernel, spec.grid(rows as u32), args);
            Listed::after(unit, spec, rows, launch)
        };
        Ok([
            listed("filter", filters, &self.filter, filter),
            listed("draw", draws, &self.draw, draw),
        ])
    }
}
