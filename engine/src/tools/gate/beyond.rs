//! Products of a row that f16 does not hold.
//!
//! Activations of real models are beyond f16 in some rows of some prompts, not in the few that the gate
//! runs. So each product runs once more with its last row scaled until it is: whoever clamps it there,
//! or lets it overflow, computes something else than the CPU.

use std::collections::HashMap;

use super::reference::Reference;
use super::{Place, SLACK};
use crate::Error;
use crate::exec::Inspect;
use crate::lower::Unit;
use crate::plan::{Buf, Op, Plan};
use crate::tools::parity::{BufferRow, Made, Tolerance, Written};

/// What the largest magnitude of the row is at least, and less than twice of it: four times the range of
/// f16.
const LEAST: f32 = 262_144.0;

/// Runs the unit that has just run once more on inputs beyond f16, and holds it against the CPU; its
/// inputs and outputs are then as they were. Nothing for one that is no product of buffers, or whose
/// results f32 does not hold.
pub(super) fn check(
    device: &mut dyn Inspect,
    reference: &Reference,
    place: &Place<'_>,
    made: &HashMap<Buf, Vec<f32>>,
) -> Result<Vec<BufferRow>, Error> {
    let Place { plan, step, .. } = *place;
    let unit = place.unit();
    let Some(inputs) = inputs(plan, unit, made) else {
        return Ok(Vec::new());
    };
    let expected = reference.sampled(unit, &inputs).unwrap_or_default();
    let is_finite = |values: &[f32]| values.iter().all(|v| v.is_finite());
    if expected.is_empty() || !expected.iter().all(|e| is_finite(&e.values)) {
        return Ok(Vec::new());
    }
    // All of them: an output may lie where an input was.
    for (&b, values) in &inputs {
        device.write(b, values)?;
    }
    device.run_unit(step, place.index)?;
    let kv_type = device.limits().kv_type;
    let mut rows = Vec::new();
    for expected in &expected {
        let Some(found) = device.read(expected.buffer)? else {
            continue;
        };
        let written = Written {
            unit: &format!("{} of values beyond f16", unit.name),
            buffer: expected.buffer,
            made: &Made::of(plan, expected.buffer, kv_type, &[place.units]),
            tolerance: Tolerance::PerOperation,
        };
        let found = expected.pick(plan, &found);
        let mut row = written.compare(plan, &expected.values, &found);
        row.limit *= SLACK;
        row.pass = row.nmse <= row.limit;
        rows.push(row);
    }
    for b in unit.reads.iter().chain(&unit.writes) {
        if let Some(values) = made.get(b) {
            device.write(*b, values)?;
        }
    }
    Ok(rows)
}

/// What a unit of products reads, the last row of what is multiplied beyond f16; `None` for units of
/// others, and of those that write keys, which f16 has to hold.
fn inputs(
    plan: &Plan,
    unit: &Unit,
    made: &HashMap<Buf, Vec<f32>>,
) -> Option<HashMap<Buf, Vec<f32>>> {
    let ops = || unit.ops.iter().map(|&op| &plan.ops[op]);
    if ops().any(|op| !op.writes_cache().is_empty()) {
        return None;
    }
    let read = |&b: &Buf| Some((b, made.get(&b)?.clone()));
    let mut inputs: HashMap<_, _> = unit.reads.iter().map(read).collect::<Option<_>>()?;
    let mut multiplied: Vec<Buf> = ops()
        .filter_map(|op| match *op {
            Op::MatMul { x, .. } if unit.reads.contains(&x) => Some(x),
            _ => None,
        })
        .collect();
    multiplied.dedup();
    let mut any = false;
    for b in multiplied {
        let cols = plan.buffer(b).cols;
        let row = inputs.get_mut(&b)?.rchunks_exact_mut(cols).next()?;
        any |= scale(row);
    }
    any.then_some(inputs)
}

/// Scales a row by the power of two that brings it beyond f16; not one of zeros or of what is no number.
fn scale(row: &mut [f32]) -> bool {
    let most = row.iter().fold(0f32, |most, v| most.max(v.abs()));
    let factor = (LEAST / most).log2().ceil().exp2();
    let is_number = |v: &f32| (v * factor).is_finite();
    let scalable = factor.is_normal() && row.iter().all(is_number);
    if scalable {
        row.iter_mut().for_each(|v| *v *= factor);
    }
    scalable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_beyond_f16_by_a_power_of_two_or_stay() {
        for row in [[1.0f32, -3.0], [1e-30, 2e-30], [7e4, 0.0], [-1e9, 1e8]] {
            let mut scaled = row;
            assert!(scale(&mut scaled));
            let most = scaled[0].abs().max(scaled[1].abs());
            assert!((LEAST..2.0 * LEAST).contains(&most), "{most}");
            assert_eq!(scaled[0] * row[1], scaled[1] * row[0]);
        }
        for row in [[0.0f32, 0.0], [f32::NAN, 1.0], [f32::INFINITY, 1.0]] {
            let mut scaled = row;
            assert!(!scale(&mut scaled));
            assert_eq!(scaled.map(f32::to_bits), row.map(f32::to_bits));
        }
    }
}
