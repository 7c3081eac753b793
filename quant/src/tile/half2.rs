//! Arithmetic on pairs of f16 as a GPU does it: each result rounded once, to nearest even, subnormals kept.
//!
//! Instructions are named as in PTX. f64 holds products of two f16 exactly; a sum that it does not hold is
//! narrowed to f32 with the last bit standing for what was cut off (rounding to odd), so that the one
//! rounding to f16 sees on which side of a tie the exact value lies.

use crate::scalar::LeF16;

/// Low half in bits 0 to 15.
pub(super) type Pair = u32;

/// `fma.rn.f16x2`.
pub(super) fn fma(a: Pair, b: Pair, c: Pair) -> Pair {
    each(|shift| {
        let [a, b, c] = [a, b, c].map(|x| value((x >> shift) as u16));
        rounded_sum(a * b, c)
    })
}

/// `mul.rn.f16x2`.
pub(super) fn mul(a: Pair, b: Pair) -> Pair {
    // A sum with the product's own zero keeps its sign.
    each(|shift| {
        let product = value((a >> shift) as u16) * value((b >> shift) as u16);
        rounded_sum(product, 0.0f64.copysign(product))
    })
}

/// `add.rn.f16x2`.
pub(super) fn add(a: Pair, b: Pair) -> Pair {
    each(|shift| rounded_sum(value((a >> shift) as u16), value((b >> shift) as u16)))
}

/// `prmt.b32`: nibble `i` of `selector` chooses byte `i` of the result among the bytes of `a` (0 to 3) and
/// `b` (4 to 7).
pub(super) fn prmt(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = (u64::from(b) << 32 | u64::from(a)).to_le_bytes();
    u32::from_le_bytes(std::array::from_fn(|i| {
        bytes[(selector >> (4 * i)) as usize & 7]
    }))
}

/// The same number twice.
pub(super) fn both(half: u16) -> Pair {
    u32::from(half) * 0x0001_0001
}

/// The exact value of an f16.
pub(super) fn value(bits: u16) -> f64 {
    f64::from(LeF16::from_bits(bits).get())
}

fn each(half: impl Fn(u32) -> u16) -> Pair {
    u32::from(half(0)) | u32::from(half(16)) << 16
}

/// The bits of `a + b`, rounded once.
fn rounded_sum(a: f64, b: f64) -> u16 {
    let sum = a + b;
    // What the f64 sum lacks, exactly (Knuth's two-sum).
    let b_part = sum - a;
    let lost = (a - (sum - b_part)) + (b - b_part);
    LeF16::new(to_odd(sum, lost)).bits()
}

/// `sum + lost` as an f32: exact, or the neighbour with an odd last bit. `lost` is less than a unit of `sum`.
fn to_odd(sum: f64, lost: f64) -> f32 {
    let nearest = sum as f32;
    // Exact: `nearest` is at most half a unit of f32 away.
    let cut = sum - f64::from(nearest);
    let rest = if cut == 0.0 { lost } else { cut };
    if !nearest.is_finite() || !rest.is_finite() || rest == 0.0 {
        return nearest;
    }
    let towards_zero = (rest < 0.0) != (nearest < 0.0);
    let bits = nearest.to_bits() - u32::from(towards_zero);
    f32::from_bits(bits | 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Words;

    /// An f16 in units of 2^-24.
    fn units(bits: u16) -> i128 {
        let (exponent, mantissa) = (i32::from(bits >> 10) & 31, i128::from(bits & 0x3ff));
        let magnitude = match exponent {
            0 => mantissa,
            _ => (mantissa | 0x400) << (exponent - 1),
        };
        if bits >> 15 == 0 {
            magnitude
        } else {
            -magnitude
        }
    }

    /// The f16 nearest to `sum` units of 2^-48, by integers alone; `zero` is the sign of an exact zero.
    fn nearest(sum: i128, zero: u16) -> u16 {
        if sum == 0 {
            return zero;
        }
        let magnitude = sum.unsigned_abs();
        let sign = if sum < 0 { 0x8000 } else { 0 };
        // The weight of the last bit: 2^-24 for subnormals, else ten below the leading one.
        let unit = (128 - magnitude.leading_zeros() as i32 - 11).max(24);
        let (whole, rest) = (magnitude >> unit, magnitude & ((1 << unit) - 1));
        let half = 1u128 << (unit - 1);
        let up = rest > half || rest == half && whole & 1 == 1;
        // Mantissa and exponent are one number: a carry is right by itself, also into infinity.
        let bits = ((unit as u128 - 24) << 10) + whole + u128::from(up);
        sign | (bits.min(0x7c00) as u16)
    }

    #[test]
    fn results_are_rounded_once() {
        let mut random = Words::for_block(3, 0);
        let finite = |bits: u16| {
            if bits & 0x7c00 == 0x7c00 {
                bits & !0x4000
            } else {
                bits
            }
        };
        for i in 0..400_000 {
            let word = random.word();
            let [a, b, mut c] = [word, word >> 16, word >> 32].map(|w| finite(w as u16));
            if i % 2 == 0 {
                // Near the product, where sums cancel and ties are met.
                let product = LeF16::new((value(a) * value(b)) as f32).bits();
                c = finite(product ^ 0x8000 ^ (word >> 60) as u16);
            }
            let product = units(a) * units(b);
            let sign = (a ^ b) & 0x8000;
            let both_minus = sign & c & 0x8000;
            let expected = nearest(product + (units(c) << 24), both_minus);
            assert_eq!(
                fma(both(a), both(b), both(c)),
                both(expected),
                "{a:x} {b:x} {c:x}"
            );
            assert_eq!(
                mul(both(a), both(b)),
                both(nearest(product, sign)),
                "{a:x} {b:x}"
            );
            let sum = nearest((units(a) + units(c)) << 24, a & c & 0x8000);
            assert_eq!(add(both(a), both(c)), both(sum), "{a:x} {c:x}");
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        let (inf, nan) = (both(0x7c00), both(0x7e00));
        assert_eq!(mul(inf, both(0x3c00)), inf);
        assert_eq!(fma(both(0x3c00), inf, both(0x0001)), inf);
        for bits in [
            mul(inf, 0),
            add(nan, 0),
            fma(nan, 0, 0),
            add(inf, inf ^ 0x8000_8000),
        ] {
            assert!(value(bits as u16).is_nan());
        }
    }

    #[test]
    fn bytes_are_chosen() {
        assert_eq!(prmt(0x4433_2211, 0x6464_6464, 0x4140), 0x6422_6411);
        assert_eq!(prmt(0x4433_2211, 0, 0x4341), 0x0044_0022);
    }
}
