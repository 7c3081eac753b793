//! Rotary position embedding as a table of cosines and sines.
//!
//! Angles are computed once, in f64, and rounded to f32 once: the CPU and every kernel read the
//! same table, so that a position far into a long context loses no precision to a large argument
//! and no executor can disagree about an angle. Everything that stretches a context (linear
//! scaling, YaRN, factors by pair) is in the table, and so is what a rotated pair is multiplied with.

use std::f64::consts::TAU;
use std::fmt;

use gannet_ptx_gen::kernels::RopeKind;

/// Angles of one rotary embedding.
///
/// Pair `i` turns by `position * frequency(i)`, where without YaRN
/// `frequency(i) = scale * base^(-2i / rot_dim) / factor[i]` (Su et al., "RoFormer", section 3.2.2;
/// the factors are Llama 3.1's `rope_freqs` or Phi 3's long rope).
#[derive(Debug, Clone, PartialEq)]
pub struct RopeTable {
    /// Pairing.
    pub kind: RopeKind,
    /// Rotated elements of a head; even.
    pub rot_dim: usize,
    /// Base of the geometric series of frequencies.
    pub base: f32,
    /// Linear position scaling: `1 / rope.scaling.factor`.
    pub scale: f32,
    /// YaRN: which pairs are scaled.
    pub yarn: Option<Yarn>,
    /// What a rotated pair is multiplied with; YaRN's own factor is not in it.
    pub magnitude: f32,
    /// Divisors of the frequencies.
    pub factors: RopeFactors,
}

/// A divisor for each pair's frequency, `rot_dim / 2` long.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeFactors {
    /// Every one is 1.
    Ones,
    /// The same for every context.
    Fixed(Vec<f32>),
    /// Long rope: by how many positions a sequence may have.
    ByContext {
        /// Positions up to which the short ones hold.
        original: usize,
        /// Of contexts up to that.
        short: Vec<f32>,
        /// Of longer ones.
        long: Vec<f32>,
    },
}

impl RopeFactors {
    /// Those of sequences of up to `context` positions; empty if every one is 1.
    fn of(&self, context: usize) -> &[f32] {
        match self {
            RopeFactors::Ones => &[],
            RopeFactors::Fixed(factors) => factors,
            RopeFactors::ByContext {
                original,
                short,
                long,
            } => {
                if context > *original {
                    long
                } else {
                    short
                }
            }
        }
    }
}

/// YaRN (Peng et al., "YaRN: Efficient Context Window Extension", section 3.2 and 3.4): pairs that
/// turn often keep their frequency, those that turn less than once in the original context are
/// scaled, those between are mixed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Yarn {
    /// Positions that the model was first trained for.
    pub original_context: usize,
    /// Share of the mix; 1 unless a file says otherwise.
    pub extrapolation: f32,
    /// Turns in the original context from which on a pair keeps its frequency.
    pub beta_fast: f32,
    /// Turns up to which it is scaled.
    pub beta_slow: f32,
    /// What of the growth is taken back, as a multiplier of its logarithm.
    pub log_multiplier: f32,
}

impl Yarn {
    /// From an original context, with the constants of the paper.
    #[must_use]
    pub fn of(original_context: usize) -> Yarn {
        Yarn {
            original_context,
            extrapolation: 1.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            log_multiplier: 0.0,
        }
    }

    /// The share with which pair `i` keeps its frequency.
    fn kept(&self, table: &RopeTable, i: usize) -> f64 {
        let dims = table.rot_dim as f64;
        // The pair that makes that many turns.
        let pair = |turns: f32| {
            let positions = self.original_context as f64 / (f64::from(turns) * TAU);
            dims * positions.ln() / (2.0 * f64::from(table.base).ln())
        };
        let low = pair(self.beta_fast).floor().max(0.0);
        let high = pair(self.beta_slow).ceil().min(dims - 1.0);
        let ramp = (i as f64 - low) / (high - low).max(0.001);
        (1.0 - ramp.clamp(0.0, 1.0)) * f64::from(self.extrapolation)
    }
}

impl RopeTable {
    /// `[positions, rot_dim / 2, 2]`: cosine and sine of every pair at every position, times the
    /// magnitude. A sequence has up to `positions` of them.
    #[must_use]
    pub fn table(&self, positions: usize) -> Vec<f32> {
        let factors = self.factors.of(positions);
        let scale = f64::from(self.scale);
        let frequency: Vec<f64> = (0..self.rot_dim / 2)
            .map(|i| {
                let exponent = -2.0 * i as f64 / self.rot_dim as f64;
                let factor = factors.get(i).map_or(1.0, |&f| f64::from(f));
                let unscaled = f64::from(self.base).powf(exponent) / factor;
                let kept = self.yarn.map_or(0.0, |yarn| yarn.kept(self, i));
                unscaled * (scale * (1.0 - kept) + kept)
            })
            .collect();
        let magnitude = f64::from(self.magnitude) * self.yarn_magnitude();
        let mut table = Vec::with_capacity(positions * self.rot_dim);
        for position in 0..positions {
            for f in &frequency {
                let (sin, cos) = (position as f64 * f).sin_cos();
                table.extend([(magnitude * cos) as f32, (magnitude * sin) as f32]);
            }
        }
        table
    }

    /// The temperature of YaRN's attention, shared by both sides of a product: `0.1 ln(factor) + 1`,
    /// over the same with the logarithm's multiplier.
    fn yarn_magnitude(&self) -> f64 {
        let Some(yarn) = self.yarn.filter(|yarn| yarn.extrapolation != 0.0) else {
            return 1.0;
        };
        let log = -f64::from(self.scale).ln().min(0.0);
        let growth = |multiplier: f64| 1.0 + 0.1 * multiplier * log;
        growth(1.0) / growth(f64::from(yarn.log_multiplier))
    }
}

impl fmt::Display for RopeTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            RopeKind::Interleaved => "interleaved",
            RopeKind::Neox => "neox",
        };
        write!(f, "{kind} rope of {} base {}", self.rot_dim, self.base)?;
        if self.scale != 1.0 {
            write!(f, " scale {}", self.scale)?;
        }
        if let Some(yarn) = self.yarn {
            write!(f, " by YaRN from {} positions", yarn.original_context)?;
        }
        if self.magnitude != 1.0 {
            write!(f, " magnitude {}", self.magnitude)?;
        }
        match &self.factors {
            RopeFactors::Ones => Ok(()),
            RopeFactors::Fixed(_) => write!(f, " with frequency factors"),
            RopeFactors::ByContext { original, .. } => {
                write!(
                    f,
                    " with frequency factors by context, from {original} positions on"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(yarn: Option<Yarn>, factors: RopeFactors) -> RopeTable {
        RopeTable {
            kind: RopeKind::Neox,
            rot_dim: 8,
            base: 1e4,
            scale: 0.25,
            yarn,
            magnitude: 1.0,
            factors,
        }
    }

    fn frequencies(table: &RopeTable, positions: usize) -> Vec<f32> {
        let second = &table.table(positions)[table.rot_dim..][..table.rot_dim];
        second.chunks(2).map(|p| p[1].atan2(p[0])).collect()
    }

    #[test]
    fn angles_follow_the_formula() {
        let plain = table(None, RopeFactors::Ones);
        for (i, f) in frequencies(&plain, 2).iter().enumerate() {
            let expected = 0.25 * 1e4f64.powf(-2.0 * i as f64 / 8.0);
            assert!((f64::from(*f) - expected).abs() < 1e-7, "{i}");
        }
        let halved = table(None, RopeFactors::Fixed(vec![2.0; 4]));
        let pairs = frequencies(&halved, 2)
            .into_iter()
            .zip(frequencies(&plain, 2));
        assert!(pairs.into_iter().all(|(h, p)| (2.0 * h - p).abs() < 1e-7));
    }

    #[test]
    fn long_factors_are_those_of_long_contexts() {
        let factors = RopeFactors::ByContext {
            original: 32,
            short: vec![1.0; 4],
            long: vec![4.0; 4],
        };
        let by_context = table(None, factors);
        let plain = table(None, RopeFactors::Ones);
        assert_eq!(frequencies(&by_context, 32), frequencies(&plain, 32));
        let ratio = frequencies(&plain, 33)[0] / frequencies(&by_context, 33)[0];
        assert!((ratio - 4.0).abs() < 1e-5);
    }

    /// Fast pairs keep their frequency, slow ones are scaled, and all grow by one factor.
    #[test]
    fn yarn_scales_what_turns_slowly() {
        let mixed = table(Some(Yarn::of(64)), RopeFactors::Ones);
        let found = frequencies(&mixed, 2);
        assert!((found[0] - 1.0).abs() < 1e-6, "{found:?}");
        let slowest = 0.25 * 1e4f32.powf(-6.0 / 8.0);
        assert!((found[3] - slowest).abs() < 1e-7, "{found:?}");
        let (cos, sin) = (mixed.table(1)[0], mixed.table(1)[1]);
        assert!((cos - (1.0 + 0.1 * 4f32.ln())).abs() < 1e-6 && sin == 0.0);
    }
}
