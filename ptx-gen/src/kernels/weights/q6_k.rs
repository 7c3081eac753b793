//! Q6_K: `d * scale * (q - 32)`, 6 bits, groups of 16 in blocks of 256.
//!
//! Group `4n + 2b + h` of the 8 times 16 bytes of low bits of a block are 16 columns from
//! `128n + 32b + 16h` (low nibbles) and 16 from `64` further on. Of each column two upper bits lie in
//! a byte that four columns share.

use half::f16;

use super::codes::{self, HALF_1024, PackedRun, less};
use super::format::{Format, Storage};
use super::fragments::{self, FragmentRun, Half, HalfLoads, Loaded, Matrix, Pairs, TWICE};
use super::geometry::{Geometry, Lane, masked};
use super::unpack::{CHOOSE, Group, GroupLoads, PICK, Packet, Run, TWO_23, fields};
use crate::build::{Builder, Ptr, Val};
use crate::kernels::product::variant::Arithmetic;

pub(super) struct Q6K;

impl Q6K {
    pub(super) const STORAGE: Storage = Storage {
        name: "q6_k",
        block_len: 256,
        parts: &[("l", 128), ("h", 64), ("s", 16), ("d", 2)],
    };
}

impl Format for Q6K {
    fn group(&self, width: u32) -> u32 {
        2 * width
    }

    fn sharing(&self) -> u32 {
        8
    }

    fn runs(&self, _: u32) -> &'static [u32] {
        &[0, 16]
    }

    fn swizzle<'k>(
        &self,
        k: &'k Builder,
        geometry: &Geometry,
        u: Val<'k, u32>,
        below: u32,
    ) -> Val<'k, u32> {
        match geometry.parts() {
            1 => ((u >> 3u32) & 1) | ((u >> 4u32) & 2),
            2 => masked(u, below, 3, 1),
            _ => k.constant(0),
        }
    }

    fn unit<'k>(&self, lane: &Lane<'k>, _: Val<'k, u32>) -> Val<'k, u32> {
        lane.block * 64 + lane.part(4, 2) * 32 + lane.part(2, 2) * 8 + lane.word(2)
    }

    fn load<'k>(&self, loads: &GroupLoads<'_, 'k>, packet: &mut Packet<'k>) {
        let lane = loads.lane;
        let high = lane.part(4, 2) * 8 + lane.word(2);
        packet.words.extend(loads.group(1, loads.at(16, high)));
        let scales = loads.at(4, lane.part(4, 2) * 2);
        packet.words.extend(loads.plane(2).load_vec::<2>(scales));
        packet.halves.push(loads.half(3));
    }

    fn run<'k>(&self, group: &Group<'_, 'k>, run: usize) -> Run<'k> {
        let (w, n) = (&group.packet.words, group.words());
        let b = group.lane.part(2, 2);
        let unit = |i: usize| {
            let low = w[i] >> (4 * run as u32);
            let high = match run {
                0 => w[n + i] << (group.k.constant(4) - b * 2),
                _ => w[n + i] >> (b * 2),
            };
            fields(low.lop3(high, 0x0F0F_0F0F, CHOOSE), 6, 32.0)
        };
        let scales = w[2 * n + run] ^ 0x8080_8080;
        let pick = group.lane.part(1, 4) + PICK;
        let scale = scales.prmt(TWO_23, pick).bitcast::<f32>();
        let scale = scale + -(8_388_608.0 + 128.0);
        Run {
            units: (0..n).map(unit).collect(),
            scale: Some(scale * group.half()),
            offset: None,
        }
    }

    fn permuted(&self) -> bool {
        true
    }

    fn sums(&self, arithmetic: Arithmetic) -> Option<f32> {
        (arithmetic == Arithmetic::Dp4a).then_some(-32.0)
    }

    fn packed<'k>(&self, group: &Group<'_, 'k>, arithmetic: Arithmetic) -> Vec<PackedRun<'k>> {
        let (w, n) = (&group.packet.words, group.words());
        let b = group.lane.part(2, 2);
        let run = |run: u32| {
            let unit = |i: usize| {
                let high = match run {
                    0 => w[n + i] << (group.k.constant(4) - b * 2),
                    _ => w[n + i] >> (b * 2),
                };
                (w[i] >> (4 * run)).lop3(high, 0x0F0F_0F0F, CHOOSE)
            };
            let excess = w[2 * n + run as usize] ^ 0x8080_8080;
            let pick = group.lane.part(1, 4) + PICK;
            let scale = excess.prmt(TWO_23, pick).bitcast::<f32>();
            let scale = (scale + -(8_388_608.0 + 128.0)) * group.half();
            let codes = codes::fields((0..n).map(unit).collect(), 6, arithmetic);
            PackedRun::scaled(codes, scale)
        };
        vec![run(0), run(1)]
    }

    fn owner<'k>(&self, u: Val<'k, u32>) -> (Val<'k, u32>, Val<'k, u32>) {
        (((u / 8) % 2) * 2 + (u / 4) % 2, (u % 4) * 2 + u / 16)
    }

    fn load_half<'k>(&self, loads: &HalfLoads<'_, 'k>, loaded: &mut Loaded<'k>) {
        let (row, block, half) = (loads.row, loads.block, loads.half);
        let upper = row[1].load_vec4(block * 16 + (loads.matrix.t % 2) * 4 + half * 8);
        loaded.words.extend(upper);
        loaded
            .words
            .extend(row[2].load_vec::<2>(block * 4 + half * 2));
    }

    fn load_common<'k>(
        &self,
        _: &Matrix<'k>,
        row: &[Ptr<'k, u32>],
        block: Val<'k, u32>,
    ) -> Loaded<'k> {
        Loaded {
            words: Vec::new(),
            halves: vec![row[3].cast::<f16>().load(block)],
        }
    }

    fn fragment_runs<'k>(&self, matrix: &Matrix<'k>, of: &Half<'k, '_>) -> Vec<FragmentRun<'k>> {
        [8, 9]
            .map(|r: usize| {
                let excess = of.own.words[r] ^ 0x8080_8080;
                let pick = matrix.t * TWICE + fragments::PICK;
                let scale = less(excess.prmt(HALF_1024, pick), 1152.0);
                FragmentRun::scaled(scale * matrix.twice(of.common.halves[0]))
            })
            .into()
    }

    fn pairs<'k>(
        &self,
        matrix: &Matrix<'k>,
        of: &Half<'k, '_>,
        unit: usize,
        run: u32,
    ) -> Pairs<'k> {
        let (w, b) = (&of.own.words, matrix.t / 2);
        let high = match run {
            0 => w[4 + unit] << (matrix.k.constant(4u32) - b * 2),
            _ => w[4 + unit] >> (b * 2),
        };
        let code = (w[unit] >> (4 * run)).lop3(high, 0x0F0F_0F0Fu32, CHOOSE);
        Pairs::Codes(matrix.fields(code, 6, 32.0))
    }
}
