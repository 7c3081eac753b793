//! The CPU executor: the plain-Rust meaning of every operation, and the reference of all others.
//!
//! Matrix products run on `gannet_quant::cpu`, exactly (f32 activations) or fast (int8
//! activations); everything else is f32 and the same in both. Buffers hold one row a token; the
//! cache is f32.

mod attention;
mod groups;
mod ops;

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use gannet_quant::Matrix;
use gannet_quant::cpu::{Product, matmul_exact, matmul_fast_each};

use attention::LayerCache;
use groups::{group_products, storage_of};

pub(crate) use ops::{layer_norm, rms_norm};

use super::decode::{
    HostDecode, check_blocks, check_places, check_sequences, decode_on_host, swapped,
};
use super::{DecodeStart, Executor, ExecutorKind, HostQueue, Inspect, Limits, Stats, Step};
use crate::Error;
use crate::exec::sample::argmax;
use crate::kv::BlockTable;
use crate::lower::{Activations, Shape, Unit};
use crate::model::Model;
use crate::plan::{Buf, ColumnSample, Op, Plan, Rows, Storage, Weight, WeightInfo};
use crate::settings::{Buffers, Precision};

/// The row dimension and elements a row of everything that a step of a plan is computed in.
pub(crate) fn step_sizes(plan: &Plan, buffers: Buffers) -> Vec<(Rows, usize)> {
    storage_of(plan, &group_products(&plan.ops), buffers).sizes
}

/// Runs a plan on the CPU.
pub struct CpuExecutor {
    model: Arc<Model>,
    precision: Precision,
    limits: Limits,
    storage: Storage,
    /// The plan's operations, in order: products of one buffer together, the others one by one.
    groups: Vec<Range<usize>>,
    slots: Vec<Vec<f32>>,
    next: Vec<u32>,
    cache: Vec<LayerCache>,
    /// `[context, rot_dim / 2, 2]` for each rope of the plan.
    ropes: Vec<Vec<f32>>,
    /// Norm weights and biases as f32, indexed by weight; empty for matrices.
    vectors: Vec<Vec<f32>>,
    /// The bytes of weights whose rows do not lie one behind the other in the file.
    copies: Vec<Option<Vec<u8>>>,
    shape: (usize, usize),
    stats: Stats,
    queue: HostQueue,
}

impl CpuExecutor {
    /// An executor for a model. Memory: buffers for `limits.max_rows` rows and the f32 cache.
    ///
    /// # Errors
    /// The system has no memory for the cache.
    pub fn new(
        model: Arc<Model>,
        precision: Precision,
        limits: Limits,
        buffers: Buffers,
    ) -> Result<CpuExecutor, Error> {
        let plan = model.plan();
        let groups = group_products(&plan.ops);
        let storage = storage_of(plan, &groups, buffers);
        let cache = (plan.caches.iter())
            .map(|cache| LayerCache::new(cache, limits.cache_blocks + limits.saved_blocks))
            .collect::<Result<_, Error>>()?;
        let ropes = plan.ropes.iter().map(|r| r.table(limits.context)).collect();
        let vector = |info: &WeightInfo| match info.rows {
            1 => model.weight_f32(info),
            _ => Vec::new(),
        };
        let vectors = plan.weights.iter().map(vector).collect();
        let copied = |info| match model.weight_in_place(info) {
            Some(_) => None,
            None => Some(model.weight_bytes(info).into_owned()),
        };
        let copies = plan.weights.iter().map(copied).collect();
        Ok(CpuExecutor {
            slots: vec![Vec::new(); storage.sizes.len()],
            next: Vec::new(),
            precision,
            limits,
            groups,
            storage,
            cache,
            ropes,
            vectors,
            copies,
            shape: (0, 0),
            stats: Stats::default(),
            queue: HostQueue::default(),
            model,
        })
    }

    /// Copies blocks of all layers, one after the other; places for saved ones follow those of the cache.
    fn copy_all(&mut self, pairs: impl Iterator<Item = (u32, u32)> + Clone) {
        for layer in &mut self.cache {
            for (from, to) in pairs.clone() {
                layer.copy_block(from as usize, to as usize);
            }
        }
    }

    fn rows_of(&self, rows: Rows) -> usize {
        match rows {
            Rows::Tokens => self.shape.0,
            Rows::Outputs => self.shape.1,
        }
    }

    fn len(&self, b: Buf) -> usize {
        let info = self.model.plan().buffer(b);
        self.rows_of(info.rows) * info.cols
    }

    fn slot(&self, b: Buf) -> usize {
        self.storage.slot[b.0 as usize].expect("every buffer of a plan is written")
    }

    fn get(&self, b: Buf) -> &[f32] {
        &self.slots[self.slot(b)][..self.len(b)]
    }

    /// Takes a buffer's memory out, so that others can be read while it is written.
    fn take(&mut self, b: Buf) -> Vec<f32> {
        let slot = self.slot(b);
        std::mem::take(&mut self.slots[slot])
    }

    fn put(&mut self, b: Buf, memory: Vec<f32>) {
        let slot = self.slot(b);
        self.slots[slot] = memory;
    }

    /// The stored bytes of a weight.
    fn bytes(&self, w: Weight) -> &[u8] {
        let copy = self.copies[w.0 as usize].as_deref();
        let stored = copy.or_else(|| self.model.weight_in_place(self.model.plan().weight(w)));
        stored.expect("what is not in place was copied when this was made")
    }

    /// Runs products of one buffer.
    fn run_products(&mut self, ops: &[Op]) {
        let mut outputs: Vec<(Buf, Vec<f32>)> = ops
            .iter()
            .flat_map(Op::writes)
            .map(|b| (b, self.take(b)))
            .collect();
        self.multiply(ops, &mut outputs);
        for (b, memory) in outputs {
            self.put(b, memory);
        }
    }

    /// The products `ops` of one buffer, each into the memory of its output.
    fn multiply(&self, ops: &[Op], outputs: &mut [(Buf, Vec<f32>)]) {
        let plan = self.model.plan();
        let mut products = Vec::with_capacity(ops.len());
        let mut biases = Vec::with_capacity(ops.len());
        let mut input: &[f32] = &[];
        for (op, (b, memory)) in ops.iter().zip(outputs) {
            let &Op::MatMul {
                x, weight, bias, ..
            } = op
            else {
                unreachable!("groups of several operations are products");
            };
            let info = plan.weight(weight);
            let bytes = self.bytes(weight);
            let w = Matrix::new(info.format, info.rows, info.cols, bytes)
                .expect("the tensor's size was checked when it was bound");
            let out = &mut memory[..self.len(*b)];
            input = self.get(x);
            products.push(Product { w, out });
            biases.push(bias);
        }
        let Some(cols) = products.first().map(|p| p.w.cols) else {
            return;
        };
        let n = input.len() / cols;
        match self.precision {
            Precision::Exact => products
                .iter_mut()
                .for_each(|p| matmul_exact(&p.w, input, n, p.out)),
            Precision::Fast => matmul_fast_each(&mut products, input, n),
        }
        for (product, bias) in products.iter_mut().zip(biases) {
            if let Some(bias) = bias {
                ops::add_bias(&self.vectors[bias.0 as usize], product.out);
            }
        }
    }

    /// Runs one group of [`CpuExecutor::groups`].
    fn run_ops(&mut self, step: &Step<'_>, ops: &[Op]) {
        let op = match ops {
            [op] => op,
            _ => return self.run_products(ops),
        };
        match *op {
            Op::MatMul { .. } => self.run_products(ops),
            Op::KvWrite { cache, k, v } => {
                let len = self.len(k);
                let (k, v) = (self.slot(k), self.slot(v));
                let (k, v) = (&self.slots[k][..len], &self.slots[v][..len]);
                self.cache[cache.0 as usize].write(step, k, v);
            }
            Op::ArgMax { logits, .. } => {
                let vocab = self.model.plan().vocab_size;
                self.next = self.get(logits).chunks_exact(vocab).map(argmax).collect();
            }
            Op::Attention {
                cache,
                spec,
                q,
                out,
            } => {
                let len = self.len(out);
                let mut memory = self.take(out);
                let out_rows = &mut memory[..len];
                self.cache[cache.0 as usize].attend(step, &spec, self.get(q), out_rows);
                self.put(out, memory);
            }
            // Whoever holds the ranks does this.
            Op::AllReduce { .. } | Op::AllGather { .. } => {}
            Op::Embed { out, .. }
            | Op::RmsNorm { out, .. }
            | Op::LayerNorm { out, .. }
            | Op::Rope { out, .. }
            | Op::Glu { out, .. }
            | Op::Activate { out, .. }
            | Op::Add { out, .. }
            | Op::Scale { out, .. }
            | Op::Softcap { out, .. }
            | Op::GatherOutputs { out, .. } => {
                let len = self.len(out);
                let mut memory = self.take(out);
                let cols = self.model.plan().buffer(out).cols;
                ops::by_rows(&mut memory[..len], cols, |at, piece| {
                    self.compute(step, op, at / cols, piece);
                });
                self.put(out, memory);
            }
        }
    }

    /// Rows of `op`'s output, from row `first` on.
    fn compute(&self, step: &Step<'_>, op: &Op, first: usize, out: &mut [f32]) {
        let plan = self.model.plan();
        let vector = |w: Weight| self.vectors[w.0 as usize].as_slice();
        // The same rows of an input as wide as the output.
        let rows = |b: Buf| &self.get(b)[first * plan.buffer(b).cols..][..out.len()];
        match *op {
            Op::Embed { table, by, .. } => self.embed(&step.column(by)[first..], table, out),
            Op::RmsNorm { x, weight, eps, .. } => {
                ops::rms_norm(rows(x), vector(weight), eps, out);
            }
            Op::LayerNorm {
                x,
                weight,
                bias,
                eps,
                ..
            } => ops::layer_norm(rows(x), vector(weight), bias.map(vector), eps, out),
            Op::Rope {
                x,
                rope,
                num_heads,
                head_dim,
                ..
            } => {
                let (lengths, x) = (&step.lengths()[first..], rows(x));
                let table = &self.ropes[rope.0 as usize];
                let spec = &plan.ropes[rope.0 as usize];
                ops::rope(lengths, x, spec, table, num_heads, head_dim, out);
            }
            Op::Glu { act, gate, up, .. } => ops::glu(act, rows(gate), rows(up), out),
            Op::Activate { act, x, .. } => ops::activate(act, rows(x), out),
            Op::Add { a, b, .. } => ops::add(rows(a), rows(b), out),
            Op::Scale { x, factor, .. } => ops::map(rows(x), out, |x| x * factor),
            Op::Softcap { x, cap, .. } => ops::map(rows(x), out, |x| ops::softcap(x, cap)),
            Op::GatherOutputs { x, .. } => {
                let cols = plan.buffer(x).cols;
                let x = self.get(x);
                let outputs = &step.outputs()[first..];
                for (row, &i) in out.chunks_exact_mut(cols).zip(outputs) {
                    row.copy_from_slice(&x[i as usize * cols..][..cols]);
                }
            }
            Op::MatMul { .. }
            | Op::Attention { .. }
            | Op::KvWrite { .. }
            | Op::ArgMax { .. }
            | Op::AllReduce { .. }
            | Op::AllGather { .. } => unreachable!("handled by run_ops"),
        }
    }

    fn embed(&self, indices: &[u32], table: Weight, out: &mut [f32]) {
        let info = self.model.plan().weight(table);
        let bytes = self.bytes(table);
        let stride = bytes.len() / info.rows;
        for (row, &index) in out.chunks_exact_mut(info.cols).zip(indices) {
            info.format
                .dequantize(&bytes[index as usize * stride..][..stride], row)
                .expect("a row of a checked tensor");
        }
    }
}

impl Executor for CpuExecutor {
    fn kind(&self) -> ExecutorKind {
        match self.precision {
            Precision::Exact => ExecutorKind::CpuExact,
            Precision::Fast => ExecutorKind::Cpu,
        }
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
        let model = Arc::clone(&self.model);
        // On a thread of the pool: every product then starts at once, without waking one first.
        rayon::scope(|_| {
            for group in self.groups.clone() {
                let ops = &model.plan().ops[group];
                // Without outputs the head has nothing to do.
                let idle = ops[0].writes().iter().any(|&b| self.len(b) == 0);
                if !idle {
                    self.run_ops(step, ops);
                }
            }
        });
        self.stats.steps += 1;
        Ok(())
    }

    fn logits(&mut self) -> Result<&[f32], Error> {
        Ok(self.get(self.model.plan().logits))
    }

    fn next(&mut self) -> Result<&[u32], Error> {
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
        let how = HostDecode::default();
        decode_on_host(self, sequences, steps, table, how, on_token)
    }

    fn host_queue(&mut self) -> &mut HostQueue {
        &mut self.queue
    }

    fn copy_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<(), Error> {
        check_blocks(self.limits, pairs)?;
        self.copy_all(pairs.iter().copied());
        Ok(())
    }

    fn save_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<(), Error> {
        check_places(self.limits, pairs.iter().copied())?;
        let first = self.limits.cache_blocks as u32;
        self.copy_all(pairs.iter().map(|&(block, place)| (block, first + place)));
        Ok(())
    }

    fn restore_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<(), Error> {
        check_places(self.limits, swapped(pairs))?;
        let first = self.limits.cache_blocks as u32;
        self.copy_all(pairs.iter().map(|&(place, block)| (first + place, block)));
        Ok(())
    }

    fn stats(&self) -> Stats {
        self.stats
    }

    fn inspect(&mut self) -> &mut dyn Inspect {
        self
    }
}

impl Inspect for CpuExecutor {
    fn units(&mut self, _shape: Shape) -> Result<Vec<Unit>, Error> {
        let plan = self.model.plan();
        let unit = |(i, op): (usize, &Op)| {
            let writes = op.writes();
            let of = writes.first().map_or("", |&b| plan.buffer(b).name.as_str());
            Unit {
                name: format!("{} {of}", op.name()).trim_end().to_owned(),
                ops: vec![i],
                reads: op.reads(),
                activations: match op.contract().sample {
                    ColumnSample::Product => op
                        .weights()
                        .iter()
                        .map(|&w| Activations::on_cpu(self.precision, plan.weight(w).format))
                        .max()
                        .unwrap_or_default(),
                    ColumnSample::Columns | ColumnSample::Whole => Activations::default(),
                },
                writes,
            }
        };
        Ok(plan.ops.iter().enumerate().map(unit).collect())
    }

    fn poison(&mut self) -> Result<(), Error> {
        self.slots.iter_mut().for_each(|s| s.fill(f32::NAN));
        self.next.fill(u32::MAX);
        Ok(())
    }

    fn begin(&mut self, step: &Step<'_>) -> Result<(), Error> {
        step.check(self.limits, self.model.plan())?;
        self.shape = (step.rows(), step.outputs().len());
        for i in 0..self.slots.len() {
            let (rows, cols) = self.storage.sizes[i];
            let len = self.rows_of(rows) * cols;
            if self.slots[i].len() < len {
                self.slots[i].resize(len, f32::NAN);
            }
        }
        Ok(())
    }

    fn run_unit(&mut self, step: &Step<'_>, unit: usize) -> Result<(), Error> {
        let model = Arc::clone(&self.model);
        self.run_ops(step, &model.plan().ops[unit..=unit]);
        Ok(())
    }

    fn read(&mut self, b: Buf) -> Result<Option<Vec<f32>>, Error> {
        if b == self.model.plan().next {
            return Ok(Some(self.next.iter().map(|&t| t as f32).collect()));
        }
        Ok(Some(self.get(b).to_vec()))
    }

    fn write(&mut self, b: Buf, data: &[f32]) -> Result<(), Error> {
        let (slot, len) = (self.slot(b), self.len(b));
        self.slots[slot][..len].copy_from_slice(data);
        Ok(())
    }
}
