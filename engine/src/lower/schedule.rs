//! Third pass: in what order units run, and which of them overlap.
//!
//! | rule | why |
//! |---|---|
//! | what makes the queries of an attention, and nothing else, comes last before it | attention loads what it knows of the cache while the queries are made |
//! | the product in front of an attention hands over, where keys and values are being appended in front of it | attention begins while they are |
//! | attention loads ahead, unless all that it reads is being appended in front of it | of the keys that a row sees, a step of one key a slot appends the last only |
//!
//! Families write their operations in the order in which a network is read.

use super::pattern::NodeKind;
use super::select::Selected;
use super::{LowerOptions, Shape, StepKind};
use crate::plan::{Buf, Op};
use crate::settings::Precision;

/// How a launch overlaps with those beside it; each kernel takes what it knows to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Overlap {
    /// Whether the launch behind may start while the one in front runs.
    pub(super) hands_over: bool,
    /// Whether it may load what the launch in front does not write before that has ended.
    pub(super) loads_ahead: bool,
}

/// What a unit has to do with the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CacheUse {
    /// Nothing.
    None,
    /// Appends to it.
    Appends,
    /// Attends to it with these queries.
    Attends(Buf),
}

impl CacheUse {
    fn of(kind: &NodeKind) -> CacheUse {
        match *kind {
            NodeKind::Op(ref op) => match *op {
                Op::KvWrite { .. } => CacheUse::Appends,
                Op::Attention { q, .. } => CacheUse::Attends(q),
                Op::Embed { .. }
                | Op::RmsNorm { .. }
                | Op::MatMul { .. }
                | Op::Rope { .. }
                | Op::Glu { .. }
                | Op::Add { .. }
                | Op::GatherOutputs { .. }
                | Op::ArgMax { .. } => CacheUse::None,
            },
            NodeKind::MatMulAdd { .. } | NodeKind::GatedMatMul { .. } => CacheUse::None,
            NodeKind::RotatedKvWrite { .. } => CacheUse::Appends,
            NodeKind::RotatedAttention { q, .. } => CacheUse::Attends(q),
        }
    }
}

/// Orders the units of a step and says how they overlap.
pub(super) fn schedule(
    units: Vec<Selected>,
    shape: Shape,
    options: &LowerOptions,
) -> Vec<Selected> {
    let mut units = queries_last(units);
    let uses: Vec<CacheUse> = units.iter().map(|u| CacheUse::of(&u.node.kind)).collect();
    // Of the keys that a row sees, the step appends the last only.
    let appends_one = shape.kind == StepKind::Batch || shape.rows == 1;
    let is_fast = options.precision == Precision::Fast;
    for (at, unit) in units.iter_mut().enumerate() {
        let in_front = at.checked_sub(1).and_then(|i| uses.get(i));
        let behind_append = in_front == Some(&CacheUse::Appends);
        let makes_queries = match uses.get(at + 1) {
            Some(CacheUse::Attends(q)) => unit.node.writes.contains(q),
            Some(CacheUse::None | CacheUse::Appends) | None => false,
        };
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
fn queries_last(mut units: Vec<Selected>) -> Vec<Selected> {
    for at in 0..units.len() {
        let CacheUse::Attends(queries) = CacheUse::of(&units[at].node.kind) else {
            continue;
        };
        // Attention itself, and what only units in here read; both in the order of the step.
        let mut chain = vec![at];
        let mut wanted = vec![queries];
        for i in (0..at).rev() {
            let node = &units[i].node;
            let Some(&made) = node.writes.iter().find(|b| wanted.contains(b)) else {
                continue;
            };
            wanted.retain(|&b| b != made);
            let mut readers = (0..units.len()).filter(|&r| units[r].node.reads.contains(&made));
            let keeps_off = CacheUse::of(&node.kind) == CacheUse::None;
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
