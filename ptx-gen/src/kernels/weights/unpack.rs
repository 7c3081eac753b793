//! Rows of weights as lanes read them: 16, 8 or 4 bytes of codes at a time, unpacked to f32 exactly.
//!
//! Which columns a lane's groups and runs have is [`super::geometry`]'s to say.
//!
//! No conversion instruction touches a code. A field at bits `s..` of a word becomes the mantissa
//! of `2^(23 - s)`, whose last place above bit `s` counts ones, by one `lop3`; one subtraction
//! leaves the integer, offset included. So an integer code costs two instructions and fractions of
//! shifts, and is exact.

use half::f16;

use super::geometry::{Geometry, Lane};
use super::{WeightFormat, planes};
use crate::build::{Builder, Ptr, Val};
use crate::op::Op;

/// `(a & b) | c` as a function of three words.
const AND_OR: u8 = 0xEA;
/// Bits of `a` where `c` has ones, bits of `b` elsewhere.
const CHOOSE: u8 = 0xE4;
/// Exponent and leading one of `2^23`: or-ed with an integer below `2^23` gives `2^23 +` it.
const TWO_23: u32 = 0x4B00_0000;
/// Picks byte 0 of the low word and completes it to an f32 with bytes of [`TWO_23`].
const PICK: u32 = 0x7440;

/// One group and its scales, as loaded.
pub(in crate::kernels) struct Packet<'k> {
    pub(in crate::kernels) words: Vec<Val<'k, u32>>,
    pub(in crate::kernels) halves: Vec<Val<'k, f16>>,
}

/// Weights of neighbouring columns: `scale * code + offset`.
pub(in crate::kernels) struct Run<'k> {
    /// Codes as f32, by unit.
    pub(in crate::kernels) units: Vec<[Val<'k, f32>; 4]>,
    /// Absent where it is 1.
    pub(in crate::kernels) scale: Option<Val<'k, f32>>,
    /// Absent where it is 0.
    pub(in crate::kernels) offset: Option<Val<'k, f32>>,
}

/// A row of a matrix, read by some lanes together.
pub(in crate::kernels) struct Row<'k> {
    k: &'k Builder,
    geometry: Geometry,
    planes: Vec<Ptr<'k, u32>>,
}

impl<'k> Row<'k> {
    /// Row `row` (which exists) of the matrix at `matrix`.
    pub(in crate::kernels) fn new(
        k: &'k Builder,
        geometry: Geometry,
        matrix: Ptr<'k, u8>,
        row: Val<'k, u32>,
    ) -> Row<'k> {
        let Geometry {
            format, rows, cols, ..
        } = geometry;
        let planes = planes(format, rows, cols)
            .iter()
            .map(|plane| {
                let start = matrix.byte_offset(plane.offset);
                if plane.name == "d" {
                    // Lanes and steps share lines: these go through L1.
                    let d = start.cast::<f16>().read_only();
                    return d.offset(row * (plane.row_bytes / 2)).cast::<u32>();
                }
                let words = start.cast::<u32>().streaming();
                if plane.row_bytes % 4 == 0 {
                    words.offset(row * (plane.row_bytes / 4))
                } else {
                    words.cast::<u8>().offset(row * plane.row_bytes).cast()
                }
            })
            .collect();
        Row {
            k,
            geometry,
            planes,
        }
    }

    /// Loads the lane's group of a step. With `clamp`, a group past the row is replaced by the
    /// one in its place of the last block: activations past the row are zero.
    pub(in crate::kernels) fn load(
        &self,
        lane: &Lane<'k>,
        step: Val<'k, u32>,
        clamp: bool,
    ) -> Packet<'k> {
        let geometry = &self.geometry;
        let share = geometry.groups_per_block();
        let group_words = geometry.width / 4;
        let mut block = lane.block + step * (geometry.lanes / share);
        let word = if clamp {
            block = block.min(geometry.cols / (geometry.group() * share) - 1);
            block * (share * group_words) + lane.within * group_words
        } else {
            (lane.block * (share * group_words) + lane.within * group_words)
                + step * (geometry.lanes * group_words)
        };
        let group = |plane: usize, word: Val<'k, u32>| match group_words {
            4 => self.planes[plane].load_vec4(word).to_vec(),
            2 => self.planes[plane].load_vec::<2>(word).to_vec(),
            _ => vec![self.planes[plane].load(word)],
        };
        let mut words = group(0, word);
        let mut halves = Vec::new();
        // Everything below is written from the lane's part and the step's, so that constant
        // steps become offsets of addresses.
        let at = |stride: u32, lane_part: Val<'k, u32>| {
            if clamp {
                block * stride + lane_part
            } else {
                (lane.block * stride + lane_part) + step * (geometry.lanes / share * stride)
            }
        };
        let zero = self.k.constant(0u32);
        let half = |plane: usize| self.planes[plane].cast::<f16>().load(at(1, zero));
        match geometry.format {
            WeightFormat::F32 | WeightFormat::F16 | WeightFormat::BF16 => {}
            WeightFormat::Q8_0 | WeightFormat::Q4_0 => halves.push(half(1)),
            WeightFormat::Q4K => words.extend(self.planes[1].load_vec4(at(4, zero))),
            WeightFormat::Q5K => {
                words.extend(group(1, at(8, lane.word(2))));
                words.extend(self.planes[2].load_vec4(at(4, zero)));
            }
            WeightFormat::Q6K => {
                let high = lane.part(4, 2) * 8 + lane.word(2);
                words.extend(group(1, at(16, high)));
                words.extend(self.planes[2].load_vec::<2>(at(4, lane.part(4, 2) * 2)));
                halves.push(half(3));
            }
        }
        Packet { words, halves }
    }

    /// Unpacks run `run` of a packet that `lane` loaded.
    pub(in crate::kernels) fn run(
        &self,
        lane: &Lane<'k>,
        packet: &Packet<'k>,
        run: usize,
    ) -> Run<'k> {
        let k = self.k;
        // Codes, upper bits if they are apart, scales.
        let (w, n) = (&packet.words, self.geometry.width as usize / 4);
        let codes = &w[..n];
        let half = |i: usize| packet.halves[i].cast::<f32>();
        let plain = |units: Vec<[Val<'k, f32>; 4]>| Run {
            units,
            scale: None,
            offset: None,
        };
        match self.geometry.format {
            WeightFormat::F32 => plain(vec![std::array::from_fn(|i| w[i].bitcast())]),
            WeightFormat::F16 => plain(w.chunks(2).map(f16_unit).collect()),
            WeightFormat::BF16 => plain(w.chunks(2).map(bf16_unit).collect()),
            WeightFormat::Q8_0 => Run {
                units: w.iter().map(|w| signed_bytes(*w)).collect(),
                scale: Some(half(0)),
                offset: None,
            },
            WeightFormat::Q4_0 => Run {
                units: match self.geometry.parts() {
                    1 => (0..8).map(|u| nibbles(w[u % 4], u >= 4, 8.0)).collect(),
                    _ => codes.iter().map(|w| nibbles(*w, run == 1, 8.0)).collect(),
                },
                scale: Some(half(0)),
                offset: None,
            },
            WeightFormat::Q4K => {
                let (scale, offset) = scale_and_min(k, lane, &w[n..], run);
                Run {
                    units: codes.iter().map(|w| nibbles(*w, run == 1, 0.0)).collect(),
                    scale: Some(scale),
                    offset: Some(offset),
                }
            }
            WeightFormat::Q5K => {
                let (scale, offset) = scale_and_min(k, lane, &w[2 * n..], run);
                // The fifth bits of chunk c's runs are bits 2c and 2c + 1 of the bytes; the first
                // is turned to bit 4, where it completes the code.
                let turn = lane.part(2, 4) * 2 + 28;
                let unit = |i: usize| {
                    let (low, high) = (w[i] >> (4 * run as u32), w[n + i]);
                    let high = rotate_right(k, high, turn) >> run as u32;
                    fields(low.lop3(high, 0x0F0F_0F0F, CHOOSE), 5, 0.0)
                };
                Run {
                    units: (0..n).map(unit).collect(),
                    scale: Some(scale),
                    offset: Some(offset),
                }
            }
            WeightFormat::Q6K => {
                let b = lane.part(2, 2);
                let unit = |i: usize| {
                    let low = w[i] >> (4 * run as u32);
                    let high = match run {
                        0 => w[n + i] << (k.constant(4) - b * 2),
                        _ => w[n + i] >> (b * 2),
                    };
                    fields(low.lop3(high, 0x0F0F_0F0F, CHOOSE), 6, 32.0)
                };
                let scales = w[2 * n + run] ^ 0x8080_8080;
                let scale = scales.prmt(TWO_23, lane.part(1, 4) + PICK).bitcast::<f32>();
                let scale = scale + -(8_388_608.0 + 128.0);
                Run {
                    units: (0..n).map(unit).collect(),
                    scale: Some(scale * half(0)),
                    offset: None,
                }
            }
        }
    }
}

/// Two words of f16.
fn f16_unit<'k>(words: &[Val<'k, u32>]) -> [Val<'k, f32>; 4] {
    let [a, b] = words[0].unpack_f16();
    let [c, d] = words[1].unpack_f16();
    [a, b, c, d].map(|h| h.cast::<f32>())
}

/// Two words of bf16: the upper halves of f32.
pub(in crate::kernels) fn bf16_unit<'k>(words: &[Val<'k, u32>]) -> [Val<'k, f32>; 4] {
    let low = |w: Val<'k, u32>| (w << 16u32).bitcast::<f32>();
    let high = |w: Val<'k, u32>| (w & 0xFFFF_0000).bitcast::<f32>();
    [low(words[0]), high(words[0]), low(words[1]), high(words[1])]
}

/// The `bits` bits from bit `shift` of a word, less `bias`; the field ends below bit 23.
fn field(word: Val<'_, u32>, shift: u32, bits: u32, bias: f32) -> Val<'_, f32> {
    let mask = ((1 << bits) - 1) << shift;
    let exponent = (127 + 23 - shift) << 23;
    let value = word.lop3(mask, exponent, AND_OR).bitcast::<f32>();
    value + -(f32::from_bits(exponent) + bias)
}

/// The low (high) nibbles of a word's bytes, less `bias`.
fn nibbles(word: Val<'_, u32>, high: bool, bias: f32) -> [Val<'_, f32>; 4] {
    let upper = word >> 12u32;
    let at = |shift: u32| {
        if shift <= 16 {
            field(word, shift, 4, bias)
        } else {
            field(upper, shift - 12, 4, bias)
        }
    };
    std::array::from_fn(|i| at(8 * i as u32 + 4 * u32::from(high)))
}

/// The low `bits` (up to 6) bits of a word's bytes, less `bias`.
fn fields(word: Val<'_, u32>, bits: u32, bias: f32) -> [Val<'_, f32>; 4] {
    let upper = word >> 8u32;
    [
        field(word, 0, bits, bias),
        field(word, 8, bits, bias),
        field(word, 16, bits, bias),
        field(upper, 16, bits, bias),
    ]
}

/// The signed bytes of a word.
fn signed_bytes(word: Val<'_, u32>) -> [Val<'_, f32>; 4] {
    let excess = word ^ 0x8080_8080;
    std::array::from_fn(|i| {
        let value = excess.prmt(TWO_23, PICK + i as u32).bitcast::<f32>();
        value + -(8_388_608.0 + 128.0)
    })
}

/// `d * scale` and `-dmin * min` of run `run` of the lane's group, from the 16 bytes of scales of a
/// Q4_K or Q5_K block.
///
/// Sub-blocks 0..=3 have 6 bits in bytes 0..=3 (scales) and 4..=7 (minima) of the packed part;
/// 4..=7 have their low four bits in the nibbles of bytes 8..=11 and the upper two above the
/// others' six.
fn scale_and_min<'k>(
    k: &'k Builder,
    lane: &Lane<'k>,
    words: &[Val<'k, u32>],
    run: usize,
) -> (Val<'k, f32>, Val<'k, f32>) {
    let (scales, minima) = if lane.none_upper() {
        (words[1] & 0x3F3F_3F3F, words[2] & 0x3F3F_3F3F)
    } else {
        let upper = lane.upper();
        let shift = k.select(upper, 2u32, 0u32);
        let own = k.select(upper, 0x3030_3030u32, 0x3F3F_3F3Fu32);
        let shared = k.select(upper, 0x0F0F_0F0Fu32, 0u32);
        (
            words[3].lop3(shared, (words[1] >> shift) & own, AND_OR),
            (words[3] >> 4u32).lop3(shared, (words[2] >> shift) & own, AND_OR),
        )
    };
    let pick = lane.part(2, 2) * 2 + (PICK + run as u32);
    let integer = |w: Val<'k, u32>| w.prmt(TWO_23, pick).bitcast::<f32>() + -8_388_608.0;
    let [d, dmin] = words[0].unpack_f16();
    let offset = integer(minima) * -dmin.cast::<f32>();
    (integer(scales) * d.cast::<f32>(), offset)
}

/// The word's bits turned right by `by` modulo 32.
pub(in crate::kernels) fn rotate_right<'k>(
    k: &'k Builder,
    word: Val<'k, u32>,
    by: Val<'k, u32>,
) -> Val<'k, u32> {
    let op = Op::Shf { left: false };
    let word = word.operand();
    let r = k.inst(op, &[crate::ir::Ty::U32], &[word, word, by.operand()]);
    k.from_reg(r[0])
}
