//! Q4_0: `d * (q - 8)`, 4 bits, blocks of 32.
//!
//! A group of 16 bytes is a block. Narrower ones are two runs, since the high nibbles of bytes are
//! 16 columns on.

use super::codes::{self, Codes, PackedRun};
use super::format::{Format, Storage};
use super::fragments::{FragmentRun, Half, HalfLoads, Loaded, Matrix, Pairs};
use super::geometry::{Geometry, Lane, masked};
use super::unpack::{Group, GroupLoads, Packet, Run, nibbles};
use crate::build::{Builder, Val};
use crate::kernels::product::variant::Arithmetic;

pub(super) struct Q4_0;

impl Q4_0 {
    pub(super) const STORAGE: Storage = Storage {
        name: "q4_0",
        block_len: 32,
        parts: &[("q", 16), ("d", 2)],
    };
}

impl Format for Q4_0 {
    fn group(&self, width: u32) -> u32 {
        2 * width
    }

    fn runs(&self, parts: u32) -> &'static [u32] {
        if parts > 1 { &[0, 4] } else { &[0] }
    }

    fn swizzle<'k>(
        &self,
        _: &'k Builder,
        geometry: &Geometry,
        u: Val<'k, u32>,
        below: u32,
    ) -> Val<'k, u32> {
        match geometry.parts() {
            1 => masked(u, below, 3, 7),
            // The units of its two runs differ in bit 2.
            2 => ((u >> 3u32) & 1) | ((u >> 2u32) & 4),
            _ => (u >> 1u32) & 4,
        }
    }

    fn unit<'k>(&self, lane: &Lane<'k>, unit: Val<'k, u32>) -> Val<'k, u32> {
        match lane.parts {
            1 => unit,
            _ => lane.block * 8 + lane.word(1),
        }
    }

    fn load<'k>(&self, loads: &GroupLoads<'_, 'k>, packet: &mut Packet<'k>) {
        packet.halves.push(loads.half(1));
    }

    fn run<'k>(&self, group: &Group<'_, 'k>, run: usize) -> Run<'k> {
        let w = &group.packet.words;
        Run {
            units: match group.geometry.parts() {
                1 => (0..8).map(|u| nibbles(w[u % 4], u >= 4, 8.0)).collect(),
                _ => w.iter().map(|w| nibbles(*w, run == 1, 8.0)).collect(),
            },
            scale: Some(group.half()),
            offset: None,
        }
    }

    fn permuted(&self) -> bool {
        true
    }

    fn sums(&self, arithmetic: Arithmetic) -> Option<f32> {
        (arithmetic == Arithmetic::Dp4a).then_some(-8.0)
    }

    fn packed<'k>(&self, group: &Group<'_, 'k>, arithmetic: Arithmetic) -> Vec<PackedRun<'k>> {
        let w = &group.packet.words;
        let both = [0, 1].map(|run| codes::nibbles(w, run, arithmetic));
        match group.geometry.parts() {
            1 => vec![PackedRun::scaled(Codes::joined(both), group.half())],
            _ => both
                .map(|codes| PackedRun::scaled(codes, group.half()))
                .into(),
        }
    }

    fn owner<'k>(&self, u: Val<'k, u32>) -> (Val<'k, u32>, Val<'k, u32>) {
        (u / 8, (u % 4) * 2 + (u / 4) % 2)
    }

    fn load_half<'k>(&self, loads: &HalfLoads<'_, 'k>, loaded: &mut Loaded<'k>) {
        let d = loads.row[1].cast::<half::f16>().load(loads.group(0));
        loaded.halves.push(d);
    }

    fn fragment_runs<'k>(&self, matrix: &Matrix<'k>, of: &Half<'k, '_>) -> Vec<FragmentRun<'k>> {
        vec![FragmentRun::scaled(matrix.twice(of.own.halves[0]))]
    }

    fn pairs<'k>(
        &self,
        matrix: &Matrix<'k>,
        of: &Half<'k, '_>,
        unit: usize,
        run: u32,
    ) -> Pairs<'k> {
        Pairs::Codes(matrix.nibbles(of.own.words[unit], run == 1, 8.0))
    }
}
