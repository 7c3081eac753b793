//! What the CPU makes of a unit's inputs.
//!
//! Matrix products are computed for a sample of output features only, whatever they are fused with;
//! everything else, being cheap, for all of them.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use gannet_quant::Matrix;
use gannet_quant::cpu::{gelu_mul, matmul_exact, silu_mul};

use crate::Error;
use crate::exec::cpu::CpuExecutor;
use crate::exec::{Inspect, Limits, Step};
use crate::kv::BlockTable;
use crate::lower::Unit;
use crate::model::Model;
use crate::plan::{Activation, Buf, ColumnSample, Op, Plan, Weight};
use crate::settings::{Buffers, Precision};

/// Output features of a product that are computed.
const SAMPLE: usize = 32;

/// What a buffer should hold.
pub(crate) struct Expected {
    pub(super) buffer: Buf,
    /// The columns that were computed; `None`: all.
    columns: Option<Vec<usize>>,
    /// `[rows, columns]`.
    pub(crate) values: Vec<f32>,
}

impl Expected {
    /// The values of a buffer's contents that were computed here.
    pub(crate) fn pick<'a>(&self, plan: &Plan, data: &'a [f32]) -> Cow<'a, [f32]> {
        match &self.columns {
            None => Cow::Borrowed(data),
            Some(columns) => Cow::Owned(columns_of(data, plan.buffer(self.buffer).cols, columns)),
        }
    }

    /// Some columns of a buffer's contents that were not computed here and hold what is not finite.
    pub(super) fn strays(&self, plan: &Plan, data: &[f32]) -> Vec<usize> {
        let Some(columns) = &self.columns else {
            return Vec::new();
        };
        let cols = plan.buffer(self.buffer).cols;
        let strays = (data.iter().enumerate()).filter(|(_, v)| !v.is_finite());
        let strays: BTreeSet<usize> = strays.map(|(i, _)| i % cols).collect();
        let is_new = |column: &usize| !columns.contains(column);
        strays.into_iter().filter(is_new).take(SAMPLE).collect()
    }
}

/// Keys or values as a unit stores them.
pub(super) struct Stored {
    pub(super) buffer: Buf,
    /// `[rows, elements of a token]`.
    pub(super) values: Vec<f32>,
}

/// What the CPU makes of a unit.
pub(super) struct Computed {
    /// What its outputs should hold.
    pub(super) expected: Vec<Expected>,
    /// What goes to caches.
    pub(super) stored: Vec<Stored>,
}

/// The CPU's side of the gate.
pub(crate) struct Reference {
    model: Arc<Model>,
    cpu: CpuExecutor,
    table: BlockTable,
}

impl Reference {
    /// A reference for steps of up to `context` tokens of one sequence.
    pub(crate) fn new(model: &Arc<Model>, context: usize) -> Result<Reference, Error> {
        let limits = Limits::new(1, context);
        let mut table = BlockTable::new(1, context, limits.cache_blocks);
        table.reserve(0, context)?;
        // Small buffers, a small cache, and no matrix is touched.
        let (exact, shared) = (Precision::Exact, Buffers::Shared);
        Ok(Reference {
            cpu: CpuExecutor::new(Arc::clone(model), exact, limits, shared)?,
            model: Arc::clone(model),
            table,
        })
    }

    /// Sets the inputs of a step of slot 0.
    pub(super) fn begin(&mut self, step: &Step<'_>) -> Result<(), Error> {
        let own = Step {
            table: &self.table,
            ..*step
        };
        self.cpu.begin(&own)
    }

    /// What a unit should write, given what the units before it made.
    pub(super) fn unit(
        &mut self,
        unit: &Unit,
        made: &HashMap<Buf, Vec<f32>>,
        step: &Step<'_>,
    ) -> Result<Computed, Error> {
        let model = Arc::clone(&self.model);
        let of_product =
            |&i: &usize| model.plan().ops[i].contract().sample == ColumnSample::Product;
        if unit.ops.iter().any(of_product)
            && let Some(sampled) = self.sampled(unit, made)
        {
            return Ok(Computed {
                expected: sampled,
                stored: Vec::new(),
            });
        }
        for &b in &unit.reads {
            let data = made.get(&b).ok_or_else(|| self.unread(unit, b))?;
            self.cpu.write(b, data)?;
        }
        let own = Step {
            table: &self.table,
            ..*step
        };
        let mut stored = Vec::new();
        for &op in &unit.ops {
            if let Op::KvWrite { k, v, .. } = model.plan().ops[op] {
                for buffer in [k, v] {
                    let values = self.cpu.read(buffer)?.unwrap_or_default();
                    stored.push(Stored { buffer, values });
                }
            }
            self.cpu.run_unit(&own, op)?;
        }
        let mut expected = Vec::new();
        for &buffer in &unit.writes {
            if let Some(values) = self.cpu.read(buffer)? {
                expected.push(Expected {
                    buffer,
                    columns: None,
                    values,
                });
            }
        }
        Ok(Computed { expected, stored })
    }

    /// Some columns of what a unit of matrix products should write; `None` as for one buffer.
    pub(crate) fn sampled(
        &self,
        unit: &Unit,
        made: &HashMap<Buf, Vec<f32>>,
    ) -> Option<Vec<Expected>> {
        let sampled = unit.writes.iter().map(|&b| self.sample(unit, made, b));
        sampled.collect()
    }

    /// Some columns of a buffer; `None` where they depend on more than the same columns of others
    /// and on products.
    fn sample(&self, unit: &Unit, made: &HashMap<Buf, Vec<f32>>, b: Buf) -> Option<Expected> {
        let columns = sample(self.model.plan().buffer(b).cols, u64::from(b.0));
        self.at(unit, made, b, columns)
    }

    /// Given columns of a buffer; `None` without any, and where they depend on more than the same
    /// columns of others and on products.
    pub(super) fn at(
        &self,
        unit: &Unit,
        made: &HashMap<Buf, Vec<f32>>,
        b: Buf,
        columns: Vec<usize>,
    ) -> Option<Expected> {
        if columns.is_empty() {
            return None;
        }
        let values = self.columns(unit, made, b, &columns)?;
        Some(Expected {
            buffer: b,
            columns: Some(columns),
            values,
        })
    }

    fn columns(
        &self,
        unit: &Unit,
        made: &HashMap<Buf, Vec<f32>>,
        b: Buf,
        columns: &[usize],
    ) -> Option<Vec<f32>> {
        let plan = self.model.plan();
        if unit.reads.contains(&b) {
            return Some(columns_of(made.get(&b)?, plan.buffer(b).cols, columns));
        }
        let of = |b| self.columns(unit, made, b, columns);
        let mut covered = unit.ops.iter().map(|&i| &plan.ops[i]);
        match *covered.find(|op| op.writes().contains(&b))? {
            Op::MatMul {
                x, weight, bias, ..
            } if unit.reads.contains(&x) => {
                let mut out = self.product(made.get(&x)?, weight, columns)?;
                if let Some(bias) = bias {
                    let bias = self.model.weight_f32(plan.weight(bias));
                    let picked = columns.iter().map(|&c| bias[c]).cycle();
                    out.iter_mut().zip(picked).for_each(|(o, b)| *o += b);
                }
                Some(out)
            }
            Op::Add { a, b, .. } => {
                let (a, b) = (of(a)?, of(b)?);
                Some(a.iter().zip(&b).map(|(a, b)| a + b).collect())
            }
            Op::Glu { act, gate, up, .. } => {
                let (gate, up) = (of(gate)?, of(up)?);
                let mut out = vec![0.0; gate.len()];
                activation(act)(&gate, &up, &mut out);
                Some(out)
            }
            Op::Activate { act, x, .. } => {
                let x = of(x)?;
                let mut out = vec![0.0; x.len()];
                activation(act)(&x, &vec![1.0; x.len()], &mut out);
                Some(out)
            }
            Op::Scale { x, factor, .. } => Some(of(x)?.iter().map(|x| x * factor).collect()),
            Op::Softcap { x, cap, .. } => {
                Some(of(x)?.iter().map(|x| cap * (x / cap).tanh()).collect())
            }
            Op::MatMul { .. }
            | Op::Embed { .. }
            | Op::RmsNorm { .. }
            | Op::LayerNorm { .. }
            | Op::Rope { .. }
            | Op::KvWrite { .. }
            | Op::Attention { .. }
            | Op::GatherOutputs { .. }
            | Op::ArgMax { .. }
            | Op::AllReduce { .. }
            | Op::AllGather { .. } => None,
        }
    }

    /// `[rows of x, columns]` of `x weight^T`.
    fn product(&self, x: &[f32], weight: Weight, columns: &[usize]) -> Option<Vec<f32>> {
        let info = self.model.plan().weight(weight);
        let bytes = self.model.weight_bytes(info);
        let stride = bytes.len() / info.rows;
        let rows = columns.iter().flat_map(|&c| &bytes[c * stride..][..stride]);
        let rows: Vec<u8> = rows.copied().collect();
        let matrix = Matrix::new(info.format, columns.len(), info.cols, &rows).ok()?;
        let n = x.len() / info.cols;
        let mut out = vec![0.0; n * columns.len()];
        matmul_exact(&matrix, x, n, &mut out);
        Some(out)
    }

    fn unread(&self, unit: &Unit, b: Buf) -> Error {
        let name = &self.model.plan().buffer(b).name;
        Error::Request(format!("{} reads {name} before it is written", unit.name))
    }
}

/// The function that multiplies an activation with the other half of a gated unit.
fn activation(act: Activation) -> fn(&[f32], &[f32], &mut [f32]) {
    match act {
        Activation::Silu => silu_mul,
        Activation::Gelu => gelu_mul,
    }
}

/// Columns spread over all, the first and the last among them, at places that `seed` moves.
fn sample(cols: usize, seed: u64) -> Vec<usize> {
    if cols <= SAMPLE {
        return (0..cols).collect();
    }
    let inner = |i: usize| {
        let (from, to) = (i * cols / SAMPLE, (i + 1) * cols / SAMPLE);
        // A multiplicative hash: neighbouring samples fall on unrelated places of a kernel's tiles.
        let hash = (seed * SAMPLE as u64 + i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        from + (hash >> 33) as usize % (to - from)
    };
    let mut columns: Vec<usize> = (0..SAMPLE).map(inner).collect();
    columns[0] = 0;
    columns[SAMPLE - 1] = cols - 1;
    columns
}

fn columns_of(data: &[f32], cols: usize, columns: &[usize]) -> Vec<f32> {
    let rows = data.chunks_exact(cols);
    rows.flat_map(|row| columns.iter().map(|&c| row[c]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_spread_and_have_both_ends() {
        assert_eq!(sample(5, 1), [0, 1, 2, 3, 4]);
        for cols in [33, 64, 1536, 151_936] {
            let columns = sample(cols, 7);
            assert!(columns.windows(2).all(|w| w[0] < w[1]), "{columns:?}");
            assert_eq!((columns[0], columns[SAMPLE - 1]), (0, cols - 1));
            assert_eq!(columns.len(), SAMPLE);
        }
        assert_ne!(sample(1536, 1), sample(1536, 2));
    }

    #[test]
    fn columns_are_picked_from_every_row() {
        let data = [0.0, 1.0, 2.0, 10.0, 11.0, 12.0];
        assert_eq!(columns_of(&data, 3, &[0, 2]), [0.0, 2.0, 10.0, 12.0]);
    }
}
