//! Operand values: what is special about each type, and what is not.
//!
//! Values are bit patterns in the low bits of a u64. Everything is drawn from seeds, so equal forms get equal inputs
//! on every machine.

use half::{bf16, f16};

use crate::ir::Ty;

/// A splitmix64 stream.
pub(super) struct Random(u64);

impl Random {
    /// A stream that depends on the text alone.
    pub(super) fn new(seed: &str) -> Random {
        // FNV-1a.
        let hash = seed.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
        });
        Random(hash)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    /// Uniform in [-1, 1).
    pub(super) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    /// A number of either sign with an exponent in `-range ..= range`.
    pub(super) fn moderate(&mut self, range: i32) -> f64 {
        let exponent = self.below(2 * range as u64 + 1) as i32 - range;
        self.unit() * 2f64.powi(exponent)
    }
}

/// The low bits that a type has.
pub(super) fn mask(ty: Ty) -> u64 {
    u64::MAX >> (64 - ty.bits())
}

/// A number in a float type.
pub(super) fn float_bits(ty: Ty, x: f64) -> u64 {
    match ty {
        Ty::F16 => u64::from(f16::from_f64(x).to_bits()),
        Ty::Bf16 => u64::from(bf16::from_f64(x).to_bits()),
        Ty::F32 => u64::from((x as f32).to_bits()),
        _ => x.to_bits(),
    }
}

/// Exponent and fraction bits.
fn format(ty: Ty) -> (u32, u32) {
    match ty {
        Ty::F16 => (5, 10),
        Ty::Bf16 => (8, 7),
        Ty::F32 => (8, 23),
        _ => (11, 52),
    }
}

/// Numbers at which something changes: ties, bounds of the integer types, arguments of ex2 that overflow or vanish,
/// multiples of pi.
const NUMBERS: &[f64] = &[
    0.5,
    1.0,
    1.5,
    2.0,
    2.5,
    3.5,
    0.1,
    0.75,
    3.0,
    10.0,
    100.25,
    126.0,
    127.0,
    127.5,
    127.99,
    128.0,
    128.5,
    129.0,
    149.0,
    149.5,
    150.0,
    151.0,
    255.0,
    255.5,
    256.0,
    2048.0,
    2049.0,
    32767.0,
    32767.5,
    32768.0,
    65504.0,
    65519.0,
    65520.0,
    65535.0,
    65535.5,
    65536.0,
    16_777_215.0,
    16_777_217.0,
    2_147_483_647.0,
    2_147_483_648.0,
    4_294_967_295.0,
    4_294_967_296.0,
    9.223_372_036_854_775e18,
    9.223_372_036_854_776e18,
    1.844_674_407_370_955e19,
    1.844_674_407_370_955_2e19,
    1e-8,
    6e-8,
    1e30,
    core::f64::consts::FRAC_PI_2,
    core::f64::consts::PI,
    core::f64::consts::TAU,
];

/// Values of a type that instructions treat specially.
pub(super) fn specials(ty: Ty) -> Vec<u64> {
    match ty {
        Ty::Pred => vec![0, 1],
        Ty::F16x2 | Ty::Bf16x2 => {
            let half = specials(if ty == Ty::F16x2 { Ty::F16 } else { Ty::Bf16 });
            let n = half.len();
            (0..n)
                .map(|i| half[i] | half[(i * 7 + 3) % n] << 16)
                .collect()
        }
        ty if ty.is_float() => {
            let (exponent, fraction) = format(ty);
            let inf = ((1u64 << exponent) - 1) << fraction;
            let quiet = 1u64 << (fraction - 1);
            // Zero, subnormals, the smallest normal numbers, the largest, infinity, NaNs quiet and signalling.
            let mut bits = vec![
                0,
                1,
                2,
                (1 << fraction) - 1,
                1 << fraction,
                (1 << fraction) + 1,
                inf - 1,
                inf,
                inf | quiet,
                inf | quiet | 1,
                inf | 1,
                inf | (quiet - 1),
                inf | quiet | (quiet - 1),
            ];
            let one = float_bits(ty, 1.0);
            bits.extend([one - 1, one + 1]);
            bits.extend(NUMBERS.iter().map(|x| float_bits(ty, *x)));
            let sign = 1 << (ty.bits() - 1);
            bits.extend(bits.clone().iter().map(|b| b | sign));
            dedup(bits)
        }
        ty => {
            let mut bits = vec![
                0x5555_5555_5555_5555,
                0xaaaa_aaaa_aaaa_aaaa,
                0x0123_4567_89ab_cdef,
            ];
            for n in [
                0u64, 1, 2, 3, 5, 7, 8, 15, 16, 24, 31, 32, 33, 63, 64, 65, 100, 0x1f00, 0x1c1f,
            ] {
                bits.extend([n, n.wrapping_neg()]);
            }
            for width in [7, 8, 15, 16, 31, 32, 63] {
                let bound = 1u64 << width;
                bits.extend([bound - 1, bound, bound + 1]);
                bits.extend([bound - 1, bound, bound + 1].map(u64::wrapping_neg));
            }
            dedup(bits.into_iter().map(|b| b & mask(ty)).collect())
        }
    }
}

fn dedup(mut bits: Vec<u64>) -> Vec<u64> {
    bits.sort_unstable();
    bits.dedup();
    bits
}

/// A value of a type: special, any bits at all, or a number of everyday size.
pub(super) fn value(ty: Ty, specials: &[u64], random: &mut Random) -> u64 {
    match random.below(3) {
        0 => specials[random.below(specials.len() as u64) as usize],
        1 => random.next() & mask(ty),
        _ => match ty {
            Ty::F16x2 | Ty::Bf16x2 => {
                let half = if ty == Ty::F16x2 { Ty::F16 } else { Ty::Bf16 };
                float_bits(half, random.moderate(8)) | float_bits(half, random.moderate(8)) << 16
            }
            ty if ty.is_float() => float_bits(ty, random.moderate(10)),
            ty => {
                let width = random.below(u64::from(ty.bits()));
                let small = random.next() >> (63 - width);
                (if random.below(2) == 0 {
                    small
                } else {
                    small.wrapping_neg()
                }) & mask(ty)
            }
        },
    }
}

/// Operand tuples that cover one to three source types, and words that say what they cover.
///
/// One source of up to 16 bits is covered whole; a wider one by its specials and by every value of its upper 16 bits
/// with random lower ones; two by all pairs of specials and random values; three by random and special values mixed.
pub(super) fn tuples(sources: &[Ty], random: &mut Random) -> (Vec<Vec<u64>>, String) {
    let lists: Vec<Vec<u64>> = sources.iter().map(|ty| specials(*ty)).collect();
    let mut out: Vec<Vec<u64>> = Vec::new();
    let what = match sources {
        [Ty::Pred] => {
            out.extend([vec![0], vec![1]]);
            "both".to_owned()
        }
        [ty] if ty.bits() <= 16 => {
            out.extend((0..1u64 << ty.bits()).map(|x| vec![x]));
            "every value".to_owned()
        }
        [ty] => {
            out.extend(lists[0].iter().map(|x| vec![*x]));
            let low = ty.bits() - 16;
            for high in 0..1u64 << 16 {
                out.push(vec![(high << low) | (random.next() & ((1 << low) - 1))]);
            }
            format!("{} special, all upper 16 bits", lists[0].len())
        }
        [_, _] => {
            for a in &lists[0] {
                out.extend(lists[1].iter().map(|b| vec![*a, *b]));
            }
            let pairs = out.len();
            mix(sources, &lists, (2 * pairs).max(8192), random, &mut out);
            format!("{pairs} special pairs, the rest mixed")
        }
        _ => {
            mix(sources, &lists, 16384, random, &mut out);
            "special and random mixed".to_owned()
        }
    };
    let n = out.len().next_multiple_of(256);
    mix(sources, &lists, n, random, &mut out);
    (out, what)
}

/// Fills `out` to `n` tuples.
fn mix(sources: &[Ty], lists: &[Vec<u64>], n: usize, random: &mut Random, out: &mut Vec<Vec<u64>>) {
    while out.len() < n {
        let pairs = sources.iter().zip(lists);
        out.push(pairs.map(|(ty, list)| value(*ty, list, random)).collect());
    }
}

/// The bytes of values in slots.
pub(super) fn slots(values: impl IntoIterator<Item = u64>) -> Vec<u8> {
    values.into_iter().flat_map(u64::to_le_bytes).collect()
}

/// Random bytes.
pub(super) fn bytes(n: usize, random: &mut Random) -> Vec<u8> {
    (0..n.div_ceil(8))
        .flat_map(|_| random.next().to_le_bytes())
        .take(n)
        .collect()
}
