//! Rotary position embedding as a table of cosines and sines.
//!
//! Angles are computed once, in f64, and rounded to f32 once: the CPU and every kernel read the
//! same table, so that a position far into a long context loses no precision to a large argument
//! and no executor can disagree about an angle.

use std::fmt;

/// Which elements of a head rotate together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RopeKind {
    /// Pairs `(2i, 2i + 1)`.
    Interleaved,
    /// Pairs `(i, i + rot_dim / 2)`.
    Neox,
}

/// Angles of one rotary embedding.
///
/// Pair `i` turns by `position * scale * base^(-2i / rot_dim) / factor[i]`
/// (Su et al., "RoFormer", section 3.2.2; the factors are Llama 3.1's `rope_freqs`).
#[derive(Debug, Clone, PartialEq)]
pub struct RopeSpec {
    /// Pairing.
    pub kind: RopeKind,
    /// Rotated elements of a head; even.
    pub rot_dim: usize,
    /// Base of the geometric series of frequencies.
    pub base: f32,
    /// Linear position scaling: `1 / rope.scaling.factor`.
    pub scale: f32,
    /// A divisor for each pair's frequency, `rot_dim / 2` long, or empty.
    pub factors: Vec<f32>,
}

impl RopeSpec {
    /// `[positions, rot_dim / 2, 2]`: cosine and sine of every pair at every position.
    #[must_use]
    pub fn table(&self, positions: usize) -> Vec<f32> {
        let pairs = self.rot_dim / 2;
        let frequency: Vec<f64> = (0..pairs)
            .map(|i| {
                let exponent = -2.0 * i as f64 / self.rot_dim as f64;
                let factor = self.factors.get(i).map_or(1.0, |&f| f64::from(f));
                f64::from(self.scale) * f64::from(self.base).powf(exponent) / factor
            })
            .collect();
        let mut table = Vec::with_capacity(positions * self.rot_dim);
        for position in 0..positions {
            for f in &frequency {
                let (sin, cos) = (position as f64 * f).sin_cos();
                table.extend([cos as f32, sin as f32]);
            }
        }
        table
    }
}

impl fmt::Display for RopeSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            RopeKind::Interleaved => "interleaved",
            RopeKind::Neox => "neox",
        };
        write!(f, "{kind} rope of {} base {}", self.rot_dim, self.base)?;
        if self.scale != 1.0 {
            write!(f, " scale {}", self.scale)?;
        }
        if !self.factors.is_empty() {
            write!(f, " with frequency factors")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_holds_cosine_and_sine_of_each_pair() {
        let spec = RopeSpec {
            kind: RopeKind::Neox,
            rot_dim: 4,
            base: 100.0,
            scale: 0.5,
            factors: vec![1.0, 4.0],
        };
        let table = spec.table(3);
        assert_eq!(table.len(), 3 * 4);
        assert_eq!(&table[..4], &[1.0, 0.0, 1.0, 0.0]);
        // Position 2: pair 0 turns by 2 * 0.5, pair 1 by 2 * 0.5 * 100^(-1/2) / 4.
        let expected = [1.0f64.cos(), 1.0f64.sin(), 0.025f64.cos(), 0.025f64.sin()];
        for (a, b) in table[8..].iter().zip(expected) {
            assert!((f64::from(*a) - b).abs() < 1e-7);
        }
    }
}
