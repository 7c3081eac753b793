//! Rotary positions in f64, as ggml turns them (`ggml_rope_ext`): scaled positions, frequency
//! factors, and YaRN's mixture of scaled and unscaled frequencies.

use std::f64::consts::PI;

/// Which elements of a head turn together.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pairing {
    /// `(2i, 2i + 1)`.
    Interleaved,
    /// `(i, i + dim / 2)`.
    Neox,
}

/// The rope of a layer.
#[derive(Clone)]
pub(super) struct RopeSpec {
    pub(super) pairing: Pairing,
    /// Elements of a head that turn; the others stay as they are.
    pub(super) dim: usize,
    pub(super) base: f64,
    /// What positions are multiplied with: one over the factor.
    pub(super) scale: f64,
    pub(super) yarn: Option<Yarn>,
    /// What turned elements are multiplied with, before YaRN's own growth.
    pub(super) amplitude: f64,
    pub(super) factors: Factors,
}

impl RopeSpec {
    /// The rope of a model without one.
    pub(super) fn still(pairing: Pairing) -> RopeSpec {
        RopeSpec {
            pairing,
            dim: 0,
            base: 10_000.0,
            scale: 1.0,
            yarn: None,
            amplitude: 1.0,
            factors: Factors::None,
        }
    }
}

/// Divisors of the frequencies, and the tensor that holds them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Factors {
    None,
    /// `rope_freqs.weight`, where the file has it.
    Always,
    /// `rope_factors_long.weight` where a sequence may grow beyond the original context, else
    /// `rope_factors_short.weight`: by the context that was asked for, not by the position.
    ByContext {
        original_context: usize,
    },
}

impl Factors {
    /// The tensor that holds the factors of a context.
    pub(super) fn tensor(self, context: usize) -> Option<&'static str> {
        match self {
            Factors::None => None,
            Factors::Always => Some("rope_freqs.weight"),
            Factors::ByContext { original_context } if context > original_context => {
                Some("rope_factors_long.weight")
            }
            Factors::ByContext { .. } => Some("rope_factors_short.weight"),
        }
    }
}

/// Parameters of YaRN (Peng et al., "YaRN: Efficient Context Window Extension of Large Language
/// Models", section 3.2), by the names of ggml.
#[derive(Clone)]
pub(super) struct Yarn {
    /// Positions of the training before it was extended.
    pub(super) original_context: usize,
    /// How much of the mixture is applied.
    pub(super) ext_factor: f64,
    /// Pairs that turn more often than this within the original context keep their frequency.
    pub(super) beta_fast: f64,
    /// Pairs that turn less often than this are scaled like positions.
    pub(super) beta_slow: f64,
}

impl Yarn {
    /// What llama.cpp hands to ggml as attention's factor: the wanted growth `1 + 0.1 ln(factor)`,
    /// less that of a logarithm's multiplier, divided by the growth that ggml applies itself.
    /// `scale` is one over the factor; growth is for factors above 1.
    pub(super) fn amplitude_before_turning(&self, scale: f64, log_multiplier: f64) -> f64 {
        let log = (1.0 / scale).ln();
        let growth = |multiplier: f64| 1.0 + 0.1 * multiplier * log.max(0.0);
        let wanted = match log_multiplier {
            0.0 => growth(1.0),
            multiplier => growth(1.0) / growth(multiplier),
        };
        wanted / (1.0 + 0.1 * log)
    }

    /// The share of the unscaled frequency in each of `dim / 2` pairs: 1 in those before the pair
    /// that turns `beta_fast` times within the original context, falling to 0 at the one that turns
    /// `beta_slow` times.
    fn unscaled_shares(&self, dim: usize, base: f64) -> Vec<f64> {
        let pair_of = |turns: f64| {
            let wavelength = self.original_context as f64 / (turns * 2.0 * PI);
            dim as f64 * wavelength.ln() / (2.0 * base.ln())
        };
        let low = pair_of(self.beta_fast).floor().max(0.0);
        let high = pair_of(self.beta_slow).ceil().min(dim as f64 - 1.0);
        let share = |pair: usize| {
            let along = (pair as f64 - low) / (high - low).max(0.001);
            self.ext_factor * (1.0 - along.clamp(0.0, 1.0))
        };
        (0..dim / 2).map(share).collect()
    }
}

/// A rope whose factors are chosen.
pub(super) struct Rope {
    pairing: Pairing,
    /// Radians that each pair turns from one position to the next.
    frequencies: Vec<f64>,
    amplitude: f64,
}

impl Rope {
    /// `factors` are `dim / 2` divisors, or none.
    pub(super) fn new(spec: &RopeSpec, factors: Option<&[f64]>) -> Rope {
        let pairs = spec.dim / 2;
        let shares = match &spec.yarn {
            Some(yarn) => yarn.unscaled_shares(spec.dim, spec.base),
            None => vec![0.0; pairs],
        };
        let frequency = |pair: usize| {
            let plain = spec.base.powf(-2.0 * pair as f64 / spec.dim as f64);
            let divided = plain / factors.map_or(1.0, |f| f[pair]);
            let share = shares[pair];
            divided * (spec.scale * (1.0 - share) + share)
        };
        let growth = match spec.yarn {
            Some(_) => 1.0 + 0.1 * (1.0 / spec.scale).ln(),
            None => 1.0,
        };
        Rope {
            pairing: spec.pairing,
            frequencies: (0..pairs).map(frequency).collect(),
            amplitude: spec.amplitude * growth,
        }
    }

    /// Turns a head at `position`.
    pub(super) fn turn(&self, head: &mut [f64], position: usize) {
        let pairs = self.frequencies.len();
        for (pair, frequency) in self.frequencies.iter().enumerate() {
            let (i, j) = match self.pairing {
                Pairing::Interleaved => (2 * pair, 2 * pair + 1),
                Pairing::Neox => (pair, pair + pairs),
            };
            let (sin, cos) = (position as f64 * frequency).sin_cos();
            let (a, b) = (head[i], head[j]);
            head[i] = self.amplitude * (a * cos - b * sin);
            head[j] = self.amplitude * (a * sin + b * cos);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(yarn: Option<Yarn>) -> RopeSpec {
        RopeSpec {
            pairing: Pairing::Neox,
            dim: 8,
            base: 10_000.0,
            scale: 0.25,
            yarn,
            amplitude: 1.0,
            factors: Factors::None,
        }
    }

    #[test]
    fn yarn_keeps_fast_pairs_and_scales_slow_ones() {
        let yarn = Yarn {
            original_context: 1000,
            ext_factor: 1.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
        };
        // Pairs that turn 32 times and once in 1000 positions: 0.698.. and 2.203.., so the ramp goes
        // from pair 0 to pair 3.
        assert_eq!(
            yarn.unscaled_shares(8, 10_000.0),
            [1.0, 1.0 - 1.0 / 3.0, 1.0 - 2.0 / 3.0, 0.0]
        );
        let rope = Rope::new(&spec(Some(yarn.clone())), None);
        let expected = [1.0, 0.1 * 0.75, 0.01 * 0.5, 0.001 * 0.25];
        for (found, expected) in rope.frequencies.iter().zip(expected) {
            assert!((found / expected - 1.0).abs() < 1e-12, "{found}");
        }
        // Growth is 1 + 0.1 ln(4), once, whoever applies it; a multiplier of 1 takes it back.
        let grown = |log_multiplier| {
            let amplitude = yarn.amplitude_before_turning(0.25, log_multiplier);
            let spec = RopeSpec {
                amplitude,
                ..spec(Some(yarn.clone()))
            };
            Rope::new(&spec, None).amplitude
        };
        assert!((grown(0.0) - (1.0 + 0.1 * 4f64.ln())).abs() < 1e-12);
        assert!((grown(1.0) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn factors_divide_and_amplitudes_multiply_what_turns() {
        let spec = RopeSpec {
            amplitude: 2.0,
            scale: 1.0,
            ..spec(None)
        };
        let rope = Rope::new(&spec, Some(&[1.0, 1.0, 2.0, 1e30]));
        assert!((rope.frequencies[2] / 0.005 - 1.0).abs() < 1e-12);
        let mut head = [0.0; 10];
        (head[0], head[3], head[9]) = (1.0, 1.0, 1.0);
        rope.turn(&mut head, 3);
        assert!((head[0] - 2.0 * 3f64.cos()).abs() < 1e-12);
        assert!((head[4] - 2.0 * 3f64.sin()).abs() < 1e-12);
        // A factor of 1e30 is no turn; what lies beyond the turned elements stays.
        assert!((head[3] - 2.0).abs() < 1e-12 && head[9] == 1.0);
    }
}
