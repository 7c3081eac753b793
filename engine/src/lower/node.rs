//! What a unit is before it has kernels: the operations that it covers, and what they are together.

use super::pattern::FusionRule;
use crate::plan::{Activation, AttentionConfig, Buf, CacheId, Column, Op, Plan, Rope, Weight};

/// What a unit computes: an operation, or several that share a launch.
#[derive(Debug, Clone, PartialEq)]
pub enum NodeKind {
    /// An operation on its own.
    Op(Op),
    /// `out = x weight^T (+ bias) + residual`.
    MatMulAdd {
        /// Input.
        x: Buf,
        /// Matrix.
        weight: Weight,
        /// Vector.
        bias: Option<Weight>,
        /// Added to the product.
        residual: Buf,
        /// Output.
        out: Buf,
    },
    /// `out = x * weight / sqrt(mean(x^2) + eps) + residual`, rows whole.
    NormAdd {
        /// Input.
        x: Buf,
        /// `[dim]`.
        weight: Weight,
        /// Added to the mean square.
        eps: f32,
        /// Added to the norm.
        residual: Buf,
        /// Output.
        out: Buf,
    },
    /// `out = x * weight / sqrt(mean(x^2) + eps) + residual`, and the same norm of that, rows whole.
    NormAddNorm {
        /// Input.
        x: Buf,
        /// `[dim]`.
        weight: Weight,
        /// Added to both mean squares.
        eps: f32,
        /// Added to the norm.
        residual: Buf,
        /// The sum.
        sum: Buf,
        /// `[dim]`, of the second norm.
        next_weight: Weight,
        /// The norm of the sum.
        out: Buf,
    },
    /// `out[t] = table[by[t]] * factor`.
    ScaledEmbed {
        /// Matrix.
        table: Weight,
        /// What rows are looked up by.
        by: Column,
        /// Factor.
        factor: f32,
        /// Output.
        out: Buf,
    },
    /// `out = act(x gate^T) * (x up^T)`.
    GatedMatMul {
        /// Activation.
        act: Activation,
        /// Input.
        x: Buf,
        /// Matrix under the activation.
        gate: Weight,
        /// The other matrix.
        up: Weight,
        /// Output.
        out: Buf,
    },
    /// Rotates keys and appends them and values to a cache.
    RotatedKvWrite {
        /// Where to, or where from.
        cache: CacheId,
        /// Rotation.
        rope: Rope,
        /// Keys before it.
        k: Buf,
        /// Values.
        v: Buf,
    },
    /// Attention of queries that it rotates.
    RotatedAttention {
        /// Where to, or where from.
        cache: CacheId,
        /// Shape of the attention.
        spec: AttentionConfig,
        /// Rotation.
        rope: Rope,
        /// Queries before it.
        q: Buf,
        /// Output.
        out: Buf,
    },
}

/// A unit to be: what it computes, and what that depends on.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// What it computes.
    pub kind: NodeKind,
    /// The rule that made it of several operations.
    pub rule: Option<FusionRule>,
    /// The plan operations that it covers, ascending.
    pub ops: Vec<usize>,
    /// Buffers read.
    pub reads: Vec<Buf>,
    /// Buffers written.
    pub writes: Vec<Buf>,
}

impl Node {
    /// What it is called in a report.
    pub(super) fn name(&self, plan: &Plan) -> String {
        let last = self.ops.last().map_or("", |&i| plan.ops[i].name());
        let what = self.rule.map_or(last, |rule| rule.pattern().unit);
        let of = self.writes.first();
        let of = of.map_or("", |&b| plan.buffer(b).name.as_str());
        format!("{what} {of}").trim_end().to_owned()
    }
}
