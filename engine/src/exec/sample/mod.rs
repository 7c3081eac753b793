//! Choosing the next token from logits.
//!
//! A [`Sampler`] on the CPU and the sampling kernels of the library ([`SampleSpec`]) choose the same
//! token from the same logits, whatever was chosen before and beside it:
//!
//! 1. *Penalties* change the logits of the latest tokens of the sequence, prompt included.
//! 2. Without a temperature the choice is the largest logit, of equals the lowest index.
//! 3. *Filters* in the order top-k, top-p, min-p keep the tokens above a threshold, ties included.
//!    They look at probabilities at temperature 1. Thresholds are *depths*, distances below the
//!    largest logit in integer steps; probabilities are integers too, so that no sum depends on
//!    its order ([`sample_math`](gannet_ptx_gen::kernels::sample_math)).
//! 4. The *draw* is the largest of `(logit - max) / temperature + g` among the kept tokens, with a
//!    Gumbel variate `g` for each (Gumbel 1954; the "Gumbel-max trick"). Variates come from a
//!    counter-based generator: they depend on the seed, the number of the draw and the token.
//!
//! Where a logit is NaN or plus infinity, or none is above minus infinity, there is no choice: the token
//! is [`NO_TOKEN`], which no vocabulary has.
//!
//! [`SampleSpec`]: gannet_ptx_gen::kernels::SampleSpec

mod choose;

use choose::Row;
pub use gannet_ptx_gen::kernels::NO_TOKEN;
use gannet_ptx_gen::kernels::SampleParams;
use gannet_ptx_gen::kernels::sample_math::depth;

/// The most recent tokens that penalties may look at: what the kernel keeps of each sequence.
pub const MAX_WINDOW: usize = 256;

/// How the next token is chosen. The default is greedy.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 is greedy; 1 leaves the distribution as it is.
    pub temperature: f32,
    /// Keep the k most likely tokens, and those that equal the last of them; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of most likely tokens whose probability reaches p; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least `min_p` times as likely as the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Divide positive logits of recent tokens by this, multiply negative ones; 1 does nothing
    /// (Keskar et al., "CTRL", section 4.1).
    pub repetition_penalty: f32,
    /// Subtract this from the logit of every recent token; 0 does nothing.
    pub presence_penalty: f32,
    /// Subtract this from the logit of a recent token for each time it occurs; 0 does nothing.
    pub frequency_penalty: f32,
    /// How many recent tokens the penalties look at, at most [`MAX_WINDOW`].
    pub repetition_window: usize,
    /// Seed of the generator.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_window: 64,
            seed: 0,
        }
    }
}

impl Sampling {
    /// Whether the choice is the largest logit, untouched.
    #[must_use]
    pub fn is_greedy(&self) -> bool {
        self.temperature <= 0.0 && !self.penalises()
    }

    fn penalises(&self) -> bool {
        let off = self.repetition_penalty == 1.0
            && self.presence_penalty == 0.0
            && self.frequency_penalty == 0.0;
        !off && self.repetition_window > 0
    }

    /// Checks that every setting makes sense.
    ///
    /// # Errors
    /// The name of the first setting that does not, and what would.
    pub fn check(&self) -> Result<(), String> {
        let rule = |ok: bool, what: &str| if ok { Ok(()) } else { Err(what.to_owned()) };
        let unit = |v: f32| (0.0..=1.0).contains(&v);
        rule(
            self.temperature.is_finite() && self.temperature >= 0.0,
            "temperature must be a number of at least 0",
        )?;
        rule(
            unit(self.top_p) && self.top_p > 0.0,
            "top-p must be above 0 and at most 1",
        )?;
        rule(unit(self.min_p), "min-p must be from 0 to 1")?;
        rule(
            self.repetition_penalty.is_finite() && self.repetition_penalty > 0.0,
            "repetition penalty must be a number above 0",
        )?;
        rule(
            self.presence_penalty.is_finite(),
            "presence penalty must be a number",
        )?;
        rule(
            self.frequency_penalty.is_finite(),
            "frequency penalty must be a number",
        )?;
        rule(
            self.repetition_window <= MAX_WINDOW,
            &format!("penalties look at no more than {MAX_WINDOW} tokens"),
        )
    }

    /// The settings as numbers that are compared, at the start of a sequence.
    #[must_use]
    pub(crate) fn params(&self) -> SampleParams {
        let heated = self.temperature > 0.0;
        let share = |p: f32| (f64::from(p) * 4_294_967_296.0) as u32;
        SampleParams {
            inv_temperature: if heated {
                (1.0 / self.temperature).min(f32::MAX)
            } else {
                0.0
            },
            top_k: u32::try_from(self.top_k).unwrap_or(u32::MAX),
            top_p: if self.top_p < 1.0 {
                share(self.top_p).max(1)
            } else {
                0
            },
            // The logarithm of 0 is deeper than all depths.
            min_p_depth: depth(-self.min_p.ln()),
            repetition: self.repetition_penalty,
            presence: self.presence_penalty,
            frequency: self.frequency_penalty,
            window: if self.penalises() {
                self.repetition_window.min(MAX_WINDOW) as u32
            } else {
                0
            },
            seed: self.seed,
            draws: 0,
            written: 0,
        }
    }

    /// What the kernel needs to go on after `draws` draws where a sequence has the tokens
    /// `history`: the slot's parameters, and its ring of [`MAX_WINDOW`] tokens.
    #[must_use]
    pub fn slot(&self, history: &[u32], draws: u64) -> (SampleParams, Vec<u32>) {
        let recent = &history[history.len().saturating_sub(MAX_WINDOW)..];
        let params = SampleParams {
            draws,
            written: recent.len() as u32,
            ..self.params()
        };
        let mut ring = recent.to_vec();
        ring.resize(MAX_WINDOW, 0);
        (params, ring)
    }
}

/// Chooses tokens for one sequence.
#[derive(Debug, Clone)]
pub struct Sampler {
    params: SampleParams,
    /// Penalised logits; unused without penalties.
    logits: Vec<f32>,
    /// What a filter works in.
    inside: Vec<(u32, u32)>,
}

impl Sampler {
    /// A sampler at the start of its random sequence.
    #[must_use]
    pub fn new(settings: Sampling) -> Sampler {
        Sampler::with_draws(settings, 0)
    }

    /// A sampler that goes on after so many draws.
    #[must_use]
    #[allow(clippy::needless_pass_by_value, reason = "as `new` takes them")]
    pub fn with_draws(settings: Sampling, draws: u64) -> Sampler {
        Sampler {
            params: SampleParams {
                draws,
                ..settings.params()
            },
            logits: Vec::new(),
            inside: Vec::new(),
        }
    }

    /// Number of the next draw: one for every token chosen.
    #[must_use]
    pub fn draws(&self) -> u64 {
        self.params.draws
    }

    /// The next token, given the logits and the tokens so far; [`NO_TOKEN`] where they are no numbers.
    pub fn sample(&mut self, logits: &[f32], history: &[u32]) -> u32 {
        let draw = self.params.draws;
        self.params.draws += 1;
        let penalised = self.penalise(logits, history);
        let row = Row::new(if penalised { &self.logits } else { logits });
        if self.params.inv_temperature == 0.0 || row.top == NO_TOKEN {
            return row.top;
        }
        let limit = row.limit(&self.params, &mut self.inside);
        row.draw(&self.params, limit, draw)
    }

    /// Leaves the logits with penalties in `self.logits`, if there are any.
    fn penalise(&mut self, logits: &[f32], history: &[u32]) -> bool {
        let p = &self.params;
        let start = history.len().saturating_sub(p.window as usize);
        let mut recent = history[start..].to_vec();
        if recent.is_empty() {
            return false;
        }
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        recent.sort_unstable();
        for same in recent.chunk_by(|a, b| a == b) {
            if let Some(l) = self.logits.get_mut(same[0] as usize) {
                let scaled = if *l > 0.0 {
                    *l / p.repetition
                } else {
                    *l * p.repetition
                };
                *l = scaled - (p.frequency * same.len() as f32 + p.presence);
            }
        }
        true
    }
}

/// Index of the largest value; the lowest index on ties. [`NO_TOKEN`] where a value is NaN or plus
/// infinity, or none is above minus infinity.
#[must_use]
pub fn argmax(row: &[f32]) -> u32 {
    // First the value, in lanes that vectorise, then where it is. A comparison with NaN is false; a sum
    // that numbers cannot make overflow keeps it.
    const LANES: usize = 16;
    const SMALL: f32 = f32::from_bits((127 - 60) << 23);
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (mut lanes, mut sums) = ([f32::NEG_INFINITY; LANES], [0f32; LANES]);
    let (lines, tail) = row.as_chunks::<LANES>();
    for line in lines {
        for ((max, sum), &v) in lanes.iter_mut().zip(&mut sums).zip(line) {
            *max = larger(*max, v);
            *sum += v * SMALL;
        }
    }
    let values = lanes.iter().chain(tail).copied();
    let max = values.fold(f32::NEG_INFINITY, larger);
    if !max.is_finite() || sums.iter().chain(tail).any(|sum| sum.is_nan()) {
        return NO_TOKEN;
    }
    let first = row.iter().position(|&v| v == max);
    first.map_or(NO_TOKEN, |index| index as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn argmax_takes_the_lowest_index_on_ties_and_none_of_what_are_no_numbers() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
        assert_eq!(argmax(&[f32::NAN, -2.0, -1.0]), NO_TOKEN);
        assert_eq!(argmax(&[f32::NAN]), NO_TOKEN);
        assert_eq!(argmax(&[f32::NEG_INFINITY; 40]), NO_TOKEN);
        assert_eq!(argmax(&[]), NO_TOKEN);
        let mut long = [f32::NEG_INFINITY; 50];
        (long[7], long[23], long[49]) = (-1e38, 3e38, 3e38);
        assert_eq!(argmax(&long), 23);
        for spoilt in [f32::NAN, f32::INFINITY] {
            for at in [0, 16, 31, 40, 48, 49] {
                let mut long = long;
                long[at] = spoilt;
                assert_eq!(argmax(&long), NO_TOKEN, "{spoilt} at {at}");
            }
        }
    }

    fn frequencies(settings: &Sampling, logits: &[f32], history: &[u32]) -> Vec<f64> {
        let mut counts = vec![0.0; logits.len()];
        let draws = 20_000;
        let mut sampler = Sampler::new(settings.clone());
        for _ in 0..draws {
            counts[sampler.sample(logits, history) as usize] += 1.0 / f64::from(draws);
        }
        counts
    }

    fn assert_close(found: &[f64], expected: &[f64]) {
        for (f, e) in found.iter().zip(expected) {
            assert!((f - e).abs() < 0.015, "{found:?} against {expected:?}");
        }
    }

    #[test]
    fn draws_follow_the_distribution_and_the_filters() {
        // Probabilities 0.5, 0.25, 0.125, 0.125.
        let logits = [8f32, 4.0, 2.0, 2.0].map(f32::ln);
        let base = Sampling {
            temperature: 1.0,
            seed: 7,
            ..Sampling::default()
        };
        assert_close(
            &frequencies(&base, &logits, &[]),
            &[0.5, 0.25, 0.125, 0.125],
        );
        let hot = Sampling {
            temperature: 2.0,
            ..base.clone()
        };
        let w = [8f64, 4.0, 2.0, 2.0].map(f64::sqrt);
        let sum: f64 = w.iter().sum();
        assert_close(&frequencies(&hot, &logits, &[]), &w.map(|v| v / sum));
        let third = [2.0 / 3.0, 1.0 / 3.0, 0.0, 0.0];
        let top_k = Sampling {
            top_k: 2,
            ..base.clone()
        };
        assert_close(&frequencies(&top_k, &logits, &[]), &third);
        let top_p = Sampling {
            top_p: 0.7,
            ..base.clone()
        };
        assert_close(&frequencies(&top_p, &logits, &[]), &third);
        let min_p = Sampling {
            min_p: 0.4,
            ..base.clone()
        };
        assert_close(&frequencies(&min_p, &logits, &[]), &third);
        let tie = Sampling {
            top_k: 3,
            ..base.clone()
        };
        assert_close(&frequencies(&tie, &logits, &[]), &[0.5, 0.25, 0.125, 0.125]);
        let often = Sampling {
            presence_penalty: 2f32.ln(),
            frequency_penalty: 1.5f32.ln(),
            ..base.clone()
        };
        let w = [8.0 / 4.5, 4.0 / 3.0, 2.0, 2.0];
        let sum: f64 = w.iter().sum();
        assert_close(
            &frequencies(&often, &logits, &[0, 1, 0, 9]),
            &w.map(|v| v / sum),
        );
        let penalty = Sampling {
            repetition_penalty: 3.0,
            ..base
        };
        let w = [2f64, 4.0, 2.0, 2.0];
        assert_close(&frequencies(&penalty, &logits, &[0]), &w.map(|v| v / 10.0));
    }

    #[test]
    fn a_seed_gives_the_same_tokens_and_greedy_needs_none() {
        let logits: Vec<f32> = (0..50).map(|i| (i as f32 * 0.37).sin()).collect();
        let run = |seed| {
            let mut s = Sampler::new(Sampling {
                temperature: 1.0,
                seed,
                ..Sampling::default()
            });
            (0..20).map(|_| s.sample(&logits, &[])).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        let mut greedy = Sampler::new(Sampling::default());
        assert_eq!(greedy.sample(&logits, &[]), argmax(&logits));
    }

    #[test]
    fn a_draw_depends_on_its_number_alone() {
        let logits: Vec<f32> = (0..300).map(|i| (i as f32 * 0.37).sin()).collect();
        let settings = Sampling {
            temperature: 0.7,
            seed: 5,
            ..Sampling::default()
        };
        let mut sampler = Sampler::new(settings.clone());
        let tokens: Vec<u32> = (0..20).map(|_| sampler.sample(&logits, &[])).collect();
        assert_eq!(sampler.draws(), 20);
        for (draw, token) in (0..).zip(tokens) {
            let mut later = Sampler::with_draws(settings.clone(), draw);
            assert_eq!(later.sample(&logits, &[]), token);
        }
    }

    #[test]
    fn a_filter_that_keeps_everything_changes_nothing() {
        let logits: Vec<f32> = (0..777).map(|i| (i as f32 * 1.37).sin() * 3.0).collect();
        let all = Sampling {
            temperature: 1.3,
            ..Sampling::default()
        };
        let filtered = Sampling {
            min_p: 1e-30,
            ..all.clone()
        };
        let (mut a, mut b) = (Sampler::new(all), Sampler::new(filtered));
        for _ in 0..100 {
            assert_eq!(a.sample(&logits, &[]), b.sample(&logits, &[]));
        }
    }

    #[test]
    fn rows_that_are_no_numbers_give_no_token() {
        let mut sampler = Sampler::new(Sampling {
            temperature: 1.0,
            top_k: 2,
            top_p: 0.5,
            ..Sampling::default()
        });
        let none = f32::NEG_INFINITY;
        for row in [
            &[f32::NAN, none][..],
            &[],
            &[none, none],
            &[f32::NAN, none, -7.0],
            &[1.0, f32::INFINITY, -7.0],
        ] {
            assert_eq!(sampler.sample(row, &[]), NO_TOKEN, "{row:?}");
        }
        assert_eq!(sampler.sample(&[none, none, -7.0], &[]), 2);
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let bad = Sampling {
            top_p: 1.5,
            ..Sampling::default()
        };
        assert_eq!(
            bad.check().unwrap_err(),
            "top-p must be above 0 and at most 1"
        );
        assert!(
            Sampling {
                temperature: f32::NAN,
                ..Sampling::default()
            }
            .check()
            .is_err()
        );
        let wide = Sampling {
            repetition_window: 257,
            ..Sampling::default()
        };
        assert_eq!(
            wide.check().unwrap_err(),
            "penalties look at no more than 256 tokens"
        );
        assert!(Sampling::default().check().is_ok());
    }
}
