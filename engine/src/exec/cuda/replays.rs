//! The decodes of a rank: steps that repeat themselves, and the samplers of its slots.

use std::sync::Arc;

use gannet_cuda_runtime::{Buffer, Stream};

use super::decode::{DecodeShape, Listed, Replay};
use super::open::Gpu;
use super::prepare::Kernels;
use super::rank::{Rank, batch_shape};
use super::record::Recorder;
use super::ring::Ring;
use super::sampler::{Rows, SlotSamplers};
use super::state::StepState;
use crate::Error;
use crate::exec::sample::Sampling;
use crate::exec::{DecodeStart, Limits, SlotChoice, StepRows};
use crate::kv::BlockTable;
use crate::plan::Column;

/// What a rank needs for the launches of a decoding step besides the prepared step.
pub(super) struct DecodeParts<'r> {
    pub(super) gpu: &'r Arc<Gpu>,
    pub(super) stream: &'r Stream,
    pub(super) state: &'r StepState,
    pub(super) limits: Limits,
    pub(super) kernels: &'r mut Kernels,
    pub(super) recorder: &'r mut Recorder,
    pub(super) samplers: Option<&'r SlotSamplers>,
}

impl Rank {
    /// Sets the step state to the first step of a decode, and makes what repeats it.
    pub(super) fn start_decode(
        &mut self,
        shape: DecodeShape,
        sequences: &[DecodeStart<'_>],
        table: &BlockTable,
    ) -> Result<(), Error> {
        let inputs = StepRows::padded_batch(sequences.iter().map(|s| s.row));
        let first = inputs.step(table);
        first.check(self.limits, self.plan())?;
        self.upload(&first)?;
        if shape.draws {
            sequences
                .iter()
                .try_for_each(|s| self.set_sampler(&s.choice()))?;
        }
        self.make_replay(shape)?;
        self.set_current(batch_shape(shape.rows))?;
        Ok(())
    }

    /// Whether there is a sampler for every slot.
    pub(super) fn has_samplers(&self) -> bool {
        self.samplers.is_some()
    }

    /// The samplers of all slots, made when tokens are first drawn: greedy ones.
    fn samplers(&mut self) -> Result<&SlotSamplers, Error> {
        let made = match self.samplers.take() {
            Some(made) => made,
            None => {
                let (slots, vocab_size) = (self.limits.num_slots, self.plan().vocab_size);
                let (gpu, kernels) = (&self.gpu, &mut self.kernels);
                let made = SlotSamplers::new(gpu, &self.stream, kernels, slots, vocab_size)?;
                let greedy = Sampling::default();
                for slot in 0..slots as u32 {
                    let choice = SlotChoice {
                        slot,
                        sampling: &greedy,
                        history: &[],
                        draws: 0,
                    };
                    made.set(&self.stream, self.state.staging(), &choice)?;
                }
                made
            }
        };
        Ok(self.samplers.insert(made))
    }

    /// Says how the tokens of a slot are chosen.
    pub(super) fn set_sampler(&mut self, choice: &SlotChoice<'_>) -> Result<(), Error> {
        self.samplers()?;
        match &self.samplers {
            Some(samplers) => samplers.set(&self.stream, self.state.staging(), choice),
            None => Ok(()),
        }
    }

    /// What chooses tokens from rows of logits.
    pub(super) fn sampling(
        &mut self,
        logits: &Buffer,
        next: &Buffer,
        rows: Rows,
    ) -> Result<[Listed; 2], Error> {
        self.samplers()?;
        let samplers = self.samplers.as_ref();
        let samplers = samplers.ok_or_else(|| Error::internal("there are no samplers"))?;
        samplers.launches(&self.gpu, logits, &self.state, next, rows)
    }

    /// Makes the step that a decode of a shape repeats, if there is none.
    pub(super) fn make_replay(&mut self, shape: DecodeShape) -> Result<(), Error> {
        if shape.draws {
            self.samplers()?;
        }
        if !self.replays.contains_key(&shape) {
            let prepared = self.prepared(batch_shape(shape.rows))?;
            let parts = DecodeParts {
                gpu: &self.gpu,
                stream: &self.stream,
                state: &self.state,
                limits: self.limits,
                kernels: &mut self.kernels,
                recorder: &mut self.recorder,
                samplers: self.samplers.as_ref(),
            };
            let made = Replay::new(parts, self.model.plan(), &prepared, shape)?;
            self.replays.insert(shape, made);
        }
        Ok(())
    }

    /// Where decodes leave their tokens.
    pub(super) fn rings(&self) -> impl Iterator<Item = &Ring> {
        self.replays.values().map(Replay::ring)
    }

    /// The step of a decode that [`Rank::start_decode`] made.
    pub(super) fn replay(&self, shape: DecodeShape) -> &Replay {
        &self.replays[&shape]
    }

    /// Queues one step of a decode, and returns its number.
    pub(super) fn issue(&mut self, shape: DecodeShape) -> Result<u32, Error> {
        let replay = &self.replays[&shape];
        let number = replay.issue(&self.stream)?;
        self.fallbacks += u64::from(replay.is_fallback());
        Ok(number)
    }

    /// Makes a row of a decode do nothing from the next step on.
    pub(super) fn end_row(&self, row: usize) -> Result<(), Error> {
        let lengths = self.state.inputs.column(Column::Length);
        let length = lengths.slice(4 * row..4 * row + 4)?;
        Ok(self.stream.memset_d32(&length, 0)?)
    }
}
