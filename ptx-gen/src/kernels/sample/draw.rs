//! The sampler's second kernel: draws among the tokens that are kept, and writes down what was drawn.
//!
//! | parameter | type | shape |
//! |---|---|---|
//! | logits | f32 | `[rows, vocab_size]`, penalised |
//! | lengths | u32 | `[rows]`, 0 marks a row that does nothing |
//! | slots | u32 | `[rows]`, slot of each row; live rows have different slots |
//! | settings | u32 | `[num_slots, 16]`; the number of draws and of tokens goes up |
//! | history | u32 | `[num_slots, window_max]`, where the chosen token is appended |
//! | found | u32 | `[rows, 4]`, what the first kernel left |
//! | best_values, best_indices | f32, u32 | `[rows, parts]`, scratch |
//! | counters | u32 | `[rows]`, zero before and after |
//! | out | u32 | `[rows]`; dead rows keep what they had |
//!
//! Grid `[parts, rows, 1]`. A score takes some eighty instructions. All of them on one
//! multiprocessor would take longer than most other kernels of a step; a thread has four.

use crate::build::{Builder, Pred, Ptr, Val};
use crate::ir::{Kernel, Param};

use super::math::emit;
use super::row::{Lead, Race, Row, load};
use super::sampler::{
    DRAWS, INV_TEMPERATURE, SEED, SampleParams, SampleSpec, WRITTEN, live_slot, parts,
};

/// Threads of a block, each with four tokens.
pub(super) const THREADS: u32 = 256;

/// The draw of a row.
struct Draw<'r, 'k> {
    row: &'r Row<'k>,
    params: Ptr<'k, u32>,
    /// Depth of the last token that is kept.
    limit: Val<'k, u32>,
}

impl SampleSpec {
    /// Blocks of the kernel that draws, for `rows` rows.
    pub fn draw_grid(&self, rows: u32) -> [u32; 3] {
        [self.draw_parts(), rows, 1]
    }

    pub(super) fn draw_parts(&self) -> u32 {
        self.vocab_size.div_ceil(4 * THREADS)
    }

    /// The parameters of the kernel that draws, in launch order.
    pub fn draw_params(&self) -> Vec<Param> {
        vec![
            Param::input::<f32>("logits"),
            Param::input::<u32>("lengths"),
            Param::input::<u32>("slots"),
            Param::in_out::<u32>("settings"),
            Param::output::<u32>("history"),
            Param::input::<u32>("found"),
            Param::in_out::<f32>("best_values"),
            Param::in_out::<u32>("best_indices"),
            Param::in_out::<u32>("counters"),
            Param::output::<u32>("out"),
        ]
    }

    /// The kernel that draws, after that of [`SampleSpec::filter_kernel`].
    pub fn draw_kernel(&self) -> Kernel {
        let SampleSpec {
            target,
            vocab_size,
            window_max,
        } = *self;
        let name = format!("sample_draw_{vocab_size}_w{window_max}");
        Kernel::new(name, target, |k| {
            k.doc(format!(
                "out[r] = a token drawn from logits[r, ..{vocab_size}] as settings[slots[r]] and \
                 found[r] say, appended to\nhistory[slots[r], ..{window_max}]; rows of length 0 do \
                 nothing. Grid [{}, rows, 1].",
                self.draw_parts()
            ));
            k.block_size(THREADS);
            k.declare(self.draw_params());
            let row = k.block_y();
            let logits = k.bind::<f32>("logits").offset(row * vocab_size);
            let slot = live_slot(k, row);
            let params = k.bind::<u32>("settings");
            let params = params.offset(slot * SampleParams::WORDS as u32);
            let ring = k.bind::<u32>("history").offset(slot * window_max);
            let [max, top, limit, draws] = k.bind::<u32>("found").load_vec::<4>(row * 4);
            let parts = parts(k, self.draw_parts());
            let out = k.bind::<u32>("out");

            let race = Race::new(k);
            let best = race.lead();
            k.if_(draws.ne(0), || {
                let row = Row {
                    k,
                    vocab_size,
                    logits,
                    max: max.bitcast(),
                };
                let draw = Draw {
                    row: &row,
                    params,
                    limit,
                };
                draw.quad(k.block_x() * THREADS + k.thread_x(), &best);
            });
            let (_, winner) = race.last_winner(&best, &parts, row, k.block_x());
            k.if_(k.thread_x().eq(0), || {
                let token = k.select(draws.ne(0), winner, top);
                out.store(row, token);
                record(k, params, ring, window_max, token);
            });
        })
    }
}

impl<'k> Draw<'_, 'k> {
    fn keeps(&self, below: Val<'k, f32>) -> Val<'k, Pred> {
        emit::depth(below).le(self.limit)
    }

    /// Enters the scores of four tokens, of those that are kept.
    fn quad(&self, quad: Val<'k, u32>, best: &Lead<'k>) {
        let Row {
            k,
            vocab_size,
            logits,
            ..
        } = *self.row;
        let below = load(k, vocab_size, logits, quad).map(|logit| self.row.below(logit));
        let kept = below.map(|below| self.keeps(below));
        // Where a filter keeps few tokens, most warps have none.
        k.if_(kept[0] | kept[1] | kept[2] | kept[3], || {
            let inv_temperature = self.params.cast::<f32>().load(INV_TEMPERATURE);
            for (j, word) in (0..).zip(self.words(quad)) {
                let score = emit::gumbel(k, word) - below[j] * inv_temperature;
                let score = k.select(kept[j], score, f32::NEG_INFINITY);
                best.follow(score, quad * 4 + j as u32);
            }
        });
    }

    /// The random words of four tokens.
    fn words(&self, quad: Val<'k, u32>) -> [Val<'k, u32>; 4] {
        let k = self.row.k;
        let draw = self.params.load_vec::<2>(DRAWS);
        let keys = emit::round_keys(self.params.load_vec::<2>(SEED));
        emit::philox4x32(k, [quad, draw[0], draw[1], k.constant(0)], &keys)
    }
}

/// Appends a token to a slot's ring and counts it.
fn record<'k>(
    k: &'k Builder,
    params: Ptr<'k, u32>,
    ring: Ptr<'k, u32>,
    window_max: u32,
    token: Val<'k, u32>,
) {
    let written = params.load(WRITTEN);
    ring.store(written % window_max, token);
    params.store(WRITTEN, written + 1);
    let low = params.load(DRAWS) + 1;
    params.store(DRAWS, low);
    k.if_(low.eq(0), || {
        params.store(DRAWS + 1, params.load(DRAWS + 1) + 1);
    });
}
