//! Which weights lanes read: the groups, runs and units of a row, by format.
//!
//! The codes of a row fall into *groups* of as many bytes, one per lane and step; the scales that
//! belong to a group are loaded with it. A group holds one or two *runs* of neighbouring columns that
//! share a scale, counted in *units* of four columns (one 16-byte load of activations). Groups of
//! 16 bytes:
//!
//! | format | weights a group | runs: columns from the start of the block |
//! |---|---|---|
//! | F32 / F16, BF16 | 4 / 8 | one, `4 g` / `8 g` |
//! | Q8_0 | 16 | one, `16 g`; two groups share a scale |
//! | Q4_0 | 32 | one, `32 g` |
//! | Q4_K, Q5_K | 32 | group `2c + h` of 8: 16 from `64c + 16h`, 16 from `64c + 32 + 16h` |
//! | Q6_K | 32 | group `4n + 2b + h` of 8: 16 from `128n + 32b + 16h`, 16 from `64` further on |
//!
//! Narrower groups are the halves or quarters of these, in order, and have that part of each of
//! their runs; of Q4_0, whose high nibbles are 16 columns on, two runs. Of F32 there are none, and
//! of F16 and BF16 only halves, which are a unit: they are taken where rows are odd multiples of 8
//! bytes. A lane loads scales whole, however narrow its group.

use super::WeightFormat;
use crate::build::{Builder, Pred, Val};

/// How lanes share the rows of a matrix.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::kernels) struct Geometry {
    pub(in crate::kernels) format: WeightFormat,
    pub(in crate::kernels) rows: u32,
    pub(in crate::kernels) cols: u32,
    /// Lanes that work on one row, a multiple of 8; at least the groups that share scales.
    pub(in crate::kernels) lanes: u32,
    /// Bytes of a group: [`Geometry::widest`] or less.
    pub(in crate::kernels) width: u32,
}

impl Geometry {
    /// Bytes of the widest group: 16, but 8 where rows of halves are odd multiples of 8 bytes.
    pub(in crate::kernels) fn widest(format: WeightFormat, cols: u32) -> u32 {
        format.layout().widest(cols)
    }

    /// Weights of a group.
    pub(in crate::kernels) fn group(&self) -> u32 {
        self.format.layout().group(self.width)
    }

    /// Groups in 16 bytes of a format with scales.
    pub(in crate::kernels) fn parts(&self) -> u32 {
        self.format.layout().parts(self.width)
    }

    /// Groups that are loaded together with one set of scales.
    pub(in crate::kernels) fn groups_per_block(&self) -> u32 {
        self.format.layout().sharing() * self.parts()
    }

    /// Columns of a step: one group a lane.
    pub(in crate::kernels) fn step(&self) -> u32 {
        self.lanes * self.group()
    }

    /// Steps over a row; the last may be ragged.
    pub(in crate::kernels) fn steps(&self) -> u32 {
        self.cols.div_ceil(self.step())
    }

    /// Whether the last step reaches past the row.
    pub(in crate::kernels) fn ragged(&self) -> bool {
        !self.cols.is_multiple_of(self.step())
    }

    /// Whether runs have minima, which multiply sums of activations.
    pub(in crate::kernels) fn has_minima(&self) -> bool {
        self.format.layout().has_minima()
    }

    /// First unit, from the group's own, and units of every run of a group; all have as many.
    pub(in crate::kernels) fn runs(&self) -> Vec<(u32, u32)> {
        let firsts = self.format.layout().runs(self.parts());
        let units = self.group() / 4 / firsts.len() as u32;
        firsts.iter().map(|first| (*first, units)).collect()
    }

    /// Units of a run.
    pub(in crate::kernels) fn run_units(&self) -> u32 {
        self.runs()[0].1
    }

    /// Where unit `u` of the activations, which is below `below`, lies in shared memory, as a number
    /// to be xor-ed to `u`: eight neighbouring lanes then read eight different bank groups.
    pub(in crate::kernels) fn swizzle<'k>(
        &self,
        k: &'k Builder,
        u: Val<'k, u32>,
        below: u32,
    ) -> Val<'k, u32> {
        self.format.layout().swizzle(k, self, u, below)
    }
}

/// Bits `shift ..` of a unit that is below `below`, as many as `mask` has.
pub(super) fn masked(u: Val<'_, u32>, below: u32, shift: u32, mask: u32) -> Val<'_, u32> {
    match (below - 1) >> shift <= mask {
        false => (u >> shift) & mask,
        true => u >> shift,
    }
}

/// What a lane is to the row it works on.
pub(in crate::kernels) struct Lane<'k> {
    k: &'k Builder,
    /// Its first group's block, and the group within the block.
    pub(super) block: Val<'k, u32>,
    pub(super) within: Val<'k, u32>,
    /// What `within` is below.
    below: u32,
    /// Groups in 16 bytes.
    pub(super) parts: u32,
    /// First unit of its group in step 0.
    pub(in crate::kernels) unit: Val<'k, u32>,
}

impl<'k> Lane<'k> {
    /// Lane `index` of those that share a row, which is below `below`.
    pub(in crate::kernels) fn new(
        k: &'k Builder,
        geometry: &Geometry,
        index: Val<'k, u32>,
        below: u32,
    ) -> Lane<'k> {
        let share = geometry.groups_per_block();
        let (block, within) = if below <= share {
            (k.constant(0), index)
        } else {
            (index / share, index % share)
        };
        let mut lane = Lane {
            k,
            block,
            within,
            below: below.min(share),
            parts: geometry.parts(),
            unit: index * (geometry.group() / 4),
        };
        lane.unit = geometry.format.layout().unit(&lane, lane.unit);
        lane
    }

    /// `(i / by) % of`, where `i` is the place of the lane's 16 bytes in its block.
    pub(in crate::kernels) fn part(&self, by: u32, of: u32) -> Val<'k, u32> {
        self.groups(by * self.parts, of)
    }

    /// Whether the lane's group is in the second half of a block of eight times 16 bytes.
    pub(in crate::kernels) fn upper(&self) -> Val<'k, Pred> {
        self.within.ge(4 * self.parts)
    }

    /// Whether no lane's group is.
    pub(super) fn none_upper(&self) -> bool {
        self.below <= 4 * self.parts
    }

    /// The group's first word, or its unit in the first run, among those of the `of` neighbouring
    /// 16 bytes it lies in.
    pub(super) fn word(&self, of: u32) -> Val<'k, u32> {
        self.groups(1, of * self.parts) * (4 / self.parts)
    }

    /// `(within / by) % of`, without what the bound of `within` makes idle.
    fn groups(&self, by: u32, of: u32) -> Val<'k, u32> {
        if self.below <= by {
            return self.k.constant(0);
        }
        let part = self.within / by;
        if self.below.div_ceil(by) <= of {
            part
        } else {
            part % of
        }
    }
}
