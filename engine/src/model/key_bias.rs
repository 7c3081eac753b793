//! The biases of keys, which decide on the types that a cache may have
//! ([`CacheInfo::kv_type`](crate::plan::CacheInfo::kv_type)).

use super::weights::Weights;
use crate::plan::{Buf, Op, Plan, Weight};

/// Enters in each cache of a plan the largest magnitude in the bias of its keys.
pub(super) fn enter(plan: &mut Plan, weights: &Weights) {
    let biases: Vec<_> = (plan.ops.iter())
        .filter_map(|op| match *op {
            Op::KvWrite { cache, k, .. } => Some((cache, bias_of(plan, k)?)),
            _ => None,
        })
        .map(|(cache, bias)| (cache, largest(plan, weights, bias)))
        .collect();
    for (cache, bias) in biases {
        plan.caches[cache.0 as usize].key_bias = bias;
    }
}

/// The bias of the product that keys are, turned or not; a norm in between bounds them.
fn bias_of(plan: &Plan, keys: Buf) -> Option<Weight> {
    match plan.ops[plan.writer(keys)?] {
        Op::MatMul { bias, .. } => bias,
        Op::Rope { x, .. } => bias_of(plan, x),
        _ => None,
    }
}

/// The largest magnitude of the numbers in a vector.
fn largest(plan: &Plan, weights: &Weights, vector: Weight) -> f32 {
    let values = weights.f32(plan.weight(vector));
    values.iter().fold(0.0, |most, v| v.abs().max(most))
}
