//! Choosing the next token from logits.
//!
//! The order is penalty, top-k, top-p, min-p, temperature, draw; the filters look at probabilities
//! at temperature 1. Random numbers come from a counter-based generator, so that the n-th draw of a
//! seed is the same number whoever computes it and whatever was drawn before.

use std::cmp::Ordering;

/// How the next token is chosen. The default is greedy.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 is greedy; 1 leaves the distribution as it is.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of most likely tokens whose probability reaches p; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least `min_p` times as likely as the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Divide positive logits of recent tokens by this, multiply negative ones; 1 does nothing
    /// (Keskar et al., "CTRL", section 4.1).
    pub repetition_penalty: f32,
    /// How many recent tokens are penalised.
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
            repetition_window: 64,
            seed: 0,
        }
    }
}

impl Sampling {
    /// Whether the choice is the largest logit, untouched.
    #[must_use]
    pub fn is_greedy(&self) -> bool {
        self.temperature <= 0.0 && self.repetition_penalty == 1.0
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
        )
    }
}

/// Chooses tokens for one sequence.
#[derive(Debug, Clone)]
pub struct Sampler {
    settings: Sampling,
    draws: u64,
    logits: Vec<f32>,
    candidates: Vec<(f32, u32)>,
}

impl Sampler {
    /// A sampler at the start of its random sequence.
    #[must_use]
    pub fn new(settings: Sampling) -> Sampler {
        Sampler::with_draws(settings, 0)
    }

    /// A sampler that has drawn so often.
    #[must_use]
    pub fn with_draws(settings: Sampling, draws: u64) -> Sampler {
        Sampler {
            settings,
            draws,
            logits: Vec::new(),
            candidates: Vec::new(),
        }
    }

    /// How often it has drawn.
    #[must_use]
    pub fn draws(&self) -> u64 {
        self.draws
    }

    /// The next token, given the logits and the tokens so far.
    pub fn sample(&mut self, logits: &[f32], history: &[u32]) -> u32 {
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        self.penalise(history);
        if self.settings.temperature <= 0.0 {
            return argmax(&self.logits);
        }
        self.filter();
        let uniform = uniform(self.settings.seed, self.draws);
        self.draws += 1;
        self.draw(uniform)
    }

    fn penalise(&mut self, history: &[u32]) {
        let penalty = self.settings.repetition_penalty;
        if penalty == 1.0 {
            return;
        }
        let start = history
            .len()
            .saturating_sub(self.settings.repetition_window);
        let mut recent = history[start..].to_vec();
        recent.sort_unstable();
        recent.dedup();
        for token in recent {
            if let Some(l) = self.logits.get_mut(token as usize) {
                *l = if *l > 0.0 { *l / penalty } else { *l * penalty };
            }
        }
    }

    /// Leaves the candidates, most likely first, as (probability at temperature 1, token).
    fn filter(&mut self) {
        let s = &self.settings;
        let descending = |a: &(f32, u32), b: &(f32, u32)| {
            b.0.partial_cmp(&a.0)
                .unwrap_or(Ordering::Equal)
                .then(a.1.cmp(&b.1))
        };
        self.candidates.clear();
        let finite = self.logits.iter().enumerate().filter(|(_, l)| !l.is_nan());
        self.candidates.extend(finite.map(|(i, &l)| (l, i as u32)));
        if s.top_k > 0 && s.top_k < self.candidates.len() {
            self.candidates
                .select_nth_unstable_by(s.top_k - 1, descending);
            self.candidates.truncate(s.top_k);
        }
        self.candidates.sort_unstable_by(descending);
        let max = self.candidates.first().map_or(0.0, |c| c.0);
        let mut sum = 0.0;
        for c in &mut self.candidates {
            c.0 = (c.0 - max).exp();
            sum += f64::from(c.0);
        }
        let mut mass = 0.0;
        let mut keep = 0;
        for c in &mut self.candidates {
            c.0 = (f64::from(c.0) / sum) as f32;
            mass += c.0;
            keep += 1;
            if mass >= s.top_p {
                break;
            }
        }
        self.candidates.truncate(keep);
        let floor = self.candidates.first().map_or(0.0, |c| c.0) * s.min_p;
        self.candidates.retain(|c| c.0 >= floor);
    }

    fn draw(&self, uniform: f64) -> u32 {
        let power = 1.0 / f64::from(self.settings.temperature);
        let top = self.candidates.first().map_or(1.0, |c| f64::from(c.0));
        let weight = |c: &(f32, u32)| (f64::from(c.0) / top).powf(power);
        let total: f64 = self.candidates.iter().map(weight).sum();
        let mut left = uniform * total;
        for c in &self.candidates {
            left -= weight(c);
            if left < 0.0 {
                return c.1;
            }
        }
        self.candidates.last().map_or(0, |c| c.1)
    }
}

/// Index of the largest value; the lowest index on ties; NaN never wins.
#[must_use]
pub fn argmax(row: &[f32]) -> u32 {
    // First the value, in lanes that vectorise, then where it is. A comparison with NaN is false.
    const LANES: usize = 16;
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (lines, tail) = row.as_chunks::<LANES>();
    for line in lines {
        for (max, &v) in lanes.iter_mut().zip(line) {
            *max = larger(*max, v);
        }
    }
    let values = lanes.iter().chain(tail).copied();
    let max = values.fold(f32::NEG_INFINITY, larger);
    if max == f32::NEG_INFINITY {
        return 0;
    }
    row.iter().position(|&v| v == max).unwrap_or(0) as u32
}

/// The `counter`-th number of a seed in `[0, 1)`.
fn uniform(seed: u64, counter: u64) -> f64 {
    let bits = philox4x32([counter as u32, (counter >> 32) as u32, 0, 0], seed)[0];
    f64::from(bits >> 8) / f64::from(1u32 << 24)
}

/// Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
fn philox4x32(mut counter: [u32; 4], seed: u64) -> [u32; 4] {
    const MULTIPLIERS: [u64; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    let mut key = [seed as u32, (seed >> 32) as u32];
    for _ in 0..10 {
        let p0 = MULTIPLIERS[0] * u64::from(counter[0]);
        let p1 = MULTIPLIERS[1] * u64::from(counter[2]);
        counter = [
            (p1 >> 32) as u32 ^ counter[1] ^ key[0],
            p1 as u32,
            (p0 >> 32) as u32 ^ counter[3] ^ key[1],
            p0 as u32,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_matches_the_published_vectors() {
        // Known-answer tests of the Random123 distribution.
        assert_eq!(
            philox4x32([0; 4], 0),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox4x32([u32::MAX; 4], u64::MAX),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
    }

    #[test]
    fn argmax_takes_the_lowest_index_on_ties_and_never_nan() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
        assert_eq!(argmax(&[f32::NAN, -2.0, -1.0]), 2);
        assert_eq!(argmax(&[f32::NAN]), 0);
        assert_eq!(argmax(&[]), 0);
        let mut long = [f32::NAN; 50];
        (long[7], long[23], long[49]) = (f32::NEG_INFINITY, 5.0, 5.0);
        assert_eq!(argmax(&long), 23);
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
        assert!(Sampling::default().check().is_ok());
    }
}
