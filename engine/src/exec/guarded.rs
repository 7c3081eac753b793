//! An executor whose calls may be made to fail: what stands between one and whoever drives it.
//!
//! Calls go through as they are but for those that a [`Guard`] is asked about, so faults can be planted into
//! any executor without it knowing. Looking into it ([`Executor::inspect`]) and timing it are left alone.

use std::ops::ControlFlow;
use std::time::Duration;

use gannet_ptx_gen::target::Target;

use super::sample::NO_TOKEN;
use super::{DecodeStart, Executor, ExecutorKind, HostQueue, Inspect, Limits, Load, Measure};
use super::{SlotChoice, Stats, Step};
use crate::Error;
use crate::kv::BlockTable;
use crate::plan::Plan;

/// Calls that a guard is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// How tokens of a slot are chosen.
    Slot,
    /// A step.
    Queue,
    /// What a step chose.
    Take,
    /// The logits of a step.
    Logits,
    /// Blocks copied, saved or restored.
    Blocks,
}

/// What makes calls fail.
pub(crate) trait Guard: Send {
    /// Asked in front of a call; an error fails it before it does anything.
    ///
    /// # Errors
    /// The fault that is planted here.
    fn before(&mut self, call: Call) -> Result<(), Error>;

    /// Asked behind [`Call::Queue`] and [`Call::Blocks`]; an error fails them though their work is done.
    ///
    /// # Errors
    /// The fault that is planted here.
    fn after(&mut self, call: Call) -> Result<(), Error> {
        let _ = call;
        Ok(())
    }

    /// Whether results are held back this once, as if the device were slow.
    fn holds_back(&mut self) -> bool {
        false
    }

    /// Changes what the oldest step chose.
    fn spoil(&mut self, tokens: &mut [u32]) {
        let _ = tokens;
    }

    /// Whether the first row of the logits of the latest step is to be no numbers.
    fn spoils_logits(&self) -> bool {
        false
    }

    /// All queued steps are forgotten; true where the executor is lost.
    fn is_lost(&mut self) -> bool;
}

/// An executor behind a guard.
pub(crate) struct Guarded<G> {
    inner: Box<dyn Executor>,
    guard: G,
    /// Logits with a row that was spoilt.
    spoilt: Vec<f32>,
}

impl<G: Guard> Guarded<G> {
    pub(crate) fn new(inner: Box<dyn Executor>, guard: G) -> Guarded<G> {
        Guarded {
            inner,
            guard,
            spoilt: Vec::new(),
        }
    }

    fn guarded(
        &mut self,
        call: Call,
        work: impl FnOnce(&mut dyn Executor) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.guard.before(call)?;
        work(self.inner.as_mut())?;
        self.guard.after(call)
    }
}

impl<G: Guard> Executor for Guarded<G> {
    fn kind(&self) -> ExecutorKind {
        self.inner.kind()
    }

    fn notice(&self) -> Option<String> {
        self.inner.notice()
    }

    fn target(&self) -> Option<Target> {
        self.inner.target()
    }

    fn plan(&self) -> &Plan {
        self.inner.plan()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn load(&self) -> Load {
        self.inner.load()
    }

    fn run(&mut self, step: &Step<'_>) -> Result<(), Error> {
        self.inner.run(step)
    }

    fn logits(&mut self) -> Result<&[f32], Error> {
        self.guard.before(Call::Logits)?;
        let vocab_size = self.inner.plan().vocab_size;
        let logits = self.inner.logits()?;
        if !self.guard.spoils_logits() {
            return Ok(logits);
        }
        self.spoilt.clear();
        self.spoilt.extend_from_slice(logits);
        let row = self.spoilt.len().min(vocab_size);
        self.spoilt[..row].fill(f32::NAN);
        Ok(&self.spoilt)
    }

    fn next(&mut self) -> Result<&[u32], Error> {
        self.inner.next()
    }

    fn decode(
        &mut self,
        sequences: &[DecodeStart<'_>],
        steps: usize,
        table: &BlockTable,
        on_token: &mut dyn FnMut(usize, u32) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        self.inner.decode(sequences, steps, table, on_token)
    }

    fn host_queue(&mut self) -> &mut HostQueue {
        self.inner.host_queue()
    }

    fn set_slot(&mut self, choice: &SlotChoice<'_>) -> Result<(), Error> {
        self.guard.before(Call::Slot)?;
        self.inner.set_slot(choice)
    }

    fn queue(&mut self, step: &Step<'_>) -> Result<(), Error> {
        self.guard.before(Call::Queue)?;
        self.inner.queue(step)?;
        let told = self.guard.after(Call::Queue);
        if told.is_err() {
            // It ran, and nobody will hear of it.
            self.inner.take(Duration::ZERO)?;
        }
        told
    }

    fn take(&mut self, patience: Duration) -> Result<Option<Vec<u32>>, Error> {
        self.guard.before(Call::Take)?;
        if self.guard.holds_back() {
            return Ok(None);
        }
        let mut taken = self.inner.take(patience)?;
        if let Some(tokens) = &mut taken {
            self.guard.spoil(tokens);
        }
        Ok(taken)
    }

    fn warm_up(&mut self) -> Result<(), Error> {
        self.inner.warm_up()
    }

    fn time_steps(&mut self, on: bool) {
        self.inner.time_steps(on);
    }

    fn pause(&mut self) {
        self.inner.pause();
    }

    fn abandon(&mut self) -> Result<(), Error> {
        self.inner.abandon()?;
        match self.guard.is_lost() {
            true => Err(planted()),
            false => Ok(()),
        }
    }

    fn copy_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<(), Error> {
        self.guarded(Call::Blocks, |inner| inner.copy_blocks(pairs))
    }

    fn save_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<(), Error> {
        self.guarded(Call::Blocks, |inner| inner.save_blocks(pairs))
    }

    fn restore_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<(), Error> {
        self.guarded(Call::Blocks, |inner| inner.restore_blocks(pairs))
    }

    fn stats(&self) -> Stats {
        self.inner.stats()
    }

    fn inspect(&mut self) -> &mut dyn Inspect {
        self.inner.inspect()
    }

    fn measure(&mut self) -> Option<&mut dyn Measure> {
        self.inner.measure()
    }
}

/// The error of a call that was made to fail.
pub(crate) fn planted() -> Error {
    Error::Request("a planted fault".to_owned())
}

/// Makes the first choice of a step one that is none.
pub(crate) fn spoil_first(tokens: &mut [u32]) {
    if let Some(first) = tokens.first_mut() {
        *first = NO_TOKEN;
    }
}
