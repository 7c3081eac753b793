//! Third pass: in what order units run, and which of them overlap.
//!
//! | rule | why |
//! |---|---|
//! | what makes the queries of an attention, and nothing else, comes last before it | attention loads what it knows of the cache while the queries are made |
//! | the product in front of an attention hands over, where keys and values are being appended in front of it | attention begins while they are |
//! | attention loads ahead, unless all that it reads is being appended in front of it | of the keys that a row sees, a step of one key a slot appends the last only |
//!
//! Families write their operations in the order in which a network is read.

use super::select::Selected;
use super::{LowerOptions, Shape, StepKind};
use crate::plan::{Buf, Plan};
use crate::settings::Precision;

/// How a launch overlaps with those beside it; each kernel takes what it knows to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Overlap {
    /// Whether the launch behind may start while the one in front runs.
    pub(super) hands_over: bool,
    /// Whether it may load what the launch in front does not write before that has ended.
    pub(super) loads_ahead: bool,
}

/// What a unit has to do with a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CacheUse {
    /// Nothing.
    None,
    /// Appends to one.
    Appends,
    /// Attends to one.
    Attends,
}

impl CacheUse {
    /// By the contracts of a unit's operations.
    fn of(plan: &Plan, unit: &Selected) -> CacheUse {
        let ops = || unit.node.ops.iter().map(|&i| &plan.ops[i]);
        if ops().any(|op| !op.reads_cache().is_empty()) {
            CacheUse::Attends
        } else if ops().any(|op| !op.writes_cache().is_empty()) {
            CacheUse::Appends
        } else {
            CacheUse::None
        }
    }
}

/// Orders the units of a step and says how they overlap.
pub(super) fn schedule(
    plan: &Plan,
    units: Vec<Selected>,
    shape: Shape,
    options: &LowerOptions,
) -> Vec<Selected> {
    let mut units = queries_last(plan, units);
    let uses: Vec<CacheUse> = units.iter().map(|u| CacheUse::of(plan, u)).collect();
    let reads: Vec<Vec<Buf>> = units.iter().map(|u| u.node.reads.clone()).collect();
    // Of the keys that a row sees, the step appends the last only.
    let appends_one = shape.kind == StepKind::Batch || shape.rows == 1;
    let is_fast = options.precision == Precision::Fast;
    for (at, unit) in units.iter_mut().enumerate() {
        let in_front = at.checked_sub(1).and_then(|i| uses.get(i));
        let behind_append = in_front == Some(&CacheUse::Appends);
        let attends_behind = uses.get(at + 1) == Some(&CacheUse::Attends);
        let makes_queries =
            attends_behind && unit.node.writes.iter().any(|b| reads[at + 1].contains(b));
        let overlap = Overlap {
            hands_over: is_fast && appends_one && behind_append && makes_queries,
            loads_ahead: appends_one || !behind_append,
        };
        for chosen in &mut unit.kernels {
            chosen.spec.overlap(overlap);
        }
    }
    units
}

/// Moves what makes the queries of an attention, and nothing else, directly in front of it.
fn queries_last(plan: &Plan, mut units: Vec<Selected>) -> Vec<Selected> {
    for at in 0..units.len() {
        if CacheUse::of(plan, &units[at]) != CacheUse::Attends {
            continue;
        }
        // Attention itself, and what only units in here read; both in the order of the step.
        let mut chain = vec![at];
        let mut wanted = units[at].node.reads.clone();
        for i in (0..at).rev() {
            let node = &units[i].node;
            let Some(&made) = node.writes.iter().find(|b| wanted.contains(b)) else {
                continue;
            };
            wanted.retain(|&b| b != made);
            let mut readers = (0..units.len()).filter(|&r| units[r].node.reads.contains(&made));
            let keeps_off = CacheUse::of(plan, &units[i]) == CacheUse::None;
            if keeps_off && readers.all(|r| chain.contains(&r)) {
                wanted.extend(&node.reads);
                chain.insert(0, i);
            }
            if wanted.is_empty() {
                break;
            }
        }
        let first = chain[0];
        let is_inside = |i: usize| chain.contains(&(first + i));
        let mut others = Vec::new();
        let mut inside = Vec::new();
        for (i, unit) in units.drain(first..=at).enumerate() {
            let to = if is_inside(i) {
                &mut inside
            } else {
                &mut others
            };
            to.push(unit);
        }
        others.append(&mut inside);
        units.splice(first..first, others);
    }
    units
}
