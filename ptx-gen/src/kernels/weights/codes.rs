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
use super::unpack::{AND_OR, Group, Packet};
use crate::build::{Builder, F16x2, Val};
use crate::kernels::product::variant::Arithmetic;

/// 1024 twice: or-ed with an integer below 1024 gives 1024 plus it.
pub(super) const HALF_1024: u32 = 0x6400_6400;
/// 64 twice: or-ed with 16 times an integer below 64 gives 64 plus it.
const HALF_64: u32 = 0x5400_5400;

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
        let layout = format.layout();
        let integers = arithmetic == Arithmetic::Dp4a;
        let sums = layout.sums(arithmetic);
        Meeting {
            bytes: if integers { 1 } else { 2 },
            permuted: !integers && layout.permuted(),
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
pub(in crate::kernels) struct PackedRun<'k> {
    pub(in crate::kernels) codes: Codes<'k>,
    /// Absent where it is 1.
    pub(in crate::kernels) scale: Option<Val<'k, f32>>,
    /// Absent where it is 0.
    pub(in crate::kernels) offset: Option<Val<'k, f32>>,
}

impl<'k> PackedRun<'k> {
    /// Codes that are the weights.
    pub(super) fn plain(codes: Codes<'k>) -> PackedRun<'k> {
        PackedRun {
            codes,
            scale: None,
            offset: None,
        }
    }

    /// Codes times a scale.
    pub(super) fn scaled(codes: Codes<'k>, scale: Val<'k, f32>) -> PackedRun<'k> {
        PackedRun {
            codes,
            scale: Some(scale),
            offset: None,
        }
    }
}

/// Unpacks a packet that `lane` loaded, into the runs of [`Geometry::runs`].
pub(in crate::kernels) fn runs<'k>(
    k: &'k Builder,
    geometry: &Geometry,
    arithmetic: Arithmetic,
    lane: &Lane<'k>,
    packet: &Packet<'k>,
) -> Vec<PackedRun<'k>> {
    let group = Group {
        k,
        geometry,
        lane,
        packet,
    };
    geometry.format.layout().packed(&group, arithmetic)
}

/// A pair less a number.
pub(super) fn less<'k>(pair: Val<'k, u32>, by: f32) -> Val<'k, F16x2> {
    let minus = f16::from_f32(-by);
    pair.bitcast::<F16x2>() + F16x2(minus, minus)
}

impl<'k> Codes<'k> {
    /// The codes of both runs.
    pub(super) fn joined(both: [Codes<'k>; 2]) -> Codes<'k> {
        match both {
            [Codes::Bytes(a), Codes::Bytes(b)] => Codes::Bytes([a, b].concat()),
            [Codes::Halves(a), Codes::Halves(b)] => Codes::Halves([a, b].concat()),
            [first, _] => first,
        }
    }
}

/// The low (run 0) or high nibbles of the words' bytes: as they are, or as halves less 8.
pub(super) fn nibbles<'k>(words: &[Val<'k, u32>], run: u32, arithmetic: Arithmetic) -> Codes<'k> {
    if arithmetic == Arithmetic::Dp4a {
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
pub(super) fn fields<'k>(words: Vec<Val<'k, u32>>, bits: u32, arithmetic: Arithmetic) -> Codes<'k> {
    let mask = ((1 << bits) - 1) * 0x0001_0001;
    if arithmetic == Arithmetic::Dp4a {
        let bytes = words.iter().map(|w| *w & (mask * 0x101));
        return Codes::Bytes(bytes.collect());
    }
    let centre = (1 << (bits - 1)) as f32;
    let pair = |w: Val<'k, u32>| less(w.lop3(mask, HALF_1024, AND_OR), 1024.0 + centre);
    let pairs = words.iter().flat_map(|w| [pair(*w), pair(*w >> 8u32)]);
    Codes::Halves(pairs.collect())
}
