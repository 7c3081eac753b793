//! The executor of GPUs: the three sides of [`crate::exec`] over its ranks.
//!
//! What a step needs goes to every rank; logits, chosen tokens and times are the first rank's, which
//! has all of them.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytemuck::cast_slice_mut;
use gannet_ptx_gen::target::Target;

use super::decode::{self, DecodeShape};
use super::open::Gpu;
use super::rank::{Rank, batch_shape};
use super::timing::{self, AHEAD, Profiler};
use super::trial::Trials;
use crate::Error;
use crate::exec::decode::{
    HostDecode, check_blocks, check_places, check_sequences, decode_on_host, swapped,
};
use crate::exec::sample::NO_TOKEN;
use crate::exec::trace::explain_row;
use crate::exec::{DecodeStart, Executor, ExecutorKind, HostQueue, Inspect, LaunchTime, Limits};
use crate::exec::{Load, Measure, SlotChoice, Stats, Step};
use crate::kv::BlockTable;
use crate::lower::{Shape, Unit};
use crate::model::{Model, Phase, Span};
use crate::plan::{Buf, Plan, StepRow};
use crate::settings::{SamplerOn, Settings};

/// Runs a plan on a GPU.
pub struct CudaExecutor {
    /// At least one.
    ranks: Vec<Rank>,
    sampler_on: SamplerOn,
    /// Where tokens are chosen on the CPU.
    host_queue: HostQueue,
    logits: Vec<f32>,
    next: Vec<u32>,
    steps: u64,
}

impl CudaExecutor {
    /// Loads weights, allocates the cache and compiles the kernels of a prompt and of one token.
    ///
    /// # Errors
    /// The model does not fit on the device, or the driver failed.
    pub fn new(
        gpu: &Arc<Gpu>,
        model: &Arc<Model>,
        session: &Settings,
    ) -> Result<CudaExecutor, Error> {
        let mut host_queue = HostQueue::default();
        host_queue.set_sampler_on(session.sampler_on);
        Ok(CudaExecutor {
            ranks: vec![Rank::new(gpu, model, session)?],
            sampler_on: session.sampler_on,
            host_queue,
            logits: Vec::new(),
            next: Vec::new(),
            steps: 0,
        })
    }

    /// Adds to what it took to make it.
    pub(crate) fn add_span(&mut self, span: Span) {
        self.ranks[0].add_span(span);
    }

    /// The step that decodes `rows` sequences, to time other kernels in it.
    ///
    /// # Errors
    /// The step cannot be lowered, or the driver failed.
    pub(crate) fn trials(&mut self, rows: usize) -> Result<Trials<'_>, Error> {
        let rank = &mut self.ranks[0];
        let prepared = rank.prepared(batch_shape(rows))?;
        Trials::new(rank, prepared)
    }

    /// The rank whose logits and tokens are given out.
    fn first(&self) -> &Rank {
        &self.ranks[0]
    }
}

impl Executor for CudaExecutor {
    fn kind(&self) -> ExecutorKind {
        self.first().recorder().kind()
    }

    fn notice(&self) -> Option<String> {
        let why = self.first().recorder().broken()?;
        Some(format!(
            "no graph could be built ({why}); launching kernels one by one"
        ))
    }

    fn target(&self) -> Option<Target> {
        Some(self.first().gpu().target)
    }

    fn plan(&self) -> &Plan {
        self.first().plan()
    }

    fn load(&self) -> Load {
        self.first().load().clone()
    }

    fn limits(&self) -> Limits {
        self.first().limits()
    }

    fn run(&mut self, step: &Step<'_>) -> Result<(), Error> {
        for rank in &mut self.ranks {
            rank.run(step)?;
        }
        self.steps += 1;
        Ok(())
    }

    fn logits(&mut self) -> Result<&[f32], Error> {
        let rank = &self.ranks[0];
        let plan = rank.plan();
        self.logits.resize(rank.outputs() * plan.vocab_size, 0.0);
        rank.download(plan.logits, cast_slice_mut(&mut self.logits))?;
        Ok(&self.logits)
    }

    fn next(&mut self) -> Result<&[u32], Error> {
        let rank = &self.ranks[0];
        self.next.resize(rank.outputs(), 0);
        rank.download(rank.plan().next, cast_slice_mut(&mut self.next))?;
        Ok(&self.next)
    }

    fn decode(
        &mut self,
        sequences: &[DecodeStart<'_>],
        steps: usize,
        table: &BlockTable,
        on_token: &mut dyn FnMut(usize, u32) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        check_sequences(self, sequences, steps)?;
        if steps == 0 || sequences.is_empty() {
            return Ok(());
        }
        if self.sampler_on == SamplerOn::Cpu {
            let how = HostDecode {
                padded: true,
                sampler_on: SamplerOn::Cpu,
            };
            return decode_on_host(self, sequences, steps, table, how, on_token);
        }
        let steps: Vec<usize> = sequences.iter().map(|s| s.own_steps(steps)).collect();
        let shape = DecodeShape::of(sequences);
        for rank in &mut self.ranks {
            rank.start_decode(shape, sequences, table)?;
        }
        let mut rows: Vec<StepRow> = sequences.iter().map(|s| s.row).collect();
        let mut spoilt = None;
        let mut checked = |i: usize, token: u32| {
            if token == NO_TOKEN {
                spoilt.get_or_insert(rows[i]);
            }
            if spoilt.is_some() {
                return ControlFlow::Break(());
            }
            rows[i].token = token;
            rows[i].length += 1;
            on_token(i, token)
        };
        self.steps += decode::run(&mut self.ranks, shape, &steps, &mut checked)?;
        match spoilt {
            None => Ok(()),
            Some(row) => Err(explain_row(self, row, table)),
        }
    }

    fn host_queue(&mut self) -> &mut HostQueue {
        &mut self.host_queue
    }

    fn set_slot(&mut self, choice: &SlotChoice<'_>) -> Result<(), Error> {
        match self.sampler_on {
            SamplerOn::Cpu => {
                self.host_queue.set(choice);
                Ok(())
            }
            SamplerOn::Device => {
                let mut ranks = self.ranks.iter_mut();
                ranks.try_for_each(|rank| rank.set_slot(choice))
            }
        }
    }

    fn queue(&mut self, step: &Step<'_>) -> Result<(), Error> {
        if self.sampler_on == SamplerOn::Cpu {
            let mut queue = std::mem::take(&mut self.host_queue);
            let queued = queue.run(self, step);
            self.host_queue = queue;
            return queued;
        }
        self.steps += 1;
        self.ranks.iter_mut().try_for_each(|rank| rank.queue(step))
    }

    fn take(&mut self, patience: Duration) -> Result<Option<Vec<u32>>, Error> {
        if self.sampler_on == SamplerOn::Cpu {
            return Ok(self.host_queue.take());
        }
        let taken = self.ranks[0].take(patience)?;
        if taken.is_some() {
            for rank in &mut self.ranks[1..] {
                rank.take(Duration::MAX)?;
            }
        }
        Ok(taken)
    }

    fn warm_up(&mut self) -> Result<(), Error> {
        if self.sampler_on == SamplerOn::Cpu {
            return Ok(());
        }
        let (ready, span) = Span::time(Phase::WarmUp, || {
            self.ranks.iter_mut().try_for_each(Rank::warm_up)
        });
        self.add_span(span);
        ready
    }

    fn time_steps(&mut self, on: bool) {
        self.ranks.iter_mut().for_each(|rank| rank.queue.time(on));
    }

    fn pause(&mut self) {
        self.ranks.iter_mut().for_each(|rank| rank.queue.pause());
    }

    fn abandon(&mut self) -> Result<(), Error> {
        self.host_queue.clear();
        self.ranks.iter_mut().try_for_each(Rank::abandon)
    }

    fn copy_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<(), Error> {
        check_blocks(self.limits(), pairs)?;
        self.ranks
            .iter()
            .try_for_each(|rank| rank.copy_blocks(pairs))
    }

    fn save_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<(), Error> {
        check_places(self.limits(), pairs.iter().copied())?;
        let mut ranks = self.ranks.iter_mut();
        ranks.try_for_each(|rank| rank.save_blocks(pairs))
    }

    fn restore_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<(), Error> {
        check_places(self.limits(), swapped(pairs))?;
        let mut ranks = self.ranks.iter();
        ranks.try_for_each(|rank| rank.restore_blocks(pairs))
    }

    fn stats(&self) -> Stats {
        let none = Stats {
            steps: self.steps,
            ..Stats::default()
        };
        self.ranks.iter().fold(none, |sum, rank| {
            let counted = rank.statistics();
            Stats {
                launches: sum.launches + counted.launches,
                graph_launches: sum.graph_launches + counted.graph_launches,
                synchronizations: sum.synchronizations + counted.synchronizations,
                modules: sum.modules + counted.modules,
                graphs: sum.graphs + rank.recorder().built(),
                timed: rank.queue.timed(),
                fallbacks: sum.fallbacks + rank.fallbacks(),
                ..sum
            }
        })
    }

    fn inspect(&mut self) -> &mut dyn Inspect {
        self
    }

    fn measure(&mut self) -> Option<&mut dyn Measure> {
        Some(self)
    }
}

impl Inspect for CudaExecutor {
    fn units(&mut self, shape: Shape) -> Result<Vec<Unit>, Error> {
        Ok(self.ranks[0].prepared(shape)?.lowered.units.clone())
    }

    fn poison(&mut self) -> Result<(), Error> {
        self.ranks.iter().try_for_each(Rank::poison)
    }

    fn begin(&mut self, step: &Step<'_>) -> Result<(), Error> {
        self.ranks.iter_mut().try_for_each(|rank| rank.begin(step))
    }

    fn run_unit(&mut self, _step: &Step<'_>, unit: usize) -> Result<(), Error> {
        self.ranks
            .iter_mut()
            .try_for_each(|rank| rank.run_unit(unit))
    }

    fn read(&mut self, b: Buf) -> Result<Option<Vec<f32>>, Error> {
        self.first().read(b)
    }

    fn write(&mut self, b: Buf, data: &[f32]) -> Result<(), Error> {
        self.ranks.iter().try_for_each(|rank| rank.write(b, data))
    }
}

impl Measure for CudaExecutor {
    fn device_step_time(
        &mut self,
        sequences: &[DecodeStart<'_>],
        steps: usize,
        table: &BlockTable,
    ) -> Result<f64, Error> {
        check_sequences(self, sequences, steps)?;
        let (rank, shape) = (&mut self.ranks[0], DecodeShape::of(sequences));
        rank.start_decode(shape, sequences, table)?;
        let (replay, stream) = (rank.replay(shape), rank.stream());
        timing::time(&rank.gpu().context, stream, steps, || {
            replay.issue(stream).map(drop)
        })
    }

    fn launch_times(
        &mut self,
        sequences: &[DecodeStart<'_>],
        repeats: usize,
        table: &BlockTable,
    ) -> Result<Vec<LaunchTime>, Error> {
        check_sequences(self, sequences, 1)?;
        let (rank, shape) = (&mut self.ranks[0], DecodeShape::of(sequences));
        let mut profiler: Option<Profiler> = None;
        for _ in 0..repeats {
            rank.start_decode(shape, sequences, table)?;
            let replay = rank.replay(shape);
            let made = match profiler.take() {
                Some(made) => made,
                None => {
                    let longest = rank.limits().context as u32;
                    let seen = |s: &DecodeStart<'_>| (s.row.length + AHEAD as u32).min(longest);
                    let lengths: Vec<u32> = sequences.iter().map(seen).collect();
                    Profiler::new(&rank.gpu().context, replay, &lengths)?
                }
            };
            profiler.insert(made).repeat(rank.stream(), replay)?;
        }
        Ok(profiler.map(Profiler::into_times).unwrap_or_default())
    }
}
