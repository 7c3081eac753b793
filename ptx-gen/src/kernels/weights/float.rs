//! F32, F16 and BF16: weights as they are.

use super::codes::{Codes, PackedRun};
use super::format::{Format, Storage};
use super::fragments::{FragmentRun, Half, Matrix, Pairs};
use super::geometry::{Geometry, masked};
use super::unpack::{Group, Run, bf16_unit, f16_unit};
use crate::build::{Builder, F16x2, Val};
use crate::kernels::product::gemm_batch_stage::pack;
use crate::kernels::product::variant::Arithmetic;
use crate::kernels::split::{TERMS, split};

pub(super) struct F32;
pub(super) struct F16;
pub(super) struct BF16;

impl F32 {
    pub(super) const STORAGE: Storage = Storage {
        name: "f32",
        block_len: 1,
        parts: &[("w", 4)],
    };
}

impl F16 {
    pub(super) const STORAGE: Storage = Storage {
        name: "f16",
        block_len: 1,
        parts: &[("w", 2)],
    };
}

impl BF16 {
    pub(super) const STORAGE: Storage = Storage {
        name: "bf16",
        block_len: 1,
        parts: &[("w", 2)],
    };
}

/// The words of a group as pairs of halves.
fn halves<'k>(group: &Group<'_, 'k>) -> Vec<PackedRun<'k>> {
    let pairs = group.packet.words.iter().map(|w| w.bitcast::<F16x2>());
    vec![PackedRun::plain(Codes::Halves(pairs.collect()))]
}

impl Format for F32 {
    fn group(&self, width: u32) -> u32 {
        width / 4
    }

    fn parts(&self, _: u32) -> u32 {
        1
    }

    fn run<'k>(&self, group: &Group<'_, 'k>, _: usize) -> Run<'k> {
        let w = &group.packet.words;
        Run::plain(vec![std::array::from_fn(|i| w[i].bitcast())])
    }

    /// No variant names such an arithmetic.
    fn packed<'k>(&self, group: &Group<'_, 'k>, _: Arithmetic) -> Vec<PackedRun<'k>> {
        halves(group)
    }

    fn terms(&self) -> u32 {
        TERMS
    }

    fn half_columns(&self) -> u32 {
        32
    }

    fn half_loads(&self) -> u32 {
        2
    }

    fn owner<'k>(&self, u: Val<'k, u32>) -> (Val<'k, u32>, Val<'k, u32>) {
        (u % 4, u / 4)
    }

    fn fragment_runs<'k>(&self, _: &Matrix<'k>, _: &Half<'k, '_>) -> Vec<FragmentRun<'k>> {
        vec![FragmentRun::default()]
    }

    fn pairs<'k>(&self, matrix: &Matrix<'k>, of: &Half<'k, '_>, unit: usize, _: u32) -> Pairs<'k> {
        let v = |e: usize| of.own.words[4 * unit + e].bitcast::<f32>();
        Pairs::Split([[0, 1], [2, 3]].map(|pair| split(matrix.k, pair.map(v))))
    }
}

impl Format for F16 {
    fn widest(&self, cols: u32) -> u32 {
        if cols.is_multiple_of(8) { 16 } else { 8 }
    }

    fn group(&self, width: u32) -> u32 {
        width / 2
    }

    fn parts(&self, _: u32) -> u32 {
        1
    }

    fn swizzle<'k>(
        &self,
        k: &'k Builder,
        geometry: &Geometry,
        u: Val<'k, u32>,
        below: u32,
    ) -> Val<'k, u32> {
        match geometry.group() {
            8 => masked(u, below, 3, 1),
            _ => k.constant(0),
        }
    }

    fn run<'k>(&self, group: &Group<'_, 'k>, _: usize) -> Run<'k> {
        Run::plain(group.packet.words.chunks(2).map(f16_unit).collect())
    }

    fn packed<'k>(&self, group: &Group<'_, 'k>, _: Arithmetic) -> Vec<PackedRun<'k>> {
        halves(group)
    }

    fn half_columns(&self) -> u32 {
        64
    }

    fn half_loads(&self) -> u32 {
        2
    }

    fn owner<'k>(&self, u: Val<'k, u32>) -> (Val<'k, u32>, Val<'k, u32>) {
        ((u / 2) % 4, (u / 8) * 2 + u % 2)
    }

    fn fragment_runs<'k>(&self, _: &Matrix<'k>, _: &Half<'k, '_>) -> Vec<FragmentRun<'k>> {
        vec![FragmentRun::default()]
    }

    fn pairs<'k>(&self, _: &Matrix<'k>, of: &Half<'k, '_>, unit: usize, _: u32) -> Pairs<'k> {
        Pairs::Weights([of.own.words[2 * unit], of.own.words[2 * unit + 1]])
    }
}

impl Format for BF16 {
    fn widest(&self, cols: u32) -> u32 {
        F16.widest(cols)
    }

    fn group(&self, width: u32) -> u32 {
        width / 2
    }

    fn parts(&self, _: u32) -> u32 {
        1
    }

    fn swizzle<'k>(
        &self,
        k: &'k Builder,
        geometry: &Geometry,
        u: Val<'k, u32>,
        below: u32,
    ) -> Val<'k, u32> {
        F16.swizzle(k, geometry, u, below)
    }

    fn run<'k>(&self, group: &Group<'_, 'k>, _: usize) -> Run<'k> {
        Run::plain(group.packet.words.chunks(2).map(bf16_unit).collect())
    }

    fn packed<'k>(&self, group: &Group<'_, 'k>, _: Arithmetic) -> Vec<PackedRun<'k>> {
        let columns = group.packet.words.chunks(2).flat_map(bf16_unit);
        vec![PackedRun::plain(Codes::Floats(columns.collect()))]
    }

    fn half_columns(&self) -> u32 {
        64
    }

    fn half_loads(&self) -> u32 {
        2
    }

    fn owner<'k>(&self, u: Val<'k, u32>) -> (Val<'k, u32>, Val<'k, u32>) {
        F16.owner(u)
    }

    fn fragment_runs<'k>(&self, _: &Matrix<'k>, _: &Half<'k, '_>) -> Vec<FragmentRun<'k>> {
        vec![FragmentRun::default()]
    }

    fn pairs<'k>(&self, matrix: &Matrix<'k>, of: &Half<'k, '_>, unit: usize, _: u32) -> Pairs<'k> {
        Pairs::Weights([0, 1].map(|e| {
            let word = of.own.words[2 * unit + e];
            let low = (word << 16u32).bitcast::<f32>();
            pack(matrix.k, low, (word & 0xFFFF_0000).bitcast::<f32>())
        }))
    }
}
