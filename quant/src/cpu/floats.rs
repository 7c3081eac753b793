//! What a network does between matrix products, in f32: the loops that cost time when they run
//! with the vectors that every machine has.
//!
//! The bodies are plain Rust, compiled again by each instruction-set module. Always holds: each
//! fixes its order of additions, so a row's result depends on nothing but the row and, in its last
//! bits, on the instruction set (which decides whether products are fused with sums).

#![allow(unsafe_code)]

use super::isa::Isa;
use super::small_gemm;

/// Lanes of the sums.
const LANES: usize = 16;

/// How `a * b + c` is computed.
pub(super) trait MulAdd {
    /// `a * b + c`.
    fn mul_add(a: f32, b: f32, c: f32) -> f32;
}

/// Rounded once, where the machine has an instruction for it.
#[cfg(any(test, target_arch = "x86_64"))]
pub(super) struct Fused;

/// Rounded twice.
pub(super) struct Separate;

#[cfg(any(test, target_arch = "x86_64"))]
impl MulAdd for Fused {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

impl MulAdd for Separate {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
}

/// `c += a * b` for few rows: `a` holds `c.rows` rows of `n` values, `b` holds `n` rows of
/// `c.cols` values.
///
/// Each element of `c` is summed over `n` in order, one multiply-add at a time, so its value
/// depends neither on the other rows nor on how a sum over `n` is cut into calls.
///
/// # Panics
/// When a slice is shorter than its shape says.
pub fn accumulate(a: StridedRows<'_>, b: StridedRows<'_>, n: usize, c: StridedRowsMut<'_>) {
    small_gemm::accumulate(Isa::detect(), a, b, n, c);
}

/// Rows of f32 at a distance.
#[derive(Clone, Copy, Debug)]
pub struct StridedRows<'a> {
    /// The first row starts here.
    pub values: &'a [f32],
    /// From the start of one row to the next.
    pub stride: usize,
}

/// Rows of f32 at a distance, to be written.
#[derive(Debug)]
pub struct StridedRowsMut<'a> {
    /// The first row starts here.
    pub values: &'a mut [f32],
    /// From the start of one row to the next.
    pub stride: usize,
    /// How many there are.
    pub rows: usize,
    /// Values in each.
    pub cols: usize,
}

/// `x[i] = exp(x[i] - max x) / sum_j exp(x[j] - max x)`. A NaN makes all of `x` NaN.
///
/// Relative error below 1e-6; what is smaller than 1e-38 of the largest may become any value of
/// that size.
pub fn softmax(x: &mut [f32]) {
    match Isa::detect() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` beyond `Portable` only exists where the machine has its features.
        Isa::Avx512 => unsafe { super::avx512::softmax(x) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { super::avx2::softmax(x) },
        Isa::Portable => softmax_body::<Separate>(x),
    }
}

/// `out = gate / (1 + exp(-gate)) * up`, with a relative error below 1e-6.
///
/// # Panics
/// When the lengths differ.
pub fn silu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert!(
        gate.len() == out.len() && up.len() == out.len(),
        "gate, up and out have one length"
    );
    match Isa::detect() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` beyond `Portable` only exists where the machine has its features.
        Isa::Avx512 => unsafe { super::avx512::silu_mul(gate, up, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { super::avx2::silu_mul(gate, up, out) },
        Isa::Portable => silu_mul_body::<Separate>(gate, up, out),
    }
}

/// `out = gelu(gate) * up`, where `gelu(x) = x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))`
/// (Hendrycks and Gimpel, "Gaussian Error Linear Units", section 2), with an error below 1e-6 of
/// `|gate * up|`.
///
/// # Panics
/// When the lengths differ.
pub fn gelu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert!(
        gate.len() == out.len() && up.len() == out.len(),
        "gate, up and out have one length"
    );
    match Isa::detect() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` beyond `Portable` only exists where the machine has its features.
        Isa::Avx512 => unsafe { super::avx512::gelu_mul(gate, up, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { super::avx2::gelu_mul(gate, up, out) },
        Isa::Portable => gelu_mul_body::<Separate>(gate, up, out),
    }
}

/// The sum of the squares, added up in f64.
#[must_use]
pub fn sum_squares(x: &[f32]) -> f64 {
    match Isa::detect() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` beyond `Portable` only exists where the machine has its features.
        Isa::Avx512 => unsafe { super::avx512::sum_squares(x) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { super::avx2::sum_squares(x) },
        Isa::Portable => sum_squares_body(x),
    }
}

#[inline(always)]
pub(super) fn softmax_body<M: MulAdd>(x: &mut [f32]) {
    let mut top = [f32::NEG_INFINITY; LANES];
    let (lines, tail) = x.as_chunks::<LANES>();
    for line in lines {
        for (top, &x) in top.iter_mut().zip(line) {
            *top = if x > *top { x } else { *top };
        }
    }
    let max = top
        .iter()
        .chain(tail)
        .fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    let mut sums = [0.0f32; LANES];
    let (lines, tail) = x.as_chunks_mut::<LANES>();
    for line in lines {
        for (sum, x) in sums.iter_mut().zip(line) {
            *x = exp::<M>(*x - max);
            *sum += *x;
        }
    }
    for (sum, x) in sums.iter_mut().zip(tail) {
        *x = exp::<M>(*x - max);
        *sum += *x;
    }
    let sum: f64 = sums.iter().map(|&s| f64::from(s)).sum();
    let inverse = (1.0 / sum) as f32;
    x.iter_mut().for_each(|x| *x *= inverse);
}

/// `value = g / (1 + e^power)` where that power is within what [`exp`] computes; beyond it zero, or NaN
/// where `g` is infinite.
#[inline(always)]
fn limited(g: f32, power: f32, value: f32) -> f32 {
    if power > LIMIT { g * 0.0 } else { value }
}

#[inline(always)]
pub(super) fn silu_mul_body<M: MulAdd>(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((o, &g), &u) in out.iter_mut().zip(gate).zip(up) {
        *o = limited(g, -g, g / (1.0 + exp::<M>(-g))) * u;
    }
}

#[inline(always)]
pub(super) fn gelu_mul_body<M: MulAdd>(gate: &[f32], up: &[f32], out: &mut [f32]) {
    // (1 + tanh(u)) / 2 = 1 / (1 + e^-2u), with 2 sqrt(2 / pi) here.
    const SLOPE: f32 = 1.595_769;
    for ((o, &g), &u) in out.iter_mut().zip(gate).zip(up) {
        let inner = SLOPE * (g + 0.044_715 * g * g * g);
        *o = limited(g, -inner, g / (1.0 + exp::<M>(-inner))) * u;
    }
}

#[inline(always)]
pub(super) fn sum_squares_body(x: &[f32]) -> f64 {
    let mut sums = [0.0f64; LANES];
    let (lines, tail) = x.as_chunks::<LANES>();
    for line in lines {
        for (sum, &x) in sums.iter_mut().zip(line) {
            *sum += f64::from(x) * f64::from(x);
        }
    }
    for (sum, &x) in sums.iter_mut().zip(tail) {
        *sum += f64::from(x) * f64::from(x);
    }
    sums.iter().sum()
}

/// Powers of e up to which, and down to whose negative, [`exp`] computes.
const LIMIT: f32 = 87.3;

/// `e^x` without a branch, so that it vectorises: `2^n e^r` with `n` the integer nearest to
/// `x / ln 2`, and the Taylor series of `e^r`, whose remainder for `|r| <= ln 2 / 2` is below
/// 1e-8. Arguments are clamped to where the result is a normal f32; NaN stays NaN.
#[inline(always)]
fn exp<M: MulAdd>(x: f32) -> f32 {
    // ln 2 in two parts: multiples of the first, which has few bits, are exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // Not `clamp`, and in this order: a comparison with NaN keeps the NaN.
    let x = if x < -LIMIT { -LIMIT } else { x };
    let x = if x > LIMIT { LIMIT } else { x };
    let rounded = M::mul_add(x, std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = M::mul_add(n, -LN2_LOW, M::mul_add(n, -LN2_HIGH, x));
    let mut e = 1.0 / 5040.0;
    for coefficient in [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        e = M::mul_add(e, r, coefficient);
    }
    // `n` as an exponent: the other bits of `rounded` leave at the top.
    let power = rounded.to_bits().wrapping_add(127) << 23;
    e * f32::from_bits(power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate_and_keeps_nan() {
        let mut worst = 0.0f64;
        for i in -87_000..87_000 {
            let x = i as f32 * 1e-3;
            for y in [exp::<Fused>(x), exp::<Separate>(x)] {
                let exact = f64::from(x).exp();
                worst = worst.max((f64::from(y) / exact - 1.0).abs());
            }
        }
        assert!(worst < 2e-7, "{worst:e}");
        assert_eq!(exp::<Separate>(0.0), 1.0);
        assert!(exp::<Separate>(f32::NEG_INFINITY) < 2e-38);
        assert!(exp::<Separate>(f32::INFINITY) > 1e37);
        assert!(exp::<Separate>(f32::NAN).is_nan());
    }

    #[test]
    fn softmax_sums_to_one_at_every_length() {
        for len in [1, 15, 16, 17, 100] {
            let x: Vec<f32> = (0..len).map(|i| (i as f32 * 0.7).sin() * 20.0).collect();
            let mut y = x.clone();
            softmax(&mut y);
            let max = x.iter().copied().fold(f32::MIN, f32::max);
            let exps: Vec<f64> = x.iter().map(|&x| f64::from(x - max).exp()).collect();
            let sum: f64 = exps.iter().sum();
            for (y, e) in y.iter().zip(&exps) {
                assert!((f64::from(*y) - e / sum).abs() < 1e-6 * e / sum + 1e-37);
            }
        }
        softmax(&mut []);
        let mut x = [0.0; 40];
        x[35] = f32::NAN;
        softmax(&mut x);
        assert!(x.iter().all(|x| x.is_nan()));
    }

    #[test]
    fn gelu_follows_its_formula() {
        let gate: Vec<f32> = (0..53).map(|i| (i as f32 - 26.0) * 0.4).collect();
        let up: Vec<f32> = (0..53).map(|i| (i as f32 * 1.3).cos()).collect();
        let mut out = vec![0.0; 53];
        gelu_mul(&gate, &up, &mut out);
        for ((o, g), u) in out.iter().zip(&gate).zip(&up) {
            let (g, u) = (f64::from(*g), f64::from(*u));
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (g + 0.044_715 * g.powi(3));
            let expected = g / 2.0 * (1.0 + inner.tanh()) * u;
            assert!(
                (f64::from(*o) - expected).abs() <= 1e-6 * (g * u).abs(),
                "{g}"
            );
        }
    }

    #[test]
    fn silu_and_squares_follow_their_formulas() {
        let gate: Vec<f32> = (0..53).map(|i| (i as f32 - 26.0) * 0.9).collect();
        let up: Vec<f32> = (0..53).map(|i| (i as f32 * 1.3).cos()).collect();
        let mut out = vec![0.0; 53];
        silu_mul(&gate, &up, &mut out);
        for ((o, g), u) in out.iter().zip(&gate).zip(&up) {
            let (g, u) = (f64::from(*g), f64::from(*u));
            let expected = g / (1.0 + (-g).exp()) * u;
            assert!((f64::from(*o) - expected).abs() <= 1e-6 * expected.abs() + 1e-30);
        }
        let expected: f64 = gate.iter().map(|&g| f64::from(g) * f64::from(g)).sum();
        assert!((sum_squares(&gate) / expected - 1.0).abs() < 1e-14);
    }
}
