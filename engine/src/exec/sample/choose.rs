//! The sampler's filters and its draw, over numbers that the sampling kernels compute with too.

use gannet_ptx_gen::kernels::SampleParams;
use gannet_ptx_gen::kernels::sample_math::{
    MOST_GUMBEL, depth, mass, random_line, random_words, score,
};

use super::argmax;

/// Tokens whose variates are computed together.
const LINE: usize = 64;
/// So many of a line are cheaper one by one.
const FEW: usize = 6;
/// Bins of a filter's histogram, a sixteenth of a logit wide; the last has all that is deeper.
const BINS: usize = 1024;
const BIN_WIDTH: u32 = 20;

/// Logits and the largest of them.
pub(super) struct Row<'a> {
    logits: &'a [f32],
    pub(super) max: f32,
    pub(super) top: u32,
}

impl Row<'_> {
    pub(super) fn new(logits: &[f32]) -> Row<'_> {
        let top = argmax(logits);
        Row {
            logits,
            max: logits.get(top as usize).copied().unwrap_or(f32::NAN),
            top,
        }
    }

    /// Distance below the largest logit; infinite for NaN.
    fn below(&self, logit: f32) -> f32 {
        self.max - logit.max(f32::NEG_INFINITY)
    }

    /// Tokens as depth and distance, in order.
    fn depths(&self) -> impl Iterator<Item = (u32, f32)> {
        self.logits.iter().map(|&l| {
            let below = self.below(l);
            (depth(below), below)
        })
    }

    /// The least depth, of those up to `limit`, down to which tokens weigh what `goal` makes of the
    /// weight of all. `inside` is memory to work in.
    fn reach(
        &self,
        limit: u32,
        inside: &mut Vec<(u32, u32)>,
        weight: impl Fn(f32) -> u32,
        goal: impl Fn(u64) -> u64,
    ) -> u32 {
        let bin_of = |depth: u32| ((depth >> BIN_WIDTH) as usize).min(BINS - 1);
        let mut bins = [0u64; BINS];
        for (depth, below) in self.depths() {
            if depth <= limit {
                bins[bin_of(depth)] += u64::from(weight(below));
            }
        }
        let goal = goal(bins.iter().sum());
        let mut sum = 0;
        let reached = bins.iter().position(|weighs| {
            sum += weighs;
            sum >= goal
        });
        let Some(bin) = reached else {
            return limit;
        };
        sum -= bins[bin];
        let here = |(depth, below)| {
            let here = depth <= limit && bin_of(depth) == bin;
            here.then(|| (depth, weight(below)))
        };
        inside.clear();
        inside.extend(self.depths().filter_map(here));
        inside.sort_unstable();
        let last = inside.iter().find(|(_, weight)| {
            sum += u64::from(*weight);
            sum >= goal
        });
        last.map_or(limit, |(depth, _)| *depth)
    }

    /// The depth to which the filters keep tokens. `inside` is memory to work in.
    pub(super) fn limit(&self, params: &SampleParams, inside: &mut Vec<(u32, u32)>) -> u32 {
        let mut limit = u32::MAX;
        if params.top_k > 0 {
            limit = self.reach(limit, inside, |_| 1, |_| u64::from(params.top_k));
        }
        if params.top_p > 0 {
            let goal = |total: u64| {
                let share = (u128::from(total) * u128::from(params.top_p)) >> 32;
                (share as u64).max(1)
            };
            limit = self.reach(limit, inside, mass, goal);
        }
        limit.min(params.min_p_depth)
    }

    /// The token with the largest score down to a depth.
    pub(super) fn draw(&self, params: &SampleParams, limit: u32, draw: u64) -> u32 {
        let (seed, warmth) = (params.seed, params.inv_temperature);
        let score_of = |token: u32, below: f32| {
            let word = random_words(seed, draw, token / 4)[token as usize % 4];
            score(below, warmth, word)
        };
        let mut best = (score_of(self.top, 0.0), self.top);
        // Whether a token at this distance could still win.
        let can_win = |below: f32, lead: f32| below * warmth + lead < MOST_GUMBEL;
        let consider = |best: &mut (f32, u32), score: f32, token: u32| {
            if score > best.0 || (score == best.0 && token < best.1) {
                *best = (score, token);
            }
        };
        for (first, logits) in (0..).step_by(LINE).zip(self.logits.chunks(LINE)) {
            let mut below = [f32::INFINITY; LINE];
            for (below, &l) in below.iter_mut().zip(logits) {
                let distance = self.below(l);
                if depth(distance) <= limit {
                    *below = distance;
                }
            }
            let open = below.iter().filter(|b| can_win(**b, best.0)).count();
            if open <= FEW {
                for (token, below) in (first..).zip(below) {
                    if can_win(below, best.0) {
                        consider(&mut best, score_of(token, below), token);
                    }
                }
                continue;
            }
            // Loops that vectorise.
            let words = random_line::<{ LINE / 4 }>(seed, draw, first / 4);
            let mut scores = [0f32; LINE];
            for (i, score_of) in scores.iter_mut().enumerate() {
                *score_of = score(below[i], warmth, words[i % 4][i / 4]);
            }
            if scores.iter().any(|s| *s >= best.0) {
                for (token, score) in (first..).zip(scores) {
                    consider(&mut best, score, token);
                }
            }
        }
        best.1
    }
}
