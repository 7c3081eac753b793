//! Top-k and top-p in a block: the depth to which tokens are kept, without sorting.
//!
//! A filter asks for the least depth such that the tokens down to it weigh enough, a token weighing
//! 1 for top-k and its mass for top-p. A histogram over depths says in which bin that depth lies;
//! the bin is cut into bins again, until it is one depth wide. Once few tokens lie above a bin's end
//! they are copied to shared memory, and nothing reads all logits any more.
//!
//! Weights are integers and their sums exact: 64 bits, as two words with a carry between them,
//! since shared memory adds words fastest.

use crate::build::{Builder, Pred, Ptr, Shared, Val, Var};
use crate::op::Rmw;

use super::math::emit;
use super::row::Row;

/// Width of the first histogram's bins as a power of two: a sixteenth of a logit. The last bin has
/// all that is deeper.
const FIRST_WIDTH: u32 = 20;
/// Tokens that the list holds at most.
const CAPACITY: u32 = 4096;
/// Loads in flight a thread.
const UNROLL: u32 = 2;

const TOP_K: u32 = 1;
const TOP_P: u32 = 2;

/// What the filters have kept so far.
struct Candidates<'k> {
    /// Depth of the last token.
    limit: Var<'k, u32>,
    /// Logits in the list, which holds all kept ones and perhaps others; 0: no list.
    listed: Var<'k, u32>,
    capacity: u32,
    logits: Shared<'k, f32>,
}

/// Shared memory of a search.
struct Scratch<'k> {
    /// The words of each bin's weight; a bin for each thread.
    low: Shared<'k, u32>,
    high: Shared<'k, u32>,
    /// Weight of each warp's bins.
    totals: Shared<'k, u64>,
    /// The bin found.
    bin: Shared<'k, u32>,
    /// Weight before that bin, and the weight that is wanted.
    weights: Shared<'k, u64>,
    /// Tokens found for the list.
    found: Shared<'k, u32>,
}

/// The depth to which top-k, and then top-p of what is left, keep tokens. Holds barriers.
pub(super) fn depth_kept<'k>(row: &Row<'k>, params: Ptr<'k, u32>) -> Val<'k, u32> {
    let k = row.k;
    // A list of more than half of all tokens would save little.
    let capacity = row.vocab_size.div_ceil(2).min(CAPACITY);
    let candidates = Candidates {
        capacity,
        limit: k.var(u32::MAX),
        listed: k.var(0u32),
        logits: k.shared("candidates", capacity),
    };
    let scratch = Scratch {
        low: k.shared("low", k.threads()),
        high: k.shared("high", k.threads()),
        totals: k.shared("totals", k.threads() / 32),
        bin: k.shared("bin", 1),
        weights: k.shared("weights", 2),
        found: k.shared("gathered", 1),
    };
    // Both filters by one text, which is long.
    k.for_each(TOP_K, TOP_P + 1, 1, |filter| {
        let setting = params.load(filter);
        k.if_(setting.gt(0), || {
            candidates.narrow(row, &scratch, filter, setting);
        });
    });
    candidates.limit.get()
}

impl<'k> Candidates<'k> {
    /// Calls `f` with the logits of the list.
    fn each(&self, k: &'k Builder, f: impl Fn(Val<'k, f32>)) {
        k.for_each(k.thread_x(), self.listed.get(), k.threads(), |i| {
            f(self.logits.load(i));
        });
    }

    /// Lowers the limit as one filter wants.
    fn narrow(
        &self,
        row: &Row<'k>,
        scratch: &Scratch<'k>,
        filter: Val<'k, u32>,
        setting: Val<'k, u32>,
    ) {
        let k = row.k;
        let by_mass = filter.eq(TOP_P);
        // The depths in question, and what lies before them.
        let (from, to) = (k.var(0u32), k.var(self.limit.get()));
        let (before, wanted) = (k.var(0u64), k.var(0u64));
        let width = k.var(FIRST_WIDTH);
        k.loop_while(|| {
            let bins = (from.get(), to.get(), width.get());
            self.count(row, scratch, by_mass, bins);
            let first = wanted.get().eq(0);
            let goal = |total: Val<'k, u64>| {
                let share = total.mul_hi(setting.cast::<u64>() << 32u32).max(1);
                let share = k.select(by_mass, share, setting.cast::<u64>().min(total));
                k.select(first, share, wanted.get())
            };
            scratch.find(k, before.get(), goal);
            let bin = scratch.bin.load(0);
            before.set(scratch.weights.load(0));
            wanted.set(scratch.weights.load(1));
            let (low, high, size) = bins;
            let start = low + (bin << size);
            // In this order nothing goes past the largest number.
            let end = start + (high - start).min((k.constant(1u32) << size) - 1);
            from.set(start);
            to.set(k.select(bin.eq(k.threads() - 1), high, end));
            k.if_(first & self.listed.get().eq(0), || {
                self.gather(row, scratch, to.get());
            });
            let more = k.threads().ilog2();
            let bits = k.constant(32u32) - (to.get() - from.get()).leading_zeros();
            width.set(bits.max(more) - more);
            from.get().lt(to.get())
        });
        self.limit.set(to.get());
    }

    /// The histogram of the tokens from depth `bins.0` to `bins.1`, bins `2^bins.2` wide.
    fn count(
        &self,
        row: &Row<'k>,
        scratch: &Scratch<'k>,
        by_mass: Val<'k, Pred>,
        bins: (Val<'k, u32>, Val<'k, u32>, Val<'k, u32>),
    ) {
        let k = row.k;
        let (low, high, width) = bins;
        scratch.low.store(k.thread_x(), 0);
        scratch.high.store(k.thread_x(), 0);
        k.barrier();
        let add = |logit: Val<'k, f32>| {
            let below = row.below(logit);
            let depth = emit::depth(below);
            // The list has nothing at minus infinity, so that it must not be counted either.
            let real = logit.gt(f32::NEG_INFINITY);
            k.if_(real & depth.ge(low) & depth.le(high), || {
                let bin = ((depth - low) >> width).min(k.threads() - 1);
                let weight = k.if_value(by_mass, || emit::mass(k, below), || k.constant(1));
                k.if_(weight.gt(0), || {
                    let old = scratch.low.atomic(Rmw::Add, bin, weight);
                    k.if_((old + weight).lt(old), || {
                        scratch.high.atomic(Rmw::Add, bin, 1u32);
                    });
                });
            });
        };
        k.if_else(
            self.listed.get().gt(0),
            || self.each(k, add),
            || row.each(UNROLL, |logits, _| logits.into_iter().for_each(add)),
        );
        k.barrier();
    }

    /// Copies the logits down to a depth to the list, if they fit.
    fn gather(&self, row: &Row<'k>, scratch: &Scratch<'k>, to: Val<'k, u32>) {
        let k = row.k;
        k.if_(k.thread_x().eq(0), || scratch.found.store(0, 0));
        k.barrier();
        let lower_lanes = (k.constant(1u32) << k.lane()) - 1;
        row.each(UNROLL, |logits, _| {
            for logit in logits {
                let depth = emit::depth(row.below(logit));
                let kept = depth.le(to) & logit.gt(f32::NEG_INFINITY);
                let mask = k.ballot(kept);
                k.if_(mask.ne(0), || {
                    let first = k.if_value(
                        k.lane().eq(0),
                        || scratch.found.atomic(Rmw::Add, 0, mask.count_ones()),
                        || k.constant(0),
                    );
                    let place = k.shfl(first, 0) + (mask & lower_lanes).count_ones();
                    k.if_(kept & place.lt(self.capacity), || {
                        self.logits.store(place, logit);
                    });
                });
            }
        });
        k.barrier();
        let found = scratch.found.load(0);
        self.listed.set(k.select(found.le(self.capacity), found, 0));
    }
}

impl<'k> Scratch<'k> {
    /// The bin in which the weight reaches a goal that depends on the weight of all bins, to
    /// `self.bin`; what lies before it and the goal to `self.weights`.
    fn find(
        &self,
        k: &'k Builder,
        before: Val<'k, u64>,
        goal: impl Fn(Val<'k, u64>) -> Val<'k, u64>,
    ) {
        let i = k.thread_x();
        let own = join(self.low.load(i), self.high.load(i));
        // Running sums within the warp.
        let sum = k.var(own);
        for distance in [1u32, 2, 4, 8, 16] {
            let now = sum.get();
            let [low, high] = words(now).map(|word| k.shfl_up(word, distance));
            let reaches = k.lane().ge(distance);
            sum.set(now + k.select(reaches, join(low, high), 0));
        }
        k.if_(k.lane().eq(31), || self.totals.store(k.warp(), sum.get()));
        k.barrier();
        let warps = k.threads() / 32;
        let total = self.totals.load(k.lane().min(warps - 1));
        let total = k.select(k.lane().lt(warps), total, 0);
        let earlier = warp_sum(k, k.select(k.lane().lt(k.warp()), total, 0));
        let goal = goal(warp_sum(k, total));
        let reached = before + earlier + sum.get();
        let left = reached - own;
        k.if_(left.lt(goal) & reached.ge(goal), || {
            self.bin.store(0, i);
            self.weights.store(0, left);
            self.weights.store(1, goal);
        });
        k.barrier();
    }
}

fn words(value: Val<'_, u64>) -> [Val<'_, u32>; 2] {
    [value.cast(), (value >> 32u32).cast()]
}

fn join<'k>(low: Val<'k, u32>, high: Val<'k, u32>) -> Val<'k, u64> {
    low.cast::<u64>() | (high.cast::<u64>() << 32u32)
}

fn warp_sum<'k>(k: &'k Builder, mut value: Val<'k, u64>) -> Val<'k, u64> {
    for distance in [16u32, 8, 4, 2, 1] {
        let [low, high] = words(value).map(|word| k.shfl_xor(word, distance));
        value = value + join(low, high);
    }
    value
}
