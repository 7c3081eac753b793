//! Q8_0: `d * q`, 8 bits, blocks of 32. Two groups of 16 bytes share a scale.

use half::f16;

use super::codes::{Codes, HALF_1024, PackedRun, less};
use super::format::{Format, Storage};
use super::fragments::{BYTES_0_1, BYTES_2_3, FragmentRun, Half, HalfLoads, Loaded, Matrix, Pairs};
use super::geometry::{Geometry, masked};
use super::unpack::{Group, GroupLoads, Packet, Run, signed_bytes};
use crate::build::{Builder, Val};
use crate::kernels::product::variant::Arithmetic;

pub(super) struct Q8_0;

impl Q8_0 {
    pub(super) const STORAGE: Storage = Storage {
        name: "q8_0",
        block_len: 32,
        parts: &[("q", 32), ("d", 2)],
    };
}

impl Format for Q8_0 {
    fn group(&self, width: u32) -> u32 {
        width
    }

    fn sharing(&self) -> u32 {
        2
    }

    fn swizzle<'k>(
        &self,
        k: &'k Builder,
        geometry: &Geometry,
        u: Val<'k, u32>,
        below: u32,
    ) -> Val<'k, u32> {
        match geometry.parts() {
            1 => masked(u, below, 3, 3),
            2 => masked(u, below, 3, 1),
            _ => k.constant(0),
        }
    }

    fn load<'k>(&self, loads: &GroupLoads<'_, 'k>, packet: &mut Packet<'k>) {
        packet.halves.push(loads.half(1));
    }

    fn run<'k>(&self, group: &Group<'_, 'k>, _: usize) -> Run<'k> {
        Run {
            units: (group.packet.words.iter())
                .map(|w| signed_bytes(*w))
                .collect(),
            scale: Some(group.half()),
            offset: None,
        }
    }

    fn packed<'k>(&self, group: &Group<'_, 'k>, arithmetic: Arithmetic) -> Vec<PackedRun<'k>> {
        let w = &group.packet.words;
        let codes = match arithmetic {
            Arithmetic::Dp4a => Codes::Bytes(w.clone()),
            _ => {
                let pair = |w: &Val<'k, u32>, pick: u32| {
                    let excess = *w ^ 0x8080_8080;
                    less(excess.prmt(HALF_1024, pick), 1024.0 + 128.0)
                };
                let pairs = w.iter().flat_map(|w| [pair(w, 0x5150), pair(w, 0x5352)]);
                Codes::Halves(pairs.collect())
            }
        };
        vec![PackedRun::scaled(codes, group.half())]
    }

    fn half_columns(&self) -> u32 {
        64
    }

    fn owner<'k>(&self, u: Val<'k, u32>) -> (Val<'k, u32>, Val<'k, u32>) {
        (u / 4, u % 4)
    }

    fn load_half<'k>(&self, loads: &HalfLoads<'_, 'k>, loaded: &mut Loaded<'k>) {
        let matrix = loads.matrix;
        let nth = matrix.t / 2 + loads.half * 2;
        let d = matrix.at(loads.block, 4, nth, matrix.cols / 32);
        loaded.halves.push(loads.row[1].cast::<f16>().load(d));
    }

    fn fragment_runs<'k>(&self, matrix: &Matrix<'k>, of: &Half<'k, '_>) -> Vec<FragmentRun<'k>> {
        vec![FragmentRun::scaled(matrix.twice(of.own.halves[0]))]
    }

    fn pairs<'k>(&self, _: &Matrix<'k>, of: &Half<'k, '_>, unit: usize, _: u32) -> Pairs<'k> {
        let excess = of.own.words[unit] ^ 0x8080_8080;
        let pair = |pick: u32| less(excess.prmt(HALF_1024, pick), 1152.0);
        Pairs::Codes([pair(BYTES_0_1), pair(BYTES_2_3)])
    }
}
