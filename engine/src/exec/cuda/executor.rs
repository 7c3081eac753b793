//! The executor itself: memory, prepared steps, and the [`Executor`] calls over them.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytemuck::{cast_slice, cast_slice_mut};
use gannet_cuda_runtime::{Buffer, Statistics, Stream};

use super::decode::{Listed, Replay, advance};
use super::memory::fit;
use super::open::Gpu;
use super::prepare::{Kernels, Memory, Prepared, prepare};
use super::record::{Issue, Recorder};
use super::sampler::{self, SlotSamplers};
use super::state::StepState;
use super::timing::{AHEAD, Profiler};
use super::{load, timing};
use crate::Error;
use crate::exec::Load;
use crate::exec::decode::{HostDecode, check_blocks, check_sequences, decode_on_host};
use crate::exec::packed::block_bytes;
use crate::exec::{DecodeStart, Executor, ExecutorKind, Inspect, LaunchTime, Limits, Measure};
use crate::exec::{Stats, Step, StepRows};
use crate::kv::{BLOCK_TOKENS, BlockTable};
use crate::lower::Unit;
use crate::lower::{GEMV_MAX_ROWS, KernelSpec, LowerOptions, Lowered, Shape, StepKind, lower};
use crate::model::Model;
use crate::model::Span;
use crate::plan::{Buf, Element, Plan};
use crate::settings::{SamplerOn, Settings};

/// Runs a plan on a GPU.
pub struct CudaExecutor {
    model: Arc<Model>,
    gpu: Arc<Gpu>,
    stream: Stream,
    recorder: Recorder,
    sampler_on: SamplerOn,
    options: LowerOptions,
    limits: Limits,
    kernels: Kernels,
    memory: Memory,
    state: StepState,
    prepared: HashMap<Shape, Arc<Prepared>>,
    recorded: HashMap<Shape, Arc<Issue>>,
    /// By rows, and whether tokens are drawn rather than the most likely.
    replays: HashMap<(usize, bool), Replay>,
    /// Made when tokens are first drawn.
    samplers: Option<SlotSamplers>,
    current: Option<Arc<Prepared>>,
    logits: Vec<f32>,
    next: Vec<u32>,
    steps: u64,
    fallbacks: u64,
    /// The context's counters when this was made.
    before: Statistics,
    load: Load,
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
        let plan = model.plan();
        let (limits, estimate) = fit(gpu, model, session)?;
        let options = LowerOptions {
            target: gpu.target,
            precision: session.precision,
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
            let ends = buckets.map(|rows| advance(gpu.target, rows, limits.context).into());
            choosing.extend(ends);
        }
        let lowered: Vec<Lowered> = (shapes.iter())
            .map(|&shape| lower(plan, shape, &options))
            .collect::<Result<_, _>>()?;
        let stream = Stream::new(&gpu.context)?;
        let (kernels, memory, load) =
            load::load(gpu, model, limits, (&lowered, &choosing), &stream)
                .map_err(|error| estimate.explain(error, limits))?;
        let state = StepState::new(&gpu.context, limits)?;
        Ok(CudaExecutor {
            model: Arc::clone(model),
            gpu: Arc::clone(gpu),
            stream,
            recorder: Recorder::new(session.executor, session.faults),
            sampler_on: session.sampler_on,
            options,
            limits,
            kernels,
            memory,
            state,
            prepared: HashMap::new(),
            recorded: HashMap::new(),
            replays: HashMap::new(),
            samplers: None,
            current: None,
            logits: Vec::new(),
            next: Vec::new(),
            steps: 0,
            fallbacks: 0,
            before: gpu.context.statistics(),
            load,
        })
    }

    /// The launches of a shape, lowered and packed at its first use.
    pub(super) fn prepared(&mut self, shape: Shape) -> Result<Arc<Prepared>, Error> {
        if let Some(found) = self.prepared.get(&shape) {
            return Ok(Arc::clone(found));
        }
        let plan = self.model.plan();
        let lowered = lower(plan, shape, &self.options)?;
        let (kernels, memory) = (&mut self.kernels, &self.memory);
        let made = Arc::new(prepare(
            &self.gpu,
            plan,
            kernels,
            memory,
            &self.state,
            lowered,
        )?);
        // Prompts come in many lengths; keeping the launches of each would only grow.
        let repeats = shape.kind == StepKind::Batch || shape.rows <= GEMV_MAX_ROWS;
        if repeats || shape.rows == self.limits.max_rows {
            self.prepared.insert(shape, Arc::clone(&made));
        }
        Ok(made)
    }

    /// Issues the launches of a shape: as a graph where they will be issued again.
    fn issue(&mut self, shape: Shape) -> Result<(), Error> {
        let prepared = self.prepared(shape)?;
        let repeats = shape.kind == StepKind::Batch || shape.rows <= GEMV_MAX_ROWS;
        if repeats && self.recorder.replays() {
            if !self.recorded.contains_key(&shape) {
                let launches = self.recorder.listed(&prepared.launches);
                let made = self.recorder.record(&self.gpu.context, launches)?;
                self.recorded.insert(shape, Arc::new(made));
            }
            let recorded = &self.recorded[&shape];
            recorded.issue(&self.stream)?;
            self.fallbacks += u64::from(recorded.is_fallback());
        } else {
            for launch in self.recorder.listed(&prepared.launches) {
                self.stream.launch(&launch)?;
            }
        }
        self.current = Some(prepared);
        Ok(())
    }

    /// Sets the step state to the first step of a decode and returns how to repeat it.
    fn start_decode(
        &mut self,
        sequences: &[DecodeStart<'_>],
        table: &BlockTable,
    ) -> Result<(usize, bool), Error> {
        let draws = !sequences.iter().all(|s| s.sampling.is_greedy());
        let inputs = StepRows::padded_batch(sequences.iter().map(DecodeStart::row));
        let rows = inputs.rows();
        let first = inputs.step(table);
        first.check(self.limits, self.plan().vocab_size)?;
        self.state.upload(&self.stream, &first)?;
        let prepared = self.prepared(batch_shape(rows))?;
        if draws {
            if self.samplers.is_none() {
                let (slots, vocab_size) = (self.limits.num_slots, self.plan().vocab_size);
                let (gpu, kernels) = (&self.gpu, &mut self.kernels);
                let made = SlotSamplers::new(gpu, &self.stream, kernels, slots, vocab_size)?;
                self.samplers = Some(made);
            }
            if let Some(samplers) = &self.samplers {
                samplers.set(&self.stream, sequences)?;
            }
        }
        let key = (rows, draws);
        if !self.replays.contains_key(&key) {
            let made = Replay::new(self, &prepared, rows, draws)?;
            self.replays.insert(key, made);
        }
        self.current = Some(prepared);
        Ok(key)
    }

    fn memory_of(&self, b: Buf) -> Option<Buffer> {
        self.current
            .as_ref()
            .and_then(|p| p.buffers[b.0 as usize].clone())
    }

    fn download(&self, b: Buf, out: &mut [u8]) -> Result<(), Error> {
        let memory = self.memory_of(b).ok_or_else(|| {
            Error::Request(format!(
                "no step has written {} yet",
                self.plan().buffer(b).name
            ))
        })?;
        Ok(self.stream.copy_from_device(&memory, 0, out)?)
    }

    /// The GPU it runs on.
    pub(crate) fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// Adds to what it took to make it.
    pub(crate) fn add_span(&mut self, span: Span) {
        self.load.spans.push(span);
    }

    /// The model that it runs.
    pub(crate) fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The queue of its work.
    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// The step that decodes `rows` sequences.
    pub(crate) fn prepared_batch(&mut self, rows: usize) -> Result<Arc<Prepared>, Error> {
        self.prepared(batch_shape(rows))
    }

    /// What the replay loop needs.
    pub(super) fn parts(&mut self) -> (&Arc<Gpu>, &StepState, Limits, &mut Kernels, &mut Recorder) {
        let (kernels, recorder) = (&mut self.kernels, &mut self.recorder);
        (&self.gpu, &self.state, self.limits, kernels, recorder)
    }

    /// Where a prepared step writes its most likely tokens.
    pub(super) fn next_buffer(&self, prepared: &Prepared) -> Result<Buffer, Error> {
        made(prepared, self.plan().next)
    }

    /// The launches that draw the tokens of a prepared step of `rows` rows.
    pub(super) fn draw(&self, prepared: &Prepared, rows: usize) -> Result<Vec<Listed>, Error> {
        let Some(samplers) = &self.samplers else {
            return Ok(Vec::new());
        };
        let logits = made(prepared, self.plan().logits)?;
        let next = self.next_buffer(prepared)?;
        Ok(samplers
            .launches(&self.gpu, &logits, &self.state, &next, rows)?
            .into())
    }
}

/// Memory of a buffer that the step makes.
fn made(prepared: &Prepared, b: Buf) -> Result<Buffer, Error> {
    let buffer = prepared.buffers[b.0 as usize].clone();
    buffer.ok_or_else(|| Error::internal("the step chooses no token"))
}

/// The shape of a step that decodes `rows` sequences.
fn batch_shape(rows: usize) -> Shape {
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

impl Executor for CudaExecutor {
    fn kind(&self) -> ExecutorKind {
        self.recorder.kind()
    }

    fn notice(&self) -> Option<String> {
        let why = self.recorder.broken()?;
        Some(format!(
            "no graph could be built ({why}); launching kernels one by one"
        ))
    }

    fn plan(&self) -> &Plan {
        self.model.plan()
    }

    fn load(&self) -> Load {
        self.load.clone()
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn run(&mut self, step: &Step<'_>) -> Result<(), Error> {
        step.check(self.limits, self.plan().vocab_size)?;
        self.state.upload(&self.stream, step)?;
        self.steps += 1;
        self.issue(step.shape())
    }

    fn logits(&mut self) -> Result<&[f32], Error> {
        let (b, outputs) = (self.plan().logits, self.outputs());
        let mut logits = std::mem::take(&mut self.logits);
        logits.resize(outputs * self.plan().vocab_size, 0.0);
        let copied = self.download(b, cast_slice_mut(&mut logits));
        self.logits = logits;
        copied.map(|()| self.logits.as_slice())
    }

    fn next(&mut self) -> Result<&[u32], Error> {
        let (b, outputs) = (self.plan().next, self.outputs());
        let mut next = std::mem::take(&mut self.next);
        next.resize(outputs, 0);
        let copied = self.download(b, cast_slice_mut(&mut next));
        self.next = next;
        copied.map(|()| self.next.as_slice())
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
        let key = self.start_decode(sequences, table)?;
        let Some(replay) = self.replays.get_mut(&key) else {
            return Ok(());
        };
        let issued = replay.run(
            &self.stream,
            &self.state,
            (sequences.len(), steps),
            on_token,
        )?;
        self.steps += issued;
        if replay.is_fallback() {
            self.fallbacks += issued;
        }
        Ok(())
    }

    fn copy_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<(), Error> {
        check_blocks(self.limits, pairs)?;
        let caches = &self.model.plan().caches;
        let (keys, values) = (&self.memory.keys, &self.memory.values);
        for (pool, cache) in keys.iter().zip(caches).chain(values.iter().zip(caches)) {
            let bytes = block_bytes(cache, self.limits.kv_type);
            for &(from, to) in pairs.iter().filter(|(from, to)| from != to) {
                let (from, to) = (from as usize * bytes, to as usize * bytes);
                self.stream.copy(pool, to, pool, from, bytes)?;
            }
        }
        Ok(())
    }

    fn stats(&self) -> Stats {
        let s = self.gpu.context.statistics() - self.before;
        Stats {
            steps: self.steps,
            launches: s.launches,
            graph_launches: s.graph_launches,
            synchronizations: s.synchronizations,
            fallbacks: self.fallbacks,
        }
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
        Ok(self.prepared(shape)?.lowered.units.clone())
    }

    fn poison(&mut self) -> Result<(), Error> {
        self.stream.memset_d32(&self.memory.workspace, u32::MAX)?;
        self.stream.memset_d32(&self.memory.scratch, u32::MAX)?;
        if let Some(current) = &self.current {
            for buffer in current.buffers.iter().flatten() {
                self.stream.memset_d32(buffer, u32::MAX)?;
            }
        }
        Ok(self.stream.synchronize()?)
    }

    fn begin(&mut self, step: &Step<'_>) -> Result<(), Error> {
        step.check(self.limits, self.plan().vocab_size)?;
        self.state.upload(&self.stream, step)?;
        self.current = Some(self.prepared(step.shape())?);
        Ok(())
    }

    fn run_unit(&mut self, _step: &Step<'_>, unit: usize) -> Result<(), Error> {
        let Some(current) = &self.current else {
            return Ok(());
        };
        let of_unit = |l: &&crate::lower::Launch| l.unit == unit;
        let first = current
            .lowered
            .launches
            .iter()
            .take_while(|l| l.unit < unit);
        let first = first.count();
        let count = current.lowered.launches[first..].iter().take_while(of_unit);
        for i in first..first + count.count() {
            if !self.recorder.omits(i) {
                self.stream.launch(&current.launches[i])?;
            }
        }
        Ok(())
    }

    fn read(&mut self, b: Buf) -> Result<Option<Vec<f32>>, Error> {
        let Some(memory) = self.memory_of(b) else {
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

    fn write(&mut self, b: Buf, data: &[f32]) -> Result<(), Error> {
        match self.memory_of(b) {
            Some(memory) => Ok(self.stream.copy_to_device(&memory, 0, cast_slice(data))?),
            None => Ok(()),
        }
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
        let key = self.start_decode(sequences, table)?;
        let replay = &self.replays[&key];
        timing::time(&self.gpu.context, &self.stream, steps, || {
            replay.issue(&self.stream)
        })
    }

    fn profile(
        &mut self,
        sequences: &[DecodeStart<'_>],
        repeats: usize,
        table: &BlockTable,
    ) -> Result<Vec<LaunchTime>, Error> {
        check_sequences(self, sequences, 1)?;
        let mut profiler: Option<Profiler> = None;
        for _ in 0..repeats {
            let key = self.start_decode(sequences, table)?;
            let replay = &self.replays[&key];
            let made = match profiler.take() {
                Some(made) => made,
                None => {
                    let seen = |s: &DecodeStart<'_>| s.length + AHEAD as u32;
                    let seen = sequences.iter().map(seen);
                    let lengths: Vec<u32> =
                        seen.map(|l| l.min(self.limits.context as u32)).collect();
                    Profiler::new(&self.gpu.context, replay, &lengths)?
                }
            };
            profiler.insert(made).repeat(&self.stream, replay)?;
        }
        Ok(profiler.map(Profiler::into_times).unwrap_or_default())
    }
}

impl CudaExecutor {
    fn outputs(&self) -> usize {
        self.current.as_ref().map_or(0, |p| p.lowered.shape.outputs)
    }
}
