//! Operations that run together, and which buffers share memory then.

use std::ops::Range;

use crate::plan::{Op, Plan, Storage, assign_storage};
use crate::settings::Buffers;

/// Which buffers of a plan share memory where `groups` of its operations run together.
pub(super) fn storage_of(plan: &Plan, groups: &[Range<usize>], buffers: Buffers) -> Storage {
    let reads_and_writes = |group: &Range<usize>| {
        let ops = &plan.ops[group.clone()];
        let reads = ops.iter().flat_map(Op::reads).collect();
        (reads, ops.iter().flat_map(Op::writes).collect())
    };
    match buffers {
        Buffers::Shared => {
            let steps: Vec<_> = groups.iter().map(reads_and_writes).collect();
            assign_storage(plan, &steps, &[plan.logits, plan.next])
        }
        Buffers::Distinct => Storage {
            slot: (0..plan.buffers.len()).map(Some).collect(),
            sizes: plan.buffers.iter().map(|b| (b.rows, b.cols)).collect(),
        },
    }
}

/// Ranges that cover `ops`: consecutive products of the same buffer, or one operation.
pub(super) fn group_products(ops: &[Op]) -> Vec<Range<usize>> {
    let input = |op: &Op| match *op {
        Op::MatMul { x, .. } => Some(x),
        _ => None,
    };
    let mut start = 0;
    ops.chunk_by(|a, b| input(a).is_some() && input(a) == input(b))
        .map(|group| {
            start += group.len();
            start - group.len()..start
        })
        .collect()
}
