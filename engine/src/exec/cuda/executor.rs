//! The executor itself: memory, prepared steps, and the [`Executor`] calls over them.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytemuck::{cast_slice, cast_slice_mut};
use gannet_cuda_runtime::{Buffer, GraphBuilder, GraphExec, Stream};

use super::decode::Replay;
use super::open::Gpu;
use super::prepare::{Kernels, Memory, Prepared, prepare};
use super::state::StepState;
use super::weights;
use crate::Error;
use crate::device::{DEFAULT_CONTEXT, ExecutorChoice, SessionOptions, limits};
use crate::exec::packed::{KV_BYTES, place};
use crate::exec::{DecodeStart, Executor, Limits, Stats, Step, Unit};
use crate::kv::{BLOCK_TOKENS, BlockTable};
use crate::lower::{GEMV_MAX_ROWS, LowerOptions, Lowered, Shape, StepKind, lower};
use crate::model::Model;
use crate::plan::{Buf, Element, Plan};

/// Rows of a prompt chunk where nobody said otherwise.
const DEFAULT_ROWS: usize = 512;

/// Memory left for the driver and for what is allocated late.
const RESERVE: usize = 256 << 20;

/// Runs a plan on a GPU.
pub struct CudaExecutor {
    model: Arc<Model>,
    gpu: Arc<Gpu>,
    stream: Stream,
    choice: ExecutorChoice,
    options: LowerOptions,
    limits: Limits,
    kernels: Kernels,
    memory: Memory,
    state: StepState,
    prepared: HashMap<Shape, Arc<Prepared>>,
    graphs: HashMap<Shape, Arc<GraphExec>>,
    replay: Option<Replay>,
    current: Option<Arc<Prepared>>,
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
        session: &SessionOptions,
    ) -> Result<CudaExecutor, Error> {
        let plan = model.plan();
        let limits = fit(gpu, model, session)?;
        let options = LowerOptions {
            target: gpu.target,
            precision: session.precision,
            multiprocessors: gpu.properties.multiprocessors as usize,
            max_blocks: limits.context.div_ceil(BLOCK_TOKENS),
            buffers: session.buffers,
        };
        let token = lower(plan, TOKEN, &options)?;
        let prompt = lower(
            plan,
            prompt_shape(limits.max_rows, limits.max_outputs),
            &options,
        )?;
        let mut kernels = Kernels::default();
        // The driver compiles on one thread while another packs and uploads the weights.
        let (compiled, weights) = std::thread::scope(|scope| {
            let compile = scope.spawn(|| {
                let mut specs = token.kernels.clone();
                specs.extend(
                    prompt
                        .kernels
                        .iter()
                        .filter(|k| !token.kernels.contains(k))
                        .cloned(),
                );
                kernels.compile(gpu, &specs)
            });
            let weights = weights::upload(&gpu.context, model);
            let compiled = compile
                .join()
                .unwrap_or_else(|_| Err(Error::Cuda("the kernel compiler panicked".to_owned())));
            (compiled, weights)
        });
        compiled?;
        let stream = Stream::new(&gpu.context)?;
        let memory = allocate(gpu, model, limits, &[&token, &prompt], &stream, weights?)?;
        let state = StepState::new(&gpu.context, limits)?;
        Ok(CudaExecutor {
            model: Arc::clone(model),
            gpu: Arc::clone(gpu),
            stream,
            choice: session.executor,
            options,
            limits,
            kernels,
            memory,
            state,
            prepared: HashMap::new(),
            graphs: HashMap::new(),
            replay: None,
            current: None,
            logits: Vec::new(),
            next: Vec::new(),
            steps: 0,
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
        if shape.rows <= GEMV_MAX_ROWS || shape.rows == self.limits.max_rows {
            self.prepared.insert(shape, Arc::clone(&made));
        }
        Ok(made)
    }

    /// The graph of a shape's launches.
    fn graph(&mut self, shape: Shape, prepared: &Prepared) -> Result<Arc<GraphExec>, Error> {
        if let Some(found) = self.graphs.get(&shape) {
            return Ok(Arc::clone(found));
        }
        let mut builder = GraphBuilder::new(&self.gpu.context)?;
        builder.chain(&prepared.launches)?;
        let graph = Arc::new(builder.instantiate()?);
        self.graphs.insert(shape, Arc::clone(&graph));
        Ok(graph)
    }

    /// Whether a shape's launches are worth a graph: prompts run once.
    fn replays(&self, shape: Shape) -> bool {
        self.choice == ExecutorChoice::Graph && shape.rows <= GEMV_MAX_ROWS
    }

    fn issue(&mut self, shape: Shape) -> Result<(), Error> {
        let prepared = self.prepared(shape)?;
        if self.replays(shape) {
            self.graph(shape, &prepared)?.launch(&self.stream)?;
        } else {
            for launch in &prepared.launches {
                self.stream.launch(launch)?;
            }
        }
        self.current = Some(prepared);
        Ok(())
    }

    fn memory_of(&self, b: Buf) -> Option<Buffer> {
        self.current
            .as_ref()
            .and_then(|p| p.buffers[b.0 as usize].clone())
    }

    fn download(&self, b: Buf, out: &mut [u8]) -> Result<(), Error> {
        let memory = self.memory_of(b).ok_or_else(|| {
            Error::Cuda(format!(
                "no step has written {} yet",
                self.plan().buffer(b).name
            ))
        })?;
        Ok(self.stream.copy_from_device(&memory, 0, out)?)
    }

    /// What the replay loop needs.
    pub(super) fn parts(&self) -> (&Arc<Gpu>, &StepState, Limits) {
        (&self.gpu, &self.state, self.limits)
    }

    /// Where a prepared step writes its most likely token.
    pub(super) fn next_buffer(&self, prepared: &Prepared) -> Result<Buffer, Error> {
        let next = self.plan().next;
        prepared.buffers[next.0 as usize]
            .clone()
            .ok_or_else(|| Error::Cuda("the step chooses no token".to_owned()))
    }
}

/// The step of one generated token.
pub(super) const TOKEN: Shape = Shape {
    rows: 1,
    outputs: 1,
    kind: StepKind::Prompt,
};

fn prompt_shape(rows: usize, outputs: usize) -> Shape {
    Shape {
        rows,
        outputs,
        kind: StepKind::Prompt,
    }
}

/// The limits that fit on the device: an automatic context shrinks, one that was asked for is
/// refused with the largest that fits.
fn fit(gpu: &Gpu, model: &Model, session: &SessionOptions) -> Result<Limits, Error> {
    let plan = model.plan();
    let mut limits = limits(model, session, DEFAULT_ROWS);
    let (free, _) = gpu.context.free_memory()?;
    let widest = plan.buffers.iter().map(|b| b.cols).max().unwrap_or(0);
    // A step keeps a handful of rows of its widest buffer alive at once.
    let workspace =
        8 * limits.max_rows * widest.min(64 << 10) * 4 + limits.max_outputs * plan.vocab_size * 4;
    let weights = weights::total_bytes(plan)?;
    let position = 2 * plan.kv.num_layers * plan.kv.num_kv_heads * plan.kv.head_dim * KV_BYTES;
    let left = free.saturating_sub(weights + workspace + RESERVE);
    let largest = left / position.max(1) / BLOCK_TOKENS * BLOCK_TOKENS;
    if limits.context * limits.num_slots <= largest {
        return Ok(limits);
    }
    let estimate = format!(
        "weights {} MiB, cache {} MiB for {} positions, workspace {} MiB, free {} MiB",
        weights >> 20,
        (position * limits.context) >> 20,
        limits.context,
        workspace >> 20,
        free >> 20
    );
    if largest < BLOCK_TOKENS || session.context.is_some() {
        let advice = if largest < BLOCK_TOKENS {
            "the model does not fit on this GPU".to_owned()
        } else {
            format!("the largest context that fits is {largest}")
        };
        return Err(Error::Cuda(format!("{estimate}; {advice}")));
    }
    limits.context = largest.min(DEFAULT_CONTEXT);
    limits.max_rows = limits.max_rows.min(limits.context);
    Ok(limits)
}

fn allocate(
    gpu: &Gpu,
    model: &Model,
    limits: Limits,
    shapes: &[&Lowered],
    stream: &Stream,
    weights: Vec<Buffer>,
) -> Result<Memory, Error> {
    let plan = model.plan();
    let blocks = BlockTable::blocks_for(limits.num_slots, limits.context);
    let layer = blocks * plan.kv.num_kv_heads * BLOCK_TOKENS * plan.kv.head_dim * KV_BYTES;
    let pool = || -> Result<Vec<Buffer>, Error> {
        (0..plan.kv.num_layers)
            .map(|_| {
                let buffer = Buffer::new(&gpu.context, layer)?;
                // Blocks are read in whole tiles, past the last position too: those values are
                // masked out, but must not be NaN.
                stream.memset_d8(&buffer, 0)?;
                Ok(buffer)
            })
            .collect()
    };
    let ropes = plan
        .ropes
        .iter()
        .map(|rope| {
            let table = rope.table(limits.context);
            let buffer = Buffer::new(&gpu.context, table.len() * 4)?;
            stream.copy_to_device(&buffer, 0, cast_slice(&table))?;
            Ok(buffer)
        })
        .collect::<Result<_, Error>>()?;
    let workspace = shapes.iter().map(|l| place(plan, l).1).max().unwrap_or(0);
    let scratch = shapes.iter().map(|l| l.scratch_bytes).max().unwrap_or(0);
    Ok(Memory {
        weights,
        ropes,
        keys: pool()?,
        values: pool()?,
        workspace: Buffer::new(&gpu.context, workspace.max(256))?,
        scratch: Buffer::new(&gpu.context, scratch.max(256))?,
    })
}

impl Executor for CudaExecutor {
    fn name(&self) -> &'static str {
        match self.choice {
            ExecutorChoice::Eager => "cuda-eager",
            ExecutorChoice::Graph => "cuda-graph",
        }
    }

    fn plan(&self) -> &Plan {
        self.model.plan()
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

    fn decode_greedy(
        &mut self,
        start: DecodeStart,
        steps: usize,
        table: &BlockTable,
        on_token: &mut dyn FnMut(u32) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        if steps == 0 {
            return Ok(());
        }
        let first = Step {
            tokens: &[start.token],
            lengths: &[start.length],
            slots: &[start.slot],
            outputs: &[0],
            table,
        };
        first.check(self.limits, self.plan().vocab_size)?;
        if start.length as usize + steps - 1 > self.limits.context {
            let tokens = start.length as usize + steps - 1;
            return Err(Error::ContextFull {
                tokens,
                context: self.limits.context,
            });
        }
        self.state.upload(&self.stream, &first)?;
        let prepared = self.prepared(TOKEN)?;
        if self.replay.is_none() {
            let graph = self.choice == ExecutorChoice::Graph;
            self.replay = Some(Replay::new(self, &prepared, graph)?);
        }
        self.current = Some(prepared);
        let Some(replay) = &mut self.replay else {
            return Ok(());
        };
        self.steps += replay.run(&self.stream, steps, on_token)?;
        Ok(())
    }

    fn units(&mut self, rows: usize, outputs: usize) -> Result<Vec<Unit>, Error> {
        Ok(self
            .prepared(prompt_shape(rows, outputs))?
            .lowered
            .units
            .clone())
    }

    fn poison(&mut self) -> Result<(), Error> {
        self.stream.memset_d32(&self.memory.workspace, u32::MAX)?;
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
        let launches = current.lowered.launches.iter().zip(&current.launches);
        for (_, launch) in launches.filter(|(l, _)| l.unit == unit) {
            self.stream.launch(launch)?;
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

    fn stats(&self) -> Stats {
        let s = self.gpu.context.statistics();
        Stats {
            steps: self.steps,
            launches: s.launches,
            graph_launches: s.graph_launches,
            synchronizations: s.synchronizations,
        }
    }
}

impl CudaExecutor {
    fn outputs(&self) -> usize {
        self.current.as_ref().map_or(0, |p| p.lowered.shape.outputs)
    }
}
