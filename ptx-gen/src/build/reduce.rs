//! Shuffles, votes and reductions.
//!
//! Reductions add in a fixed tree, so results do not depend on timing, and every thread receives
//! the same bits.

use super::{AsVal, Builder, Num, Pred, Val, Word};
use crate::ir::{Imm, Ty};
use crate::op::{Opcode, Rmw, Shfl, Vote};

/// Member mask of a whole warp.
const WARP: u32 = u32::MAX;

impl Builder {
    #[track_caller]
    fn shuffle<'k, T: Word>(
        &'k self,
        mode: Shfl,
        value: Val<'k, T>,
        lane: Val<'k, u32>,
        clamp: u32,
    ) -> Val<'k, T> {
        let (clamp, mask) = (self.constant(clamp), self.constant(WARP));
        self.value(
            Opcode::Shfl { mode, ty: T::TY },
            &[
                value.in_reg().operand(),
                lane.operand(),
                clamp.operand(),
                mask.operand(),
            ],
        )
    }

    /// The value in lane `lane ^ mask`. Every lane of the warp must run it.
    #[track_caller]
    pub fn shfl_xor<'k, T: Word>(
        &'k self,
        value: Val<'k, T>,
        mask: impl AsVal<'k, u32>,
    ) -> Val<'k, T> {
        self.shuffle(Shfl::Bfly, value, mask.val(self), 31)
    }

    /// The value in lane `lane + delta`, or the own one past the end.
    #[track_caller]
    pub fn shfl_down<'k, T: Word>(
        &'k self,
        value: Val<'k, T>,
        delta: impl AsVal<'k, u32>,
    ) -> Val<'k, T> {
        self.shuffle(Shfl::Down, value, delta.val(self), 31)
    }

    /// The value in lane `lane - delta`, or the own one before the start.
    #[track_caller]
    pub fn shfl_up<'k, T: Word>(
        &'k self,
        value: Val<'k, T>,
        delta: impl AsVal<'k, u32>,
    ) -> Val<'k, T> {
        self.shuffle(Shfl::Up, value, delta.val(self), 0)
    }

    /// The value in lane `lane` (modulo 32).
    #[track_caller]
    pub fn shfl<'k, T: Word>(&'k self, value: Val<'k, T>, lane: impl AsVal<'k, u32>) -> Val<'k, T> {
        self.shuffle(Shfl::Idx, value, lane.val(self), 31)
    }

    /// Whether `cond` holds in every lane of the warp.
    #[track_caller]
    pub fn warp_all<'k>(&'k self, cond: Val<'k, Pred>) -> Val<'k, Pred> {
        self.value(
            Opcode::Vote { f: Vote::All },
            &[cond.in_reg().operand(), self.constant(WARP).operand()],
        )
    }

    /// Whether `cond` holds in some lane of the warp.
    #[track_caller]
    pub fn warp_any<'k>(&'k self, cond: Val<'k, Pred>) -> Val<'k, Pred> {
        self.value(
            Opcode::Vote { f: Vote::Any },
            &[cond.in_reg().operand(), self.constant(WARP).operand()],
        )
    }

    /// The mask of lanes where `cond` holds.
    #[track_caller]
    pub fn ballot<'k>(&'k self, cond: Val<'k, Pred>) -> Val<'k, u32> {
        self.value(
            Opcode::Vote { f: Vote::Ballot },
            &[cond.in_reg().operand(), self.constant(WARP).operand()],
        )
    }

    /// The sum, minimum, ... over the warp, in every lane, by one instruction; from Ampere on.
    #[track_caller]
    pub fn warp_redux<'k>(&'k self, f: Rmw, value: Val<'k, u32>) -> Val<'k, u32> {
        let mask = self.constant(WARP);
        let ty = Ty::U32;
        self.value(
            Opcode::Redux { f, ty },
            &[value.in_reg().operand(), mask.operand()],
        )
    }

    /// Combines the values of groups of `lanes` (a power of two up to 32) neighbouring lanes with
    /// a commutative function; every lane receives its group's result.
    #[track_caller]
    pub fn lanes_reduce<'k, T: Word>(
        &'k self,
        mut value: Val<'k, T>,
        lanes: u32,
        f: impl Fn(Val<'k, T>, Val<'k, T>) -> Val<'k, T>,
    ) -> Val<'k, T> {
        assert!(
            lanes.is_power_of_two() && lanes <= 32,
            "groups of 1, 2, 4, .. 32 lanes"
        );
        let mut distance = lanes / 2;
        while distance > 0 {
            let other = self.shfl_xor(value, distance);
            value = f(value, other);
            distance /= 2;
        }
        value
    }

    /// The sum over the warp, in every lane.
    #[track_caller]
    pub fn warp_sum<'k, T: Word + Num>(&'k self, value: Val<'k, T>) -> Val<'k, T> {
        self.blame(self.here(), || self.lanes_reduce(value, 32, |a, b| a + b))
    }

    /// The maximum over the warp, in every lane.
    #[track_caller]
    pub fn warp_max<'k, T: Word + Num>(&'k self, value: Val<'k, T>) -> Val<'k, T> {
        self.blame(self.here(), || {
            self.lanes_reduce(value, 32, |a, b| a.max(b))
        })
    }

    /// The sum over the block, in every thread. Holds barriers.
    #[track_caller]
    pub fn block_sum<'k, T: Word + Num>(&'k self, value: Val<'k, T>) -> Val<'k, T> {
        let neutral = Imm { ty: T::TY, bits: 0 };
        self.blame(self.here(), || {
            self.block_reduce(value, neutral, |a, b| a + b)
        })
    }

    /// The maximum over the block, in every thread. Holds barriers.
    #[track_caller]
    pub fn block_max<'k, T: Word + Num>(&'k self, value: Val<'k, T>) -> Val<'k, T> {
        let bits = match T::TY {
            Ty::F32 => u64::from(f32::NEG_INFINITY.to_bits()),
            Ty::I32 => u64::from(i32::MIN as u32),
            Ty::F16x2 => 0xFC00_FC00,
            Ty::Bf16x2 => 0xFF80_FF80,
            _ => 0,
        };
        let neutral = Imm { ty: T::TY, bits };
        self.blame(self.here(), || {
            self.block_reduce(value, neutral, |a, b| a.max(b))
        })
    }

    /// Combines the values of all threads of a one-dimensional block with a commutative function
    /// whose neutral element is `neutral`; every thread receives the result.
    ///
    /// # Panics
    ///
    /// When the block size is not a multiple of 32.
    #[track_caller]
    pub fn block_reduce<'k, T: Word>(
        &'k self,
        value: Val<'k, T>,
        neutral: Imm,
        f: impl Fn(Val<'k, T>, Val<'k, T>) -> Val<'k, T> + Copy,
    ) -> Val<'k, T> {
        let threads = self.threads();
        assert!(threads.is_multiple_of(32), "a block of whole warps");
        let warps = threads / 32;
        let own = self.lanes_reduce(value, 32, f);
        if warps == 1 {
            return own;
        }
        let parts = self.shared::<T>("parts", warps);
        self.blame(self.here(), || {
            self.if_(self.lane().eq(0), || parts.store(self.warp(), own))
        });
        self.barrier();
        let lane = self.lane();
        let lanes = warps.next_power_of_two();
        let mut part = parts.load((lane % lanes).min(warps - 1));
        if lanes != warps {
            part = part.select((lane % lanes).lt(warps), Val::imm(self, neutral));
        }
        let all = self.lanes_reduce(part, lanes, f);
        // The array may be written again, by the next turn of a loop around this.
        self.barrier();
        all
    }

    /// The reduction of `T` over a warp through [`Builder::lanes_reduce`], with the index of the
    /// lane that holds the largest value; the lowest lane wins ties.
    #[track_caller]
    pub fn warp_argmax<'k, T: Word + Num>(
        &'k self,
        value: Val<'k, T>,
        index: Val<'k, u32>,
    ) -> (Val<'k, T>, Val<'k, u32>) {
        self.lanes_argmax(value, index, 32)
    }

    /// [`Builder::warp_argmax`] over groups of `lanes` (a power of two up to 32) neighbouring lanes.
    #[track_caller]
    pub fn lanes_argmax<'k, T: Word + Num>(
        &'k self,
        value: Val<'k, T>,
        index: Val<'k, u32>,
        lanes: u32,
    ) -> (Val<'k, T>, Val<'k, u32>) {
        assert!(
            lanes.is_power_of_two() && lanes <= 32,
            "groups of 1, 2, 4, .. 32 lanes"
        );
        let (mut value, mut index) = (value, index);
        let mut distance = lanes / 2;
        while distance > 0 {
            let (v, i) = (
                self.shfl_xor(value, distance),
                self.shfl_xor(index, distance),
            );
            let better = v.gt(value) | (v.eq(value) & i.lt(index));
            value = self.select(better, v, value);
            index = self.select(better, i, index);
            distance /= 2;
        }
        (value, index)
    }
}
