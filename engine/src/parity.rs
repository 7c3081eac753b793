//! Divergence of two executors of one plan, buffer by buffer.
//!
//! Both sides are poisoned first, so that a buffer nobody wrote can never look equal. Two ways to
//! compare: *lockstep* runs the right side unit by unit, each on the left side's inputs, and so
//! measures every operation on its own; *free* runs both sides whole and compares what they left,
//! which is the only way to look at a graph.

use std::sync::Arc;

use serde::Serialize;

use crate::Error;
use crate::config::Config;
use crate::device::{self, DeviceChoice, ExecutorChoice, SessionOptions};
use crate::exec::{Buffers, Executor, Precision, Step, Unit};
use crate::kv::BlockTable;
use crate::model::Model;
use crate::plan::{Buf, Element, Op, Plan};

/// How the right side runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Each unit on the left side's inputs.
    Lockstep,
    /// Both sides whole.
    Free,
}

/// What counts as equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tolerance {
    /// Every bit.
    BitEqual,
    /// The limits of [`limit`] for each operation.
    PerOperation,
}

/// One buffer's comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The unit that wrote it.
    pub unit: String,
    /// The buffer's name.
    pub buffer: String,
    /// `sum((left - right)^2) / sum(left^2)`.
    pub nmse: f64,
    /// Largest absolute difference.
    pub max_abs: f64,
    /// The limit that applied.
    pub limit: f64,
    /// Whether it is within the limit.
    pub pass: bool,
}

/// Every buffer's comparison, in the order of the right side's units.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Name of the left executor.
    pub left: String,
    /// Name of the right executor.
    pub right: String,
    /// Position of the step's first token.
    pub position: usize,
    /// Tokens of the step.
    pub rows: usize,
    /// The buffers.
    pub buffers: Vec<Row>,
}

impl Report {
    /// Whether every buffer is within its limit, and there was at least one.
    #[must_use]
    pub fn passes(&self) -> bool {
        !self.buffers.is_empty() && self.buffers.iter().all(|r| r.pass)
    }

    /// The first buffer that is not within its limit.
    #[must_use]
    pub fn first_failure(&self) -> Option<&Row> {
        self.buffers.iter().find(|r| !r.pass)
    }

    /// The buffer with the largest error against its limit.
    #[must_use]
    pub fn worst(&self) -> Option<&Row> {
        let share = |r: &Row| {
            if r.nmse.is_nan() {
                f64::INFINITY
            } else {
                r.nmse / r.limit.max(1e-300)
            }
        };
        self.buffers
            .iter()
            .max_by(|a, b| share(a).total_cmp(&share(b)))
    }
}

/// Largest NMSE of an operation whose sides may use different arithmetic: matrix products with f16
/// inputs, attention over an f16 cache, everything else in f32.
#[must_use]
pub fn limit(op: &Op) -> f64 {
    match op {
        Op::MatMul { .. } => 1e-6,
        Op::Attention { .. } => 1e-5,
        Op::Glu { .. } => 1e-6,
        Op::ArgMax { .. } | Op::GatherOutputs { .. } => 0.0,
        _ => 1e-10,
    }
}

/// Compares two executors of one plan on a step. Both must have distinct buffers
/// ([`crate::exec::Buffers::Distinct`]) and the same tokens before this step in their caches.
///
/// # Errors
/// A device failed.
pub fn diff(
    left: &mut dyn Executor,
    right: &mut dyn Executor,
    step: &Step<'_>,
    mode: Mode,
    tolerance: Tolerance,
) -> Result<Report, Error> {
    left.begin(step)?;
    right.begin(step)?;
    left.poison()?;
    right.poison()?;
    let units = right.units(step.shape())?;
    let plan = left.plan().clone();
    let mut report = Report {
        left: left.name().to_owned(),
        right: right.name().to_owned(),
        position: step.lengths.first().map_or(0, |&l| l as usize - 1),
        rows: step.rows(),
        buffers: Vec::new(),
    };
    match mode {
        Mode::Free => {
            left.run(step)?;
            right.run(step)?;
            for unit in &units {
                compare_writes(left, right, &plan, unit, tolerance, &mut report)?;
            }
        }
        Mode::Lockstep => {
            let mut done = 0;
            for (i, unit) in units.iter().enumerate() {
                while done <= unit.last_op {
                    left.run_unit(step, done)?;
                    done += 1;
                }
                for &b in &unit.reads {
                    if let Some(data) = left.read(b)? {
                        right.write(b, &data)?;
                    }
                }
                right.run_unit(step, i)?;
                compare_writes(left, right, &plan, unit, tolerance, &mut report)?;
            }
        }
    }
    Ok(report)
}

/// What [`compare`] compares.
#[derive(Debug, Clone)]
pub struct ParityOptions {
    /// `cpu` (f32 activations, the reference), `cpu-fast`, `cuda-eager` or `cuda-graph`.
    pub left: String,
    /// As `left`.
    pub right: String,
    /// Arithmetic of GPU sides.
    pub precision: Precision,
    /// GPU by index.
    pub gpu: usize,
    /// Tokens of the prompt; at least one.
    pub tokens: Vec<u32>,
    /// Tokens generated after it, one a step, each the left side's choice.
    pub generate: usize,
    /// Settings of the process.
    pub config: Config,
}

impl Default for ParityOptions {
    fn default() -> Self {
        ParityOptions {
            left: "cpu".to_owned(),
            right: "cuda-eager".to_owned(),
            precision: Precision::default(),
            gpu: 0,
            // Any tokens do; these are in every vocabulary.
            tokens: (0..40).map(|i| (i * 37 + 11) % 256).collect(),
            generate: 3,
            config: Config::default(),
        }
    }
}

/// Makes both executors and compares them on a prompt, on a few rows after it, and on generated
/// tokens. A CPU on the left leads the right side in lockstep; two GPU executors run free and must
/// agree in every bit.
///
/// # Errors
/// An unknown name, a device that cannot be used, or one that failed.
pub fn compare(model: &Arc<Model>, options: &ParityOptions) -> Result<Vec<Report>, Error> {
    model.check_tokens(&options.tokens)?;
    if options.tokens.is_empty() {
        return Err(Error::Request("parity needs at least one token".to_owned()));
    }
    let mut left = side(model, options, &options.left)?;
    let mut right = side(model, options, &options.right)?;
    let on_gpu = |name: &str| name.starts_with("cuda");
    let (mode, tolerance) = match (on_gpu(&options.left), on_gpu(&options.right)) {
        (true, true) => (Mode::Free, Tolerance::BitEqual),
        _ => (Mode::Lockstep, Tolerance::PerOperation),
    };
    let context = left.limits().context;
    let mut table = BlockTable::new(1, context, BlockTable::blocks_for(1, context));
    table.reserve(0, context)?;
    let mut reports = Vec::new();
    let mut position = 0;
    let mut tokens = options.tokens.clone();
    // The last few tokens of the prompt are a step of their own: few rows take other kernels.
    let few = tokens.len().min(FEW_ROWS);
    let bulk = tokens.len() - few;
    let mut steps = vec![bulk, few];
    steps.retain(|&rows| rows > 0);
    steps.extend(std::iter::repeat_n(1, options.generate));
    for rows in steps {
        if position == tokens.len() {
            tokens.push(left.next()?[0]);
        }
        let lengths: Vec<u32> = (position as u32 + 1..).take(rows).collect();
        let step = Step {
            tokens: &tokens[position..position + rows],
            lengths: &lengths,
            slots: &vec![0; rows],
            outputs: &[rows as u32 - 1],
            table: &table,
        };
        reports.push(diff(left.as_mut(), right.as_mut(), &step, mode, tolerance)?);
        position += rows;
    }
    Ok(reports)
}

/// Rows of the step between the prompt and the generated tokens.
const FEW_ROWS: usize = 5;

/// Makes one side, with every buffer in memory of its own.
fn side(
    model: &Arc<Model>,
    options: &ParityOptions,
    name: &str,
) -> Result<Box<dyn Executor>, Error> {
    let cuda = |executor| (DeviceChoice::Cuda(options.gpu), executor, options.precision);
    let (device, executor, precision) = match name {
        "cpu" | "cpu-exact" => (DeviceChoice::Cpu, ExecutorChoice::Eager, Precision::Exact),
        "cpu-fast" => (DeviceChoice::Cpu, ExecutorChoice::Eager, Precision::Fast),
        "interp" => (
            DeviceChoice::Interp,
            ExecutorChoice::Eager,
            options.precision,
        ),
        "cuda-eager" => cuda(ExecutorChoice::Eager),
        "cuda-graph" => cuda(ExecutorChoice::Graph),
        "cuda-capture" => cuda(ExecutorChoice::Capture),
        _ => {
            return Err(Error::Request(format!(
                "{name:?} is not an executor; expected cpu, cpu-fast, interp, cuda-eager, \
                 cuda-graph or cuda-capture"
            )));
        }
    };
    let rows = options.tokens.len();
    let session = SessionOptions {
        device,
        executor,
        precision,
        context: Some(rows + options.generate + 1),
        max_rows: Some(rows),
        buffers: Buffers::Distinct,
        config: options.config.clone(),
        ..SessionOptions::default()
    };
    Ok(device::make_executor(model, &session)?.executor)
}

fn compare_writes(
    left: &mut dyn Executor,
    right: &mut dyn Executor,
    plan: &Plan,
    unit: &Unit,
    tolerance: Tolerance,
    report: &mut Report,
) -> Result<(), Error> {
    for &b in &unit.writes {
        let (Some(l), Some(r)) = (left.read(b)?, right.read(b)?) else {
            continue;
        };
        let limit = match tolerance {
            Tolerance::BitEqual => 0.0,
            Tolerance::PerOperation => unit_limit(plan, b),
        };
        let (nmse, max_abs) = error(&l, &r);
        let ids_differ = plan.buffer(b).element == Element::U32 && max_abs > 0.0;
        let bits_differ = tolerance == Tolerance::BitEqual
            && l.iter().zip(&r).any(|(a, b)| a.to_bits() != b.to_bits());
        report.buffers.push(Row {
            unit: unit.name.clone(),
            buffer: plan.buffer(b).name.clone(),
            nmse,
            max_abs,
            limit,
            pass: nmse <= limit && !ids_differ && !bits_differ,
        });
    }
    Ok(())
}

/// The loosest limit of the operations that made a buffer: a sum over a product inherits the
/// product's, since one launch may compute both.
fn unit_limit(plan: &Plan, b: Buf) -> f64 {
    let writer = plan.ops.iter().find(|op| op.writes() == Some(b));
    match writer {
        Some(op @ (Op::Add { .. } | Op::Glu { .. })) => op
            .reads()
            .into_iter()
            .filter_map(|r| plan.ops.iter().find(|o| o.writes() == Some(r)))
            .map(limit)
            .fold(limit(op), f64::max),
        Some(op) => limit(op),
        None => 0.0,
    }
}

/// NMSE and largest difference. A side that is not finite where the other is, or two NaN (both
/// poisoned), is an infinite error.
fn error(left: &[f32], right: &[f32]) -> (f64, f64) {
    let (mut difference, mut norm, mut max_abs) = (0.0f64, 0.0f64, 0.0f64);
    for (&l, &r) in left.iter().zip(right) {
        if l.to_bits() == r.to_bits() && !l.is_nan() {
            norm += if l.is_finite() {
                f64::from(l).powi(2)
            } else {
                0.0
            };
            continue;
        }
        if !l.is_finite() || !r.is_finite() {
            return (f64::INFINITY, f64::INFINITY);
        }
        let d = f64::from(l) - f64::from(r);
        difference += d * d;
        norm += f64::from(l).powi(2);
        max_abs = max_abs.max(d.abs());
    }
    let nmse = if difference == 0.0 {
        0.0
    } else {
        difference / norm.max(f64::MIN_POSITIVE)
    };
    (nmse, max_abs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_poison_are_infinite() {
        assert_eq!(error(&[1.0, 2.0], &[1.0, 2.0]), (0.0, 0.0));
        assert_eq!(error(&[f32::NAN], &[f32::NAN]).0, f64::INFINITY);
        assert_eq!(error(&[1.0], &[f32::NAN]).0, f64::INFINITY);
        assert_eq!(error(&[f32::INFINITY], &[1.0]).0, f64::INFINITY);
        let (nmse, max) = error(&[3.0, 4.0], &[3.0, 4.5]);
        assert!((nmse - 0.25 / 25.0).abs() < 1e-12 && (max - 0.5).abs() < 1e-12);
    }
}
