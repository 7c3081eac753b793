//! Choosing tokens on the device: the settings and the recent tokens of every slot, and the launches
//! that read them.
//!
//! The kernels keep both up to date, so that any number of steps can be queued.

use bytemuck::cast_slice;
use gannet_cuda_runtime::{Args, Buffer, Kernel, Launch, Stream};
use gannet_ptx_gen::kernels::{SampleParams, SampleSpec};

use super::open::Gpu;
use super::prepare::{compile, launch_of};
use super::state::StepState;
use crate::Error;
use crate::exec::DecodeStart;
use crate::sample::MAX_WINDOW;

/// Bytes of a slot's settings.
const PARAMS: usize = SampleParams::WORDS * 4;

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
        num_slots: usize,
        vocab_size: usize,
    ) -> Result<SlotSamplers, Error> {
        let spec = SampleSpec {
            target: gpu.target,
            vocab_size: vocab_size as u32,
            window_max: MAX_WINDOW as u32,
        };
        spec.check().map_err(Error::Cuda)?;
        let (filter, draw) = rayon::join(
            || compile(gpu, &spec.filter_kernel()),
            || compile(gpu, &spec.draw_kernel()),
        );
        // Steps have a power of two of rows.
        let rows = num_slots.next_power_of_two();
        let words = |n: usize| Buffer::new(&gpu.context, n * 4);
        let arrived = words(rows)?;
        stream.memset_d32(&arrived, 0)?;
        Ok(SlotSamplers {
            spec,
            filter: filter?,
            draw: draw?,
            params: Buffer::new(&gpu.context, num_slots * PARAMS)?,
            history: Buffer::new(&gpu.context, num_slots * MAX_WINDOW * 4)?,
            found: words(rows * 4)?,
            best_values: words(spec.scratch(rows))?,
            best_indices: words(spec.scratch(rows))?,
            arrived,
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

    /// The launches that choose the tokens of `rows` rows of logits, in order.
    pub(super) fn launches(
        &self,
        gpu: &Gpu,
        logits: &Buffer,
        state: &StepState,
        next: &Buffer,
        rows: usize,
    ) -> Result<[Launch; 2], Error> {
        let rows = rows as u32;
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
        Ok([
            launch_of(gpu, &self.filter, self.spec.filter_grid(rows), filter),
            launch_of(gpu, &self.draw, self.spec.draw_grid(rows), draw),
        ])
    }
}
