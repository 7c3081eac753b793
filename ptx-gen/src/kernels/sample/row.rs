//! How blocks go over a row of logits, and find the best of something in it: each block the best of
//! its part, and the last one to arrive the best of all parts.
//!
//! Of equals the lowest index is the best, whichever thread and block saw it. A row of logits that are
//! no numbers has none: its largest is plus infinity at [`NO_TOKEN`].

use crate::build::{Builder, Ptr, Shared, Val, Var};
use crate::op::{Order, Rmw, Scope};

/// A row of logits, penalised, and its largest.
pub(super) struct Row<'k> {
    pub(super) k: &'k Builder,
    pub(super) vocab_size: u32,
    pub(super) logits: Ptr<'k, f32>,
    /// The largest, which is finite.
    pub(super) max: Val<'k, f32>,
}

impl<'k> Row<'k> {
    /// Distance below the largest logit; infinite for NaN.
    pub(super) fn below(&self, logit: Val<'k, f32>) -> Val<'k, f32> {
        self.max - logit.max(f32::NEG_INFINITY)
    }

    /// Calls `f` with all logits, as [`each`] does.
    pub(super) fn each(&self, unroll: u32, f: impl Fn([Val<'k, f32>; 4], Val<'k, u32>)) {
        each(self.k, self.vocab_size, self.logits, unroll, f);
    }
}

/// Calls `f` with the logits that each thread takes, in order: four at a time, as random words
/// come, and the number of the four. All warps call it equally often, so that it may hold warp-wide
/// instructions; past the end there is minus infinity.
pub(super) fn each<'k>(
    k: &'k Builder,
    vocab_size: u32,
    logits: Ptr<'k, f32>,
    unroll: u32,
    f: impl Fn([Val<'k, f32>; 4], Val<'k, u32>),
) {
    k.for_each(0, vocab_size.div_ceil(4), k.threads() * unroll, |base| {
        turn(k, vocab_size, logits, base, unroll, &f);
    });
}

/// One turn of [`each`], from quad `base` on.
pub(super) fn turn<'k>(
    k: &'k Builder,
    vocab_size: u32,
    logits: Ptr<'k, f32>,
    base: Val<'k, u32>,
    unroll: u32,
    f: impl Fn([Val<'k, f32>; 4], Val<'k, u32>),
) {
    let quads = (0..unroll).map(|u| base + k.thread_x() + u * k.threads());
    let loaded: Vec<_> = quads
        .map(|quad| (quad, load(k, vocab_size, logits, quad)))
        .collect();
    for (quad, values) in loaded {
        f(values, quad);
    }
}

/// Four logits; minus infinity past the end.
pub(super) fn load<'k>(
    k: &'k Builder,
    vocab_size: u32,
    logits: Ptr<'k, f32>,
    quad: Val<'k, u32>,
) -> [Val<'k, f32>; 4] {
    let nothing = k.constant(f32::NEG_INFINITY);
    if vocab_size.is_multiple_of(4) {
        let inside = quad.lt(vocab_size / 4);
        let values = logits.load_vec::<4>(quad.min(vocab_size / 4 - 1) * 4);
        return values.map(|v| k.select(inside, v, nothing));
    }
    // Rows start anywhere.
    std::array::from_fn(|j| {
        let token = quad * 4 + j as u32;
        let value = logits.load(token.min(vocab_size - 1));
        k.select(token.lt(vocab_size), value, nothing)
    })
}

/// In the place of a token: the logits are not finite. A row is so that holds NaN or plus infinity, or
/// nothing above minus infinity.
pub const NO_TOKEN: u32 = u32::MAX;

/// Whether a thread has seen NaN, at one FMA a value: a sum in which numbers cannot overflow.
pub(super) struct Seen<'k> {
    k: &'k Builder,
    /// NaN once there was one, or both infinities.
    sum: Var<'k, f32>,
}

impl<'k> Seen<'k> {
    pub(super) fn new(k: &'k Builder) -> Seen<'k> {
        Seen {
            k,
            sum: k.var(0f32),
        }
    }

    pub(super) fn add(&self, value: Val<'k, f32>) {
        // 2^-60: no sum of fewer than 2^60 numbers exceeds the largest.
        const SMALL: f32 = f32::from_bits((127 - 60) << 23);
        self.sum.update(|sum| value.fma(SMALL, sum));
    }

    /// The largest value and its index, or what says that there is none: nothing exceeds that, and no
    /// other index comes with it.
    pub(super) fn judge(
        &self,
        value: Val<'k, f32>,
        index: Val<'k, u32>,
    ) -> (Val<'k, f32>, Val<'k, u32>) {
        let (k, sum) = (self.k, self.sum.get());
        let value = k.select(sum.ne(sum), f32::INFINITY, value);
        (value, k.select(value.lt(f32::INFINITY), index, NO_TOKEN))
    }
}

/// Where the blocks of a row leave the best of their parts.
pub(super) struct Parts<'k> {
    /// Blocks of a row.
    pub(super) count: u32,
    /// `f32[rows, count]`.
    pub(super) values: Ptr<'k, f32>,
    /// `u32[rows, count]`.
    pub(super) indices: Ptr<'k, u32>,
    /// `u32[rows]`: blocks that have left theirs; zero before and after.
    pub(super) arrived: Ptr<'k, u32>,
}

/// Finds the largest value of a row and its index, of equals the lowest.
pub(super) struct Race<'k> {
    k: &'k Builder,
    values: Shared<'k, f32>,
    indices: Shared<'k, u32>,
}

/// The best that a thread has seen.
pub(super) struct Lead<'k> {
    k: &'k Builder,
    pub(super) value: Var<'k, f32>,
    pub(super) index: Var<'k, u32>,
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

    /// Nothing seen yet: minus infinity at [`NO_TOKEN`].
    pub(super) fn lead(&self) -> Lead<'k> {
        Lead {
            k: self.k,
            value: self.k.var(f32::NEG_INFINITY),
            index: self.k.var(NO_TOKEN),
        }
    }

    /// The block's best, in every thread. Holds barriers.
    pub(super) fn winner(&self, lead: &Lead<'k>) -> (Val<'k, f32>, Val<'k, u32>) {
        let (k, warps) = (self.k, self.k.threads() / 32);
        let (value, index) = k.warp_argmax(lead.value.get(), lead.index.get());
        k.if_(k.lane().eq(0), || {
            self.values.store(k.warp(), value);
            self.indices.store(k.warp(), index);
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

    /// The best of row `row`, of which this is block `part`, in every thread of the block that is
    /// the last to arrive; the others end. Holds barriers.
    pub(super) fn last_winner(
        &self,
        lead: &Lead<'k>,
        parts: &Parts<'k>,
        row: Val<'k, u32>,
        part: Val<'k, u32>,
    ) -> (Val<'k, f32>, Val<'k, u32>) {
        let k = self.k;
        let (value, index) = self.winner(lead);
        let earlier: Shared<'k, u32> = k.shared("earlier", 1);
        let first = row * parts.count;
        k.if_(k.thread_x().eq(0), || {
            parts.values.store(first + part, value);
            parts.indices.store(first + part, index);
            // With the barriers around it, this orders all that the block has read and written
            // before what the last block does.
            let order = Order::AcqRel(Scope::Gpu);
            earlier.store(0, parts.arrived.atomic(Rmw::Add, row, 1u32, order));
        });
        k.barrier();
        k.exit_if(earlier.load(0).ne(parts.count - 1));
        k.if_(k.thread_x().eq(0), || parts.arrived.store(row, 0));
        let best = self.lead();
        k.for_each(k.thread_x(), parts.count, k.threads(), |i| {
            best.follow(parts.values.load(first + i), parts.indices.load(first + i));
        });
        self.winner(&best)
    }
}

impl<'k> Lead<'k> {
    /// Enters a value whose index is higher than those before it. NaN and minus infinity never win.
    pub(super) fn follow(&self, value: Val<'k, f32>, index: Val<'k, u32>) {
        let k = self.k;
        let wins = value.gt(self.value.get());
        self.value.set(k.select(wins, value, self.value.get()));
        self.index.set(k.select(wins, index, self.index.get()));
    }

    /// Gives way to what says that the values are no numbers, where these were seen.
    pub(super) fn judge(&self, seen: &Seen<'k>) {
        let (value, index) = seen.judge(self.value.get(), self.index.get());
        self.value.set(value);
        self.index.set(index);
    }
}
