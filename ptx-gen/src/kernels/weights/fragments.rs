//! Weights as the A fragments of tensor cores: read from device memory once, unpacked in registers.
//!
//! A lane reads 16-byte groups of codes of its rows, as [`super::unpack`] does, and the order of the
//! columns within a product does not matter as long as both operands agree on it. So the lane's
//! groups are its columns: four at a time (a *unit*, two words of f16) they are its share of one
//! 16-column product.
//!
//! A *block* is what a warp reads in a turn of the loop, in two halves that are written out: which
//! bits of a K-quant's scales belong to a half is then known while building. A lane's units of a
//! half, by their first columns from the start of the half (`t` is `lane % 4`); of runs, each
//! unit of the first is followed by that of the second:
//!
//! | format | columns of a half | units |
//! |---|---|---|
//! | Q4_K, Q5_K | 128 | `64 (t/2) + 16 (t%2) + 32 run + 4 i`, `run < 2`, `i < 4` |
//! | Q6_K | 128 | `32 (t/2) + 16 (t%2) + 64 run + 4 i` |
//! | Q4_0 | 128 | `32 t + 16 run + 4 i` |
//! | Q8_0 | 64 | `16 t + 4 i`, `i < 4` |
//! | F16, BF16 | 64 | `32 l + 8 t + 4 e`, `l < 2`, `e < 2` |
//! | F32 | 32 | `16 l + 4 t`, `l < 2` |
//!
//! Codes become f16 without a conversion: or-ed into the mantissa of 1024 (or of 1024 with 16 times
//! the code), less what they exceed. All of that is exact. Codes of nibbles come out in the order of
//! columns 0, 2, 1, 3 of a unit; activations are laid out to match ([`Format::permuted`](super::format::Format::permuted)).

use half::f16;

use super::codes::{HALF_1024, less};
use super::unpack::AND_OR;
use super::{WeightFormat, WeightShape, planes};
use crate::build::{Builder, F16x2, Ptr, Val, Var};
use crate::ir::Ty;
use crate::op::{Opcode, Shfl};

/// Picks a byte twice, each completed to an f16 with a byte of [`HALF_1024`]; to be added to the
/// byte's number times [`TWICE`].
pub(super) const PICK: u32 = 0x5050;
/// Picks two bytes, likewise completed.
pub(super) const BYTES_0_1: u32 = 0x5150;
pub(super) const BYTES_2_3: u32 = 0x5352;
/// A number in two nibbles of a selector.
pub(super) const TWICE: u32 = 0x0101;

/// Columns of a half of a block.
pub(in crate::kernels) fn half_columns(format: WeightFormat) -> u32 {
    format.layout().half_columns()
}

/// What was loaded of a row.
#[derive(Default)]
pub(in crate::kernels) struct Loaded<'k> {
    pub(super) words: Vec<Val<'k, u32>>,
    pub(super) halves: Vec<Val<'k, f16>>,
}

impl<'k> Loaded<'k> {
    pub(super) fn of_words(words: Vec<Val<'k, u32>>) -> Loaded<'k> {
        Loaded {
            words,
            halves: Vec::new(),
        }
    }
}

/// The same in variables, for the next turn of a loop.
pub(in crate::kernels) struct Held<'k> {
    words: Vec<Var<'k, u32>>,
    halves: Vec<Var<'k, f16>>,
}

impl<'k> Held<'k> {
    pub(in crate::kernels) fn new(k: &'k Builder, loaded: &Loaded<'k>) -> Held<'k> {
        Held {
            words: loaded.words.iter().map(|w| k.var(*w)).collect(),
            halves: loaded.halves.iter().map(|h| k.var(*h)).collect(),
        }
    }

    pub(in crate::kernels) fn get(&self) -> Loaded<'k> {
        Loaded {
            words: self.words.iter().map(|v| v.get()).collect(),
            halves: self.halves.iter().map(|v| v.get()).collect(),
        }
    }

    pub(in crate::kernels) fn set(&self, loaded: &Loaded<'k>) {
        self.words
            .iter()
            .zip(&loaded.words)
            .for_each(|(to, w)| to.set(*w));
        self.halves
            .iter()
            .zip(&loaded.halves)
            .for_each(|(to, h)| to.set(*h));
    }
}

/// What was loaded of half `half` of a row's block: its own, and what both halves need.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Half<'k, 'l> {
    pub(in crate::kernels) half: u32,
    pub(in crate::kernels) own: &'l Loaded<'k>,
    pub(in crate::kernels) common: &'l Loaded<'k>,
}

/// Columns that share a scale: a weight is `code * scale + offset`.
#[derive(Default)]
pub(in crate::kernels) struct FragmentRun<'k> {
    /// Absent where it is 1.
    pub(super) scale: Option<Val<'k, F16x2>>,
    /// Absent where it is 0.
    pub(super) offset: Option<Val<'k, F16x2>>,
}

impl<'k> FragmentRun<'k> {
    /// Codes times a scale.
    pub(super) fn scaled(scale: Val<'k, F16x2>) -> FragmentRun<'k> {
        FragmentRun {
            scale: Some(scale),
            offset: None,
        }
    }
}

/// Two pairs of columns.
pub(in crate::kernels) enum Pairs<'k> {
    /// Weights as they are.
    Weights([Val<'k, u32>; 2]),
    /// The terms of each pair.
    Split([[Val<'k, u32>; 2]; 2]),
    /// Codes, which have yet to meet their scale.
    Codes([Val<'k, F16x2>; 2]),
}

/// The matrix, as one lane reads it.
pub(in crate::kernels) struct Matrix<'k> {
    pub(super) k: &'k Builder,
    format: WeightFormat,
    pub(super) cols: u32,
    /// `lane % 4`.
    pub(super) t: Val<'k, u32>,
    /// The planes at the start of each row.
    rows: Vec<Vec<Ptr<'k, u32>>>,
}

impl<'k> Matrix<'k> {
    /// The rows (which exist) of the matrix at `w` that the lane reads.
    pub(in crate::kernels) fn new(
        k: &'k Builder,
        shape: WeightShape,
        w: Ptr<'k, u8>,
        own: &[Val<'k, u32>],
    ) -> Matrix<'k> {
        let WeightShape { format, rows, cols } = shape;
        let row = |r: &Val<'k, u32>| {
            let plane = |(i, plane): (usize, &super::WeightPlane)| {
                let start = w.byte_offset(plane.offset);
                if plane.row_bytes % 4 != 0 || plane.name == "d" {
                    let d = start.cast::<f16>().read_only();
                    return d.offset(*r * (plane.row_bytes / 2)).cast::<u32>();
                }
                // Lanes, and a block and the next one, share the lines of scales.
                let start = start.cast::<u32>();
                let start = if i == 0 {
                    start.streaming()
                } else {
                    start.read_only()
                };
                start.offset(*r * (plane.row_bytes / 4))
            };
            planes(format, rows, cols)
                .iter()
                .enumerate()
                .map(plane)
                .collect()
        };
        Matrix {
            k,
            format,
            cols,
            t: k.lane() % 4,
            rows: own.iter().map(row).collect(),
        }
    }

    /// Blocks of a row.
    fn blocks(&self) -> u32 {
        self.cols.div_ceil(2 * half_columns(self.format))
    }

    /// The block in whose place one past the end of the row is read: activations there are zero.
    pub(in crate::kernels) fn existing(&self, block: Val<'k, u32>, below: u32) -> Val<'k, u32> {
        if below <= self.blocks() {
            block
        } else {
            block.min(self.blocks() - 1)
        }
    }

    /// Number `i` of what there are `each` of in every block, and `of` in the row.
    pub(super) fn at(
        &self,
        block: Val<'k, u32>,
        each: u32,
        i: Val<'k, u32>,
        of: u32,
    ) -> Val<'k, u32> {
        let at = block * each + i;
        if self.blocks() * each == of {
            at
        } else {
            at.min(of - 1)
        }
    }

    /// Requests half `half` of a block of every row.
    pub(in crate::kernels) fn load_half(&self, block: Val<'k, u32>, half: u32) -> Vec<Loaded<'k>> {
        self.rows
            .iter()
            .map(|row| self.row_half(row, block, half))
            .collect()
    }

    fn row_half(&self, row: &[Ptr<'k, u32>], block: Val<'k, u32>, half: u32) -> Loaded<'k> {
        let loads = HalfLoads {
            matrix: self,
            row,
            block,
            half,
        };
        let layout = self.format.layout();
        let mut words = Vec::new();
        for l in 0..layout.half_loads() {
            words.extend(row[0].load_vec4(loads.group(l) * 4));
        }
        let mut loaded = Loaded::of_words(words);
        layout.load_half(&loads, &mut loaded);
        loaded
    }

    /// Requests what both halves of a block need, of every row.
    pub(in crate::kernels) fn load_common(&self, block: Val<'k, u32>) -> Vec<Loaded<'k>> {
        let layout = self.format.layout();
        let load = |row: &Vec<Ptr<'k, u32>>| layout.load_common(self, row, block);
        self.rows.iter().map(load).collect()
    }

    /// Scales of a row's half, by run.
    pub(in crate::kernels) fn runs(&self, of: &Half<'k, '_>) -> Vec<FragmentRun<'k>> {
        self.format.layout().fragment_runs(self, of)
    }

    /// What is kept during a block of what the halves share.
    pub(in crate::kernels) fn kept(&self, common: Loaded<'k>) -> Loaded<'k> {
        self.format.layout().kept(self, common)
    }

    /// A scale twice.
    pub(super) fn twice(&self, d: Val<'k, f16>) -> Val<'k, F16x2> {
        self.k.pack16(d, d).bitcast::<F16x2>()
    }

    /// The value of the `i`-th of the four lanes that share a row.
    pub(super) fn of_four(&self, value: Val<'k, u32>, i: u32) -> Val<'k, u32> {
        let op = Opcode::Shfl {
            mode: Shfl::Idx,
            ty: Ty::U32,
        };
        // Segments of four lanes, all of the warp.
        let operands = [i, 0x1C1F, u32::MAX].map(|v| self.k.constant(v).operand());
        let [lane, segment, mask] = operands;
        let r = self
            .k
            .inst(op, &[Ty::U32], &[value.operand(), lane, segment, mask]);
        self.k.from_reg(r[0])
    }

    /// A unit of a row's half: two pairs of weights, by term.
    pub(in crate::kernels) fn unit(
        &self,
        of: &Half<'k, '_>,
        runs: &[FragmentRun<'k>],
        unit: u32,
    ) -> Vec<[Val<'k, u32>; 2]> {
        let layout = self.format.layout();
        // Both runs of a word before the next one: then the word is done with.
        let (i, run) = match layout.permuted() {
            true => ((unit / 2) as usize, unit % 2),
            false => (unit as usize, 0),
        };
        let codes = match layout.pairs(self, of, i, run) {
            Pairs::Weights(weights) => return vec![weights],
            Pairs::Split([a, b]) => return vec![[a[0], b[0]], [a[1], b[1]]],
            Pairs::Codes(codes) => codes,
        };
        let run = &runs[(run as usize).min(runs.len() - 1)];
        let weights = codes.map(|code| {
            let weight = match (run.scale, run.offset) {
                (Some(scale), Some(offset)) => code.fma(scale, offset),
                (Some(scale), None) => code * scale,
                _ => code,
            };
            weight.bitcast()
        });
        vec![weights]
    }

    /// The low or high nibbles of a word's bytes 0, 2 and 1, 3, less `bias`.
    pub(super) fn nibbles(&self, word: Val<'k, u32>, high: bool, bias: f32) -> [Val<'k, F16x2>; 2] {
        let masked = |w: Val<'k, u32>, mask: u32| w.lop3(mask, HALF_1024, AND_OR);
        [word, word >> 8u32].map(|w| match high {
            true => {
                let times16 = masked(w, 0x00F0_00F0).bitcast::<F16x2>();
                times16.fma(twice(1.0 / 16.0), twice(-64.0 - bias))
            }
            false => less(masked(w, 0x000F_000F), 1024.0 + bias),
        })
    }

    /// The low `bits` bits of a word's bytes 0, 2 and 1, 3, less `bias`.
    pub(super) fn fields(&self, word: Val<'k, u32>, bits: u32, bias: f32) -> [Val<'k, F16x2>; 2] {
        let mask = ((1u32 << bits) - 1) * 0x0001_0001;
        let pair = |w: Val<'k, u32>| less(w.lop3(mask, HALF_1024, AND_OR), 1024.0 + bias);
        [pair(word), pair(word >> 8u32)]
    }
}

/// A number (which f16 represents) twice.
fn twice(value: f32) -> F16x2 {
    F16x2(f16::from_f32(value), f16::from_f32(value))
}

/// A half of a row's block, from which a lane loads what belongs to its codes.
pub(in crate::kernels) struct HalfLoads<'r, 'k> {
    pub(super) matrix: &'r Matrix<'k>,
    pub(super) row: &'r [Ptr<'k, u32>],
    pub(super) block: Val<'k, u32>,
    pub(super) half: u32,
}

impl<'k> HalfLoads<'_, 'k> {
    /// The lane's group number `l` of codes, counted over the row.
    pub(super) fn group(&self, l: u32) -> Val<'k, u32> {
        let matrix = self.matrix;
        let layout = matrix.format.layout();
        let loads = layout.half_loads();
        let all = matrix.cols * loads * 4 / layout.half_columns();
        let nth = matrix.t + (self.half * 4 * loads + l * 4);
        matrix.at(self.block, 8 * loads, nth, all)
    }
}
