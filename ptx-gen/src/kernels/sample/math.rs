//! The arithmetic of sampling, once for the CPU and once for kernels, bit for bit the same.
//!
//! A sampled token is a comparison of numbers, so a single bit may change a text. Everything here
//! is therefore integer arithmetic, conversions, and f32 sums and products rounded one by one,
//! which IEEE 754 defines to the bit; nothing is fused and no library function or hardware
//! approximation is used. Polynomials are minimax fits of our own (relative error below 5e-8),
//! evaluated in Horner's order.

use crate::build::{Builder, Float, Type, Val};
use crate::ir::Ty;
use crate::op::Opcode;

/// `(ln(1 + f) - f) / f^2` for `1 + f` from `sqrt(1/2)` to `sqrt(2)`, lowest power first.
const LN_1P: [f32; 8] = [
    -0.499_999_82,
    0.333_339_33,
    -0.250_025_84,
    0.199_634_76,
    -0.165_517_94,
    0.148_837,
    -0.144_268_42,
    0.089_794_345,
];
/// `(e^r - 1 - r) / r^2` for `|r|` up to `ln(2) / 2`, lowest power first.
const EXP: [f32; 5] = [
    0.5,
    0.166_665_18,
    0.041_666_206,
    0.008_368_882,
    0.001_395_047_6,
];
/// Bits of `sqrt(1/2)`: where an exponent ends and the next begins.
const SQRT_HALF: u32 = 0x3F35_04F3;
/// `ln(2)` in two parts; small integers times the first are exact.
const LN_2: [f32; 2] = [0.693_359_4, -0.000_212_194_44];
/// Added and subtracted, it rounds a small number to the nearest integer.
const ROUND: f32 = 12_582_912.0;
/// Steps of [`depth`] in one unit of a logit.
const DEPTH_SCALE: f32 = 16_777_216.0;
/// Beyond this distance to the largest logit a [`mass`] is zero.
const NO_MASS: f32 = 30.0;
/// The power of two that is the largest mass.
const MASS_BITS: u32 = 31;
/// No [`gumbel`] is larger.
pub const MOST_GUMBEL: f32 = 23.0;
/// `2^-32`, and half of it: a word as a number strictly between 0 and 1.
const UNIT: [f32; 2] = [2.328_306_4e-10, 1.164_153_2e-10];

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: u32 = 10;

/// Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
#[must_use]
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let p0 = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let p1 = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [
            (p1 >> 32) as u32 ^ counter[1] ^ key[0],
            p1 as u32,
            (p0 >> 32) as u32 ^ counter[3] ^ key[1],
            p0 as u32,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// The four random words of tokens `4 * quad .. 4 * quad + 4` in draw `draw` of a seed.
#[must_use]
pub fn random_words(seed: u64, draw: u64, quad: u32) -> [u32; 4] {
    let halves = |v: u64| [v as u32, (v >> 32) as u32];
    let [low, high] = halves(draw);
    philox4x32([quad, low, high, 0], halves(seed))
}

/// The words of `N` quads from `quad` on, quads next to each other: `[i][q]` is word `i` of quad `q`.
#[must_use]
#[allow(
    clippy::needless_range_loop,
    reason = "a lane is an index of four arrays at once"
)]
pub fn random_line<const N: usize>(seed: u64, draw: u64, quad: u32) -> [[u32; N]; 4] {
    let mut counter = [[0; N]; 4];
    for q in 0..N {
        counter[0][q] = quad + q as u32;
        (counter[1][q], counter[2][q]) = (draw as u32, (draw >> 32) as u32);
    }
    let mut key = [seed as u32, (seed >> 32) as u32];
    for _ in 0..ROUNDS {
        // Lane by lane, so that the compiler can take many at once.
        for q in 0..N {
            let p0 = u64::from(MULTIPLIERS[0]) * u64::from(counter[0][q]);
            let p1 = u64::from(MULTIPLIERS[1]) * u64::from(counter[2][q]);
            counter[0][q] = (p1 >> 32) as u32 ^ counter[1][q] ^ key[0];
            counter[1][q] = p1 as u32;
            counter[2][q] = (p0 >> 32) as u32 ^ counter[3][q] ^ key[1];
            counter[3][q] = p0 as u32;
        }
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// A logit's distance below the largest one, in integer steps of `2^-24`; all that the filters
/// look at. Distances of 256 and more are one, and so are NaN and minus infinity.
#[inline]
#[must_use]
pub fn depth(below: f32) -> u32 {
    (below * DEPTH_SCALE) as u32
}

/// A token's probability mass at temperature 1, `e^-below` in steps of `2^-31`: an integer, so that
/// sums do not depend on their order.
#[inline]
#[must_use]
pub fn mass(below: f32) -> u32 {
    let x = -below.min(NO_MASS);
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = x - n * LN_2[0] - n * LN_2[1];
    let e = r * r * horner(&EXP, r) + r + 1.0;
    let power = rounded
        .to_bits()
        .wrapping_sub(ROUND.to_bits())
        .wrapping_add(127 + MASS_BITS);
    (e * f32::from_bits(power << 23)) as u32
}

/// The standard Gumbel variate of a random word, `-ln(-ln(1 - v))` with `v = (word + 1/2) / 2^32`:
/// never infinite, and finest where it is large, since large ones decide.
#[inline]
#[must_use]
pub fn gumbel(word: u32) -> f32 {
    let v = word as f32 * UNIT[0] + UNIT[1];
    let (exponent, f) = split(!word as f32 * UNIT[0] + UNIT[1]);
    // Near 1 the number itself has lost what its distance to 1 still has.
    let f = if exponent == 0.0 { -v } else { f };
    let exponential = -ln(exponent, f);
    let (exponent, f) = split(exponential);
    -ln(exponent, f)
}

/// What the argmax over tokens is taken of: `-below / temperature + gumbel(word)`.
#[inline]
#[must_use]
pub fn score(below: f32, inv_temperature: f32, word: u32) -> f32 {
    gumbel(word) - below * inv_temperature
}

/// `x = 2^exponent * (1 + f)`.
#[inline]
fn split(x: f32) -> (f32, f32) {
    let bits = x.to_bits();
    let exponent = bits.wrapping_sub(SQRT_HALF) as i32 >> 23;
    let mantissa = f32::from_bits(bits.wrapping_sub((exponent as u32) << 23));
    (exponent as f32, mantissa - 1.0)
}

#[inline]
fn ln(exponent: f32, f: f32) -> f32 {
    exponent * std::f32::consts::LN_2 + (f * f * horner(&LN_1P, f) + f)
}

#[inline]
fn horner(coefficients: &[f32], x: f32) -> f32 {
    let mut terms = coefficients.iter().rev();
    let last = terms.next().copied().unwrap_or(0.0);
    terms.fold(last, |sum, c| sum * x + c)
}

/// The functions of this file, written into a kernel.
pub(super) mod emit {
    use super::*;

    fn halves<'k>(k: &'k Builder, a: Val<'k, u32>, by: u32) -> [Val<'k, u32>; 2] {
        let wide = Opcode::MulWide { ty: Ty::U32 };
        let product = k.inst(wide, &[Ty::U64], &[a.operand(), by.imm().into()]);
        let words = k.inst(Opcode::Unpack2x32, &[Ty::U32; 2], &[product[0].into()]);
        [k.from_reg(words[0]), k.from_reg(words[1])]
    }

    /// The key of each round of [`philox4x32`].
    pub(crate) type RoundKeys<'k> = [[Val<'k, u32>; 2]; ROUNDS as usize];

    /// Computes the keys of all rounds, which do not depend on the counter.
    pub(crate) fn round_keys(key: [Val<'_, u32>; 2]) -> RoundKeys<'_> {
        std::array::from_fn(|r| [0, 1].map(|i| key[i] + WEYL[i].wrapping_mul(r as u32)))
    }

    /// [`super::philox4x32`].
    pub(crate) fn philox4x32<'k>(
        k: &'k Builder,
        mut counter: [Val<'k, u32>; 4],
        keys: &RoundKeys<'k>,
    ) -> [Val<'k, u32>; 4] {
        for key in keys {
            let [low0, high0] = halves(k, counter[0], MULTIPLIERS[0]);
            let [low1, high1] = halves(k, counter[2], MULTIPLIERS[1]);
            counter = [
                high1 ^ counter[1] ^ key[0],
                low1,
                high0 ^ counter[3] ^ key[1],
                low0,
            ];
        }
        counter
    }

    /// [`super::depth`].
    pub(crate) fn depth(below: Val<'_, f32>) -> Val<'_, u32> {
        (below * DEPTH_SCALE).cast()
    }

    /// [`super::mass`].
    pub(crate) fn mass<'k>(k: &'k Builder, below: Val<'k, f32>) -> Val<'k, u32> {
        let x = -below.min(NO_MASS);
        let rounded = x * std::f32::consts::LOG2_E + ROUND;
        let n = rounded - ROUND;
        let r = x - n * LN_2[0] - n * LN_2[1];
        let e = r * r * horner(k, &EXP, r) + r + 1.0;
        let power = rounded.bitcast::<u32>() - ROUND.to_bits() + (127 + MASS_BITS);
        (e * (power << 23u32).bitcast::<f32>()).cast()
    }

    /// [`super::gumbel`].
    pub(crate) fn gumbel<'k>(k: &'k Builder, word: Val<'k, u32>) -> Val<'k, f32> {
        let v = word.cast::<f32>() * UNIT[0] + UNIT[1];
        let (exponent, f) = split((!word).cast::<f32>() * UNIT[0] + UNIT[1]);
        let f = k.select(exponent.eq(0.0), -v, f);
        let (exponent, f) = split(-ln(k, exponent, f));
        -ln(k, exponent, f)
    }

    fn split(x: Val<'_, f32>) -> (Val<'_, f32>, Val<'_, f32>) {
        let bits = x.bitcast::<u32>();
        let exponent = (bits - SQRT_HALF).as_i32() >> 23u32;
        let mantissa = (bits - (exponent.bitcast::<u32>() << 23u32)).bitcast::<f32>();
        (exponent.cast(), mantissa - 1.0)
    }

    fn ln<'k>(k: &'k Builder, exponent: Val<'k, f32>, f: Val<'k, f32>) -> Val<'k, f32> {
        exponent * std::f32::consts::LN_2 + (f * f * horner(k, &LN_1P, f) + f)
    }

    fn horner<'k, T: Float>(k: &'k Builder, coefficients: &[T], x: Val<'k, T>) -> Val<'k, T> {
        let mut terms = coefficients.iter().rev();
        let last = terms.next().map(|c| k.constant(*c));
        let last = last.expect("a polynomial has coefficients");
        terms.fold(last, |sum, c| sum * x + *c)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_matches_the_published_vectors() {
        // Known-answer tests of the Random123 distribution.
        assert_eq!(
            philox4x32([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox4x32([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn lines_hold_the_words_of_their_quads() {
        let (seed, draw) = (0x0123_4567_89AB_CDEF, 0xFEDC_BA98_7654_3210);
        let line = random_line::<3>(seed, draw, 40);
        for (q, quad) in (40..43).enumerate() {
            let words = line.map(|word| word[q]);
            assert_eq!(words, random_words(seed, draw, quad));
        }
    }

    #[test]
    fn gumbels_are_logarithms_of_logarithms() {
        let edges = (0..32).flat_map(|i| [1u32 << i, u32::MAX >> i, !(1 << i)]);
        let words = edges.chain((0..1 << 16).map(|i| i * 65_537));
        for word in words.chain([0, 1 << 30, 0x4AFB_0CCC, 0x4AFB_0CCD, 0xA1D2_0C3B]) {
            let v = (f64::from(word) + 0.5) / 4_294_967_296.0;
            let exact = -(-(-v).ln_1p()).ln();
            let off = f64::from(gumbel(word)) - exact;
            assert!(
                off.abs() < 1e-6 + 2e-7 * exact.abs(),
                "{word:#x}: {off:e} off {exact}"
            );
            assert!(gumbel(word) < MOST_GUMBEL);
        }
    }

    #[test]
    fn masses_are_exponentials() {
        assert_eq!(mass(0.0), 1 << 31);
        assert_eq!((mass(f32::INFINITY), mass(22.0)), (0, 0));
        for i in 0..3000 {
            let below = i as f32 * 0.007;
            let exact = (-f64::from(below)).exp() * 2f64.powi(31);
            let off = f64::from(mass(below)) - exact;
            assert!(
                (-1.0 - 3e-7 * exact..=3e-7 * exact + 1e-9).contains(&off),
                "{below}: {off} off {exact}"
            );
        }
    }

    #[test]
    fn depths_order_logits_and_saturate() {
        assert_eq!(depth(0.0), 0);
        assert_eq!(depth(1.5), 3 << 23);
        assert_eq!(
            [300.0, f32::INFINITY].map(depth),
            [u32::MAX; 2],
            "beyond 256 all are one"
        );
    }
}
