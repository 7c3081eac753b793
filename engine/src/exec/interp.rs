//! The interpreted executor: the lowered kernels, run instruction by instruction on the CPU.
//!
//! It runs what a GPU would run, from the same lowering, and says exactly what is wrong where a
//! kernel leaves its buffers, reads what nothing wrote or races. It is slow and needs no GPU.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use gannet_ptx_gen::interp::{Fault, LaunchArg, Memory, Options, Prepared as Kernel};
use gannet_ptx_gen::target::Target;

use super::addresses::{Addresses, Inputs, Passed};
use super::decode::{
    HostDecode, check_blocks, check_places, check_sequences, decode_on_host, swapped,
};
use super::packed::{block_bytes, pack_weight, place};
use super::{DecodeStart, Executor, ExecutorKind, HostQueue, Inspect, Limits, Stats, Step};
use crate::Error;
use crate::kv::{BLOCK_TOKENS, BlockTable};
use crate::lower::{COUNTERS, DeviceProfile, LowerOptions, Lowered, Shape, Unit, lower};
use crate::model::Model;
use crate::plan::{Buf, Column, Element, Plan, Rows, Weight};
use crate::settings::{Buffers, Faults, Overrides, Precision, SamplerOn};

/// Multiprocessors that lowering is told of: few, since blocks cost time here.
const MULTIPROCESSORS: usize = 4;

/// Runs a plan on interpreted kernels.
pub struct InterpExecutor {
    model: Arc<Model>,
    options: LowerOptions,
    limits: Limits,
    faults: Faults,
    sampler_on: SamplerOn,
    memory: Memory,
    weights: Vec<u64>,
    ropes: Vec<u64>,
    keys: Vec<u64>,
    values: Vec<u64>,
    /// For each pool of keys, then of values: saved blocks, one after the other.
    saved: Vec<Vec<u8>>,
    inputs: Inputs<u64>,
    prepared: HashMap<Shape, Arc<Prepared>>,
    current: Option<Arc<Prepared>>,
    logits: Vec<f32>,
    next: Vec<u32>,
    steps: u64,
    queue: HostQueue,
    launches: u64,
}

/// A step of one shape with addresses.
struct Prepared {
    lowered: Lowered,
    kernels: Vec<Kernel>,
    /// Address of each buffer.
    buffers: Vec<Option<u64>>,
    /// Bytes of each buffer.
    sizes: Vec<usize>,
    scratch: u64,
    counters: u64,
}

impl InterpExecutor {
    /// Loads a model into the interpreter's memory.
    ///
    /// # Errors
    /// A weight that has no layout for kernels.
    pub fn new(
        model: Arc<Model>,
        target: Target,
        precision: Precision,
        limits: Limits,
        buffers: Buffers,
    ) -> Result<InterpExecutor, Error> {
        let plan = model.plan();
        let max_blocks = limits.context.div_ceil(BLOCK_TOKENS);
        let multiprocessors = MULTIPROCESSORS;
        let options = LowerOptions {
            target,
            precision,
            batch_invariant: false,
            multiprocessors,
            max_blocks,
            kv_type: limits.kv_type,
            buffers,
            profile: Arc::new(DeviceProfile::built_in(Overrides::default())),
        };
        let mut memory = Memory::new();
        let weights = (0..plan.weights.len() as u32)
            .map(|i| Ok(memory.alloc_from(&pack_weight(&model, plan, Weight(i))?)))
            .collect::<Result<_, Error>>()?;
        let ropes = plan
            .ropes
            .iter()
            .map(|r| memory.alloc_from(&r.table(limits.context)))
            .collect();
        let bytes = |cache| limits.cache_blocks * block_bytes(cache, limits.kv_type);
        let mut pool = |cache| memory.alloc_zeroed(bytes(cache) as u64);
        let keys = plan.caches.iter().map(&mut pool).collect();
        let values = plan.caches.iter().map(&mut pool).collect();
        let places = |cache| vec![0; limits.saved_blocks * block_bytes(cache, limits.kv_type)];
        let saved = plan.caches.iter().chain(&plan.caches).map(places).collect();
        let mut array = |words: usize| memory.alloc_poisoned(words as u64 * 4);
        let rows = |column: &Column| match column.rows() {
            Rows::Tokens => limits.max_rows,
            Rows::Outputs => limits.max_outputs,
        };
        let inputs = Inputs {
            columns: Column::ALL.iter().map(|c| array(rows(c))).collect(),
            block_table: array(limits.num_slots * max_blocks),
        };
        Ok(InterpExecutor {
            options,
            limits,
            faults: Faults::default(),
            sampler_on: SamplerOn::default(),
            memory,
            weights,
            ropes,
            keys,
            values,
            saved,
            inputs,
            prepared: HashMap::new(),
            current: None,
            logits: Vec::new(),
            next: Vec::new(),
            steps: 0,
            queue: HostQueue::default(),
            launches: 0,
            model,
        })
    }

    /// Plants faults in the steps to come. There are no graphs to refuse.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// Says which variants of the kernels run, over the built-in choice, from the next step on.
    pub fn set_overrides(&mut self, overrides: Overrides) {
        self.options.profile = Arc::new(DeviceProfile::built_in(overrides));
        self.prepared.clear();
        self.current = None;
    }

    /// Says whether rows are computed alike however many there are, from the next step on.
    pub fn set_batch_invariant(&mut self, batch_invariant: bool) {
        self.options.batch_invariant = batch_invariant;
        self.prepared.clear();
        self.current = None;
    }

    /// Says who finds the most likely token: the interpreted kernel, or the CPU's own code.
    pub fn set_sampler_on(&mut self, place: SamplerOn) {
        self.sampler_on = place;
        self.queue.set_sampler_on(place);
    }

    fn prepared(&mut self, shape: Shape) -> Result<Arc<Prepared>, Error> {
        if let Some(found) = self.prepared.get(&shape) {
            return Ok(Arc::clone(found));
        }
        let plan = self.model.plan();
        let lowered = lower(plan, shape, &self.options)?;
        let kernels = lowered
            .kernels
            .iter()
            .map(|spec| Kernel::new(&spec.kernel()).map_err(fault))
            .collect::<Result<_, _>>()?;
        let (places, total) = place(plan, &lowered);
        let base = self.memory.alloc_poisoned(total as u64);
        let scratch = self
            .memory
            .alloc_poisoned(lowered.scratch_bytes.max(4) as u64);
        let counters = self.memory.alloc_from(&vec![0u32; COUNTERS]);
        let (buffers, sizes) = (places.iter())
            .map(|place| place.map_or((None, 0), |(at, len)| (Some(base + at as u64), len)))
            .unzip();
        let made = Arc::new(Prepared {
            lowered,
            kernels,
            buffers,
            sizes,
            scratch,
            counters,
        });
        self.prepared.insert(shape, Arc::clone(&made));
        Ok(made)
    }

    /// Where each pool of keys, then of values, starts, and how long a block of it is in bytes.
    fn pools(&self) -> Vec<(u64, usize)> {
        let caches = &self.model.plan().caches;
        let pools = (self.keys.iter().zip(caches)).chain(self.values.iter().zip(caches));
        let bytes = |cache| block_bytes(cache, self.limits.kv_type);
        pools.map(|(&pool, cache)| (pool, bytes(cache))).collect()
    }

    /// Runs the launches of one unit, or all.
    fn launch(&mut self, unit: Option<usize>) -> Result<(), Error> {
        let Some(prepared) = self.current.clone() else {
            return Ok(());
        };
        let omitted = self.faults.omit_launch;
        for (i, launch) in prepared.lowered.launches.iter().enumerate() {
            if unit.is_some_and(|u| launch.unit != u) || omitted == Some(i) {
                continue;
            }
            let addresses = self.addresses(&prepared);
            let args = launch.args.iter().map(|&arg| {
                Ok(match addresses.of(arg)? {
                    Passed::Pointer(&address) => LaunchArg::U64(address),
                    Passed::Number(n) => LaunchArg::U32(n),
                })
            });
            let args: Vec<LaunchArg> = args.collect::<Result<_, Error>>()?;
            let grid = prepared.lowered.grid(launch, prepared.lowered.shape);
            prepared.kernels[launch.kernel]
                .launch(grid, &args, &self.memory, &Options::default())
                .map_err(fault)?;
            self.launches += 1;
        }
        Ok(())
    }

    fn addresses<'a>(&'a self, prepared: &'a Prepared) -> Addresses<'a, u64> {
        Addresses {
            plan: self.model.plan(),
            shape: prepared.lowered.shape,
            inputs: &self.inputs,
            weights: &self.weights,
            ropes: &self.ropes,
            keys: &self.keys,
            values: &self.values,
            buffers: &prepared.buffers,
            scratch: &prepared.scratch,
            counters: &prepared.counters,
        }
    }

    /// Address and bytes of a buffer of the step that was begun.
    fn place_of(&self, b: Buf) -> Option<(u64, usize)> {
        let current = self.current.as_ref()?;
        Some((current.buffers[b.0 as usize]?, current.sizes[b.0 as usize]))
    }

    fn words(&self, b: Buf) -> Result<Vec<u32>, Error> {
        let (address, bytes) = self.place_of(b).ok_or_else(|| {
            Error::Request(format!(
                "no step has written {} yet",
                self.plan().buffer(b).name
            ))
        })?;
        self.memory.read(address, bytes / 4).map_err(fault)
    }
}

fn fault(fault: Fault) -> Error {
    Error::Interp(fault.to_string())
}

impl Executor for InterpExecutor {
    fn kind(&self) -> ExecutorKind {
        ExecutorKind::Interp
    }

    fn target(&self) -> Option<Target> {
        Some(self.options.target)
    }

    fn plan(&self) -> &Plan {
        self.model.plan()
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn run(&mut self, step: &Step<'_>) -> Result<(), Error> {
        self.plan().check_alone()?;
        self.begin(step)?;
        self.launch(None)?;
        self.steps += 1;
        Ok(())
    }

    fn logits(&mut self) -> Result<&[f32], Error> {
        let words = self.words(self.plan().logits)?;
        self.logits = words.into_iter().map(f32::from_bits).collect();
        Ok(&self.logits)
    }

    fn next(&mut self) -> Result<&[u32], Error> {
        self.next = self.words(self.plan().next)?;
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
        let how = HostDecode {
            padded: true,
            sampler_on: self.sampler_on,
        };
        decode_on_host(self, sequences, steps, table, how, on_token)
    }

    fn host_queue(&mut self) -> &mut HostQueue {
        &mut self.queue
    }

    fn copy_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<(), Error> {
        check_blocks(self.limits, pairs)?;
        for (pool, bytes) in self.pools() {
            for &(from, to) in pairs {
                let at = |block: u32| pool + u64::from(block) * bytes as u64;
                let block: Vec<u8> = self.memory.read(at(from), bytes).map_err(fault)?;
                self.memory.write(at(to), &block).map_err(fault)?;
            }
        }
        Ok(())
    }

    fn save_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<(), Error> {
        check_places(self.limits, pairs.iter().copied())?;
        let pools = self.pools();
        for ((pool, bytes), saved) in pools.into_iter().zip(&mut self.saved) {
            for &(block, place) in pairs {
                let at = pool + u64::from(block) * bytes as u64;
                let block: Vec<u8> = self.memory.read(at, bytes).map_err(fault)?;
                saved[place as usize * bytes..][..bytes].copy_from_slice(&block);
            }
        }
        Ok(())
    }

    fn restore_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<(), Error> {
        check_places(self.limits, swapped(pairs))?;
        for ((pool, bytes), saved) in self.pools().into_iter().zip(&self.saved) {
            for &(place, block) in pairs {
                let at = pool + u64::from(block) * bytes as u64;
                let block = &saved[place as usize * bytes..][..bytes];
                self.memory.write(at, block).map_err(fault)?;
            }
        }
        Ok(())
    }

    fn stats(&self) -> Stats {
        Stats {
            steps: self.steps,
            launches: self.launches,
            ..Stats::default()
        }
    }

    fn inspect(&mut self) -> &mut dyn Inspect {
        self
    }
}

impl Inspect for InterpExecutor {
    fn units(&mut self, shape: Shape) -> Result<Vec<Unit>, Error> {
        Ok(self.prepared(shape)?.lowered.units.clone())
    }

    fn poison(&mut self) -> Result<(), Error> {
        let Some(current) = &self.current else {
            return Ok(());
        };
        let scratch = (current.scratch, current.lowered.scratch_bytes);
        let buffers = current.buffers.iter().zip(&current.sizes);
        let buffers = buffers.filter_map(|(address, &bytes)| Some(((*address)?, bytes)));
        for (address, bytes) in buffers.chain([scratch]) {
            self.memory
                .write(address, &vec![u32::MAX; bytes / 4])
                .map_err(fault)?;
        }
        Ok(())
    }

    fn begin(&mut self, step: &Step<'_>) -> Result<(), Error> {
        step.check(self.limits, self.plan())?;
        let columns = self.inputs.columns.iter().zip(Column::ALL);
        let columns = columns.map(|(&address, &column)| (address, step.column(column)));
        let table = (self.inputs.block_table, step.table.entries());
        for (address, values) in columns.chain([table]) {
            self.memory.write(address, values).map_err(fault)?;
        }
        self.current = Some(self.prepared(step.shape())?);
        Ok(())
    }

    fn run_unit(&mut self, _step: &Step<'_>, unit: usize) -> Result<(), Error> {
        self.launch(Some(unit))
    }

    fn read(&mut self, b: Buf) -> Result<Option<Vec<f32>>, Error> {
        if self.place_of(b).is_none() {
            return Ok(None);
        }
        let value = |w: u32| match self.plan().buffer(b).element {
            Element::F32 => f32::from_bits(w),
            Element::U32 => w as f32,
        };
        Ok(Some(self.words(b)?.into_iter().map(value).collect()))
    }

    fn write(&mut self, b: Buf, data: &[f32]) -> Result<(), Error> {
        match self.place_of(b) {
            Some((address, _)) => self.memory.write(address, data).map_err(fault),
            None => Ok(()),
        }
    }
}
