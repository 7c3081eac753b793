//! Two outputs of a case against its rule.

use half::{bf16, f16};

use super::inputs::mask;
use super::{Case, Rule};
use crate::ir::Ty;

/// What a comparison found.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Outcome {
    /// Values compared; a packed pair counts twice.
    pub values: usize,
    /// Values that the rule does not allow to differ as they do.
    pub mismatches: usize,
    /// Largest distance in units in the last place between numbers of a float type.
    pub max_ulp: u64,
    /// Largest difference as a part of what the rule allows; for rules that are not about bits.
    pub worst: f64,
    /// The first mismatch, in words.
    pub first: Option<String>,
}

impl Outcome {
    /// Whether the rule holds.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.mismatches == 0 && self.values > 0
    }
}

/// A float's value.
fn number(ty: Ty, bits: u64) -> f64 {
    match ty {
        Ty::F16 => f64::from(f16::from_bits(bits as u16).to_f32()),
        Ty::Bf16 => f64::from(bf16::from_bits(bits as u16).to_f32()),
        Ty::F32 => f64::from(f32::from_bits(bits as u32)),
        _ => f64::from_bits(bits),
    }
}

/// Where a float stands among all of its type, zeros being one.
fn rank(ty: Ty, bits: u64) -> i64 {
    let sign = 1u64 << (ty.bits() - 1);
    let magnitude = (bits & !sign) as i64;
    if bits & sign == 0 {
        magnitude
    } else {
        -magnitude
    }
}

/// Half a unit in the last place.
fn half_unit(ty: Ty, bits: u64) -> f64 {
    let x = number(ty, bits).abs();
    let next = number(ty, (bits & !(1 << (ty.bits() - 1))) + 1);
    (next - x) / 2.0
}

/// The values of a slot: one, or the two of a packed pair.
fn elements(ty: Ty, bits: u64) -> Vec<(Ty, u64)> {
    match ty {
        Ty::F16x2 => vec![(Ty::F16, bits & 0xffff), (Ty::F16, bits >> 16 & 0xffff)],
        Ty::Bf16x2 => vec![(Ty::Bf16, bits & 0xffff), (Ty::Bf16, bits >> 16 & 0xffff)],
        // A predicate is stored as a word.
        Ty::Pred => vec![(Ty::U32, bits & 0xffff_ffff)],
        ty => vec![(ty, bits & mask(ty))],
    }
}

/// Compares the interpreter's output with a GPU's.
#[must_use]
pub fn compare(case: &Case, interpreted: &[u8], gpu: &[u8]) -> Outcome {
    let mut outcome = Outcome::default();
    if interpreted.len() != gpu.len() {
        outcome.mismatches = 1;
        outcome.first = Some(format!("{} bytes against {}", interpreted.len(), gpu.len()));
        return outcome;
    }
    let word = |bytes: &[u8]| {
        let mut raw = [0; 8];
        raw.copy_from_slice(bytes);
        u64::from_le_bytes(raw)
    };
    let pairs = interpreted.chunks_exact(8).zip(gpu.chunks_exact(8));
    for (i, (left, right)) in pairs.enumerate() {
        let ty = case.results[i % case.results.len()];
        let sides = elements(ty, word(left)).into_iter();
        for ((ty, a), (_, b)) in sides.zip(elements(ty, word(right))) {
            outcome.values += 1;
            if a == b || judge(&case.rule, ty, a, b, i, &mut outcome) {
                continue;
            }
            outcome.mismatches += 1;
            if outcome.first.is_none() {
                outcome.first = Some(describe(case, i, ty, a, b));
            }
        }
    }
    outcome
}

/// Whether two unequal values are near enough; notes how near.
fn judge(rule: &Rule, ty: Ty, a: u64, b: u64, slot: usize, outcome: &mut Outcome) -> bool {
    if !ty.is_float() || *rule == Rule::Bits {
        return false;
    }
    let (x, y) = (number(ty, a), number(ty, b));
    if x.is_nan() || y.is_nan() {
        return x.is_nan() && y.is_nan();
    }
    let ulp = rank(ty, a).abs_diff(rank(ty, b));
    outcome.max_ulp = outcome.max_ulp.max(ulp);
    let allowed = match rule {
        Rule::Ulp(n) => {
            outcome.worst = outcome.worst.max(ulp as f64 / *n as f64);
            return ulp <= *n;
        }
        Rule::AbsRel { abs, rel } => abs.max(rel * x.abs()) + half_unit(ty, a),
        Rule::Bounded { bounds, .. } => bounds.get(slot).copied().unwrap_or(0.0),
        _ => return false,
    };
    if !x.is_finite() || !y.is_finite() {
        return false;
    }
    let difference = (x - y).abs();
    if difference > 0.0 {
        outcome.worst = outcome.worst.max(difference / allowed);
    }
    difference <= allowed
}

/// A mismatch, with the instruction's operands where they are known.
fn describe(case: &Case, slot: usize, ty: Ty, a: u64, b: u64) -> String {
    let tuple = slot / case.results.len();
    let operands: Vec<String> = case
        .sources
        .iter()
        .enumerate()
        .filter_map(|(n, ty)| {
            let at = 8 * (tuple * case.sources.len() + n);
            let bytes = case.inputs.first()?.get(at..at + 8)?;
            let bits = bytes.iter().rev().fold(0u64, |x, b| x << 8 | u64::from(*b));
            Some(show(*ty, bits & mask(*ty)))
        })
        .collect();
    format!(
        "slot {slot}, operands [{}]: interpreter {}, GPU {}",
        operands.join(", "),
        show(ty, a),
        show(ty, b)
    )
}

fn show(ty: Ty, bits: u64) -> String {
    if ty.is_float() {
        format!("{bits:#x} = {:e}", number(ty, bits))
    } else {
        format!("{bits:#x}")
    }
}
