//! The power of two by which a row is scaled, and what that costs.
//!
//! `e` puts the largest number of a row just inside the range of f16, which leaves 24 bits below it: the
//! exact scales are multiples of 2^-24, so most rows lose nothing at all.

use crate::Error;
use crate::scalar::LeF16;

/// The largest finite f16.
const F16_MAX: f32 = 65504.0;

/// The largest normalised mean squared error that what is cut off at the lower end of f16 may leave in a row,
/// together with the rounding of everything else.
pub const NMSE_LIMIT: f64 = 5e-7;

/// What packing kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fit {
    /// Every bit: the inverse gives the blocks back.
    Exact,
    /// Scales (or BF16 weights) far below the largest of their row lost bits that are less than its 2^-40th
    /// part. Products see no difference; the inverse gives the rounded numbers.
    Rounded,
}

/// The scaling of block formats leaves this many bits below a scale: codes are multiples of 2^-24.
pub(super) const CODE_BITS: i32 = 24;

/// The least `e >= least` with `peak * 2^(bits - e)` inside the range of f16; 0 for a row of zeros.
pub(super) fn exponent(peak: f32, bits: i32, least: i32) -> i32 {
    if peak == 0.0 {
        return 0;
    }
    let peak = f64::from(peak);
    // Normal in f64: its exponent is that of its leading bit.
    let leading = (peak.to_bits() >> 52) as i32 - 1023;
    // One below the right one at most: the mantissa decides.
    let mut e = (leading + bits - 15).max(least);
    while peak * power(bits - e) > f64::from(F16_MAX) {
        e += 1;
    }
    e
}

/// `2^n`, for the exponents of f64.
pub(super) fn power(n: i32) -> f64 {
    f64::from_bits(((1023 + i64::from(n)) as u64) << 52)
}

/// `half * 2^shift` as bits of f16, and whether that is exact. What is not finite stays as it is.
#[inline]
pub(super) fn scaled(half: LeF16, shift: i32) -> (u16, bool) {
    let value = half.get();
    if !value.is_finite() {
        return (half.bits(), true);
    }
    // |shift| <= 40: exact in f32.
    let exact = value * power(shift) as f32;
    let scaled = LeF16::new(exact);
    (scaled.bits(), scaled.get() == exact)
}

/// The largest number of a row and where it is; numbers that are not finite do not count.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Peak {
    /// The magnitude.
    pub(super) value: f32,
    /// The block that it belongs to.
    pub(super) block: usize,
    /// Whether the row has a scale that is no number: its products are none either.
    pub(super) broken: bool,
}

impl Peak {
    #[inline]
    pub(super) fn raise(&mut self, value: f32, block: usize) {
        if !value.is_finite() {
            self.broken = true;
        } else if value > self.value {
            *self = Peak {
                value,
                block,
                ..*self
            };
        }
    }
}

/// Whether weights of a summed square of `energy`, in a row of `cols`, are so large that the lower end of f16
/// at the exponent `e` adds at most 2^-22 to the row's normalised squared error.
pub(super) fn stands_out(energy: f64, cols: usize, e: i32) -> bool {
    // The second term of the bound is 2^(e-24) a weight.
    energy >= cols as f64 * power(2 * (e - 24) + 22)
}

/// Holds what a kernel sees of a row against the exact weights.
pub(super) fn check(
    format: &'static str,
    row: usize,
    seen: &[f32],
    exact: &[f32],
) -> Result<(), Error> {
    let square = |v: f64| v * v;
    let pairs = seen.iter().zip(exact);
    let error: f64 = pairs
        .map(|(&s, &x)| square(f64::from(s) - f64::from(x)))
        .sum();
    let energy: f64 = exact.iter().map(|&x| square(f64::from(x))).sum();
    if error <= NMSE_LIMIT * energy {
        return Ok(());
    }
    Err(Error::Imprecise { format, row })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponents_are_the_least_that_fit() {
        for bits in 0..0x7c00 {
            let peak = LeF16::from_bits(bits).get();
            for factor in [1.0f32, 63.0, 127.0, 128.0] {
                let peak = peak * factor;
                let e = exponent(peak, CODE_BITS, -126);
                if peak == 0.0 {
                    assert_eq!(e, 0);
                    continue;
                }
                let at = |e: i32| f64::from(peak) * power(CODE_BITS - e);
                assert!(at(e) <= 65504.0 && at(e - 1) > 65504.0, "{peak}: {e}");
                assert!((-15..=31).contains(&e), "{peak}: {e}");
            }
        }
        assert_eq!(exponent(1e-40, 0, -126), -126);
        assert_eq!(exponent(f32::MAX, 0, -126), 113);
    }

    #[test]
    fn scaling_up_is_exact_and_scaling_down_says_what_it_loses() {
        let tiny = LeF16::from_bits(1);
        assert_eq!(scaled(tiny, 24), (LeF16::new(1.0).bits(), true));
        assert_eq!(scaled(tiny, -1), (0, false));
        assert_eq!(scaled(LeF16::from_bits(0x8002), -1), (0x8001, true));
        assert_eq!(scaled(LeF16::from_bits(0x7c01), 5), (0x7c01, true));
    }
}
