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
//! columns 0, 2, 1, 3 of a unit; activations are laid out to match ([`permuted`]).

use half::f16;

use super::{WeightFormat, WeightShape, planes};
use crate::build::{Builder, F16x2, Ptr, Val, Var};
use crate::ir::Ty;
use crate::kernels::product::gemm_batch_stage::pack;
use crate::op::{Op, Shfl};

/// `(a & b) | c` as a function of three words.
const AND_OR: u8 = 0xEA;
/// Bits of `a` where `c` has ones, bits of `b` elsewhere.
const CHOOSE: u8 = 0xE4;
/// 1024 twice: or-ed with an integer below 1024 gives 1024 plus it.
const HALF_1024: u32 = 0x6400_6400;
/// Picks a byte twice, each completed to an f16 with a byte of [`HALF_1024`]; to be added to the
/// byte's number times [`TWICE`].
const PICK: u32 = 0x5050;
/// Picks two bytes, likewise completed.
const BYTES_0_1: u32 = 0x5150;
const BYTES_2_3: u32 = 0x5352;
/// A number in two nibbles of a selector.
const TWICE: u32 = 0x0101;

/// Columns of a half of a block.
pub(in crate::kernels) fn half_columns(format: WeightFormat) -> u32 {
    match format {
        WeightFormat::F32 => 32,
        WeightFormat::F16 | WeightFormat::BF16 | WeightFormat::Q8_0 => 64,
        _ => 128,
    }
}

/// 16-byte groups of a half that a lane reads of each row.
fn loads(format: WeightFormat) -> u32 {
    match format {
        WeightFormat::F32 | WeightFormat::F16 | WeightFormat::BF16 => 2,
        _ => 1,
    }
}

/// Whether a unit's columns come in the order 0, 2, 1, 3.
pub(in crate::kernels) fn permuted(format: WeightFormat) -> bool {
    use WeightFormat::{Q4_0, Q4K, Q5K, Q6K};
    matches!(format, Q4_0 | Q4K | Q5K | Q6K)
}

/// Which lane (modulo 4) multiplies unit `u` of a half, counted by columns, and as its how
/// manieth.
pub(in crate::kernels) fn owner<'k>(
    format: WeightFormat,
    u: Val<'k, u32>,
) -> (Val<'k, u32>, Val<'k, u32>) {
    match format {
        WeightFormat::Q4K | WeightFormat::Q5K => {
            ((u / 16) * 2 + (u / 4) % 2, (u % 4) * 2 + (u / 8) % 2)
        }
        WeightFormat::Q6K => (((u / 8) % 2) * 2 + (u / 4) % 2, (u % 4) * 2 + u / 16),
        WeightFormat::Q4_0 => (u / 8, (u % 4) * 2 + (u / 4) % 2),
        WeightFormat::Q8_0 => (u / 4, u % 4),
        WeightFormat::F16 | WeightFormat::BF16 => ((u / 2) % 4, (u / 8) * 2 + u % 2),
        WeightFormat::F32 => (u % 4, u / 4),
    }
}

/// What was loaded of a row.
pub(in crate::kernels) struct Loaded<'k> {
    words: Vec<Val<'k, u32>>,
    halves: Vec<Val<'k, f16>>,
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
pub(in crate::kernels) struct Run<'k> {
    scale: Option<Val<'k, F16x2>>,
    offset: Option<Val<'k, F16x2>>,
}

/// The matrix, as one lane reads it.
pub(in crate::kernels) struct Matrix<'k> {
    k: &'k Builder,
    format: WeightFormat,
    cols: u32,
    /// `lane % 4`.
    t: Val<'k, u32>,
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
            let plane = |(i, plane): (usize, &super::Plane)| {
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
    fn at(&self, block: Val<'k, u32>, each: u32, i: Val<'k, u32>, of: u32) -> Val<'k, u32> {
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
        let (format, t) = (self.format, self.t);
        let loads = loads(format);
        let all = self.cols * loads * 4 / half_columns(format);
        let group = |l: u32| self.at(block, 8 * loads, t + (half * 4 * loads + l * 4), all);
        let mut words = Vec::new();
        for l in 0..loads {
            words.extend(row[0].load_vec4(group(l) * 4));
        }
        let mut halves = Vec::new();
        match format {
            WeightFormat::Q4_0 => halves.push(row[1].cast::<f16>().load(group(0))),
            WeightFormat::Q8_0 => {
                let d = self.at(block, 4, t / 2 + half * 2, self.cols / 32);
                halves.push(row[1].cast::<f16>().load(d));
            }
            WeightFormat::Q6K => {
                words.extend(row[1].load_vec4(block * 16 + (t % 2) * 4 + half * 8));
                words.extend(row[2].load_vec::<2>(block * 4 + half * 2));
            }
            _ => {}
        }
        Loaded { words, halves }
    }

    /// Requests what both halves of a block need, of every row.
    pub(in crate::kernels) fn load_common(&self, block: Val<'k, u32>) -> Vec<Loaded<'k>> {
        let load = |row: &Vec<Ptr<'k, u32>>| {
            let (mut words, mut halves) = (Vec::new(), Vec::new());
            match self.format {
                WeightFormat::Q4K => words.push(row[1].load(block * 4 + self.t)),
                WeightFormat::Q5K => {
                    words.push(row[2].load(block * 4 + self.t));
                    words.extend(row[1].load_vec4(block * 8 + (self.t % 2) * 4));
                }
                WeightFormat::Q6K => halves.push(row[3].cast::<f16>().load(block)),
                _ => {}
            }
            Loaded { words, halves }
        };
        self.rows.iter().map(load).collect()
    }

    /// Scales of a row's half, by run.
    pub(in crate::kernels) fn runs(&self, of: &Half<'k, '_>) -> Vec<Run<'k>> {
        let Half { half, own, common } = *of;
        let twice = |d: Val<'k, f16>| self.k.pack16(d, d).bitcast::<F16x2>();
        let run = |scale, offset| Run { scale, offset };
        match self.format {
            WeightFormat::F32 | WeightFormat::F16 | WeightFormat::BF16 => vec![run(None, None)],
            WeightFormat::Q4_0 | WeightFormat::Q8_0 => {
                vec![run(Some(twice(own.halves[0])), None)]
            }
            WeightFormat::Q4K | WeightFormat::Q5K => {
                let (scales, offsets) = self.scales_and_offsets(half, &common.words);
                let runs = scales.into_iter().zip(offsets);
                runs.map(|(s, o)| run(Some(twice(s)), Some(twice(o))))
                    .collect()
            }
            WeightFormat::Q6K => [8, 9]
                .map(|r: usize| {
                    let excess = own.words[r] ^ 0x8080_8080;
                    let scale = self.minus(excess.prmt(HALF_1024, self.t * TWICE + PICK), 1152.0);
                    run(Some(scale * twice(common.halves[0])), None)
                })
                .into(),
        }
    }

    /// `d * scale` and `-dmin * min` of both runs of a half, each rounded to f16, from what
    /// [`Matrix::kept`] keeps.
    fn scales_and_offsets(
        &self,
        half: u32,
        kept: &[Val<'k, u32>],
    ) -> ([Val<'k, f16>; 2], [Val<'k, f16>; 2]) {
        let d = kept[0].prmt(0u32, 0x1010u32).bitcast::<F16x2>();
        let minus_dmin = (kept[0].prmt(0u32, 0x3232u32) ^ 0x8000_8000).bitcast::<F16x2>();
        let own = kept[1 + half as usize];
        let integers = |pick: u32| self.minus(own.prmt(HALF_1024, pick), 1024.0);
        let (scales, minima) = (integers(BYTES_0_1), integers(BYTES_2_3));
        ((scales * d).unpack(), (minima * minus_dmin).unpack())
    }

    /// What is kept during a block of what the halves share: of the 16 bytes of scales of a Q4_K or
    /// Q5_K block ([`super::unpack`] has their layout) `d` and `dmin`, and of each half one word:
    /// the lane's two scales and two minima.
    pub(in crate::kernels) fn kept(&self, common: Loaded<'k>) -> Loaded<'k> {
        if !matches!(self.format, WeightFormat::Q4K | WeightFormat::Q5K) {
            return common;
        }
        // A word a lane is loaded, since what is on its way occupies registers.
        let w = [0, 1, 2, 3].map(|i| self.of_four(common.words[0], i));
        let pick = (self.t / 2) * (2 * 0x1111) + 0x5410;
        let six = |w: Val<'k, u32>| w & 0x3F3F_3F3F;
        let low = |w: Val<'k, u32>, upper: Val<'k, u32>| {
            w.lop3(0x0F0F_0F0Fu32, (upper >> 2u32) & 0x3030_3030, AND_OR)
        };
        let first = six(w[1]).prmt(six(w[2]), pick);
        let second = low(w[3], w[1]).prmt(low(w[3] >> 4u32, w[2]), pick);
        let mut words = vec![w[0], first, second];
        words.extend(&common.words[1..]);
        Loaded {
            words,
            halves: common.halves,
        }
    }

    /// The value of the `i`-th of the four lanes that share a row.
    fn of_four(&self, value: Val<'k, u32>, i: u32) -> Val<'k, u32> {
        let op = Op::Shfl {
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

    /// A unit of a row's half: two pairs of weights.
    pub(in crate::kernels) fn unit(
        &self,
        of: &Half<'k, '_>,
        runs: &[Run<'k>],
        unit: u32,
    ) -> [Val<'k, u32>; 2] {
        let Half { half, own, common } = *of;
        let k = self.k;
        // Both runs of a word before the next one: then the word is done with.
        let (i, run) = match permuted(self.format) {
            true => ((unit / 2) as usize, unit % 2),
            false => (unit as usize, 0),
        };
        let w = &own.words;
        let codes = match self.format {
            WeightFormat::F16 => return [w[2 * unit as usize], w[2 * unit as usize + 1]],
            WeightFormat::BF16 => {
                return [0, 1].map(|e| {
                    let word = w[2 * unit as usize + e];
                    let low = (word << 16u32).bitcast::<f32>();
                    pack(k, low, (word & 0xFFFF_0000).bitcast::<f32>())
                });
            }
            WeightFormat::F32 => {
                let v = |e: usize| w[4 * unit as usize + e].bitcast::<f32>();
                return [pack(k, v(0), v(1)), pack(k, v(2), v(3))];
            }
            WeightFormat::Q8_0 => {
                let excess = w[i] ^ 0x8080_8080;
                let pair = |pick: u32| self.minus(excess.prmt(HALF_1024, pick), 1152.0);
                [pair(BYTES_0_1), pair(BYTES_2_3)]
            }
            WeightFormat::Q4_0 => self.nibbles(w[i], run == 1, 8.0),
            WeightFormat::Q4K => self.nibbles(w[i], run == 1, 0.0),
            WeightFormat::Q5K => {
                // The fifth bits of the half's runs are bits 4 half + 2 (t / 2) and one more of the
                // bytes; the first is turned to bit 4, where it completes the code.
                let turn = (self.t / 2) * 2 + (28 + 4 * half);
                let high = rotate_right(k, common.words[3 + i], turn) >> run;
                self.fields(
                    (w[i] >> (4 * run)).lop3(high, 0x0F0F_0F0Fu32, CHOOSE),
                    5,
                    0.0,
                )
            }
            WeightFormat::Q6K => {
                let b = self.t / 2;
                let high = match run {
                    0 => w[4 + i] << (k.constant(4u32) - b * 2),
                    _ => w[4 + i] >> (b * 2),
                };
                self.fields(
                    (w[i] >> (4 * run)).lop3(high, 0x0F0F_0F0Fu32, CHOOSE),
                    6,
                    32.0,
                )
            }
        };
        let run = &runs[(run as usize).min(runs.len() - 1)];
        codes.map(|code| {
            let weight = match (run.scale, run.offset) {
                (Some(scale), Some(offset)) => code.fma(scale, offset),
                (Some(scale), None) => code * scale,
                _ => code,
            };
            weight.bitcast()
        })
    }

    /// A pair less a number.
    fn minus(&self, pair: Val<'k, u32>, less: f32) -> Val<'k, F16x2> {
        pair.bitcast::<F16x2>() + twice(-less)
    }

    /// The low or high nibbles of a word's bytes 0, 2 and 1, 3, less `bias`.
    fn nibbles(&self, word: Val<'k, u32>, high: bool, bias: f32) -> [Val<'k, F16x2>; 2] {
        let masked = |w: Val<'k, u32>, mask: u32| w.lop3(mask, HALF_1024, AND_OR);
        [word, word >> 8u32].map(|w| match high {
            true => {
                let times16 = masked(w, 0x00F0_00F0).bitcast::<F16x2>();
                times16.fma(twice(1.0 / 16.0), twice(-64.0 - bias))
            }
            false => self.minus(masked(w, 0x000F_000F), 1024.0 + bias),
        })
    }

    /// The low `bits` bits of a word's bytes 0, 2 and 1, 3, less `bias`.
    fn fields(&self, word: Val<'k, u32>, bits: u32, bias: f32) -> [Val<'k, F16x2>; 2] {
        let mask = ((1u32 << bits) - 1) * 0x0001_0001;
        let pair = |w: Val<'k, u32>| self.minus(w.lop3(mask, HALF_1024, AND_OR), 1024.0 + bias);
        [pair(word), pair(word >> 8u32)]
    }
}

/// A number (which f16 represents) twice.
fn twice(value: f32) -> F16x2 {
    F16x2(f16::from_f32(value), f16::from_f32(value))
}

/// The word's bits turned right by `by` modulo 32.
fn rotate_right<'k>(k: &'k Builder, word: Val<'k, u32>, by: Val<'k, u32>) -> Val<'k, u32> {
    let op = Op::Shf { left: false };
    let word = word.operand();
    let r = k.inst(op, &[Ty::U32], &[word, word, by.operand()]);
    k.from_reg(r[0])
}
