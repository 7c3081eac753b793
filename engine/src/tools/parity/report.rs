//! What a comparison found, and what counts as equal.
//!
//! An error is a number even where a side is not: poison, NaN and infinities are infinite errors, so
//! that nothing that was not computed can pass.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::kv::KvType;
use crate::lower::{Activations, Unit};
use crate::plan::{Buf, Element, ErrorClass, Op, Plan};

/// What counts as equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tolerance {
    /// Every bit.
    BitEqual,
    /// The limits of [`limit`] for each operation.
    PerOperation,
    /// The same between two steps of different shapes, of which one may fuse a gated unit that the
    /// other computes from rounded products.
    PerShape,
}

/// One buffer's comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BufferRow {
    /// The unit that wrote it.
    pub unit: String,
    /// The buffer's name.
    pub buffer: String,
    /// `sum((left - right)^2) / sum(left^2)`; the share of tokens that differ, where tokens are
    /// compared; the largest squared difference over the mean square of its row, of products of
    /// the same bytes.
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
    /// What both ran: `prompt of slot 0`, `batch of 4`.
    pub step: String,
    /// Position of the step's first token.
    pub position: usize,
    /// Tokens of the step, those of dead rows included.
    pub rows: usize,
    /// The buffers.
    pub buffers: Vec<BufferRow>,
}

impl Report {
    /// Whether every buffer is within its limit, and there was at least one.
    #[must_use]
    pub fn passes(&self) -> bool {
        !self.buffers.is_empty() && self.buffers.iter().all(|r| r.pass)
    }

    /// The first buffer that is not within its limit.
    #[must_use]
    pub fn first_failure(&self) -> Option<&BufferRow> {
        self.buffers.iter().find(|r| !r.pass)
    }

    /// The buffer with the largest error against its limit.
    #[must_use]
    pub fn worst(&self) -> Option<&BufferRow> {
        let share = |r: &BufferRow| {
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

/// In what numbers two sides compute, those of the coarser one: what [`limit`] depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Numbers {
    /// Element type of the cache.
    pub kv_type: KvType,
    /// What matrix products round activations to.
    pub activations: Activations,
}

/// How a buffer comes about, on either side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Made {
    /// The operations of the units that write it, ascending, whichever side they are of: one launch
    /// may compute all of them. The last is its own.
    ops: Vec<usize>,
    /// In what numbers they compute.
    numbers: Numbers,
}

impl Made {
    /// How a buffer is made, by what the units of both sides say, where caches of that type were asked
    /// for.
    pub(crate) fn of(plan: &Plan, b: Buf, kv_type: KvType, sides: &[&[Unit]]) -> Made {
        let units = || sides.iter().flat_map(|units| units.iter());
        let own = plan.writer(b);
        let writers = units().filter(|unit| own.is_some_and(|own| unit.ops.contains(&own)));
        let ops: BTreeSet<usize> = writers.flat_map(|unit| &unit.ops).copied().collect();
        let involved = units().filter(|unit| unit.ops.iter().any(|op| ops.contains(op)));
        let activations = involved.map(|unit| unit.activations).max();
        let mut caches = ops.iter().flat_map(|&op| plan.ops[op].reads_cache());
        let cache = caches.next();
        let kv_type = cache.map_or(kv_type, |c| plan.cache(c).kv_type(kv_type));
        Made {
            numbers: Numbers {
                kv_type,
                activations: activations.unwrap_or_default(),
            },
            ops: ops.into_iter().collect(),
        }
    }

    /// The loosest limit of the operations: a sum that a launch computes with a product inherits the
    /// product's.
    fn limit(&self, plan: &Plan) -> f64 {
        let limits = self.ops.iter().map(|&i| limit(&plan.ops[i], self.numbers));
        limits.fold(0.0, f64::max)
    }

    /// The same where one side fused a gated unit and the other did not: the products' errors add up,
    /// the gate's counted twice with the unit's own, since a negative gate's activation has a relative
    /// slope above one.
    fn unfused_limit(&self, plan: &Plan) -> f64 {
        let of = |i: usize| limit(&plan.ops[i], self.numbers);
        match self.ops.split_last() {
            Some((&own, inner)) if matches!(plan.ops[own], Op::Glu { .. }) => {
                2.0 * of(own) + inner.iter().map(|&i| of(i)).sum::<f64>()
            }
            Some(_) | None => self.limit(plan),
        }
    }
}

/// Largest NMSE of an operation whose sides may use different arithmetic: matrix products with
/// inputs in f32, f16 or bytes, attention over a cache of a type against one of f32, everything else
/// in f32.
///
/// What a type of the cache costs was measured on Gaussian keys and values, where rounding does
/// more harm than nearby keys do: 9e-8 of f16, 6e-6 of bf16 (and 4e-6 where queries and weights are
/// rounded to it too), 1.1e-4 of bytes. The limits leave room for heads of some large elements.
#[must_use]
pub fn limit(op: &Op, numbers: Numbers) -> f64 {
    match op.contract().error {
        ErrorClass::Exact => 0.0,
        ErrorClass::Float => 1e-10,
        ErrorClass::Approximate => 1e-6,
        ErrorClass::Product => numbers.activations.limit(),
        ErrorClass::Attention => match numbers.kv_type {
            KvType::F32 | KvType::F16 => 1e-5,
            KvType::BF16 => 1e-4,
            KvType::Int8 => 1e-3,
        },
    }
}

/// By how much a limit of a mean over many values grows where few of them have most of the squares.
///
/// With `p` for the share of a value in the sum of the squares, and `e` for its squared relative error over
/// the usual one, the NMSE is the sum of `p * e` times the usual. Limits are for means over many, of which
/// `e` averages out to 1. Of one value that has all of the squares the NMSE is one `e`: an error of four
/// standard deviations, one in 16,000, is 16. Between these ends the spread of the sum falls with that of
/// `p²`, the reciprocal of the number of values that count: `N` equal ones have an NMSE of variance `2 / N`
/// where errors are normal. `1 + 15 / N` is exact for one value and closer than what is exceeded as rarely
/// for more (6.1 for four, 3.0 for sixteen, 1.6 for a hundred: the quantiles of chi-squared).
///
/// It is of shapes of a step whose kernels round differently. It is not what notices a wrong scale of a
/// block, which shows only against a product of the same bytes: see `bytes`.
fn concentration(values: &[f32]) -> f64 {
    let squares = values.iter().map(|&v| f64::from(v) * f64::from(v));
    let sum: f64 = squares.clone().sum();
    // Values that count: all where they are equal, one where it has all squares.
    let count = sum * sum / squares.map(|s| s * s).sum::<f64>();
    match count.is_finite() {
        true => 1.0 + 15.0 / count.max(1.0),
        false => 1.0,
    }
}

/// A buffer that a unit wrote, and what two sides of it are held to.
pub(crate) struct Written<'a> {
    pub(crate) unit: &'a str,
    pub(crate) buffer: Buf,
    pub(crate) made: &'a Made,
    pub(crate) tolerance: Tolerance,
}

impl Written<'_> {
    /// Compares what two sides have in it.
    pub(crate) fn compare(&self, plan: &Plan, left: &[f32], right: &[f32]) -> BufferRow {
        let limit = match self.tolerance {
            Tolerance::BitEqual => 0.0,
            Tolerance::PerOperation => self.made.limit(plan),
            Tolerance::PerShape => self.made.unfused_limit(plan) * concentration(left),
        };
        let info = plan.buffer(self.buffer);
        let (nmse, max_abs) = error(left, right);
        let ids_differ = info.element == Element::U32 && max_abs > 0.0;
        let bits_differ = self.tolerance == Tolerance::BitEqual && !bit_equal(left, right);
        BufferRow {
            unit: self.unit.to_owned(),
            buffer: info.name.clone(),
            nmse,
            max_abs,
            limit,
            pass: nmse <= limit && !ids_differ && !bits_differ,
        }
    }
}

/// Compares the tokens that two sides chose for a slot: they are equal or not.
pub(crate) fn compare_tokens(unit: &str, slot: usize, left: &[u32], right: &[u32]) -> BufferRow {
    let equal = left.iter().zip(right).take_while(|(l, r)| l == r).count();
    let longer = left.len().max(right.len());
    BufferRow {
        unit: unit.to_owned(),
        buffer: if equal == longer {
            format!("tokens of slot {slot}")
        } else {
            format!("tokens of slot {slot} from token {equal} on")
        },
        nmse: (longer - equal) as f64 / longer.max(1) as f64,
        max_abs: (longer - equal) as f64,
        limit: 0.0,
        pass: longer > 0 && equal == longer,
    }
}

/// Whether two rows are the same, bit by bit.
pub(crate) fn bit_equal(left: &[f32], right: &[f32]) -> bool {
    let same = |(l, r): (&f32, &f32)| l.to_bits() == r.to_bits();
    left.len() == right.len() && left.iter().zip(right).all(same)
}

/// NMSE and largest difference. A side that is not finite where the other is, or two NaN (both
/// poisoned), is an infinite error; so are rows of different lengths.
pub(crate) fn error(left: &[f32], right: &[f32]) -> (f64, f64) {
    if left.len() != right.len() {
        return (f64::INFINITY, f64::INFINITY);
    }
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
        assert_eq!(error(&[1.0, 2.0], &[1.0]).0, f64::INFINITY);
        let (nmse, max) = error(&[3.0, 4.0], &[3.0, 4.5]);
        assert!((nmse - 0.25 / 25.0).abs() < 1e-12 && (max - 0.5).abs() < 1e-12);
    }

    #[test]
    fn a_limit_grows_where_few_values_have_the_squares() {
        let mut values = vec![1.0f32; 1500];
        assert!((concentration(&values) - 1.01).abs() < 1e-9);
        values[7] = -1e6;
        assert!((concentration(&values) - 16.0).abs() < 1e-6);
        // Never more than what errors of four standard deviations of one come to as rarely in all: the
        // quantiles of chi-squared over its degrees at one in 15,787.
        for (count, quantile) in [(1, 16.0), (2, 9.66), (4, 6.12), (16, 2.95), (100, 1.63)] {
            let mut values = vec![0.0f32; 256];
            values[..count].fill(-3.0);
            let found = concentration(&values);
            assert!(found > 1.0 && found <= quantile + 1e-6, "{count}: {found}");
        }
        for none in [&[][..], &[0.0; 9], &[f32::NAN], &[f32::INFINITY, 1.0]] {
            assert_eq!(concentration(none), 1.0);
        }
    }

    #[test]
    fn tokens_are_equal_or_not() {
        let row = compare_tokens("decode", 2, &[1, 2, 3], &[1, 2, 3]);
        assert!(row.pass && row.buffer == "tokens of slot 2");
        let row = compare_tokens("decode", 2, &[1, 2, 3, 4], &[1, 9, 3, 4]);
        assert!(!row.pass && row.max_abs == 3.0 && row.nmse == 0.75);
        assert_eq!(row.buffer, "tokens of slot 2 from token 1 on");
        assert!(!compare_tokens("decode", 0, &[1, 2], &[1]).pass);
        assert!(!compare_tokens("decode", 0, &[], &[]).pass);
    }
}
