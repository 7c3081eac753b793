//! How the sampler's block goes over a row of logits, and finds the best of something in it.
//!
//! Of equals the lowest index is the best, whichever thread saw it.

use crate::build::{Builder, Ptr, Shared, Val, Var};

/// A row of logits, penalised, and its largest.
pub(super) struct Row<'k, const W: usize> {
    pub(super) k: &'k Builder,
    pub(super) vocab_size: u32,
    pub(super) logits: Ptr<'k, f32>,
    /// The largest, which is finite.
    pub(super) max: Val<'k, f32>,
}

impl<'k, const W: usize> Row<'k, W> {
    /// Distance below the largest logit; infinite for NaN.
    pub(super) fn below(&self, logit: Val<'k, f32>) -> Val<'k, f32> {
        self.max - logit.max(f32::NEG_INFINITY)
    }

    /// Calls `f` with all logits, as [`each`] does.
    pub(super) fn each(&self, unroll: u32, f: impl Fn([Val<'k, f32>; W], Val<'k, u32>)) {
        each(self.k, self.vocab_size, self.logits, unroll, f);
    }
}

/// Calls `f` with the logits that each thread takes, and the index of the first. All warps call it
/// equally often, so that it may hold warp-wide instructions; past the end there is minus infinity.
pub(super) fn each<'k, const W: usize>(
    k: &'k Builder,
    vocab_size: u32,
    logits: Ptr<'k, f32>,
    unroll: u32,
    f: impl Fn([Val<'k, f32>; W], Val<'k, u32>),
) {
    let stride = k.threads() * W as u32;
    k.for_each(0, vocab_size, stride * unroll, |base| {
        let place = |u| base + k.thread_x() * W as u32 + u * stride;
        let loaded: Vec<_> = (0..unroll)
            .map(|u| logits.load_vec::<W>(place(u).min(vocab_size - W as u32)))
            .collect();
        for (u, values) in (0..).zip(loaded) {
            let inside = place(u).lt(vocab_size);
            f(
                values.map(|v| k.select(inside, v, f32::NEG_INFINITY)),
                place(u),
            );
        }
    });
}

/// Finds the largest value of a block and its index, of equals the lowest.
pub(super) struct Race<'k> {
    k: &'k Builder,
    values: Shared<'k, f32>,
    indices: Shared<'k, u32>,
}

/// The best that a thread has seen.
pub(super) struct Lead<'k> {
    k: &'k Builder,
    pub(super) value: Var<'k, f32>,
    index: Var<'k, u32>,
}

impl<'k> Race<'k> {
    pub(super) fn new(k: &'k Builder) -> Race<'k> {
        // One value a warp, then the winner.
        let warps = k.threads() / 32;
        Race {
            k,
            values: k.shared("values", warps + 1),
            indices: k.shared("indices", warps + 1),
        }
    }

    pub(super) fn lead(&self, value: Val<'k, f32>, index: Val<'k, u32>) -> Lead<'k> {
        Lead {
            k: self.k,
            value: self.k.var(value),
            index: self.k.var(index),
        }
    }

    /// The block's best, in every thread. Holds barriers.
    pub(super) fn winner(&self, lead: &Lead<'k>) -> (Val<'k, f32>, Val<'k, u32>) {
        let (k, warps) = (self.k, self.k.threads() / 32);
        lead.share();
        k.if_(k.lane().eq(0), || {
            self.values.store(k.warp(), lead.value.get());
            self.indices.store(k.warp(), lead.index.get());
        });
        k.barrier();
        k.if_(k.warp().eq(0), || {
            let from = k.lane().min(warps - 1);
            let (value, index) = (self.values.load(from), self.indices.load(from));
            let (value, index) = k.warp_argmax(value, index);
            k.if_(k.lane().eq(0), || {
                self.values.store(warps, value);
                self.indices.store(warps, index);
            });
        });
        k.barrier();
        (self.values.load(warps), self.indices.load(warps))
    }
}

impl<'k> Lead<'k> {
    pub(super) fn consider(&self, value: Val<'k, f32>, index: Val<'k, u32>) {
        let (k, best, at) = (self.k, self.value.get(), self.index.get());
        let wins = value.gt(best) | (value.eq(best) & index.lt(at));
        self.value.set(k.select(wins, value, best));
        self.index.set(k.select(wins, index, at));
    }

    /// Gives every lane of the warp the warp's best.
    pub(super) fn share(&self) {
        let (value, index) = self.k.warp_argmax(self.value.get(), self.index.get());
        self.value.set(value);
        self.index.set(index);
    }
}
