//! Divergence of two executors of one plan, buffer by buffer.
//!
//! Both sides are poisoned first, so that a buffer nobody wrote can never look equal. Two ways to
//! compare: *lockstep* runs the right side unit by unit, each on the left side's inputs, and so
//! measures every operation on its own; *free* runs both sides whole and compares what they left,
//! which is the only way to look at a graph. In lockstep the products of a CPU that rounds activations to
//! bytes are compared once more, with exact ones of the same bytes (`bytes`).
//!
//! The cache cannot be poisoned, since it holds the tokens before the step. A write to it that never
//! happened shows in the attention that reads it: cells that nobody wrote are zero, so a step must be
//! compared at positions that neither side has seen.
//!
//! Rows of a step with length 0 do nothing. What their rows of buffers hold means nothing and is not
//! compared.

mod bytes;
mod compare;
mod report;
mod side;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;

use bytes::SameBytes;
pub(crate) use compare::alone_limit;
pub use compare::{ALONE_INT8_LIMIT, ALONE_LIMIT, MARGIN, ParityOptions, compare, prompts};
pub use report::{BufferRow, Numbers, Report, Tolerance, limit};
pub(crate) use report::{Made, Written, bit_equal, compare_tokens, error};
pub use side::Side;

use crate::Error;
use crate::exec::trace::is_idle;
use crate::exec::{Inspect, Step};
use crate::lower::Unit;
use crate::plan::{Buf, Plan, Rows};

/// How the right side runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Each unit on the left side's inputs.
    Lockstep,
    /// Both sides whole.
    Free,
}

/// Compares two executors of one plan on a step. Both must have distinct buffers
/// ([`crate::settings::Buffers::Distinct`]) and the same tokens before this step in their caches, and
/// neither may have run the step's positions before.
///
/// # Errors
/// A device failed.
pub fn diff(
    left: &mut dyn Inspect,
    right: &mut dyn Inspect,
    step: &Step<'_>,
    mode: Mode,
    tolerance: Tolerance,
) -> Result<Report, Error> {
    let mut report = begin(left, right, step)?;
    let units = right.units(step.shape())?;
    let ahead = left.units(step.shape())?;
    let comparison = Comparison {
        sides: [&ahead, &units],
        live: LiveRows::of(step),
        tolerance,
    };
    left.begin(step)?;
    left.poison()?;
    match mode {
        Mode::Free => {
            left.run(step)?;
            right.run(step)?;
            for unit in &units {
                comparison.writes(left, right, unit, &mut report)?;
            }
        }
        Mode::Lockstep => {
            let mut ahead = ahead.iter().enumerate();
            let mut covered: BTreeSet<usize> = BTreeSet::new();
            for (i, unit) in units.iter().enumerate() {
                if is_idle(left.plan(), unit, step) {
                    continue;
                }
                // The left side keeps its own order: it runs until it has done all that this covers.
                while !unit.ops.iter().all(|op| covered.contains(op)) {
                    let Some((next, done)) = ahead.next() else {
                        break;
                    };
                    left.run_unit(step, next)?;
                    covered.extend(&done.ops);
                }
                for &b in &unit.reads {
                    if let Some(data) = left.read(b)? {
                        right.write(b, &data)?;
                    }
                }
                right.run_unit(step, i)?;
                comparison.writes(left, right, unit, &mut report)?;
                let of_bytes = SameBytes {
                    step,
                    units: comparison.sides,
                    live: &comparison.live,
                };
                report.buffers.extend(of_bytes.compare(left, right, unit)?);
            }
        }
    }
    Ok(report)
}

/// Compares a prompt in chunks of `chunk` tokens on the right with the whole prompt on the left: each
/// unit of a chunk runs on the left side's rows of its inputs. The kernels of a chunk need not be
/// those of the whole, so the limits are those of each operation. What [`diff`] demands holds here.
///
/// # Errors
/// A device failed.
pub fn diff_chunks(
    left: &mut dyn Inspect,
    right: &mut dyn Inspect,
    prompt: &Step<'_>,
    chunk: usize,
) -> Result<Vec<Report>, Error> {
    left.begin(prompt)?;
    left.poison()?;
    left.run(prompt)?;
    let whole = left.units(prompt.shape())?;
    let plan = left.plan().clone();
    let rows = prompt.rows();
    let mut reports = Vec::new();
    for start in (0..rows).step_by(chunk.max(1)) {
        let range = start..rows.min(start + chunk.max(1));
        let mut part = prompt.inputs.part(range.clone());
        if range.end == rows {
            part = part.with_last_output();
        }
        let step = part.step(prompt.table);
        let mut report = begin(left, right, &step)?;
        let units = right.units(step.shape())?;
        for (i, unit) in units.iter().enumerate() {
            if is_idle(&plan, unit, &step) {
                continue;
            }
            for &b in &unit.reads {
                if let Some(data) = left.read(b)? {
                    right.write(b, rows_of(&plan, b, &data, &range))?;
                }
            }
            right.run_unit(&step, i)?;
            for &b in &unit.writes {
                let (Some(l), Some(r)) = (left.read(b)?, right.read(b)?) else {
                    continue;
                };
                let written = Written {
                    unit: &unit.name,
                    buffer: b,
                    made: &Made::of(&plan, b, right.limits().kv_type, &[&whole, &units]),
                    tolerance: Tolerance::PerShape,
                };
                let l = rows_of(&plan, b, &l, &range);
                report.buffers.push(written.compare(&plan, l, &r));
            }
        }
        reports.push(report);
    }
    Ok(reports)
}

/// Poisons the right side for a step.
fn begin(left: &dyn Inspect, right: &mut dyn Inspect, step: &Step<'_>) -> Result<Report, Error> {
    right.begin(step)?;
    right.poison()?;
    let first = step.lengths().iter().find(|&&l| l > 0);
    Ok(Report {
        left: left.kind().to_string(),
        right: right.kind().to_string(),
        step: "step".to_owned(),
        position: first.map_or(0, |&l| l as usize - 1),
        rows: step.rows(),
        buffers: Vec::new(),
    })
}

/// The rows of a whole prompt's buffer that a chunk has; the outputs are those of its last chunk.
fn rows_of<'a>(plan: &Plan, b: Buf, data: &'a [f32], range: &Range<usize>) -> &'a [f32] {
    let info = plan.buffer(b);
    match info.rows {
        Rows::Tokens => &data[range.start * info.cols..range.end * info.cols],
        Rows::Outputs => data,
    }
}

/// Which rows of a step do something.
struct LiveRows {
    tokens: Vec<bool>,
    outputs: Vec<bool>,
}

impl LiveRows {
    fn of(step: &Step<'_>) -> LiveRows {
        let tokens: Vec<bool> = step.lengths().iter().map(|&l| l > 0).collect();
        LiveRows {
            outputs: step.outputs().iter().map(|&o| tokens[o as usize]).collect(),
            tokens,
        }
    }

    /// The live rows of a buffer's contents.
    fn of_buffer<'a>(&self, plan: &Plan, b: Buf, data: &'a [f32]) -> Cow<'a, [f32]> {
        let info = plan.buffer(b);
        let live = match info.rows {
            Rows::Tokens => &self.tokens,
            Rows::Outputs => &self.outputs,
        };
        if live.iter().all(|&l| l) {
            return Cow::Borrowed(data);
        }
        let rows = data.chunks_exact(info.cols).zip(live);
        let rows = rows.filter(|&(_, &live)| live);
        Cow::Owned(rows.flat_map(|(row, _)| row).copied().collect())
    }
}

/// What two sides of a step are compared by.
struct Comparison<'a> {
    /// The units of each.
    sides: [&'a [Unit]; 2],
    live: LiveRows,
    tolerance: Tolerance,
}

impl Comparison<'_> {
    /// Compares what a unit wrote.
    fn writes(
        &self,
        left: &mut dyn Inspect,
        right: &mut dyn Inspect,
        unit: &Unit,
        report: &mut Report,
    ) -> Result<(), Error> {
        for &b in &unit.writes {
            let (Some(l), Some(r)) = (left.read(b)?, right.read(b)?) else {
                continue;
            };
            let plan = left.plan();
            let l = self.live.of_buffer(plan, b, &l);
            let r = self.live.of_buffer(plan, b, &r);
            let written = Written {
                unit: &unit.name,
                buffer: b,
                made: &Made::of(plan, b, right.limits().kv_type, &self.sides),
                tolerance: self.tolerance,
            };
            report.buffers.push(written.compare(plan, &l, &r));
        }
        Ok(())
    }
}
