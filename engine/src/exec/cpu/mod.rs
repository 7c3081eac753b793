//! The CPU executor: the plain-Rust meaning of every operation, and the reference of all others.
//!
//! Matrix products run on `gannet_quant::cpu`, exactly (f32 activations) or fast (int8
//! activations); everything else is f32 and the same in both. Buffers hold one row a token; the
//! cache is f32.

mod ops;

use std::sync::Arc;

use gannet_quant::{Matrix, cpu as products};

use super::{Buffers, Executor, Limits, Precision, Stats, Step, Unit};
use crate::Error;
use crate::kv::{BLOCK_TOKENS, BlockTable};
use crate::model::Model;
use crate::plan::{Buf, Op, Plan, Rows, Storage, Weight, assign_storage};
use crate::sample::argmax;

/// Keys and values of one layer: `[num_blocks, num_kv_heads, BLOCK_TOKENS, head_dim]` each.
struct LayerCache {
    k: Vec<f32>,
    v: Vec<f32>,
}

/// Runs a plan on the CPU.
pub struct CpuExecutor {
    model: Arc<Model>,
    precision: Precision,
    limits: Limits,
    storage: Storage,
    slots: Vec<Vec<f32>>,
    next: Vec<u32>,
    cache: Vec<LayerCache>,
    /// `[context, rot_dim / 2, 2]` for each rope of the plan.
    ropes: Vec<Vec<f32>>,
    /// Norm weights and biases as f32, indexed by weight; empty for matrices.
    vectors: Vec<Vec<f32>>,
    shape: (usize, usize),
    stats: Stats,
}

impl CpuExecutor {
    /// An executor for a model. Memory: buffers for `limits.max_rows` rows and the f32 cache.
    #[must_use]
    pub fn new(
        model: Arc<Model>,
        precision: Precision,
        limits: Limits,
        buffers: Buffers,
    ) -> CpuExecutor {
        let plan = model.plan();
        let storage = match buffers {
            Buffers::Shared => {
                let steps: Vec<_> = plan
                    .ops
                    .iter()
                    .map(|op| (op.reads(), op.writes().into_iter().collect()))
                    .collect();
                assign_storage(plan, &steps, &[plan.logits, plan.next])
            }
            Buffers::Distinct => Storage {
                slot: (0..plan.buffers.len()).map(Some).collect(),
                sizes: plan.buffers.iter().map(|b| (b.rows, b.cols)).collect(),
            },
        };
        let blocks = BlockTable::blocks_for(limits.num_slots, limits.context);
        let layer_len = blocks * plan.kv.num_kv_heads * BLOCK_TOKENS * plan.kv.head_dim;
        let cache = (0..plan.kv.num_layers)
            .map(|_| LayerCache {
                k: vec![0.0; layer_len],
                v: vec![0.0; layer_len],
            })
            .collect();
        let ropes = plan.ropes.iter().map(|r| r.table(limits.context)).collect();
        let vectors = (0..plan.weights.len() as u32)
            .map(Weight)
            .map(|w| {
                if plan.weight(w).rows == 1 {
                    model.weight_f32(w)
                } else {
                    Vec::new()
                }
            })
            .collect();
        CpuExecutor {
            slots: vec![Vec::new(); storage.sizes.len()],
            next: Vec::new(),
            precision,
            limits,
            storage,
            cache,
            ropes,
            vectors,
            shape: (0, 0),
            stats: Stats::default(),
            model,
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

    fn matmul(&self, x: &[f32], weight: Weight, bias: Option<Weight>, out: &mut [f32]) {
        let info = self.model.plan().weight(weight);
        let bytes = self.model.weight_bytes(weight);
        let matrix = Matrix::new(info.format, info.rows, info.cols, bytes)
            .expect("the tensor's size was checked when it was bound");
        let n = x.len() / info.cols;
        match self.precision {
            Precision::Exact => products::matmul_exact(&matrix, x, n, out),
            Precision::Fast => products::matmul_fast(&matrix, x, n, out),
        }
        if let Some(bias) = bias {
            let bias = &self.vectors[bias.0 as usize];
            for row in out.chunks_exact_mut(bias.len()) {
                row.iter_mut().zip(bias).for_each(|(o, b)| *o += b);
            }
        }
    }

    fn run_op(&mut self, step: &Step<'_>, op: &Op) {
        match *op {
            Op::KvWrite { layer, k, v } => {
                let kv = self.model.plan().kv;
                let mut cache = std::mem::replace(
                    &mut self.cache[layer],
                    LayerCache {
                        k: Vec::new(),
                        v: Vec::new(),
                    },
                );
                ops::kv_write(step, kv, self.get(k), &mut cache.k);
                ops::kv_write(step, kv, self.get(v), &mut cache.v);
                self.cache[layer] = cache;
            }
            Op::ArgMax { logits, .. } => {
                let vocab = self.model.plan().vocab_size;
                self.next = self.get(logits).chunks_exact(vocab).map(argmax).collect();
            }
            _ => {
                let out = op.writes().expect("only the cache write has no output");
                let mut memory = self.take(out);
                let len = self.len(out);
                self.compute(step, op, &mut memory[..len]);
                self.put(out, memory);
            }
        }
    }

    fn compute(&self, step: &Step<'_>, op: &Op, out: &mut [f32]) {
        let plan = self.model.plan();
        let vector = |w: Weight| self.vectors[w.0 as usize].as_slice();
        match *op {
            Op::Embed { table, .. } => self.embed(step.tokens, table, out),
            Op::RmsNorm { x, weight, eps, .. } => {
                ops::rms_norm(self.get(x), vector(weight), eps, out);
            }
            Op::MatMul {
                x, weight, bias, ..
            } => self.matmul(self.get(x), weight, bias, out),
            Op::Rope {
                x,
                rope,
                num_heads,
                head_dim,
                ..
            } => {
                let table = &self.ropes[rope.0 as usize];
                let spec = &plan.ropes[rope.0 as usize];
                ops::rope(
                    step.lengths,
                    self.get(x),
                    spec,
                    table,
                    (num_heads, head_dim),
                    out,
                );
            }
            Op::Attention { layer, spec, q, .. } => {
                let cache = &self.cache[layer];
                ops::attention(step, &spec, self.get(q), &cache.k, &cache.v, out);
            }
            Op::Glu { act, gate, up, .. } => ops::glu(act, self.get(gate), self.get(up), out),
            Op::Add { a, b, .. } => {
                let (a, b) = (self.get(a), self.get(b));
                out.iter_mut()
                    .zip(a.iter().zip(b))
                    .for_each(|(o, (a, b))| *o = a + b);
            }
            Op::GatherOutputs { x, .. } => {
                let cols = plan.buffer(x).cols;
                let x = self.get(x);
                for (row, &i) in out.chunks_exact_mut(cols).zip(step.outputs) {
                    row.copy_from_slice(&x[i as usize * cols..][..cols]);
                }
            }
            Op::KvWrite { .. } | Op::ArgMax { .. } => unreachable!("handled by run_op"),
        }
    }

    fn embed(&self, tokens: &[u32], table: Weight, out: &mut [f32]) {
        let info = self.model.plan().weight(table);
        let bytes = self.model.weight_bytes(table);
        let stride = bytes.len() / info.rows;
        for (row, &token) in out.chunks_exact_mut(info.cols).zip(tokens) {
            info.format
                .dequantize(&bytes[token as usize * stride..][..stride], row)
                .expect("a row of a checked tensor");
        }
    }
}

impl Executor for CpuExecutor {
    fn name(&self) -> &'static str {
        match self.precision {
            Precision::Exact => "cpu-exact",
            Precision::Fast => "cpu",
        }
    }

    fn plan(&self) -> &Plan {
        self.model.plan()
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn run(&mut self, step: &Step<'_>) -> Result<(), Error> {
        self.begin(step)?;
        let model = Arc::clone(&self.model);
        for op in &model.plan().ops {
            // Without outputs the head has nothing to do.
            let idle = op.writes().is_some_and(|b| self.len(b) == 0);
            if !idle {
                self.run_op(step, op);
            }
        }
        self.stats.steps += 1;
        Ok(())
    }

    fn logits(&mut self) -> Result<&[f32], Error> {
        Ok(self.get(self.model.plan().logits))
    }

    fn next(&mut self) -> Result<&[u32], Error> {
        Ok(&self.next)
    }

    fn units(&mut self, _rows: usize, _outputs: usize) -> Result<Vec<Unit>, Error> {
        let plan = self.model.plan();
        let unit = |(i, op): (usize, &Op)| {
            let of = op.writes().map_or("", |b| plan.buffer(b).name.as_str());
            Unit {
                name: format!("{} {of}", op.name()).trim_end().to_owned(),
                last_op: i,
                reads: op.reads(),
                writes: op.writes().into_iter().collect(),
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
        self.shape = (step.rows(), step.outputs.len());
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
        let op = self.model.plan().ops[unit].clone();
        self.run_op(step, &op);
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

    fn stats(&self) -> Stats {
        self.stats
    }
}
