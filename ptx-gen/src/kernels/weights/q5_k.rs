//! Q5_K: `d * scale * q - dmin * min`, 5 bits, groups of 32 in blocks of 256.
//!
//! The low four bits lie as those of [`super::q4_k`]. Bit g of byte l of the upper ones is the fifth
//! bit of weight `32 g + l`: those of chunk c's two runs are bits `2c` and `2c + 1` of the bytes. The
//! first is turned to bit 4, where it completes the code.

use super::codes::{self, PackedRun};
use super::format::{Format, Storage};
use super::fragments::{FragmentRun, Half, Loaded, Matrix, Pairs};
use super::geometry::{Geometry, Lane};
use super::k_scales;
use super::q4_k::Q4K;
use super::unpack::{CHOOSE, Group, GroupLoads, Packet, Run, fields, rotate_right};
use crate::build::{Builder, Ptr, Val};
use crate::kernels::product::variant::Arithmetic;

pub(super) struct Q5K;

impl Q5K {
    pub(super) const STORAGE: Storage = Storage {
        name: "q5_k",
        block_len: 256,
        parts: &[("q", 128), ("h", 32), ("s", 16)],
    };
}

impl Format for Q5K {
    fn group(&self, width: u32) -> u32 {
        Q4K.group(width)
    }

    fn sharing(&self) -> u32 {
        Q4K.sharing()
    }

    fn runs(&self, parts: u32) -> &'static [u32] {
        Q4K.runs(parts)
    }

    fn has_minima(&self) -> bool {
        true
    }

    fn swizzle<'k>(
        &self,
        k: &'k Builder,
        geometry: &Geometry,
        u: Val<'k, u32>,
        below: u32,
    ) -> Val<'k, u32> {
        Q4K.swizzle(k, geometry, u, below)
    }

    fn unit<'k>(&self, lane: &Lane<'k>, unit: Val<'k, u32>) -> Val<'k, u32> {
        Q4K.unit(lane, unit)
    }

    fn load<'k>(&self, loads: &GroupLoads<'_, 'k>, packet: &mut Packet<'k>) {
        let upper = loads.group(1, loads.at(8, loads.lane.word(2)));
        packet.words.extend(upper);
        packet.words.extend(loads.scales(2));
    }

    fn run<'k>(&self, group: &Group<'_, 'k>, run: usize) -> Run<'k> {
        let (w, n) = (&group.packet.words, group.words());
        let (scale, offset) = k_scales::of_run(group, &w[2 * n..], run);
        let turn = group.lane.part(2, 4) * 2 + 28;
        let unit = |i: usize| {
            let (low, high) = (w[i] >> (4 * run as u32), w[n + i]);
            let high = rotate_right(group.k, high, turn) >> run as u32;
            fields(low.lop3(high, 0x0F0F_0F0F, CHOOSE), 5, 0.0)
        };
        Run {
            units: (0..n).map(unit).collect(),
            scale: Some(scale),
            offset: Some(offset),
        }
    }

    fn permuted(&self) -> bool {
        true
    }

    fn sums(&self, arithmetic: Arithmetic) -> Option<f32> {
        match arithmetic {
            Arithmetic::Dp4a => Some(1.0),
            _ => Some(16.0),
        }
    }

    fn packed<'k>(&self, group: &Group<'_, 'k>, arithmetic: Arithmetic) -> Vec<PackedRun<'k>> {
        let (w, n) = (&group.packet.words, group.words());
        let scales = k_scales::of_runs(group, &w[2 * n..], self.sums(arithmetic));
        let turn = group.lane.part(2, 4) * 2 + 28;
        let run = |(run, (scale, offset))| {
            let unit = |i: usize| {
                let high = rotate_right(group.k, w[n + i], turn) >> run;
                (w[i] >> (4 * run)).lop3(high, 0x0F0F_0F0F, CHOOSE)
            };
            PackedRun {
                codes: codes::fields((0..n).map(unit).collect(), 5, arithmetic),
                scale: Some(scale),
                offset: Some(offset),
            }
        };
        (0u32..).zip(scales).map(run).collect()
    }

    fn owner<'k>(&self, u: Val<'k, u32>) -> (Val<'k, u32>, Val<'k, u32>) {
        Q4K.owner(u)
    }

    fn load_common<'k>(
        &self,
        matrix: &Matrix<'k>,
        row: &[Ptr<'k, u32>],
        block: Val<'k, u32>,
    ) -> Loaded<'k> {
        let mut words = vec![row[2].load(block * 4 + matrix.t)];
        words.extend(row[1].load_vec4(block * 8 + (matrix.t % 2) * 4));
        Loaded::of_words(words)
    }

    fn kept<'k>(&self, matrix: &Matrix<'k>, common: Loaded<'k>) -> Loaded<'k> {
        k_scales::kept(matrix, common)
    }

    fn fragment_runs<'k>(&self, matrix: &Matrix<'k>, of: &Half<'k, '_>) -> Vec<FragmentRun<'k>> {
        k_scales::fragment_runs(matrix, of)
    }

    /// The fifth bits of the half's runs are bits `4 half + 2 (t / 2)` and one more.
    fn pairs<'k>(
        &self,
        matrix: &Matrix<'k>,
        of: &Half<'k, '_>,
        unit: usize,
        run: u32,
    ) -> Pairs<'k> {
        let turn = (matrix.t / 2) * 2 + (28 + 4 * of.half);
        let high = rotate_right(matrix.k, of.common.words[3 + unit], turn) >> run;
        let code = (of.own.words[unit] >> (4 * run)).lop3(high, 0x0F0F_0F0Fu32, CHOOSE);
        Pairs::Codes(matrix.fields(code, 5, 0.0))
    }
}
