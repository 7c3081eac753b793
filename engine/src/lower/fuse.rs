//! Which operations share a launch.
//!
//! Three rules: a residual sum is the epilogue of the product it adds; for few rows the two
//! products of a gated unit and its activation are one kernel; and where kernels can, keys are
//! rotated on their way into the cache and queries on their way into attention. A fused node runs where its last
//! operation stood.

use super::Shape;
use crate::lower::{Activations, Unit};
use crate::plan::{Activation, AttentionConfig, Buf, CacheId, Op, Plan, Rope, Rows, Weight};

/// An operation, or several that share a launch.
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
    /// Rotates keys and appends them and values to the cache of a layer.
    RotatedKvWrite {
        /// CacheId.
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
        /// CacheId.
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

/// What the kernels of a step can take in.
pub trait Kernels {
    /// Whether a gated unit of the step is one kernel.
    fn gates(&self) -> bool;
    /// Whether keys can be rotated on their way into the cache.
    fn rotates_keys(&self, rope: Rope, cache: CacheId) -> bool;
    /// Whether queries can be rotated on their way into attention.
    fn rotates_queries(&self, rope: Rope, spec: &AttentionConfig) -> bool;
}

/// A node and its dependencies.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// What it computes.
    pub kind: NodeKind,
    /// The last plan operation that it covers.
    pub last_op: usize,
    /// Buffers read.
    pub reads: Vec<Buf>,
    /// Buffers written.
    pub writes: Vec<Buf>,
}

impl Node {
    pub(super) fn into_unit(self, plan: &Plan, activations: Activations) -> Unit {
        let kind = match &self.kind {
            NodeKind::Op(op) => op.name(),
            NodeKind::MatMulAdd { .. } => "matmul+add",
            NodeKind::GatedMatMul { .. } => "gated matmul",
            NodeKind::RotatedKvWrite { .. } => "rope+kv_write",
            NodeKind::RotatedAttention { .. } => "rope+attention",
        };
        let of = self
            .writes
            .first()
            .map_or("", |&b| plan.buffer(b).name.as_str());
        Unit {
            name: format!("{kind} {of}").trim_end().to_owned(),
            last_op: self.last_op,
            reads: self.reads,
            writes: self.writes,
            activations,
        }
    }
}

/// Groups a plan's operations into nodes, as far as the kernels of the shape allow. Operations that
/// write no rows at this shape are left out.
#[must_use]
pub fn fuse(plan: &Plan, shape: Shape, kernels: &impl Kernels) -> Vec<Node> {
    let readers = count_readers(plan);
    // The product that makes a buffer, if that buffer has no other use than its one reader.
    let private_product = |b: Buf| {
        let only_use = readers[b.0 as usize] == 1 && b != plan.logits;
        let writer = plan.writer(b);
        writer.filter(|&i| only_use && matches!(plan.ops[i], Op::MatMul { .. }))
    };
    // The same of a rotation: where it stands, what it rotates and how.
    let private_rope = |b: Buf| {
        let writer = plan.writer(b)?;
        match plan.ops[writer] {
            Op::Rope { x, rope, .. } if readers[b.0 as usize] == 1 => Some((writer, x, rope)),
            _ => None,
        }
    };
    let mut absorbed = vec![false; plan.ops.len()];
    let mut fused: Vec<Option<NodeKind>> = vec![None; plan.ops.len()];
    for (i, op) in plan.ops.iter().enumerate() {
        match *op {
            Op::Add { a, b, out } => {
                let choice = private_product(b).map(|p| (p, a));
                let choice = choice.or_else(|| private_product(a).map(|p| (p, b)));
                let Some((product, residual)) = choice else {
                    continue;
                };
                let Op::MatMul {
                    x, weight, bias, ..
                } = plan.ops[product]
                else {
                    continue;
                };
                absorbed[product] = true;
                fused[i] = Some(NodeKind::MatMulAdd {
                    x,
                    weight,
                    bias,
                    residual,
                    out,
                });
            }
            Op::Glu { act, gate, up, out } if kernels.gates() => {
                let (Some(g), Some(u)) = (private_product(gate), private_product(up)) else {
                    continue;
                };
                let (
                    Op::MatMul {
                        x,
                        weight: gate,
                        bias: None,
                        ..
                    },
                    Op::MatMul {
                        x: x_up,
                        weight: up,
                        bias: None,
                        ..
                    },
                ) = (&plan.ops[g], &plan.ops[u])
                else {
                    continue;
                };
                if x == x_up {
                    absorbed[g] = true;
                    absorbed[u] = true;
                    let (x, gate, up) = (*x, *gate, *up);
                    fused[i] = Some(NodeKind::GatedMatMul {
                        act,
                        x,
                        gate,
                        up,
                        out,
                    });
                }
            }
            Op::KvWrite { cache, k, v } => {
                let Some((at, k, rope)) = private_rope(k) else {
                    continue;
                };
                if kernels.rotates_keys(rope, cache) {
                    absorbed[at] = true;
                    fused[i] = Some(NodeKind::RotatedKvWrite { cache, rope, k, v });
                }
            }
            Op::Attention {
                cache,
                spec,
                q,
                out,
            } => {
                let Some((at, q, rope)) = private_rope(q) else {
                    continue;
                };
                if kernels.rotates_queries(rope, &spec) {
                    absorbed[at] = true;
                    fused[i] = Some(NodeKind::RotatedAttention {
                        cache,
                        spec,
                        rope,
                        q,
                        out,
                    });
                }
            }
            _ => {}
        }
    }
    let mut nodes = Vec::new();
    for (i, op) in plan.ops.iter().enumerate() {
        let idle = shape.outputs == 0
            && op
                .writes()
                .iter()
                .any(|&b| plan.buffer(b).rows == Rows::Outputs);
        if absorbed[i] || idle {
            continue;
        }
        let kind = fused[i].take().unwrap_or_else(|| NodeKind::Op(op.clone()));
        let reads = match &kind {
            NodeKind::Op(op) => op.reads(),
            NodeKind::MatMulAdd { x, residual, .. } => vec![*x, *residual],
            NodeKind::GatedMatMul { x, .. } => vec![*x],
            NodeKind::RotatedKvWrite { k, v, .. } => vec![*k, *v],
            NodeKind::RotatedAttention { q, .. } => vec![*q],
        };
        nodes.push(Node {
            kind,
            last_op: i,
            reads,
            writes: op.writes(),
        });
    }
    nodes
}

fn count_readers(plan: &Plan) -> Vec<usize> {
    let mut readers = vec![0; plan.buffers.len()];
    for op in &plan.ops {
        for b in op.reads() {
            readers[b.0 as usize] += 1;
        }
    }
    readers
}
