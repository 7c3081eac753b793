//! One GPU of an executor: its stream, memory, step state, compiled kernels and prepared steps.
//!
//! A rank runs the plan that it was given and knows of no other rank. Every pointer in a prepared
//! step stays where it is for the life of the rank.

use std::collections::HashMap;
use std::sync::Arc;

use bytemuck::{cast_slice, cast_slice_mut};
use gannet_cuda_runtime::{Buffer, LoadedKernel, Statistics, Stream};

use super::blocks::SavedBlocks;
use super::decode::{DecodeShape, Replay, advance};
use super::load;
use super::memory::fit;
use super::open::Gpu;
use super::prepare::{Kernels, Memory, Prepared, prepare};
use super::queue::{self, Queue};
use super::record::{Issue, Recorder};
use super::sampler::{self, SlotSamplers};
use super::state::StepState;
use crate::Error;
use crate::exec::{Limits, Load, Step};
use crate::kv::{BLOCK_TOKENS, BlockTable};
use crate::lower::{KernelSpec, LowerOptions, Lowered, LoweredLaunch, Shape, StepKind, lower};
use crate::model::{Model, Span};
use crate::plan::{Buf, Element, Plan};
use crate::settings::{SamplerOn, Settings};

/// One GPU, ready to run the steps of a plan.
pub(crate) struct Rank {
    pub(super) gpu: Arc<Gpu>,
    pub(super) model: Arc<Model>,
    pub(super) stream: Stream,
    pub(super) recorder: Recorder,
    options: LowerOptions,
    pub(super) limits: Limits,
    pub(super) kernels: Kernels,
    pub(super) memory: Memory,
    /// Blocks that gave way.
    pub(super) saved: SavedBlocks,
    pub(super) state: StepState,
    /// By class of shapes.
    prepared: HashMap<Shape, Arc<Prepared>>,
    recorded: HashMap<Shape, Arc<Issue>>,
    pub(super) replays: HashMap<DecodeShape, Replay>,
    pub(super) queue: Queue,
    /// Made when tokens are first drawn.
    pub(super) samplers: Option<SlotSamplers>,
    current: Option<Current>,
    /// Steps that were to run as a graph and did not.
    pub(super) fallbacks: u64,
    /// The context's counters when this was made.
    before: Statistics,
    load: Load,
}

/// The last step: its shape, and the launches of its class.
#[derive(Clone)]
struct Current {
    shape: Shape,
    prepared: Arc<Prepared>,
}

impl Rank {
    /// Loads weights, allocates the cache and compiles the kernels of a prompt and of one token.
    ///
    /// # Errors
    /// The model does not fit on the device, or the driver failed.
    pub(super) fn new(
        gpu: &Arc<Gpu>,
        model: &Arc<Model>,
        session: &Settings,
    ) -> Result<Rank, Error> {
        let plan = model.plan();
        plan.check_alone()?;
        let (limits, estimate) = fit(gpu, model, session)?;
        let options = LowerOptions {
            target: gpu.target,
            precision: session.precision,
            batch_invariant: session.batch_invariant,
            multiprocessors: gpu.properties.multiprocessors as usize,
            max_blocks: limits.context.div_ceil(BLOCK_TOKENS),
            kv_type: limits.kv_type,
            buffers: session.buffers,
            profile: Arc::new(gpu.profile(&session.disk_cache, session.overrides)?),
        };
        let mut shapes = vec![prompt_shape(limits.max_rows, limits.max_outputs)];
        let buckets = std::iter::successors(Some(1), |n| Some(2 * n));
        let buckets = buckets.take_while(|n| *n <= limits.num_slots.next_power_of_two());
        shapes.extend(buckets.clone().map(batch_shape));
        let mut choosing: Vec<KernelSpec> = Vec::new();
        if session.sampler_on == SamplerOn::Device {
            choosing.extend(sampler::kernels(gpu.target, plan.vocab_size));
            let (context, counts) = (limits.context, plan.max_positions().is_some());
            let ends = buckets.map(|rows| advance(gpu.target, rows, context, counts).into());
            choosing.extend(ends);
            choosing.extend(queue::kernels(gpu.target, limits, counts));
        }
        let lowered: Vec<Lowered> = (shapes.iter())
            .map(|&shape| lower(plan, shape, &options))
            .collect::<Result<_, _>>()?;
        let stream = Stream::new(&gpu.context)?;
        let steps = load::Steps {
            shapes: &lowered,
            following: &choosing,
        };
        let (kernels, memory, load) = load::load(gpu, model, limits, &steps, &stream)
            .map_err(|error| estimate.explain(error, limits))?;
        let saved = SavedBlocks::new(&gpu.context, plan, limits)?;
        let state = StepState::new(&gpu.context, limits)?;
        let queue = match session.sampler_on {
            SamplerOn::Device => Queue::new(&gpu.context, &stream, limits)?,
            SamplerOn::Cpu => Queue::default(),
        };
        Ok(Rank {
            model: Arc::clone(model),
            gpu: Arc::clone(gpu),
            stream,
            recorder: Recorder::new(session.executor, session.faults),
            options,
            limits,
            kernels,
            memory,
            saved,
            state,
            prepared: HashMap::new(),
            recorded: HashMap::new(),
            replays: HashMap::new(),
            queue,
            samplers: None,
            current: None,
            fallbacks: 0,
            before: gpu.context.statistics(),
            load,
        })
    }

    /// The GPU.
    pub(crate) fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// The queue of its work.
    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// The plan it runs.
    pub(super) fn plan(&self) -> &Plan {
        self.model.plan()
    }

    /// The model whose weights it holds.
    pub(crate) fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Its sizes.
    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// How it issues its steps.
    pub(super) fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// What it took to make it.
    pub(super) fn load(&self) -> &Load {
        &self.load
    }

    /// Adds to what it took to make it.
    pub(super) fn add_span(&mut self, span: Span) {
        self.load.spans.push(span);
    }

    /// What the driver counted since it was made.
    pub(super) fn statistics(&self) -> Statistics {
        self.gpu.context.statistics() - self.before
    }

    /// Steps that were to run as a graph and did not.
    pub(super) fn fallbacks(&self) -> u64 {
        self.fallbacks
    }

    /// The class of a shape here.
    pub(super) fn class(&self, shape: Shape) -> Shape {
        shape.class(self.limits.max_rows, self.limits.max_outputs)
    }

    /// The launches of a shape's class, lowered and packed at its first use.
    pub(super) fn prepared(&mut self, shape: Shape) -> Result<Arc<Prepared>, Error> {
        let class = self.class(shape);
        if let Some(found) = self.prepared.get(&class) {
            return Ok(Arc::clone(found));
        }
        let plan = self.model.plan();
        let lowered = lower(plan, class, &self.options)?;
        let (kernels, memory) = (&mut self.kernels, &self.memory);
        let made = Arc::new(prepare(
            &self.gpu,
            plan,
            kernels,
            memory,
            &self.state,
            lowered,
        )?);
        self.prepared.insert(class, Arc::clone(&made));
        Ok(made)
    }

    /// Sets the inputs of a step.
    pub(super) fn begin(&mut self, step: &Step<'_>) -> Result<(), Error> {
        step.check(self.limits, self.plan())?;
        self.upload(step)?;
        self.set_current(step.shape())?;
        Ok(())
    }

    /// Queues the copy of a step's inputs.
    pub(super) fn upload(&mut self, step: &Step<'_>) -> Result<(), Error> {
        self.queue.forget_rows();
        self.state.upload(&self.stream, step)
    }

    /// Queues the copy of what has changed in the table.
    pub(super) fn upload_table(&mut self, table: &BlockTable) -> Result<(), Error> {
        self.state.upload_table(&self.stream, table)
    }

    /// What changes between steps.
    pub(super) fn state(&self) -> &StepState {
        &self.state
    }

    /// A compiled kernel.
    pub(super) fn kernel(&mut self, spec: &KernelSpec) -> Result<LoadedKernel, Error> {
        self.kernels
            .compile(&self.gpu, std::slice::from_ref(spec))?;
        self.kernels.get(spec).cloned()
    }

    /// Makes a shape the current one.
    pub(super) fn set_current(&mut self, shape: Shape) -> Result<Arc<Prepared>, Error> {
        let prepared = self.prepared(shape)?;
        self.current = Some(Current {
            shape,
            prepared: Arc::clone(&prepared),
        });
        Ok(prepared)
    }

    /// Sets the inputs of a step and queues its launches: as a graph where they will be queued again.
    pub(super) fn run(&mut self, step: &Step<'_>) -> Result<(), Error> {
        step.check(self.limits, self.plan())?;
        self.upload(step)?;
        self.run_current(step.shape())
    }

    /// Queues the launches of a shape on what is in the step state.
    pub(super) fn run_current(&mut self, shape: Shape) -> Result<(), Error> {
        let prepared = self.set_current(shape)?;
        if shape.comes_again() && self.recorder.replays() {
            if !self.recorded.contains_key(&shape) {
                let launches = self.recorder.listed(&prepared.launches);
                let made = self.recorder.record(&self.gpu.context, launches)?;
                self.recorded.insert(shape, Arc::new(made));
            }
            let recorded = &self.recorded[&shape];
            recorded.issue(&self.stream)?;
            self.fallbacks += u64::from(recorded.is_fallback());
        } else {
            self.launch_where(&prepared, shape, |_| true)?;
        }
        Ok(())
    }

    /// Queues the launches of one unit of the step that was begun.
    pub(super) fn run_unit(&mut self, unit: usize) -> Result<(), Error> {
        match &self.current {
            Some(Current { shape, prepared }) => {
                self.launch_where(prepared, *shape, |launch| launch.unit == unit)
            }
            None => Ok(()),
        }
    }

    /// Queues those launches of a step that `is_wanted`, one by one, but for a planted fault.
    pub(super) fn launch_where(
        &self,
        prepared: &Prepared,
        shape: Shape,
        is_wanted: impl Fn(&LoweredLaunch) -> bool,
    ) -> Result<(), Error> {
        for (i, planned) in prepared.lowered.launches.iter().enumerate() {
            if is_wanted(planned) && !self.recorder.omits(i) {
                let launch = prepared.launch(i, shape)?;
                self.stream.launch(&launch)?;
            }
        }
        Ok(())
    }

    /// Waits until all that was queued is done.
    pub(super) fn synchronize(&self) -> Result<(), Error> {
        Ok(self.stream.synchronize()?)
    }

    /// Output rows of the last step.
    pub(super) fn outputs(&self) -> usize {
        self.current.as_ref().map_or(0, |step| step.shape.outputs)
    }

    /// A buffer of the last step, its rows alone; `None` where fusion never makes it.
    fn memory_of(&self, b: Buf) -> Result<Option<Buffer>, Error> {
        let Some(Current { shape, prepared }) = &self.current else {
            return Ok(None);
        };
        let info = self.plan().buffer(b);
        let bytes = shape.rows_of(info.rows) * info.cols * 4;
        let memory = prepared.buffers[b.0 as usize].as_ref();
        Ok(memory.map(|memory| memory.slice(..bytes)).transpose()?)
    }

    /// Copies the start of a buffer of the last step to the host.
    pub(super) fn download(&self, b: Buf, out: &mut [u8]) -> Result<(), Error> {
        let memory = self.memory_of(b)?.ok_or_else(|| {
            Error::Request(format!(
                "no step has written {} yet",
                self.plan().buffer(b).name
            ))
        })?;
        Ok(self.stream.copy_from_device(&memory, 0, out)?)
    }

    /// A buffer of the last step, ids as floats; `None` where fusion never makes it.
    pub(super) fn read(&self, b: Buf) -> Result<Option<Vec<f32>>, Error> {
        let Some(memory) = self.memory_of(b)? else {
            return Ok(None);
        };
        let mut words = vec![0u32; memory.len() / 4];
        self.stream
            .copy_from_device(&memory, 0, cast_slice_mut(&mut words))?;
        let value = |w: u32| match self.plan().buffer(b).element {
            Element::F32 => f32::from_bits(w),
            Element::U32 => w as f32,
        };
        Ok(Some(words.into_iter().map(value).collect()))
    }

    /// Overwrites a buffer of the step that was begun.
    pub(super) fn write(&self, b: Buf, data: &[f32]) -> Result<(), Error> {
        match self.memory_of(b)? {
            Some(memory) => Ok(self.stream.copy_to_device(&memory, 0, cast_slice(data))?),
            None => Ok(()),
        }
    }

    /// Fills every buffer with NaN.
    pub(super) fn poison(&self) -> Result<(), Error> {
        self.stream.memset_d32(&self.memory.workspace, u32::MAX)?;
        self.stream.memset_d32(&self.memory.scratch, u32::MAX)?;
        if let Some(current) = &self.current {
            for buffer in current.prepared.buffers.iter().flatten() {
                self.stream.memset_d32(buffer, u32::MAX)?;
            }
        }
        self.synchronize()
    }
}

/// The shape of a step that decodes `rows` sequences.
pub(super) fn batch_shape(rows: usize) -> Shape {
    Shape {
        rows,
        outputs: rows,
        // One row is a prompt of one.
        kind: if rows == 1 {
            StepKind::Prompt
        } else {
            StepKind::Batch
        },
    }
}

fn prompt_shape(rows: usize, outputs: usize) -> Shape {
    Shape {
        rows,
        outputs,
        kind: StepKind::Prompt,
    }
}
