//! The sampler's draw: the largest score among the kept tokens of a row.

use crate::build::{Pred, Ptr, Val};

use super::sample::{DRAWS, SEED};
use super::sample_filter::Candidates;
use super::sample_math::{MOST_GUMBEL, emit};
use super::sample_row::{Lead, Row};

/// Loads in flight a thread.
const UNROLL: u32 = 2;
/// Covers the rounding of the quick test of a draw, in powers of two; generous.
const SLACK: f32 = 0.001;

/// The draw among the tokens down to a depth.
pub(super) struct Draw<'r, 'k, const W: usize> {
    row: &'r Row<'k, W>,
    seed: [Val<'k, u32>; 2],
    draw: [Val<'k, u32>; 2],
    inv_temperature: Val<'k, f32>,
    limit: Val<'k, u32>,
}

impl<'r, 'k, const W: usize> Draw<'r, 'k, W> {
    pub(super) fn new(
        row: &'r Row<'k, W>,
        params: Ptr<'k, u32>,
        inv_temperature: Val<'k, f32>,
        limit: Val<'k, u32>,
    ) -> Draw<'r, 'k, W> {
        Draw {
            row,
            seed: params.load_vec::<2>(SEED),
            draw: params.load_vec::<2>(DRAWS),
            inv_temperature,
            limit,
        }
    }

    fn words(&self, quad: Val<'k, u32>) -> [Val<'k, u32>; 4] {
        let k = self.row.k;
        let counter = [quad, self.draw[0], self.draw[1], k.constant(0)];
        emit::philox4x32(k, counter, self.seed)
    }

    fn word(&self, token: Val<'k, u32>) -> Val<'k, u32> {
        let k = self.row.k;
        let [a, b, c, d] = self.words(token / 4);
        let odd = (token % 2).eq(1);
        let (low, high) = (k.select(odd, b, a), k.select(odd, d, c));
        k.select((token % 4).lt(2), low, high)
    }

    pub(super) fn score(&self, token: Val<'k, u32>, below: Val<'k, f32>) -> Val<'k, f32> {
        emit::gumbel(self.row.k, self.word(token)) - below * self.inv_temperature
    }

    /// Draws from the list of candidates.
    pub(super) fn among(&self, candidates: &Candidates<'k>, best: &Lead<'k>) {
        let k = self.row.k;
        candidates.each(k, |logit, token| {
            let below = self.row.below(logit);
            k.if_(emit::depth(below).le(self.limit), || {
                best.consider(self.score(token, below), token);
            });
        });
    }

    /// Draws from all logits. Few tokens can still win once a good one is known, and those that
    /// cannot are told cheaply: first by their distance alone, then by `g <= -ln(v)` for the
    /// random number `v` behind a variate `g`.
    pub(super) fn everywhere(&self, best: &Lead<'k>) {
        let k = self.row.k;
        let any = |flags: [Val<'k, Pred>; W]| {
            let [first, rest @ ..] = flags.as_slice() else {
                unreachable!("a vector has elements")
            };
            k.warp_any(rest.iter().fold(*first, |a, b| a | *b))
        };
        self.row.each(UNROLL, |logits, at| {
            let below = logits.map(|l| self.row.below(l));
            // How large a variate must be to win.
            let needed = below.map(|b| b * self.inv_temperature + best.value.get());
            let within: [_; W] = std::array::from_fn(|j| {
                emit::depth(below[j]).le(self.limit) & needed[j].lt(MOST_GUMBEL)
            });
            k.if_(any(within), || {
                let words: [_; W] = if W == 4 {
                    let words = self.words(at / 4);
                    std::array::from_fn(|j| words[j])
                } else {
                    [self.word(at); W]
                };
                let close: [_; W] = std::array::from_fn(|j| {
                    // The random number, rounded down, plus 1.
                    let v = ((words[j] >> 9u32) | 1f32.to_bits()).bitcast::<f32>();
                    let most = needed[j].fma(-std::f32::consts::LOG2_E, SLACK).ex2();
                    within[j] & (v - 1.0).lt(most)
                });
                k.if_(any(close), || self.run(best, at, words, below, close));
            });
        });
    }

    /// Enters the flagged tokens of a vector, one of each lane at a time.
    fn run(
        &self,
        best: &Lead<'k>,
        first: Val<'k, u32>,
        words: [Val<'k, u32>; W],
        below: [Val<'k, f32>; W],
        flags: [Val<'k, Pred>; W],
    ) {
        let k = self.row.k;
        let flags = (0..).zip(flags);
        let left = k.var(flags.fold(k.constant(0u32), |mask, (j, flag)| {
            mask | k.select(flag, 1 << j, 0)
        }));
        k.loop_while(|| {
            let lowest = left.get() & (!left.get() + 1);
            let (mut word, mut distance) = (words[0], below[0]);
            for j in 1..W {
                let this = lowest.eq(1 << j);
                word = k.select(this, words[j], word);
                distance = k.select(this, below[j], distance);
            }
            let score = emit::gumbel(k, word) - distance * self.inv_temperature;
            let enters = lowest.gt(0);
            let index = first + (k.constant(31u32) - lowest.leading_zeros());
            best.consider(k.select(enters, score, f32::NEG_INFINITY), index);
            left.set(left.get() - lowest);
            k.warp_any(left.get().gt(0))
        });
        best.share();
    }
}
