//! Matrix products: fragments of every magnitude, and how far a tensor core may be from the exact sum.
//!
//! PTX fixes neither the order nor the precision of the accumulation of floats. Hardware aligns the products and the
//! addend to the largest of them and cuts off what lies below a fixed number of bits (Fasi, Higham, Mikaitis and
//! Pranesh, "Numerical behavior of NVIDIA tensor cores", 2021). With at least single precision's 24 bits in that sum
//! each of the K + 1 terms loses less than 2^-23 of the largest, and so the result is within
//! `(K + 1) 2^-23 (sum |a b| + |c|)` of the exact one. Integer products are exact.

use super::inputs::{Random, float_bits};
use super::scalar::{lanewise, signature};
use super::{Case, Rule};
use crate::ir::Ty;
use crate::op::{Mma, Opcode};
use crate::target::Target;

const TILES: usize = 256;

/// Element type, elements a register, K.
fn shape(mma: Mma) -> (Ty, usize, usize) {
    match mma {
        Mma::M16n8k16F16 => (Ty::F16, 2, 16),
        Mma::M16n8k16Bf16 => (Ty::Bf16, 2, 16),
        Mma::M16n8k8F16 => (Ty::F16, 2, 8),
        Mma::M16n8k8Tf32 => (Ty::F32, 1, 8),
        Mma::M16n8k32Int8 { .. } => (Ty::I8, 4, 32),
        Mma::M8n8k16Int8 { .. } => (Ty::I8, 4, 16),
    }
}

/// `mma.sync` on tiles of every kind.
pub(super) fn mma(mma: Mma, op: Opcode, target: Target) -> Case {
    let mut random = Random::new(&format!("{op:?}"));
    let signature = signature(op, target);
    let (element, per, k) = shape(mma);
    let (a, b, c) = mma.fragments();
    let mut tuples = Vec::new();
    for tile in 0..TILES {
        for _ in 0..32 {
            let factor = |n: usize| n < a + b;
            let tuple = (0..a + b + c).map(|n| match (element, factor(n)) {
                (Ty::I8, _) => bytes(tile, factor(n), &mut random),
                (ty, true) => (0..per).fold(0, |word, j| {
                    word | float(ty, tile, true, &mut random) << (32 / per * j)
                }),
                (_, false) => float(Ty::F32, tile, false, &mut random),
            });
            tuples.push(tuple.collect::<Vec<u64>>());
        }
    }
    let mut case = lanewise(op, target, &signature, &tuples, None);
    if element == Ty::I8 {
        case.coverage = format!("{TILES} tiles: any bytes, extremes, sums that wrap");
        return case;
    }
    case.coverage =
        format!("{TILES} tiles: even, wide and tiny magnitudes, whole numbers, NaN and infinity");
    let tile = Tile {
        ty: element,
        per,
        k,
        registers: [a, b, c],
    };
    case.rule = Rule::Bounded {
        bounds: tuples
            .chunks_exact(32)
            .flat_map(|found| bounds(found, &tile))
            .collect(),
        what: "(K + 1) 2^-23 (sum abs(a b) + abs(c))",
    };
    case
}

/// A word of four bytes, or an accumulator.
fn bytes(tile: usize, factor: bool, random: &mut Random) -> u64 {
    let word = random.next() & 0xffff_ffff;
    match (tile % 4, factor) {
        (0, true) => [0x8080_8080, 0x7f7f_7f7f, 0xffff_ffff, 0][random.below(4) as usize],
        (1, false) => [0x7fff_ffff, 0x8000_0000, 0x7fff_ff00][random.below(3) as usize],
        _ => word,
    }
}

/// An element by kind of tile.
fn float(ty: Ty, tile: usize, factor: bool, random: &mut Random) -> u64 {
    // Exponents that neither overflow half precision nor a sum of products.
    let range = if ty == Ty::F16 { 12 } else { 40 };
    let x = match (tile % 5, factor) {
        (0, _) => random.unit(),
        (1, _) => random.moderate(range),
        // Subnormal factors; addends of the products' size.
        (2, true) if random.below(2) == 0 => {
            let smallest = if ty == Ty::F16 { -18 } else { -130 };
            random.unit() * 2f64.powi(smallest)
        }
        (2, _) => random.unit() * 2f64.powi(-14),
        (3, _) => random.below(33) as f64 - 16.0,
        _ => match random.below(400) {
            0 => f64::INFINITY,
            1 => f64::NEG_INFINITY,
            2 => f64::NAN,
            _ => random.unit(),
        },
    };
    float_bits(ty, x)
}

fn number(ty: Ty, bits: u64) -> f64 {
    match ty {
        Ty::F16 => f64::from(half::f16::from_bits(bits as u16).to_f32()),
        Ty::Bf16 => f64::from(half::bf16::from_bits(bits as u16).to_f32()),
        _ => f64::from(f32::from_bits(bits as u32)),
    }
}

/// What a tile's products are of.
struct Tile {
    /// Elements of the factors, those in a register, and those that are summed.
    ty: Ty,
    per: usize,
    k: usize,
    /// Registers of A, B and C.
    registers: [usize; 3],
}

/// The bound of every accumulator of a tile, by lane and register, from the layouts that [`Mma`] states.
fn bounds(tile: &[Vec<u64>], shape: &Tile) -> Vec<f64> {
    let Tile {
        ty,
        per,
        k,
        registers: [a, b, c],
    } = *shape;
    let mut left = vec![[0.0; 32]; 16];
    let mut right = vec![[0.0; 8]; 32];
    let element = |word: u64, j: usize| {
        let width = 32 / per;
        let bits = word >> (width * j) & (u64::MAX >> (64 - width));
        number(ty, bits).abs()
    };
    for (lane, tuple) in tile.iter().enumerate() {
        let (g, t) = (lane / 4, lane % 4);
        for j in 0..per {
            for r in 0..a {
                left[g + 8 * (r % 2)][per * t + j + 4 * per * (r / 2)] = element(tuple[r], j);
            }
            for r in 0..b {
                right[per * t + j + 4 * per * r][g] = element(tuple[a + r], j);
            }
        }
    }
    let mut out = Vec::new();
    for (lane, tuple) in tile.iter().enumerate() {
        for r in 0..c {
            let (row, column) = (lane / 4 + 8 * (r / 2), 2 * (lane % 4) + r % 2);
            let products: f64 = (0..k).map(|i| left[row][i] * right[i][column]).sum();
            let addend = number(Ty::F32, tuple[a + b + r]).abs();
            let sum = products + addend;
            // The last term is the rounding of a subnormal result.
            out.push((k as f64 + 1.0) * f64::exp2(-23.0) * sum + f64::exp2(-149.0));
        }
    }
    out
}
