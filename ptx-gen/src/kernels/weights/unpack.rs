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
use super::planes;
use crate::build::{Builder, Ptr, Val};
use crate::op::Opcode;

/// `(a & b) | c` as a function of three words.
pub(super) const AND_OR: u8 = 0xEA;
/// Bits of `a` where `c` has ones, bits of `b` elsewhere.
pub(super) const CHOOSE: u8 = 0xE4;
/// Exponent and leading one of `2^23`: or-ed with an integer below `2^23` gives `2^23 +` it.
pub(super) const TWO_23: u32 = 0x4B00_0000;
/// Picks byte 0 of the low word and completes it to an f32 with bytes of [`TWO_23`].
pub(super) const PICK: u32 = 0x7440;

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

impl<'k> Run<'k> {
    /// Codes that are the weights.
    pub(super) fn plain(units: Vec<[Val<'k, f32>; 4]>) -> Run<'k> {
        Run {
            units,
            scale: None,
            offset: None,
        }
    }
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
        let loads = GroupLoads {
            row: self,
            lane,
            step,
            clamped: clamp.then_some(block),
        };
        let mut packet = Packet {
            words: loads.group(0, word),
            halves: Vec::new(),
        };
        geometry.format.layout().load(&loads, &mut packet);
        packet
    }

    /// Unpacks run `run` of a packet that `lane` loaded.
    pub(in crate::kernels) fn run(
        &self,
        lane: &Lane<'k>,
        packet: &Packet<'k>,
        run: usize,
    ) -> Run<'k> {
        let group = Group {
            k: self.k,
            geometry: &self.geometry,
            lane,
            packet,
        };
        self.geometry.format.layout().run(&group, run)
    }
}

/// A step of a row, from which a lane loads what belongs to its group.
pub(in crate::kernels) struct GroupLoads<'r, 'k> {
    row: &'r Row<'k>,
    pub(super) lane: &'r Lane<'k>,
    step: Val<'k, u32>,
    /// The lane's block, where it is bounded.
    clamped: Option<Val<'k, u32>>,
}

impl<'k> GroupLoads<'_, 'k> {
    /// A plane of the row.
    pub(super) fn plane(&self, plane: usize) -> Ptr<'k, u32> {
        self.row.planes[plane]
    }

    /// A group's words of a plane, from word `word` on.
    pub(super) fn group(&self, plane: usize, word: Val<'k, u32>) -> Vec<Val<'k, u32>> {
        match self.row.geometry.width / 4 {
            4 => self.plane(plane).load_vec4(word).to_vec(),
            2 => self.plane(plane).load_vec::<2>(word).to_vec(),
            _ => vec![self.plane(plane).load(word)],
        }
    }

    /// Where the lane's block has its part of a plane with `stride` of them a block, `lane_part`
    /// further on. It is written from the lane's part and the step's, so that constant steps become
    /// offsets of addresses.
    pub(super) fn at(&self, stride: u32, lane_part: Val<'k, u32>) -> Val<'k, u32> {
        let geometry = &self.row.geometry;
        match self.clamped {
            Some(block) => block * stride + lane_part,
            None => {
                let blocks = geometry.lanes / geometry.groups_per_block();
                (self.lane.block * stride + lane_part) + self.step * (blocks * stride)
            }
        }
    }

    /// The block's f16 in a plane of one each.
    pub(super) fn half(&self, plane: usize) -> Val<'k, f16> {
        let zero = self.row.k.constant(0u32);
        self.plane(plane).cast::<f16>().load(self.at(1, zero))
    }

    /// The block's 16 bytes in a plane of as many each.
    pub(super) fn scales(&self, plane: usize) -> [Val<'k, u32>; 4] {
        let zero = self.row.k.constant(0u32);
        self.plane(plane).load_vec4(self.at(4, zero))
    }
}

/// A group that a lane has loaded.
pub(in crate::kernels) struct Group<'g, 'k> {
    pub(super) k: &'k Builder,
    pub(super) geometry: &'g Geometry,
    pub(super) lane: &'g Lane<'k>,
    pub(super) packet: &'g Packet<'k>,
}

impl<'k> Group<'_, 'k> {
    /// Words of codes (or of their low bits), which come first.
    pub(super) fn words(&self) -> usize {
        self.geometry.width as usize / 4
    }

    /// The f16 that was loaded with them.
    pub(super) fn half(&self) -> Val<'k, f32> {
        self.packet.halves[0].cast::<f32>()
    }
}

/// Two words of f16.
pub(super) fn f16_unit<'k>(words: &[Val<'k, u32>]) -> [Val<'k, f32>; 4] {
    let [a, b] = words[0].unpack_f16();
    let [c, d] = words[1].unpack_f16();
    [a, b, c, d].map(|h| h.cast::<f32>())
}

/// Two words of bf16: the upper halves of f32.
pub(super) fn bf16_unit<'k>(words: &[Val<'k, u32>]) -> [Val<'k, f32>; 4] {
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
pub(super) fn nibbles(word: Val<'_, u32>, high: bool, bias: f32) -> [Val<'_, f32>; 4] {
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
pub(super) fn fields(word: Val<'_, u32>, bits: u32, bias: f32) -> [Val<'_, f32>; 4] {
    let upper = word >> 8u32;
    [
        field(word, 0, bits, bias),
        field(word, 8, bits, bias),
        field(word, 16, bits, bias),
        field(upper, 16, bits, bias),
    ]
}

/// The signed bytes of a word.
pub(super) fn signed_bytes(word: Val<'_, u32>) -> [Val<'_, f32>; 4] {
    let excess = word ^ 0x8080_8080;
    std::array::from_fn(|i| {
        let value = excess.prmt(TWO_23, PICK + i as u32).bitcast::<f32>();
        value + -(8_388_608.0 + 128.0)
    })
}

/// The word's bits turned right by `by` modulo 32.
pub(super) fn rotate_right<'k>(
    k: &'k Builder,
    word: Val<'k, u32>,
    by: Val<'k, u32>,
) -> Val<'k, u32> {
    let op = Opcode::Shf { left: false };
    let word = word.operand();
    let r = k.inst(op, &[crate::ir::Ty::U32], &[word, word, by.operand()]);
    k.from_reg(r[0])
}
