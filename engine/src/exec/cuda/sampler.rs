//! Choosing tokens on the device: the settings and the recent tokens of every slot, and the launch
//! that reads them.
//!
//! The kernel keeps both up to date, so that any number of steps can be queued.

use bytemuck::cast_slice;
use gannet_cuda_runtime::{Args, Buffer, Launch, Stream};
use gannet_ptx_gen::kernels::{SampleParams, SampleSpec};

use super::open::Gpu;
use super::prepare::{compile, launch_of};
use super::state::StepState;
use crate::Error;
use crate::exec::DecodeStart;
use crate::sample::MAX_WINDOW;

/// Bytes of a slot's settings.
const PARAMS: usize = SampleParams::WORDS * 4;

/// The sampling state of all slots.
pub(super) struct SlotSamplers {
    spec: SampleSpec,
    /// `u32[num_slots, SampleParams::WORDS]`.
    params: Buffer,
    /// `u32[num_slots, MAX_WINDOW]`: the latest tokens of each slot, a ring.
    history: Buffer,
}

impl SlotSamplers {
    pub(super) fn new(
        gpu: &Gpu,
        num_slots: usize,
        vocab_size: usize,
    ) -> Result<SlotSamplers, Error> {
        let spec = SampleSpec {
            target: gpu.target,
            vocab_size: vocab_size as u32,
            window_max: MAX_WINDOW as u32,
        };
        spec.check().map_err(Error::Cuda)?;
        Ok(SlotSamplers {
            spec,
            params: Buffer::new(&gpu.context, num_slots * PARAMS)?,
            history: Buffer::new(&gpu.context, num_slots * MAX_WINDOW * 4)?,
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

    /// The launch that chooses the tokens of `rows` rows of logits.
    pub(super) fn launch(
        &self,
        gpu: &Gpu,
        logits: &Buffer,
        state: &StepState,
        next: &Buffer,
        rows: usize,
    ) -> Result<Launch, Error> {
        let kernel = compile(gpu, &self.spec.kernel())?;
        let args = Args::for_kernel(&kernel)
            .ptr(logits)
            .ptr(&state.lengths)
            .ptr(&state.slots)
            .ptr(&self.params)
            .ptr(&self.history)
            .ptr(next)
            .finish()?;
        Ok(launch_of(gpu, &kernel, self.spec.grid(rows as u32), args))
    }
}
