//! The scheduler against a device that is simulated, in orders that nobody would write down.
//!
//! `device` runs steps as an executor must and says whether what a row stands on is right; `world`
//! drives a scheduler and holds it to its rules; `explore` makes orders from seeds, and spoils the
//! scheduler to see whether that is noticed; here are cases that are worth naming.

mod cases;
mod check;
mod device;
mod explore;
mod failures;
mod saving;
mod sharing;
mod world;

/// A small generator of the tests' own: the same numbers every time.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d)
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (mix(self.0, 1) % n as u64) as usize
    }

    /// True once in `n` times.
    pub(super) fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// A number that depends on all bits of both.
pub(super) fn mix(a: u64, b: u64) -> u64 {
    let mut x = a ^ b.wrapping_add(0x9e37_79b9_7f4a_7c15).rotate_left(23);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
