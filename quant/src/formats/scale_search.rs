//! Choosing a scale: the step size that keeps the squared rounding error of a few weights small.
//!
//! Dividing the largest weight by the largest code wastes codes on one outlier; a slightly smaller
//! step that clips it is often better. Each search tries a fixed set of steps, rounds to codes,
//! solves the least-squares problem for those codes, and keeps the best, so a result depends on
//! nothing but the weights.

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
const TINY: f32 = 1e-30;

/// Steps tried on either side of the natural one, and their distance in codes.
const STEPS: i32 = 9;
const STEP_SIZE: f32 = 0.1;

/// The scale `s`, of either sign, for which `s * q` with integer `q` in `lo..=hi` is close to `x`.
///
/// `lo` is the code of the larger magnitude, as in two's complement.
pub(super) fn symmetric(x: &[f32], lo: i32, hi: i32) -> f32 {
    symmetric_by(x, lo as f32, |v| v.round().clamp(lo as f32, hi as f32))
}

/// [`symmetric`] for any set of codes: `nearest` rounds to one, `extreme` is the one of the largest
/// magnitude.
pub(super) fn symmetric_by(x: &[f32], extreme: f32, nearest: impl Fn(f32) -> f32) -> f32 {
    let peak = signed_extreme(x);
    if peak.abs() < TINY {
        return 0.0;
    }
    let mut best = (f64::NEG_INFINITY, 0.0);
    for step in -STEPS..=STEPS {
        // In units of one code for |extreme| = 8; wider codes take proportionally wider steps.
        let shrink = 1.0 + step as f32 * STEP_SIZE / 8.0;
        for sign in [1.0, -1.0] {
            let inverse = sign * extreme * shrink / peak;
            let (mut xq, mut qq) = (0.0f64, 0.0f64);
            for &v in x {
                let q = nearest(v * inverse);
                xq += f64::from(v * q);
                qq += f64::from(q * q);
            }
            // The error left after the least-squares scale is sum(x^2) - gain.
            let gain = if qq > 0.0 { xq * xq / qq } else { 0.0 };
            if gain > best.0 {
                best = (gain, if qq > 0.0 { xq / qq } else { 0.0 });
            }
        }
    }
    best.1 as f32
}

/// `(scale, min)`, both at least 0, for which `scale * q - min` with integer `q` in `0..=hi` is
/// close to `x`.
pub(super) fn affine(x: &[f32], hi: i32) -> (f32, f32) {
    let (least, greatest) = range(x);
    // The formats subtract an unsigned minimum: the range has to include zero.
    let least = least.min(0.0);
    let span = greatest - least;
    if span < TINY || !span.is_finite() {
        return (0.0, -least);
    }
    let hi = hi as f32;
    let mut best = (f64::INFINITY, (span / hi, -least));
    for step in -STEPS..=STEPS {
        let inverse = (hi + step as f32 * STEP_SIZE) / span;
        let fitted = fit_line(x, |v| ((v - least) * inverse).round().clamp(0.0, hi));
        // The fit moved the line, which moves the codes: one more round settles most groups.
        for (scale, min) in [fitted, refit(x, fitted.0, fitted.1, hi)] {
            let error = affine_error(x, scale, min, hi);
            if error < best.0 {
                best = (error, (scale, min));
            }
        }
    }
    best.1
}

fn refit(x: &[f32], scale: f32, min: f32, hi: f32) -> (f32, f32) {
    let inverse = if scale < TINY { 0.0 } else { 1.0 / scale };
    fit_line(x, |v| ((v + min) * inverse).round().clamp(0.0, hi))
}

/// The least-squares line `scale * q - min` through the codes, with `scale, min >= 0`.
fn fit_line(x: &[f32], code: impl Fn(f32) -> f32) -> (f32, f32) {
    let n = x.len() as f64;
    let (mut sx, mut sq, mut xq, mut qq) = (0.0f64, 0.0f64, 0.0f64, 0.0f64);
    for &v in x {
        let (v, q) = (f64::from(v), f64::from(code(v)));
        sx += v;
        sq += q;
        xq += v * q;
        qq += q * q;
    }
    let det = n * qq - sq * sq;
    if det > 0.0 {
        let scale = (n * xq - sx * sq) / det;
        let min = (sq * xq - qq * sx) / det;
        if scale >= 0.0 && min >= 0.0 {
            return (scale as f32, min as f32);
        }
    }
    let scale = if qq > 0.0 { xq / qq } else { 0.0 };
    (scale.max(0.0) as f32, 0.0)
}

fn affine_error(x: &[f32], scale: f32, min: f32, hi: f32) -> f64 {
    let inverse = if scale < TINY { 0.0 } else { 1.0 / scale };
    x.iter()
        .map(|&v| {
            let q = ((v + min) * inverse).round().clamp(0.0, hi);
            f64::from(scale * q - min - v).powi(2)
        })
        .sum()
}
