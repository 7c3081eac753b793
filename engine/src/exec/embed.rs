//! One vector of a text: what stands in front of the head, pooled.
//!
//! The network runs as for any prompt, without outputs: the head computes nothing. What the last layer
//! leaves is read back and put through the final norm here, in the plain arithmetic of the CPU executor, so
//! that every row has its vector whatever kernels there are.

use std::ops::ControlFlow;

use super::cpu;
use super::{Executor, StepRows};
use crate::Error;
use crate::error::NotFinite;
use crate::kv::BlockTable;
use crate::model::{Model, Pooling};
use crate::plan::{Buf, Op, Plan};

/// The vectors in front of the head, as far as they have come.
struct Pooled {
    sum: Vec<f64>,
    last: Vec<f32>,
    rows: usize,
}

impl Pooled {
    fn add(&mut self, row: &[f32]) {
        self.rows += 1;
        self.last.copy_from_slice(row);
        for (sum, value) in self.sum.iter_mut().zip(row) {
            *sum += f64::from(*value);
        }
    }

    fn vector(self, pooling: Pooling) -> Option<Vec<f32>> {
        let rows = self.rows as f64;
        match pooling {
            Pooling::Mean => Some(self.sum.iter().map(|sum| (sum / rows) as f32).collect()),
            Pooling::Last => Some(self.last),
            Pooling::None | Pooling::First | Pooling::Rank => None,
        }
    }
}

/// What the head begins with: the rows of all tokens.
fn stream(plan: &Plan) -> Option<(Buf, Buf)> {
    plan.ops.iter().find_map(|op| match *op {
        Op::GatherOutputs { x, out } => Some((x, out)),
        _ => None,
    })
}

/// The final norm of rows of the stream.
fn normed(model: &Model, rows: &[f32]) -> Option<Vec<f32>> {
    let plan = model.plan();
    let (_, gathered) = stream(plan)?;
    let weight = |w| model.weight_f32(plan.weight(w));
    let mut out = vec![0.0; rows.len()];
    let found = plan.ops.iter().find_map(|op| match *op {
        Op::RmsNorm {
            x, weight: w, eps, ..
        } if x == gathered => {
            cpu::rms_norm(rows, &weight(w), eps, &mut out);
            Some(ControlFlow::Break::<()>(()))
        }
        Op::LayerNorm {
            x,
            weight: w,
            bias,
            eps,
            ..
        } if x == gathered => {
            let bias = bias.map(weight);
            cpu::layer_norm(rows, &weight(w), bias.as_deref(), eps, &mut out);
            Some(ControlFlow::Break(()))
        }
        _ => None,
    });
    found.map(|_| out)
}

/// The vector of a text of at least one token, in blocks of the table's first slot. It is that of the model,
/// not scaled to any length.
///
/// # Errors
/// A pooling that there is not, numbers that are not finite, or the device failed.
pub(crate) fn embed(
    model: &Model,
    executor: &mut dyn Executor,
    tokens: &[u32],
    pooling: Pooling,
    table: &BlockTable,
) -> Result<Vec<f32>, Error> {
    let unknown = || Error::internal("this network has no norm in front of its head".to_owned());
    let (x, _) = stream(executor.plan()).ok_or_else(unknown)?;
    let hidden = executor.plan().buffer(x).cols;
    let mut pooled = Pooled {
        sum: vec![0.0; hidden],
        last: vec![0.0; hidden],
        rows: 0,
    };
    let most = executor.limits().max_rows;
    for start in (0..tokens.len()).step_by(most) {
        let end = (start + most).min(tokens.len());
        let rows = StepRows::prompt(&tokens[start..end], 0, start);
        executor.run(&rows.step(table))?;
        let stream = executor.inspect().read(x)?.ok_or_else(unknown)?;
        let stream = &stream[..(end - start) * hidden];
        let normed = normed(model, stream).ok_or_else(unknown)?;
        for (i, row) in normed.chunks_exact(hidden).enumerate() {
            if row.iter().any(|value| !value.is_finite()) {
                let (position, origin) = (start + i, None);
                return Err(NotFinite { position, origin }.into());
            }
            pooled.add(row);
        }
    }
    let refused = || Error::Request(format!("pooling: {pooling} gives no vector of a text"));
    pooled.vector(pooling).ok_or_else(refused)
}
