//! Weights as integers and pairs of halves, for products with narrow activations.
//!
//! [`super::unpack`] loads a lane's group of codes and turns it into f32; here the same packet
//! becomes what `dp4a` or `fma.f16x2` multiply. A run of neighbouring columns is
//! `scale * (code - centre) + offset'`, where `centre` is what a code is subtracted to lie around
//! zero and is taken off again through sums of activations where that is cheaper:
//!
//! | format | [`Arithmetic::Dp4a`]: code, sums count | [`Arithmetic::F16x2`]: code, sums count |
//! |---|---|---|
//! | F16 | | the weight |
//! | BF16 | | the weight, in f32 |
//! | Q8_0 | signed | signed |
//! | Q4_0 | 0..=15, -8 | -8..=7 |
//! | Q4_K | 0..=15, 1 (minima) | -8..=7, 8 (minima and centre) |
//! | Q5_K | 0..=31, 1 (minima) | -16..=15, 16 (minima and centre) |
//! | Q6_K | 0..=63, -32 | -32..=31 |
//!
//! All of that is exact: integers below 2048 are f16. Without the centre, sums of products with
//! codes that are all positive would lose bits to cancellation in f16.

use half::f16;

use super::WeightFormat;
use super::geometry::{Geometry, Lane};
use super::unpack::{Packet, bf16_unit, rotate_right};
use crate::build::{Builder, F16x2, Val};
use crate::kernels::product::variant::Arithmetic;

/// `(a & b) | c` as a function of three words.
const AND_OR: u8 = 0xEA;
/// Bits of `a` where `c` has ones, bits of `b` elsewhere.
const CHOOSE: u8 = 0xE4;
/// 1024 twice: or-ed with an integer below 1024 gives 1024 plus it.
const HALF_1024: u32 = 0x6400_6400;
/// 64 twice: or-ed with 16 times an integer below 64 gives 64 plus it.
const HALF_64: u32 = 0x5400_5400;
/// Exponent and leading one of `2^23`: or-ed with an integer below `2^23` gives `2^23 +` it.
const TWO_23: u32 = 0x4B00_0000;
/// Picks byte 0 of the low word and completes it to an f32 with bytes of [`TWO_23`].
const PICK: u32 = 0x7440;

/// How a format's columns meet an arithmetic.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::kernels) struct Meeting {
    /// Bytes of an activation: 1 or 2.
    pub(in crate::kernels) bytes: u32,
    /// Whether halves of four columns come in the order 0, 2, 1, 3.
    pub(in crate::kernels) permuted: bool,
    /// By what sums of activations over a run are multiplied when they are made; absent where
    /// nobody wants them.
    pub(in crate::kernels) sums: Option<f32>,
    /// Whether such a sum is added to the product of codes and activations.
    pub(in crate::kernels) centred: bool,
}

impl Meeting {
    /// The meeting of `format` with [`Arithmetic::F16x2`] or [`Arithmetic::Dp4a`].
    pub(in crate::kernels) fn new(format: WeightFormat, arithmetic: Arithmetic) -> Meeting {
        use WeightFormat::{Q4_0, Q4K, Q5K, Q6K};
        let integers = arithmetic == Arithmetic::Dp4a;
        let sums = match (format, integers) {
            (Q4K | Q5K, true) => Some(1.0),
            (Q4K, false) => Some(8.0),
            (Q5K, false) => Some(16.0),
            (Q4_0, true) => Some(-8.0),
            (Q6K, true) => Some(-32.0),
            _ => None,
        };
        Meeting {
            bytes: if integers { 1 } else { 2 },
            permuted: !integers && matches!(format, Q4_0 | Q4K | Q5K | Q6K),
            sums,
            centred: sums.is_some_and(|factor| factor != 1.0),
        }
    }
}

/// Codes of neighbouring columns.
pub(in crate::kernels) enum Codes<'k> {
    /// Signed bytes, four columns a word.
    Bytes(Vec<Val<'k, u32>>),
    /// Two columns a word.
    Halves(Vec<Val<'k, F16x2>>),
    /// Weights as they are, by column.
    Floats(Vec<Val<'k, f32>>),
}

/// Weights of neighbouring columns: `scale * product + offset * sum`, where `product` has the sum
/// added if [`Meeting::centred`].
pub(in crate::kernels) struct Run<'k> {
    pub(in crate::kernels) codes: Codes<'k>,
    /// Absent where it is 1.
    pub(in crate::kernels) scale: Option<Val<'k, f32>>,
    /// Absent where it is 0.
    pub(in crate::kernels) offset: Option<Val<'k, f32>>,
}

/// Unpacks a packet that `lane` loaded, into the runs of [`Geometry::runs`].
pub(in crate::kernels) fn runs<'k>(
    k: &'k Builder,
    geometry: &Geometry,
    arithmetic: Arithmetic,
    lane: &Lane<'k>,
    packet: &Packet<'k>,
) -> Vec<Run<'k>> {
    // Codes, upper bits if they are apart, scales.
    let (w, n) = (&packet.words, geometry.width as usize / 4);
    let integers = arithmetic == Arithmetic::Dp4a;
    let d = || packet.halves[0].cast::<f32>();
    let plain = |codes| Run {
        codes,
        scale: None,
        offset: None,
    };
    let scaled = |codes, scale| Run {
        codes,
        scale: Some(scale),
        offset: None,
    };
    match geometry.format {
        // No variant names these formats with these arithmetics but F16 and BF16 as halves.
        WeightFormat::F32 | WeightFormat::F16 => {
            let pairs = w.iter().map(|w| w.bitcast::<F16x2>()).collect();
            vec![plain(Codes::Halves(pairs))]
        }
        WeightFormat::BF16 => {
            let columns = w.chunks(2).flat_map(bf16_unit).collect();
            vec![plain(Codes::Floats(columns))]
        }
        WeightFormat::Q8_0 if integers => vec![scaled(Codes::Bytes(w.clone()), d())],
        WeightFormat::Q8_0 => {
            let pair = |w: &Val<'k, u32>, pick: u32| {
                let excess = *w ^ 0x8080_8080;
                less(excess.prmt(HALF_1024, pick), 1024.0 + 128.0)
            };
            let pairs = w.iter().flat_map(|w| [pair(w, 0x5150), pair(w, 0x5352)]);
            vec![scaled(Codes::Halves(pairs.collect()), d())]
        }
        WeightFormat::Q4_0 => {
            let both = [0, 1].map(|run| nibbles(w, run, integers));
            match geometry.parts() {
                1 => vec![scaled(joined(both), d())],
                _ => both.map(|codes| scaled(codes, d())).into(),
            }
        }
        WeightFormat::Q4K => {
            let scales = scales_and_minima(k, lane, &w[n..], arithmetic, geometry.format);
            let run = |(run, (scale, offset))| Run {
                codes: nibbles(&w[..n], run, integers),
                scale: Some(scale),
                offset: Some(offset),
            };
            (0u32..).zip(scales).map(run).collect()
        }
        WeightFormat::Q5K => {
            let scales = scales_and_minima(k, lane, &w[2 * n..], arithmetic, geometry.format);
            // The fifth bits of chunk c's runs are bits 2c and 2c + 1 of the bytes; the first is
            // turned to bit 4, where it completes the code.
            let turn = lane.part(2, 4) * 2 + 28;
            let run = |(run, (scale, offset))| {
                let unit = |i: usize| {
                    let high = rotate_right(k, w[n + i], turn) >> run;
                    (w[i] >> (4 * run)).lop3(high, 0x0F0F_0F0F, CHOOSE)
                };
                Run {
                    codes: fields((0..n).map(unit).collect(), 5, integers),
                    scale: Some(scale),
                    offset: Some(offset),
                }
            };
            (0u32..).zip(scales).map(run).collect()
        }
        WeightFormat::Q6K => {
            let b = lane.part(2, 2);
            let run = |run: u32| {
                let unit = |i: usize| {
                    let high = match run {
                        0 => w[n + i] << (k.constant(4) - b * 2),
                        _ => w[n + i] >> (b * 2),
                    };
                    (w[i] >> (4 * run)).lop3(high, 0x0F0F_0F0F, CHOOSE)
                };
                let excess = w[2 * n + run as usize] ^ 0x8080_8080;
                let scale = excess.prmt(TWO_23, lane.part(1, 4) + PICK).bitcast::<f32>();
                let scale = (scale + -(8_388_608.0 + 128.0)) * d();
                let codes = fields((0..n).map(unit).collect(), 6, integers);
                scaled(codes, scale)
            };
            vec![run(0), run(1)]
        }
    }
}

/// A pair less a number.
fn less<'k>(pair: Val<'k, u32>, by: f32) -> Val<'k, F16x2> {
    let minus = f16::from_f32(-by);
    pair.bitcast::<F16x2>() + F16x2(minus, minus)
}

/// The codes of both runs.
fn joined<'k>(both: [Codes<'k>; 2]) -> Codes<'k> {
    match both {
        [Codes::Bytes(a), Codes::Bytes(b)] => Codes::Bytes([a, b].concat()),
        [Codes::Halves(a), Codes::Halves(b)] => Codes::Halves([a, b].concat()),
        [first, _] => first,
    }
}

/// The low (run 0) or high nibbles of the words' bytes: as they are, or as halves less 8.
fn nibbles<'k>(words: &[Val<'k, u32>], run: u32, integers: bool) -> Codes<'k> {
    if integers {
        let bytes = |w: &Val<'k, u32>| (*w >> (4 * run)) & 0x0F0F_0F0F;
        return Codes::Bytes(words.iter().map(bytes).collect());
    }
    let pair = |w: Val<'k, u32>| match run {
        0 => less(w.lop3(0x000F_000Fu32, HALF_1024, AND_OR), 1024.0 + 8.0),
        _ => less(w.lop3(0x00F0_00F0u32, HALF_64, AND_OR), 64.0 + 8.0),
    };
    let pairs = words.iter().flat_map(|w| [pair(*w), pair(*w >> 8u32)]);
    Codes::Halves(pairs.collect())
}

/// The low `bits` bits of the words' bytes: as they are, or as halves less half their range.
fn fields<'k>(words: Vec<Val<'k, u32>>, bits: u32, integers: bool) -> Codes<'k> {
    let mask = ((1 << bits) - 1) * 0x0001_0001;
    if integers {
        let bytes = words.iter().map(|w| *w & (mask * 0x101));
        return Codes::Bytes(bytes.collect());
    }
    let centre = (1 << (bits - 1)) as f32;
    let pair = |w: Val<'k, u32>| less(w.lop3(mask, HALF_1024, AND_OR), 1024.0 + centre);
    let pairs = words.iter().flat_map(|w| [pair(*w), pair(*w >> 8u32)]);
    Codes::Halves(pairs.collect())
}

/// `d * scale` and `-dmin * min` (over what sums count) of the two runs of the lane's group, from
/// the 16 bytes of scales of a Q4_K or Q5_K block, whose layout [`super::unpack`] describes. The
/// four numbers are brought together as the bytes of one word.
fn scales_and_minima<'k>(
    k: &'k Builder,
    lane: &Lane<'k>,
    words: &[Val<'k, u32>],
    arithmetic: Arithmetic,
    format: WeightFormat,
) -> [(Val<'k, f32>, Val<'k, f32>); 2] {
    let pick = lane.part(2, 2) * 0x2222 + 0x5410;
    let six = words[1].prmt(words[2], pick);
    let four = words[3].prmt(words[3] >> 4u32, pick);
    let upper = lane.upper();
    let shift = k.select(upper, 2u32, 0u32);
    let own = k.select(upper, 0x3030_3030u32, 0x3F3F_3F3Fu32);
    let shared = k.select(upper, 0x0F0F_0F0Fu32, 0u32);
    let all = four.lop3(shared, (six >> shift) & own, AND_OR);
    let integer = |i: u32| all.prmt(TWO_23, PICK + i).bitcast::<f32>() + -8_388_608.0;
    let [d, dmin] = words[0].unpack_f16();
    let (d, dmin) = (d.cast::<f32>(), dmin.cast::<f32>());
    let count = Meeting::new(format, arithmetic).sums.unwrap_or(1.0);
    let minus_dmin = dmin * (-1.0 / count);
    [0, 1].map(|run| (integer(run) * d, integer(2 + run) * minus_dmin))
}
