//! Correctly rounded arithmetic in formats narrower than `f64`.
//!
//! The method is one throughout: compute the exact result in `f64`, or the `f64` that is *rounded to odd* where the
//! exact one does not fit, then round once to the narrow format. Rounding to odd keeps a sticky last bit, so the
//! second rounding cannot go the wrong way (Boldo and Melquiond, "When double rounding is odd", 2005).

use half::{bf16, f16};

/// How a result that the format cannot hold is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Round {
    /// To nearest, ties to even.
    Nearest,
    /// Toward zero.
    Zero,
    /// Toward negative infinity.
    Down,
    /// Toward positive infinity.
    Up,
}

/// `sum + error` is exact on entry; the result is `sum` with its last bit made sticky.
fn to_odd(sum: f64, error: f64) -> f64 {
    if error == 0.0 || !error.is_finite() || !sum.is_finite() || sum.to_bits() & 1 == 1 {
        return sum;
    }
    // An even `sum` is a neighbour of the odd value on the error's side.
    let away = (error > 0.0) == (sum > 0.0);
    f64::from_bits(if away {
        sum.to_bits() + 1
    } else {
        sum.to_bits() - 1
    })
}

/// `a + b` rounded to odd.
pub(crate) fn add_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    let part = sum - a;
    to_odd(sum, (a - (sum - part)) + (b - part))
}

/// `a * b + c` rounded to odd, for factors of at most 26 significant bits, whose product is exact.
pub(crate) fn fma_odd(a: f64, b: f64, c: f64) -> f64 {
    add_odd(a * b, c)
}

/// Rounds an exact (or odd) `f64` to `f32`.
pub(crate) fn to_f32(x: f64, round: Round) -> f32 {
    let near = x as f32;
    let wide = f64::from(near);
    if x.is_nan() || wide == x {
        return near;
    }
    match round {
        Round::Nearest => near,
        Round::Zero if wide.abs() > x.abs() => step_in(near),
        Round::Down if wide > x => near.next_down(),
        Round::Up if wide < x => near.next_up(),
        Round::Zero | Round::Down | Round::Up => near,
    }
}

fn step_in(x: f32) -> f32 {
    if x.is_sign_negative() {
        x.next_up()
    } else {
        x.next_down()
    }
}

/// Rounds an exact (or odd) `f64` to an `f32` whose last bit is sticky.
fn to_f32_odd(x: f64) -> f32 {
    let cut = to_f32(x, Round::Zero);
    if x.is_nan() || f64::from(cut) == x || !x.is_finite() {
        cut
    } else {
        f32::from_bits(cut.to_bits() | 1)
    }
}

/// Rounds an exact (or odd) `f64` to the bits of a half.
pub(crate) fn to_f16(x: f64, round: Round) -> u16 {
    let near = f16::from_f32(to_f32_odd(x));
    directed(
        x,
        near.to_bits(),
        |bits| f64::from(f16::from_bits(bits).to_f32()),
        round,
    )
}

/// Rounds an exact (or odd) `f64` to the bits of a bfloat16.
pub(crate) fn to_bf16(x: f64, round: Round) -> u16 {
    let near = bf16::from_f32(to_f32_odd(x));
    directed(
        x,
        near.to_bits(),
        |bits| f64::from(bf16::from_bits(bits).to_f32()),
        round,
    )
}

/// Moves a nearest rounding of a sign-magnitude 16-bit format to the neighbour that `round` wants.
fn directed(x: f64, near: u16, value: impl Fn(u16) -> f64, round: Round) -> u16 {
    let wide = value(near);
    if x.is_nan() || wide == x {
        return near;
    }
    let outside = wide.abs() > x.abs();
    let inward = match round {
        Round::Nearest => return near,
        Round::Zero => true,
        Round::Down => x > 0.0,
        Round::Up => x < 0.0,
    };
    match (inward, outside) {
        (true, true) => near - 1,
        (false, false) => near + 1,
        _ => near,
    }
}

/// Rounds to an integral value.
pub(crate) fn integral(x: f64, round: Round) -> f64 {
    match round {
        Round::Nearest => x.round_ties_even(),
        Round::Zero => x.trunc(),
        Round::Down => x.floor(),
        Round::Up => x.ceil(),
    }
}

/// A subnormal becomes a zero of its sign.
#[inline(always)]
pub(crate) fn flush(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE {
        0.0f32.copysign(x)
    } else {
        x
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_fma_rounds_once() {
        // 1 + 2^-11 is a tie that goes to even; a sticky bit below it must break the tie upward.
        let tiny = 2f64.powi(-24);
        assert_eq!(
            to_f16(1.0 + 2f64.powi(-11), Round::Nearest),
            f16::from_f32(1.0).to_bits()
        );
        assert_eq!(
            to_f16(fma_odd(tiny, tiny, 1.0 + 2f64.powi(-11)), Round::Nearest),
            0x3c01
        );
        assert_eq!(
            to_f16(
                fma_odd(-tiny, tiny, 1.0 + 3.0 * 2f64.powi(-11)),
                Round::Nearest
            ),
            0x3c01
        );
    }

    #[test]
    fn directed_roundings_bracket_the_value() {
        for x in [
            1.0 + 1e-12,
            -1.0 - 1e-12,
            3.3e-42,
            -7e-46,
            1e39,
            -1e39,
            65519.9,
            65520.0,
            1e-9,
        ] {
            assert!(
                f64::from(to_f32(x, Round::Down)) <= x && x <= f64::from(to_f32(x, Round::Up)),
                "{x}"
            );
            assert!(f64::from(to_f32(x, Round::Zero)).abs() <= x.abs());
            let half = |r| f64::from(f16::from_bits(to_f16(x, r)).to_f32());
            assert!(half(Round::Down) <= x && x <= half(Round::Up), "{x}");
            assert!(half(Round::Zero).abs() <= x.abs());
        }
    }

    #[test]
    fn fma_of_f32_agrees_with_the_hardware() {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f32::from_bits((state & 0x8fff_ffff) | 0x3000_0000)
        };
        for _ in 0..10_000 {
            let (a, b, c) = (next(), next(), next());
            let odd = fma_odd(f64::from(a), f64::from(b), f64::from(c));
            assert_eq!(
                to_f32(odd, Round::Nearest).to_bits(),
                a.mul_add(b, c).to_bits()
            );
        }
    }
}
