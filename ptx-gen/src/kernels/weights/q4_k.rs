//! Q4_K: `d * scale * q - dmin * min`, 4 bits, groups of 32 in blocks of 256.
//!
//! Group `2c + h` of the 8 times 16 bytes of a block are 16 columns from `64c + 16h` (low nibbles) and
//! 16 from `64c + 32 + 16h`. Scales are those of [`super::k_scales`].

use super::codes::{self, PackedRun};
use super::format::{Format, Storage};
use super::fragments::{FragmentRun, Half, Loaded, Matrix, Pairs};
use super::geometry::{Geometry, Lane, masked};
use super::k_scales;
use super::unpack::{Group, GroupLoads, Packet, Run, nibbles};
use crate::build::{Builder, Ptr, Val};
use crate::kernels::product::variant::Arithmetic;

pub(super) struct Q4K;

impl Q4K {
    pub(super) const STORAGE: Storage = Storage {
        name: "q4_k",
        block_len: 256,
        parts: &[("q", 128), ("s", 16)],
    };
}

impl Format for Q4K {
    fn group(&self, width: u32) -> u32 {
        2 * width
    }

    fn sharing(&self) -> u32 {
        8
    }

    fn runs(&self, _: u32) -> &'static [u32] {
        &[0, 8]
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
        match geometry.parts() {
            1 => masked(u, below, 4, 3),
            2 => masked(u, below, 4, 1),
            _ => k.constant(0),
        }
    }

    fn unit<'k>(&self, lane: &Lane<'k>, _: Val<'k, u32>) -> Val<'k, u32> {
        lane.block * 64 + lane.part(2, 4) * 16 + lane.word(2)
    }

    fn load<'k>(&self, loads: &GroupLoads<'_, 'k>, packet: &mut Packet<'k>) {
        packet.words.extend(loads.scales(1));
    }

    fn run<'k>(&self, group: &Group<'_, 'k>, run: usize) -> Run<'k> {
        let (codes, scales) = group.packet.words.split_at(group.words());
        let (scale, offset) = k_scales::of_run(group, scales, run);
        Run {
            units: codes.iter().map(|w| nibbles(*w, run == 1, 0.0)).collect(),
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
            _ => Some(8.0),
        }
    }

    fn packed<'k>(&self, group: &Group<'_, 'k>, arithmetic: Arithmetic) -> Vec<PackedRun<'k>> {
        let (w, scales) = group.packet.words.split_at(group.words());
        let scales = k_scales::of_runs(group, scales, self.sums(arithmetic));
        let run = |(run, (scale, offset))| PackedRun {
            codes: codes::nibbles(w, run, arithmetic),
            scale: Some(scale),
            offset: Some(offset),
        };
        (0u32..).zip(scales).map(run).collect()
    }

    fn owner<'k>(&self, u: Val<'k, u32>) -> (Val<'k, u32>, Val<'k, u32>) {
        ((u / 16) * 2 + (u / 4) % 2, (u % 4) * 2 + (u / 8) % 2)
    }

    fn load_common<'k>(
        &self,
        matrix: &Matrix<'k>,
        row: &[Ptr<'k, u32>],
        block: Val<'k, u32>,
    ) -> Loaded<'k> {
        Loaded::of_words(vec![row[1].load(block * 4 + matrix.t)])
    }

    fn kept<'k>(&self, matrix: &Matrix<'k>, common: Loaded<'k>) -> Loaded<'k> {
        k_scales::kept(matrix, common)
    }

    fn fragment_runs<'k>(&self, matrix: &Matrix<'k>, of: &Half<'k, '_>) -> Vec<FragmentRun<'k>> {
        k_scales::fragment_runs(matrix, of)
    }

    fn pairs<'k>(
        &self,
        matrix: &Matrix<'k>,
        of: &Half<'k, '_>,
        unit: usize,
        run: u32,
    ) -> Pairs<'k> {
        Pairs::Codes(matrix.nibbles(of.own.words[unit], run == 1, 0.0))
    }
}
