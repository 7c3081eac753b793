//! The parity gate: before a GPU first serves a model, its kernels are held against the CPU.
//!
//! A short prompt and a token after it run unit by unit, and every unit is held against what the CPU
//! computes from the same inputs: all of its output, but of matrix products a sample of the output
//! features, so that every weight matrix is looked at and the whole takes a fraction of a second.
//! Buffers may share memory: a unit's output is read before the next unit runs.
//!
//! A pass is remembered under (model, device, build) in the cache folder, and nothing runs the next
//! time. A failure is an error that names the unit and the buffer, and is not remembered.

mod record;
mod reference;

use std::collections::HashMap;
use std::sync::Arc;

pub(crate) use record::Identity;
pub use record::{Passed, passed};

use reference::Reference;

use crate::Error;
use crate::exec::{Executor, Step, Unit};
use crate::kv::BlockTable;
use crate::lower::GEMV_MAX_ROWS;
use crate::model::Model;
use crate::parity::{Report, Tolerance, compare_buffer, is_idle};
use crate::plan::Buf;

/// Tokens of the prompt: enough for the kernels of many rows.
const PROMPT: usize = GEMV_MAX_ROWS + 4;

/// How far past the limits of parity an error may be. A sample of a buffer strays further than the
/// whole, and what is wrong is wrong by orders of magnitude; nobody should lose a GPU to rounding.
const SLACK: f64 = 8.0;

/// Holds an executor against the CPU on a prompt and on the token after it; a report of each. Writes
/// the first positions of the executor's cache.
///
/// # Errors
/// The device failed, or the plan has something that cannot be computed apart.
pub fn check(model: &Arc<Model>, device: &mut dyn Executor) -> Result<Vec<Report>, Error> {
    let limits = device.limits();
    let prompt = PROMPT.min(limits.max_rows).min(limits.context - 1);
    let mut table = BlockTable::new(limits.num_slots, limits.context, limits.cache_blocks);
    table.reserve(0, prompt + 1)?;
    let mut reference = Reference::new(model, prompt + 1)?;
    // Any tokens do; these differ from each other.
    let vocab_size = model.plan().vocab_size;
    let tokens = (0..=prompt).map(|i| ((i * 37 + 11) % vocab_size) as u32);
    let tokens: Vec<u32> = tokens.collect();
    let lengths: Vec<u32> = (1..=prompt as u32 + 1).collect();
    let mut reports = Vec::new();
    for rows in [0..prompt, prompt..prompt + 1] {
        if rows.is_empty() {
            continue;
        }
        let step = Step {
            tokens: &tokens[rows.clone()],
            lengths: &lengths[rows.clone()],
            slots: &vec![0; rows.len()],
            outputs: &[rows.len() as u32 - 1],
            table: &table,
        };
        reports.push(check_step(device, &mut reference, &step)?);
    }
    Ok(reports)
}

fn check_step(
    device: &mut dyn Executor,
    reference: &mut Reference,
    step: &Step<'_>,
) -> Result<Report, Error> {
    let plan = device.plan().clone();
    let units = device.units(step.shape())?;
    let readers = last_readers(&units);
    device.begin(step)?;
    device.poison()?;
    reference.begin(step)?;
    let mut report = Report {
        left: "cpu".to_owned(),
        right: device.name().to_owned(),
        step: format!("first use, {} tokens", step.rows()),
        position: step.lengths[0] as usize - 1,
        rows: step.rows(),
        buffers: Vec::new(),
    };
    // What the device computed and a later unit reads. A unit that spoils another's output fails
    // where that is read.
    let mut made: HashMap<Buf, Vec<f32>> = HashMap::new();
    for (i, unit) in units.iter().enumerate() {
        if is_idle(&plan, unit, step) {
            continue;
        }
        device.run_unit(step, i)?;
        for expected in reference.unit(unit, &made, step)? {
            let Some(found) = device.read(expected.buffer)? else {
                continue;
            };
            let sampled = expected.pick(&plan, &found);
            let sides = (expected.values.as_slice(), sampled.as_ref());
            let unit = (unit.name.as_str(), expected.buffer);
            let tolerance = (Tolerance::PerOperation, device.limits().kv_type);
            let mut row = compare_buffer(&plan, unit, tolerance, sides);
            row.limit *= SLACK;
            row.pass = row.nmse <= row.limit;
            report.buffers.push(row);
            drop(sampled);
            made.insert(expected.buffer, found);
        }
        made.retain(|b, _| readers.get(b).is_some_and(|&last| last > i));
    }
    Ok(report)
}

/// The last unit that reads each buffer.
fn last_readers(units: &[Unit]) -> HashMap<Buf, usize> {
    let read = |(i, unit): (usize, &Unit)| unit.reads.iter().map(move |&b| (b, i)).collect();
    units
        .iter()
        .enumerate()
        .flat_map::<Vec<_>, _>(read)
        .collect()
}

/// Checks an executor unless that has been done before, with this model, device and build.
///
/// # Errors
/// [`Error::Cuda`] with one line that names the unit and the buffer, or the device failed.
pub(crate) fn at_first_use(
    model: &Arc<Model>,
    device: &mut dyn Executor,
    identity: &Identity,
) -> Result<(), Error> {
    if identity.has_passed() {
        return Ok(());
    }
    for report in check(model, device)? {
        if let Some(row) = report.first_failure() {
            return Err(Error::Cuda(format!(
                "{} computes this model wrongly: {} of {} has NMSE {:.2e} against the CPU, limit \
                 {:.0e}; `gannet parity` shows more, --no-gate skips this check",
                identity.device(),
                row.buffer,
                row.unit,
                row.nmse,
                row.limit
            )));
        }
    }
    identity.remember();
    Ok(())
}
