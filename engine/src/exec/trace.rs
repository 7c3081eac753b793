//! Where numbers first stopped being numbers: steps run again, unit by unit, until one gives NaN or
//! infinity.
//!
//! For errors only. What runs again writes the keys and values that it wrote before; the caller says from
//! which position on that disturbs nobody.

use crate::Error;
use crate::error::{Cause, NotFinite};
use crate::exec::{Inspect, Step, StepRows};
use crate::kv::{BlockTable, KvType};
use crate::lower::Unit;
use crate::plan::{Buf, Element, Op, Plan, Rows, StepRow};

/// The largest f16.
pub(crate) const F16_MAX: f32 = 65504.0;

/// A sequence whose last position gave logits that are not finite.
#[derive(Debug, Clone, Copy)]
pub struct Replay<'a> {
    /// Its tokens, those of the cache and the last one.
    pub tokens: &'a [u32],
    /// Positions before this one stay as they are.
    pub from: usize,
    /// Its row of the table.
    pub slot: usize,
    /// Where its blocks are.
    pub table: &'a BlockTable,
}

impl Replay<'_> {
    /// The error of the last position, with what made it where that is found.
    pub fn explain(&self, executor: &mut dyn Inspect) -> Error {
        let position = self.tokens.len().saturating_sub(1);
        // A device that fails now has given what it had to say.
        let origin = self.find(executor).unwrap_or(None);
        NotFinite { position, origin }.into()
    }

    /// The error of the first position, from one on, whose logits are not finite, where a step of several
    /// gave such.
    ///
    /// In a step of a prompt what is no number of a later position comes to earlier ones (a weight of zero
    /// times NaN is NaN), so that the first without numbers there may have some alone: each runs by itself.
    pub(crate) fn explain_from(&self, first: usize, executor: &mut dyn Inspect) -> Error {
        let alone = (first..self.tokens.len()).find(|&position| {
            let row = StepRow::last(&self.tokens[..=position], self.slot);
            let ran = executor.run(&StepRows::batch([row]).step(self.table));
            let logits = ran.and_then(|()| executor.logits());
            // What fails now has nothing more to say.
            logits.map_or(true, |logits| !is_finite(logits))
        });
        // None alone: it takes what computes several rows.
        let end = alone.map_or(self.tokens.len(), |position| position + 1);
        let replay = Replay {
            tokens: &self.tokens[..end],
            ..*self
        };
        let position = alone.unwrap_or(first);
        let origin = replay.find(executor).unwrap_or(None);
        let least = origin.as_ref().map_or(0, |origin| origin.position);
        NotFinite {
            position: position.max(least),
            origin,
        }
        .into()
    }

    /// The first unit that gave what is not finite: all positions but the last in steps of a prompt, the
    /// last as generation computes it.
    fn find(&self, executor: &mut dyn Inspect) -> Result<Option<Cause>, Error> {
        let Some(last) = self.tokens.len().checked_sub(1) else {
            return Ok(None);
        };
        let most = executor.limits().max_rows;
        for start in (self.from..last).step_by(most) {
            let end = (start + most).min(last);
            let rows = StepRows::prompt(&self.tokens[start..end], self.slot, start);
            if let Some(found) = find_in(executor, &rows.step(self.table))? {
                return Ok(Some(found));
            }
        }
        let row = StepRow::last(self.tokens, self.slot);
        find_in(executor, &StepRows::batch([row]).step(self.table))
    }
}

/// The error of a row whose logits are not finite, with what in it made them so.
pub(crate) fn explain_row(executor: &mut dyn Inspect, row: StepRow, table: &BlockTable) -> Error {
    let rows = StepRows::batch([row]);
    let found = find_in(executor, &rows.step(table));
    let origin = found.unwrap_or(None);
    let position = (row.length as usize).saturating_sub(1);
    NotFinite { position, origin }.into()
}

/// Whether all logits are finite.
pub(crate) fn is_finite(logits: &[f32]) -> bool {
    // A loop that vectorises: a sum in which numbers do not overflow.
    let small = f32::from_bits((127 - 60) << 23);
    let sum = |sum: f32, l: &f32| sum + (l * small).abs();
    let chunks = logits.chunks(64).map(|line| line.iter().fold(0.0, sum));
    chunks.fold(0.0, |a, b| a + b).is_finite()
}

/// Whether a unit has nothing to do in a step: those of the head, where no logits are wanted.
pub(crate) fn is_idle(plan: &Plan, unit: &Unit, step: &Step<'_>) -> bool {
    let of_outputs = |&b: &Buf| plan.buffer(b).rows == Rows::Outputs;
    step.outputs().is_empty() && unit.writes.iter().any(of_outputs)
}

/// The first unit of a step that gives what is not finite.
fn find_in(executor: &mut dyn Inspect, step: &Step<'_>) -> Result<Option<Cause>, Error> {
    let units = executor.units(step.shape())?;
    executor.begin(step)?;
    let idle: Vec<bool> = (units.iter())
        .map(|unit| is_idle(executor.plan(), unit, step))
        .collect();
    // What attention may not hold of the keys and values in front of it.
    let mut beside = None;
    for (i, unit) in units.iter().enumerate().filter(|(i, _)| !idle[*i]) {
        executor.run_unit(step, i)?;
        if let Some(cause) = wrong(executor, &unit.writes, unit, step, |v| v.is_finite())? {
            let attends = attends(executor.plan(), unit);
            return Ok(beside.filter(|_| attends).or(Some(cause)));
        }
        let (plan, asked) = (executor.plan(), executor.limits().kv_type);
        let held = match executor.kind().runs_kernels() {
            true => Held::of(plan, unit, asked),
            false => Held::All,
        };
        if held != Held::All {
            let is_held = |v: f32| v.abs() <= F16_MAX;
            let cause = wrong(executor, &unit.reads, unit, step, is_held)?;
            match held {
                Held::Halves if cause.is_some() => return Ok(cause),
                _ => beside = cause,
            }
        }
    }
    Ok(None)
}

/// The first of the values that a unit has in buffers which is not as it should be.
fn wrong(
    executor: &mut dyn Inspect,
    buffers: &[Buf],
    unit: &Unit,
    step: &Step<'_>,
    is_right: impl Fn(f32) -> bool,
) -> Result<Option<Cause>, Error> {
    for &b in buffers {
        if let Some((position, value)) = spoilt(executor, b, step, &is_right)? {
            let name = name_of(executor.plan(), unit, b);
            return Ok(Some(Cause::of(position, &name, value)));
        }
    }
    Ok(None)
}

/// Which keys and values that a unit stores can be attended to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    /// All, or it stores none.
    All,
    /// Those that f16 holds.
    Halves,
    /// All by some kernels; what attends to many rows at once computes in f16 with what bytes stand for.
    HalvesByRows,
}

impl Held {
    /// Of a unit that kernels run, on caches of the type asked for.
    pub(crate) fn of(plan: &Plan, unit: &Unit, asked: KvType) -> Held {
        let stored = unit.ops.iter().find_map(|&op| match plan.ops[op] {
            Op::KvWrite { cache, .. } => Some(plan.cache(cache).kv_type(asked)),
            _ => None,
        });
        match stored {
            Some(KvType::F16) => Held::Halves,
            Some(KvType::Int8) => Held::HalvesByRows,
            Some(KvType::BF16 | KvType::F32) | None => Held::All,
        }
    }
}

/// Whether a unit attends to keys.
pub(crate) fn attends(plan: &Plan, unit: &Unit) -> bool {
    let is_attention = |&op: &usize| matches!(plan.ops[op], Op::Attention { .. });
    unit.ops.iter().any(is_attention)
}

/// What a unit is called as to a buffer: of one that makes several the operation, and of one that makes
/// none, but stores it, both.
pub(crate) fn name_of(plan: &Plan, unit: &Unit, b: Buf) -> String {
    let (name, own) = (&plan.buffer(b).name, plan.writer(b));
    match (unit.writes.as_slice(), own) {
        ([], _) => format!("{} of {name}", unit.name),
        ([_, _, ..], Some(op)) => format!("{} {name}", plan.ops[op].name()),
        _ => unit.name.clone(),
    }
}

/// The first value of a buffer that is not as it should be, and its position.
fn spoilt(
    executor: &mut dyn Inspect,
    b: Buf,
    step: &Step<'_>,
    is_right: impl Fn(f32) -> bool,
) -> Result<Option<(usize, f32)>, Error> {
    let info = executor.plan().buffer(b).clone();
    if info.element != Element::F32 {
        return Ok(None);
    }
    let values = executor.read(b)?.unwrap_or_default();
    let rows = values.chunks(info.cols.max(1)).enumerate();
    for (row, values) in rows {
        if let Some(&value) = values.iter().find(|v| !is_right(**v)) {
            let row = match info.rows {
                Rows::Tokens => row,
                Rows::Outputs => step.outputs()[row] as usize,
            };
            let length = step.lengths()[row] as usize;
            return Ok(Some((length.saturating_sub(1), value)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_spoils_logits_and_large_ones_do_not() {
        let mut logits = vec![-3.0e38f32; 1000];
        assert!(is_finite(&logits) && is_finite(&[]));
        for spoilt in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 63, 64, 999] {
                let before = std::mem::replace(&mut logits[at], spoilt);
                assert!(!is_finite(&logits), "{spoilt} at {at}");
                logits[at] = before;
            }
        }
    }
}
