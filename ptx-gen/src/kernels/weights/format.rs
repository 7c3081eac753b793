//! What kernels ask of a format of weights: one trait, and a file for each format that answers it.
//!
//! | asked by | what |
//! |---|---|
//! | [`super::geometry`] | how the codes of a row fall into groups and runs, and which units a lane has |
//! | [`super::unpack`] | what else is loaded with a group, and its weights in f32 |
//! | [`super::codes`] | the same weights as integers or pairs of halves |
//! | [`super::fragments`] | the same weights as operands of tensor cores |

use super::codes::PackedRun;
use super::fragments::{FragmentRun, Half, HalfLoads, Loaded, Matrix, Pairs};
use super::geometry::{Geometry, Lane};
use super::unpack::{Group, GroupLoads, Packet, Run};
use crate::build::{Builder, Ptr, Val};
use crate::kernels::product::variant::Arithmetic;

/// How a format is named and stored.
pub(in crate::kernels) struct Storage {
    /// Lower-case name, as in kernel names.
    pub(super) name: &'static str,
    /// Weights of a block.
    pub(super) block_len: u32,
    /// Name of each plane and the bytes it holds of a block.
    pub(super) parts: &'static [(&'static str, u32)],
}

/// A format, as lanes read it.
pub(in crate::kernels) trait Format {
    /// Bytes of the widest group of a row of `cols` weights.
    fn widest(&self, _cols: u32) -> u32 {
        16
    }

    /// Weights of a group of `width` bytes.
    fn group(&self, width: u32) -> u32;

    /// Groups of `width` bytes in 16 bytes; 1 of formats without scales.
    fn parts(&self, width: u32) -> u32 {
        16 / width
    }

    /// Neighbouring 16 bytes of codes that are loaded together with one set of scales.
    fn sharing(&self) -> u32 {
        1
    }

    /// First unit of each run of a group, from the group's own; of groups of which `parts` are 16
    /// bytes.
    fn runs(&self, _parts: u32) -> &'static [u32] {
        &[0]
    }

    /// Whether runs have minima, which multiply sums of activations.
    fn has_minima(&self) -> bool {
        false
    }

    /// [`Geometry::swizzle`].
    fn swizzle<'k>(
        &self,
        k: &'k Builder,
        _geometry: &Geometry,
        _unit: Val<'k, u32>,
        _below: u32,
    ) -> Val<'k, u32> {
        k.constant(0)
    }

    /// First unit of a lane's group in step 0, where `unit` is that of groups in order.
    fn unit<'k>(&self, _lane: &Lane<'k>, unit: Val<'k, u32>) -> Val<'k, u32> {
        unit
    }

    /// Loads what else belongs to a lane's group, behind its codes: upper bits, scales.
    fn load<'k>(&self, _loads: &GroupLoads<'_, 'k>, _packet: &mut Packet<'k>) {}

    /// Run `run` of a group, in f32.
    fn run<'k>(&self, group: &Group<'_, 'k>, run: usize) -> Run<'k>;

    /// Whether pairs of halves of four columns come in the order 0, 2, 1, 3.
    fn permuted(&self) -> bool {
        false
    }

    /// Terms of 16 bits that tensor cores multiply in place of a weight or of an activation: two
    /// where one would lose what the weights have ([`crate::kernels::split`]).
    fn terms(&self) -> u32 {
        1
    }

    /// By what sums of activations over a run are multiplied when they are made, for products in an
    /// arithmetic; absent where nobody wants them.
    fn sums(&self, _arithmetic: Arithmetic) -> Option<f32> {
        None
    }

    /// The runs of a group as integers or as pairs of halves.
    fn packed<'k>(&self, group: &Group<'_, 'k>, arithmetic: Arithmetic) -> Vec<PackedRun<'k>>;

    /// Columns of a half of a block of fragments.
    fn half_columns(&self) -> u32 {
        128
    }

    /// 16-byte groups of a half that a lane reads of each row.
    fn half_loads(&self) -> u32 {
        1
    }

    /// Which lane (modulo 4) multiplies unit `unit` of a half, counted by columns, and as its how
    /// manieth.
    fn owner<'k>(&self, unit: Val<'k, u32>) -> (Val<'k, u32>, Val<'k, u32>);

    /// Loads what else belongs to the codes of a row's half.
    fn load_half<'k>(&self, _loads: &HalfLoads<'_, 'k>, _loaded: &mut Loaded<'k>) {}

    /// Loads what both halves of a row's block need.
    fn load_common<'k>(
        &self,
        _matrix: &Matrix<'k>,
        _row: &[Ptr<'k, u32>],
        _block: Val<'k, u32>,
    ) -> Loaded<'k> {
        Loaded::default()
    }

    /// What is kept of that during a block.
    fn kept<'k>(&self, _matrix: &Matrix<'k>, common: Loaded<'k>) -> Loaded<'k> {
        common
    }

    /// Scales of a row's half, by run.
    fn fragment_runs<'k>(&self, matrix: &Matrix<'k>, of: &Half<'k, '_>) -> Vec<FragmentRun<'k>>;

    /// Unit `unit` of a row's half, which is part of run `run`.
    fn pairs<'k>(&self, matrix: &Matrix<'k>, of: &Half<'k, '_>, unit: usize, run: u32)
    -> Pairs<'k>;
}
