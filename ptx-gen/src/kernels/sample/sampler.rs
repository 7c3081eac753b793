//! Chooses the next token of each row from its logits: penalties, filters and a draw, with no host.
//!
//! Two kernels, one after the other, each with many blocks a row of which the last to arrive goes on
//! with what all have found. This file has the first, which says down to which depth tokens are kept;
//! [`draw`](super::draw) draws among them and appends the chosen token to its slot's
//! ring. The slot's draw number goes up, so that steps may be queued without the host.
//!
//! | parameter | type | shape |
//! |---|---|---|
//! | logits | f32 | `[rows, vocab_size]`; penalties are written in, and stay |
//! | lengths | u32 | `[rows]`, 0 marks a row that does nothing |
//! | slots | u32 | `[rows]`, slot of each row; live rows have different slots |
//! | settings | u32 | `[num_slots, 16]`, [`SampleParams::words`] |
//! | history | u32 | `[num_slots, window_max]`, a ring of the latest tokens of each slot |
//! | best_values, best_indices | f32, u32 | `[rows, parts]`, scratch |
//! | counters | u32 | `[rows]`, zero before and after |
//! | found | u32 | `[rows, 4]`: the bits of the largest logit, its token, the depth of the last token kept, and whether there is a draw; dead rows keep what they had |
//!
//! Grid `[parts, rows, 1]`.
//!
//! # What is chosen
//!
//! 1. *Penalties* change the logits of the tokens among the latest `window`: positive logits are
//!    divided by `repetition`, others multiplied (Keskar et al., "CTRL", section 4.1); then
//!    `presence + frequency * occurrences` is subtracted.
//! 2. Where a logit is NaN or plus infinity, or nothing is above minus infinity, there is no choice:
//!    the token is [`NO_TOKEN`]. Without a temperature the choice is the largest logit, of equals the
//!    lowest index.
//! 3. *Filters* keep tokens down to a [`depth`](super::math::depth), ties included. Top-k:
//!    the depth of the k-th largest logit. Top-p: the least depth to which the
//!    [masses](super::math::mass) of what is left reach the share p of their sum, which is
//!    rounded down to a whole mass of at least 1. Min-p: the depth where probabilities fall to
//!    `min_p` of the largest.
//! 4. The *draw* takes the largest [`score`](super::math::score) among the kept tokens, of
//!    equals the lowest index (the Gumbel-max trick). Random words depend on the seed, the slot's
//!    draw number and the token alone.
//!
//! Filters are thresholds and sums are integers, so that no order of evaluation matters; the scores
//! are the same bits as on a CPU.

use crate::build::{Builder, Val};
use crate::ir::{Kernel, Param};
use crate::target::Target;

use super::filter::depth_kept;
use super::penalties::penalise;
use super::row::{NO_TOKEN, Parts, Race, Row, Seen, turn};

/// A sampler of rows of `vocab_size` logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SampleSpec {
    /// GPU to write for.
    pub target: Target,
    /// Logits of a row.
    pub vocab_size: u32,
    /// Tokens that a slot's ring holds: the largest penalty window. From 1 to 256.
    pub window_max: u32,
}

/// The settings and the state of one slot, as the kernel reads them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SampleParams {
    /// `1 / temperature`, finite; 0 takes the largest logit.
    pub inv_temperature: f32,
    /// Tokens that top-k keeps; 0 keeps all.
    pub top_k: u32,
    /// Share that top-p keeps, in units of `2^-32`; 0 keeps all.
    pub top_p: u32,
    /// Depth to which min-p keeps, [`depth`](super::math::depth)` of -ln(min_p)`;
    /// `u32::MAX` keeps all.
    pub min_p_depth: u32,
    /// Factor of the repetition penalty; 1 does nothing.
    pub repetition: f32,
    /// What is subtracted for being among the latest tokens.
    pub presence: f32,
    /// What is subtracted for each occurrence among the latest tokens.
    pub frequency: f32,
    /// How many of the latest tokens are penalised, at most `window_max`; 0: none.
    pub window: u32,
    /// Key of the generator.
    pub seed: u64,
    /// Number of the next draw; goes up by one for every token.
    pub draws: u64,
    /// Tokens written to the ring so far; the next goes to index `written % window_max`.
    pub written: u32,
}

// Places of the words that have no name of their own elsewhere; top-k is 1 and top-p 2.
pub(super) const INV_TEMPERATURE: u32 = 0;
const MIN_P: u32 = 3;
pub(super) const REPETITION: u32 = 4;
pub(super) const PRESENCE: u32 = 5;
pub(super) const FREQUENCY: u32 = 6;
pub(super) const WINDOW: u32 = 7;
pub(super) const SEED: u32 = 8;
pub(super) const DRAWS: u32 = 10;
pub(super) const WRITTEN: u32 = 12;

impl SampleParams {
    /// Words of a slot.
    pub const WORDS: usize = 16;

    /// The slot's row of `settings`.
    #[must_use]
    pub fn words(&self) -> [u32; SampleParams::WORDS] {
        let halves = |v: u64| [v as u32, (v >> 32) as u32];
        let ([s0, s1], [d0, d1]) = (halves(self.seed), halves(self.draws));
        [
            self.inv_temperature.to_bits(),
            self.top_k,
            self.top_p,
            self.min_p_depth,
            self.repetition.to_bits(),
            self.presence.to_bits(),
            self.frequency.to_bits(),
            self.window,
            s0,
            s1,
            d0,
            d1,
            self.written,
            0,
            0,
            0,
        ]
    }
}

/// Loads in flight a thread that looks for the largest logit.
const UNROLL: u32 = 2;

impl SampleSpec {
    /// Checks the window.
    ///
    /// # Errors
    /// What would fit.
    pub fn check(&self) -> Result<(), String> {
        if (1..=256).contains(&self.window_max) && self.vocab_size > 0 {
            return Ok(());
        }
        Err(format!(
            "a sampler has a window of 1 to 256 tokens and a vocabulary, not {} and {}",
            self.window_max, self.vocab_size
        ))
    }

    /// A power of two: a histogram has a bin for each. No fewer than tokens that are penalised.
    fn threads(&self) -> u32 {
        (self.vocab_size / 16).next_power_of_two().clamp(256, 1024)
    }

    /// Blocks of the kernel that filters, for `rows` rows.
    pub fn filter_grid(&self, rows: u32) -> [u32; 3] {
        [self.filter_parts(), rows, 1]
    }

    fn filter_parts(&self) -> u32 {
        self.vocab_size.div_ceil(4 * UNROLL * self.threads())
    }

    /// Elements of `best_values` and of `best_indices` that either kernel needs for `rows` rows.
    pub fn scratch(&self, rows: usize) -> usize {
        rows * self.draw_parts().max(self.filter_parts()) as usize
    }

    /// Bytes that both kernels move for `rows` rows that draw without filters: every logit twice.
    pub fn bytes(&self, rows: u64) -> u64 {
        8 * rows * u64::from(self.vocab_size)
    }

    /// The parameters of the kernel that filters, in launch order.
    pub fn filter_params(&self) -> Vec<Param> {
        vec![
            Param::in_out::<f32>("logits"),
            Param::input::<u32>("lengths"),
            Param::input::<u32>("slots"),
            Param::input::<u32>("settings"),
            Param::input::<u32>("history"),
            Param::in_out::<f32>("best_values"),
            Param::in_out::<u32>("best_indices"),
            Param::in_out::<u32>("counters"),
            Param::output::<u32>("found"),
        ]
    }

    /// The kernel that penalises and filters.
    pub fn filter_kernel(&self) -> Kernel {
        let SampleSpec {
            target,
            vocab_size,
            window_max,
        } = *self;
        let name = format!("sample_filter_{vocab_size}_w{window_max}");
        Kernel::new(name, target, |k| {
            k.doc(format!(
                "found[r] = the largest of logits[r, ..{vocab_size}] and the depth to which \
                 settings[slots[r]] keep others,\nafter penalties for history[slots[r], \
                 ..{window_max}]; rows of length 0 do nothing. Grid [{}, rows, 1].",
                self.filter_parts()
            ));
            k.block_size(self.threads());
            // Few blocks have much to do, so that they may have all registers.
            k.min_blocks(1);
            k.declare(self.filter_params());
            let row = k.block_y();
            let logits = k.bind::<f32>("logits").offset(row * vocab_size);
            let slot = live_slot(k, row);
            let params = k.bind::<u32>("settings");
            let params = params.offset(slot * SampleParams::WORDS as u32);
            let ring = k.bind::<u32>("history").offset(slot * window_max);
            let parts = parts(k, self.filter_parts());
            let found = k.bind::<u32>("found");

            let part = UNROLL * self.threads();
            let quad = k.block_x() * part;
            let tokens = quad * 4..(quad + part) * 4;
            penalise(k, self, logits, params, ring, tokens);
            let race = Race::new(k);
            let (best, seen) = (race.lead(), Seen::new(k));
            turn(k, vocab_size, logits, quad, UNROLL, |values, quad| {
                for (j, v) in (0..).zip(values) {
                    seen.add(v);
                    best.follow(v, quad * 4 + j);
                }
            });
            best.judge(&seen);
            let (max, top) = race.last_winner(&best, &parts, row, k.block_x());

            let inv_temperature = params.cast::<f32>().load(INV_TEMPERATURE);
            let draws = top.ne(NO_TOKEN) & inv_temperature.gt(0.0);
            let limit = k.if_value(
                draws,
                || {
                    let row = Row {
                        k,
                        vocab_size,
                        logits,
                        max,
                    };
                    depth_kept(&row, params).min(params.load(MIN_P))
                },
                || k.constant(u32::MAX),
            );
            k.if_(k.thread_x().eq(0), || {
                let draws = k.select(draws, 1u32, 0u32);
                found.store_vec(row * 4, [max.bitcast(), top, limit, draws]);
            });
        })
    }
}

/// The slot of a live row; the blocks of a dead one end.
pub(super) fn live_slot<'k>(k: &'k Builder, row: Val<'k, u32>) -> Val<'k, u32> {
    let length = k.bind::<u32>("lengths").load(row);
    let slot = k.bind::<u32>("slots").load(row);
    k.exit_if(length.eq(0));
    slot
}

/// Where blocks meet.
pub(super) fn parts(k: &Builder, count: u32) -> Parts<'_> {
    Parts {
        count,
        values: k.bind("best_values"),
        indices: k.bind("best_indices"),
        arrived: k.bind("counters"),
    }
}

pub(in crate::kernels) fn representative(target: Target) -> Vec<SampleSpec> {
    [8192, 151_936, 331]
        .map(|vocab_size| SampleSpec {
            target,
            vocab_size,
            window_max: 256,
        })
        .to_vec()
}
