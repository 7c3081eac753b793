//! Choosing a scale: the step size that keeps the squared rounding error of a few weights small.
//!
//! Dividing the largest weight by the largest code wastes codes on one outlier; a slightly smaller
//! step that clips it is often better. Each search tries a fixed set of steps, rounds to codes,
//! solves the least-squares problem for those codes, and keeps the best, so a result depends on
//! nothing but the weights and what their errors count ([`Group`]).
//!
//! Sums run in lanes, which the compiler makes vectors of: a search is most of what quantising costs.

use std::ops::RangeInclusive;

use super::error_weights::Group;

/// The value of the largest magnitude, with its sign; 0 of an empty slice.
pub(super) fn signed_extreme(x: &[f32]) -> f32 {
    x.iter().fold(
        0.0f32,
        |best, &v| if v.abs() > best.abs() { v } else { best },
    )
}

/// The least and the greatest value.
pub(super) fn range(x: &[f32]) -> (f32, f32) {
    x.iter()
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(lo, hi), &v| {
            (lo.min(v), hi.max(v))
        })
}

/// Below this a group of weights is rounded to zero: the inverse of its step would overflow.
pub(super) const TINY: f32 = 1e-30;

/// Steps tried on either side of the natural one, and their distance in codes.
const STEPS: i32 = 9;
const STEP_SIZE: f32 = 0.1;

/// Sums that run beside each other; groups have a multiple of so many weights.
const LANES: usize = 8;

/// `v` as the nearest whole number from `lo` to `hi`, ties to even; both are whole and below 2^22.
#[inline(always)]
pub(super) fn code(v: f32, lo: f32, hi: f32) -> f32 {
    // Adding this leaves no bits for fractions.
    const WHOLE: f32 = 12_582_912.0;
    let v = if v < lo { lo } else { v };
    let v = if v > hi { hi } else { v };
    (v + WHOLE) - WHOLE
}

/// 1 / `step`, and 0 for a step that rounds everything to zero.
#[inline]
pub(super) fn inverse_of(step: f32) -> f32 {
    if step.abs() < TINY { 0.0 } else { 1.0 / step }
}

/// Sums over a group of `N` terms of each weight and what its error counts.
#[inline(always)]
fn sums<const N: usize>(group: Group<'_>, terms: impl Fn(f32, f32) -> [f32; N]) -> [f64; N] {
    let mut lanes = [[0.0f32; LANES]; N];
    let (x, w) = (group.x.as_chunks::<LANES>().0, group.w.as_chunks().0);
    for (x, w) in x.iter().zip(w) {
        let w: &[f32; LANES] = w;
        for lane in 0..LANES {
            let terms = terms(x[lane], w[lane]);
            for n in 0..N {
                lanes[n][lane] += terms[n];
            }
        }
    }
    lanes.map(|lanes| lanes.iter().map(|&v| f64::from(v)).sum())
}

/// A scale, and how much its error counts: the error grows by `curvature` times the square of a
/// change of the scale.
#[derive(Clone, Copy, Default)]
pub(super) struct Scale {
    pub(super) value: f32,
    pub(super) curvature: f32,
}

/// The scale `s`, of either sign, for which `s * q` with integer `q` in `lo..=hi` is close to the
/// group.
///
/// `lo` is the code of the larger magnitude, as in two's complement.
pub(super) fn symmetric(group: Group<'_>, lo: i32, hi: i32) -> Scale {
    let (lo, hi) = (lo as f32, hi as f32);
    symmetric_by(group, lo, |v| code(v, lo, hi))
}

/// [`symmetric`] for any set of codes: `nearest` rounds to one, `extreme` is the one of the largest
/// magnitude.
pub(super) fn symmetric_by(group: Group<'_>, extreme: f32, nearest: impl Fn(f32) -> f32) -> Scale {
    let peak = signed_extreme(group.x);
    if peak.abs() < TINY {
        return Scale::default();
    }
    let mut best = (0.0, Scale::default());
    let mut consider = |inverse: f32| {
        let [xq, qq] = sums(group, |x, w| {
            let q = nearest(x * inverse);
            [w * x * q, w * q * q]
        });
        // The error left after the least-squares scale is sum(w x^2) - gain.
        if qq > 0.0 && xq * xq / qq > best.0 {
            let (value, curvature) = ((xq / qq) as f32, qq as f32);
            best = (xq * xq / qq, Scale { value, curvature });
        }
        best.1.value
    };
    let mut fitted = 0.0;
    for step in -STEPS..=STEPS {
        // In units of one code for |extreme| = 8; wider codes take proportionally wider steps.
        let shrink = 1.0 + step as f32 * STEP_SIZE / 8.0;
        for sign in [1.0, -1.0] {
            fitted = consider(sign * extreme * shrink / peak);
        }
    }
    // The fit moved the scale, which moves codes: twice more settles most groups.
    for _ in 0..2 {
        fitted = consider(inverse_of(fitted));
    }
    best.1
}

/// The multiples of a step that signed scales of 6 bits are.
const SIX_BITS: RangeInclusive<i32> = -32..=31;

/// Of the scales `step * n` with a signed `n` of 6 bits next to `wanted / step`, the `n` whose codes are
/// closest to the group.
pub(super) fn nearest_multiple(
    group: Group<'_>,
    wanted: f32,
    step: f32,
    nearest: impl Fn(f32) -> f32,
) -> i32 {
    let (lo, hi) = (*SIX_BITS.start() as f32, *SIX_BITS.end() as f32);
    let natural = code(wanted * inverse_of(step), lo, hi) as i32;
    let mut best = (f64::INFINITY, natural);
    for n in [natural, natural - 1, natural + 1] {
        if !SIX_BITS.contains(&n) {
            continue;
        }
        let scale = step * n as f32;
        let inverse = inverse_of(scale);
        let [error] = sums(group, |x, w| {
            let e = scale * nearest(x * inverse) - x;
            [w * e * e]
        });
        if error < best.0 {
            best = (error, n);
        }
    }
    best.1
}

/// A line `scale * q - min`, both at least 0.
#[derive(Clone, Copy, Default)]
pub(super) struct Line {
    pub(super) scale: f32,
    pub(super) min: f32,
}

/// The line whose values at integer `q` in `0..=hi` are close to the group.
pub(super) fn affine(group: Group<'_>, hi: i32) -> Line {
    let (least, greatest) = range(group.x);
    // The formats subtract an unsigned minimum: the range has to include zero.
    let least = least.min(0.0);
    let span = greatest - least;
    if span < TINY || !span.is_finite() {
        let scale = 0.0;
        return Line { scale, min: -least };
    }
    let hi = hi as f32;
    let [w, wx] = sums(group, |x, w| [w, w * x]);
    let mut best = (f64::INFINITY, Line::default());
    let mut consider = |inverse: f32, min: f32| {
        let [q, qq, xq] = sums(group, |x, w| {
            let q = code((x + min) * inverse, 0.0, hi);
            [w * q, w * q * q, w * x * q]
        });
        let (error, line) = fit_line([w, wx, q, qq, xq]);
        if error < best.0 {
            best = (error, line);
        }
        best.1
    };
    let mut fitted = Line::default();
    for step in -STEPS..=STEPS {
        fitted = consider((hi + step as f32 * STEP_SIZE) / span, -least);
    }
    for _ in 0..2 {
        fitted = consider(inverse_of(fitted.scale), fitted.min);
    }
    best.1
}

/// The least-squares line through the codes, and its error less `sum(w x^2)`.
fn fit_line([w, wx, q, qq, xq]: [f64; 5]) -> (f64, Line) {
    let error = |s: f64, m: f64| {
        let error = s * s * qq + m * m * w - 2.0 * s * xq + 2.0 * m * wx - 2.0 * s * m * q;
        let (scale, min) = (s as f32, m as f32);
        (error, Line { scale, min })
    };
    let det = w * qq - q * q;
    if det > 0.0 {
        let (s, m) = ((w * xq - wx * q) / det, (q * xq - qq * wx) / det);
        if s >= 0.0 && m >= 0.0 {
            return error(s, m);
        }
    }
    error(if qq > 0.0 { (xq / qq).max(0.0) } else { 0.0 }, 0.0)
}

/// Of the lines whose scale and minimum are multiples, up to `most`, of those of `steps`, the one next to
/// `wanted` whose values are closest to the group: both multiples.
pub(super) fn nearest_line(
    group: Group<'_>,
    wanted: Line,
    steps: Line,
    hi: i32,
    most: u8,
) -> (u8, u8) {
    let natural = |v: f32, step: f32| code(v * inverse_of(step), 0.0, f32::from(most)) as u8;
    let (scale, min) = (
        natural(wanted.scale, steps.scale),
        natural(wanted.min, steps.min),
    );
    let mut best = (f64::INFINITY, (scale, min));
    for scale in scale.saturating_sub(1)..=(scale + 1).min(most) {
        for min in min.saturating_sub(1)..=(min + 1).min(most) {
            let (s, m) = (steps.scale * f32::from(scale), steps.min * f32::from(min));
            let inverse = inverse_of(s);
            let [error] = sums(group, |x, w| {
                let e = s * code((x + m) * inverse, 0.0, hi as f32) - m - x;
                [w * e * e]
            });
            if error < best.0 {
                best = (error, (scale, min));
            }
        }
    }
    best.1
}
