//! The sampler's draw: the largest score among the kept tokens of a row.
//!
//! Scores are to the bit those of the CPU, and take some eighty instructions each. Over a whole
//! vocabulary they are computed only where a bound, which takes ten, does not rule a token out.

use crate::build::{Pred, Ptr, Val};

use super::sample::{DRAWS, SEED};
use super::sample_filter::Candidates;
use super::sample_math::emit::{self, RoundKeys};
use super::sample_row::{Lead, Race, Row, load};

/// Loads in flight a thread.
const UNROLL: u32 = 2;

/// The draw among the tokens down to a depth.
pub(super) struct Draw<'r, 'k> {
    row: &'r Row<'k>,
    keys: RoundKeys<'k>,
    draw: [Val<'k, u32>; 2],
    inv_temperature: Val<'k, f32>,
    limit: Val<'k, u32>,
}

impl<'r, 'k> Draw<'r, 'k> {
    pub(super) fn new(
        row: &'r Row<'k>,
        params: Ptr<'k, u32>,
        inv_temperature: Val<'k, f32>,
        limit: Val<'k, u32>,
    ) -> Draw<'r, 'k> {
        Draw {
            row,
            keys: emit::round_keys(params.load_vec::<2>(SEED)),
            draw: params.load_vec::<2>(DRAWS),
            inv_temperature,
            limit,
        }
    }

    /// The random words of four tokens.
    fn words(&self, quad: Val<'k, u32>) -> [Val<'k, u32>; 4] {
        let k = self.row.k;
        let counter = [quad, self.draw[0], self.draw[1], k.constant(0)];
        emit::philox4x32(k, counter, &self.keys)
    }

    fn keeps(&self, below: Val<'k, f32>) -> Val<'k, Pred> {
        emit::depth(below).le(self.limit)
    }

    /// Enters the exact score of a token if it is kept.
    fn run(&self, best: &Lead<'k>, logit: Val<'k, f32>, word: Val<'k, u32>, token: Val<'k, u32>) {
        let k = self.row.k;
        let below = self.row.below(logit);
        k.if_(self.keeps(below), || {
            let score = emit::gumbel(k, word) - below * self.inv_temperature;
            best.consider(score, token);
        });
    }

    /// Draws from the list of candidates.
    pub(super) fn among(&self, candidates: &Candidates<'k>, best: &Lead<'k>) {
        let k = self.row.k;
        candidates.each(k, |logit, token| {
            let [a, b, c, d] = self.words(token / 4);
            let odd = (token % 2).eq(1);
            let (low, high) = (k.select(odd, b, a), k.select(odd, d, c));
            let word = k.select((token % 4).lt(2), low, high);
            self.run(best, logit, word, token);
        });
    }

    /// Draws from all logits. Holds barriers.
    ///
    /// Each thread bounds its scores from above and remembers the four tokens with the largest
    /// bound, and the largest bound of its other tokens. Of those four the scores are computed; if
    /// the largest of the whole block is above the bound of the others, they are all that counts,
    /// and nearly always it is. Elsewhere the thread computes all of its scores.
    pub(super) fn everywhere(&self, race: &Race<'k>, best: &Lead<'k>) {
        let Row {
            k,
            vocab_size,
            logits,
            ..
        } = *self.row;
        let first = race.lead();
        let second = k.var(f32::NEG_INFINITY);
        self.row.each(UNROLL, |logits, quad| {
            let words = self.words(quad);
            let bounds: [_; 4] = std::array::from_fn(|j| {
                let below = self.row.below(logits[j]);
                // Rounding keeps the order: the same is subtracted from a score.
                let bound = emit::gumbel_bound(words[j]) - below * self.inv_temperature;
                k.select(self.keeps(below), bound, f32::NEG_INFINITY)
            });
            let [a, b, c, d] = bounds;
            let bound = a.max(b).max(c.max(d));
            second.update(|second| second.max(bound.min(first.value.get())));
            first.follow(bound, quad);
        });
        let exactly = |quad: Val<'k, u32>| {
            let words = self.words(quad);
            let values = load(k, vocab_size, logits, quad);
            for (j, (logit, word)) in (0..).zip(values.into_iter().zip(words)) {
                self.run(best, logit, word, quad * 4 + j);
            }
        };
        exactly(first.index.get());
        best.set(race.winner(best));
        k.if_(second.get().ge(best.value.get()), || {
            k.for_each(k.thread_x(), vocab_size.div_ceil(4), k.threads(), exactly);
        });
    }
}
