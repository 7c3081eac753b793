//! What the rounding error of each weight of a block counts.
//!
//! What a matrix computes from inputs `a` is wrong by `sum(a_i * e_i)`: on average over inputs, the
//! square of an error counts as much as the mean square of its input. That is what an importance matrix
//! holds; without one all inputs are alike. Larger weights then count more, because what a model has
//! made large it uses: by `sqrt(sigma^2 + x^2)`, with `sigma^2` the mean square of the block.
//!
//! Weights are brought to a magnitude of about one, by a power of two, which changes no result: their
//! squares then neither overflow nor vanish.

use super::SUPER_BLOCK;

/// Below this part of the block's largest importance, importance does not fall: what no input of the
/// sample used is still to be somewhere near its value.
const LEAST_IMPORTANCE: f32 = 1e-6;

/// Some weights of a block, and what the error of each counts.
#[derive(Clone, Copy)]
pub(super) struct Group<'a> {
    pub(super) x: &'a [f32],
    pub(super) w: &'a [f32],
}

/// A block (at most 256 weights), scaled, with what the errors of its weights count.
pub(super) struct Weighted {
    x: [f32; SUPER_BLOCK],
    w: [f32; SUPER_BLOCK],
    /// What the weights were multiplied with: a power of two.
    unit: f32,
}

impl Weighted {
    /// The weights of a block; `importance` has a value for each, finite and not negative.
    pub(super) fn new(x: &[f32], importance: Option<&[f32]>) -> Weighted {
        let peak = x.iter().fold(0.0f32, |peak, v| peak.max(v.abs()));
        let unit = power_of_two_over(peak);
        let (mut scaled, mut w) = ([0.0; SUPER_BLOCK], [0.0; SUPER_BLOCK]);
        for (scaled, x) in scaled.iter_mut().zip(x) {
            *scaled = x * unit;
        }
        let squares: f32 = scaled.iter().map(|v| v * v).sum();
        let mean = squares / x.len() as f32;
        for (w, v) in w.iter_mut().zip(&scaled[..x.len()]) {
            *w = (mean + v * v).sqrt();
        }
        let largest = importance.map_or(0.0, |i| i.iter().fold(0.0f32, |a, &b| a.max(b)));
        if let Some(importance) = importance.filter(|_| largest > 0.0) {
            for (w, importance) in w.iter_mut().zip(importance) {
                *w *= (importance / largest).max(LEAST_IMPORTANCE);
            }
        }
        Weighted { x: scaled, w, unit }
    }

    /// The `len` weights from `first` on.
    #[inline]
    pub(super) fn group(&self, first: usize, len: usize) -> Group<'_> {
        Group {
            x: &self.x[first..][..len],
            w: &self.w[first..][..len],
        }
    }

    /// A scale of scaled weights as one of the weights as they were.
    pub(super) fn unscaled(&self, scale: f32) -> f32 {
        scale / self.unit
    }

    /// A scale of the weights as they were as one of scaled weights.
    pub(super) fn scaled(&self, scale: f32) -> f32 {
        scale * self.unit
    }
}

/// 1 over the power of two that is next below `peak`, within what f32 holds as a normal number.
fn power_of_two_over(peak: f32) -> f32 {
    let exponent = (peak.to_bits() >> 23) as i32;
    f32::from_bits(((254 - exponent).clamp(1, 253) as u32) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_brought_to_order_one() {
        for peak in [1e-45f32, 1e-38, 1e-20, 0.02, 1.0, 3.0, 1e20, f32::MAX] {
            let scaled = peak * power_of_two_over(peak);
            assert!(
                peak < 1e-37 || (1.0..4.0).contains(&scaled),
                "{peak}: {scaled}"
            );
            assert!(scaled > 0.0 && scaled.is_finite(), "{peak}: {scaled}");
            assert_eq!(scaled / power_of_two_over(peak), peak);
        }
        assert!(power_of_two_over(0.0).is_finite());
    }

    #[test]
    fn importance_that_is_nothing_at_all_is_none() {
        let x: [f32; 32] = std::array::from_fn(|i| i as f32 - 7.5);
        let plain = Weighted::new(&x, None);
        let nothing = Weighted::new(&x, Some(&[0.0; 32]));
        assert_eq!(plain.w, nothing.w);
        let one: [f32; 32] = std::array::from_fn(|i| f32::from(i as u8 == 3));
        let one = Weighted::new(&x, Some(&one));
        assert_eq!(one.w[3], plain.w[3]);
        assert!(one.w[4] > 0.0 && one.w[4] < 1e-5 * plain.w[4]);
    }
}
