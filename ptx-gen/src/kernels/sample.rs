//! Chooses the next token of each row from its logits: penalties, filters and a draw, with no host.
//!
//! | parameter | type | shape |
//! |---|---|---|
//! | logits | f32 | `[rows, vocab_size]`; penalties are written in and taken back |
//! | lengths | u32 | `[rows]`, 0 marks a row that does nothing |
//! | slots | u32 | `[rows]`, slot of each row; live rows have different slots |
//! | params | u32 | `[num_slots, 16]`, [`SampleParams::words`] |
//! | history | u32 | `[num_slots, window_max]`, a ring of the latest tokens of each slot |
//! | out | u32 | `[rows]`; dead rows keep what they had |
//!
//! Grid `[rows, 1, 1]`. The chosen token is appended to its slot's ring and the slot's draw number
//! goes up, so that steps may be queued without the host.
//!
//! # What is chosen
//!
//! 1. *Penalties* change the logits of the tokens among the latest `window`: positive logits are
//!    divided by `repetition`, others multiplied (Keskar et al., "CTRL", section 4.1); then
//!    `presence + frequency * occurrences` is subtracted.
//! 2. Without a temperature, or when the largest logit is not finite, the choice is the largest
//!    logit, of equals the lowest index, never NaN; index 0 where nothing is above minus infinity.
//! 3. *Filters* keep tokens down to a [`depth`](super::sample_math::depth), ties included. Top-k:
//!    the depth of the k-th largest logit. Top-p: the least depth to which the
//!    [masses](super::sample_math::mass) of what is left reach the share p of their sum, which is
//!    rounded down to a whole mass of at least 1. Min-p: the depth where probabilities fall to
//!    `min_p` of the largest.
//! 4. The *draw* takes the largest [`score`](super::sample_math::score) among the kept tokens, of
//!    equals the lowest index (the Gumbel-max trick). Random words depend on the seed, the slot's
//!    draw number and the token alone.
//!
//! Filters are thresholds and sums are integers, so that no order of evaluation matters; the scores
//! are the same bits as on a CPU.

use crate::ir::Kernel;
use crate::target::Target;

use super::sample_draw::Draw;
use super::sample_filter::Candidates;
use super::sample_penalties::Penalties;
use super::sample_row::{Race, Row, each};

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
    /// Depth to which min-p keeps, [`depth`](super::sample_math::depth)` of -ln(min_p)`;
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
const INV_TEMPERATURE: u32 = 0;
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

    /// The slot's row of `params`.
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

/// Loads in flight a thread: one block reads a whole row, so latency is what it pays for.
const UNROLL: u32 = 4;

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

    /// Blocks for `rows` rows.
    pub fn grid(&self, rows: u32) -> [u32; 3] {
        [rows, 1, 1]
    }

    /// Bytes moved for `rows` rows that draw without filters: every logit twice.
    pub fn bytes(&self, rows: u64) -> u64 {
        8 * rows * u64::from(self.vocab_size)
    }

    /// The kernel.
    pub fn kernel(&self) -> Kernel {
        let SampleSpec {
            target,
            vocab_size,
            window_max,
        } = *self;
        let name = format!("sample_{vocab_size}_w{window_max}");
        Kernel::new(name, target, |k| {
            k.doc(format!(
                "out[r] = a token drawn from logits[r, ..{vocab_size}] as params[slots[r]] say, \
                 appended to\nhistory[slots[r], ..{window_max}]; rows of length 0 do nothing. \
                 Grid [rows, 1, 1]."
            ));
            k.block_size(self.threads());
            // One block has a row, so that it may have all registers.
            k.min_blocks(1);
            let logits = k.in_out::<f32>("logits").offset(k.block_x() * vocab_size);
            let lengths = k.input::<u32>("lengths");
            let slots = k.input::<u32>("slots");
            let params = k.in_out::<u32>("params");
            let history = k.in_out::<u32>("history");
            let out = k.output::<u32>("out");
            k.exit_if(lengths.load(k.block_x()).eq(0));
            let slot = slots.load(k.block_x());
            let params = params.offset(slot * SampleParams::WORDS as u32);
            let ring = history.offset(slot * window_max);

            let penalties = Penalties::apply(k, self, logits, params, ring);
            let race = Race::new(k);
            let best = race.lead();
            each(k, vocab_size, logits, UNROLL, |values, quad| {
                for (j, v) in (0..).zip(values) {
                    best.follow(v, quad * 4 + j);
                }
            });
            let (max, top) = race.winner(&best);
            let chosen = k.var(top);
            let inv_temperature = params.cast::<f32>().load(INV_TEMPERATURE);
            let finite = max.gt(f32::NEG_INFINITY) & max.lt(f32::INFINITY);
            k.if_(finite & inv_temperature.gt(0.0), || {
                let row = Row {
                    k,
                    vocab_size,
                    logits,
                    max,
                };
                let candidates = Candidates::filter(&row, params);
                let limit = candidates.limit.get().min(params.load(MIN_P));
                let draw = Draw::new(&row, params, inv_temperature, limit);
                let best = race.lead();
                k.if_else(
                    candidates.listed.get().gt(0),
                    || draw.among(&candidates, &best),
                    || draw.everywhere(&race, &best),
                );
                chosen.set(race.winner(&best).1);
            });

            penalties.take_back(logits);
            k.if_(k.thread_x().eq(0), || {
                let token = chosen.get();
                out.store(k.block_x(), token);
                let written = params.load(WRITTEN);
                ring.store(written % window_max, token);
                params.store(WRITTEN, written + 1);
                let low = params.load(DRAWS) + 1;
                params.store(DRAWS, low);
                k.if_(low.eq(0), || {
                    params.store(DRAWS + 1, params.load(DRAWS + 1) + 1);
                });
            });
        })
    }
}

pub(super) fn representative(target: Target) -> Vec<SampleSpec> {
    [8192, 151_936, 331]
        .map(|vocab_size| SampleSpec {
            target,
            vocab_size,
            window_max: 256,
        })
        .to_vec()
}
