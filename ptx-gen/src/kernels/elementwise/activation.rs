//! Activation functions, as values of a kernel under construction.

use crate::build::{Builder, Val};

/// Activation of a feed-forward unit, of its gate where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x / (1 + exp(-x))`.
    Silu,
    /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))`.
    Gelu,
}

impl Activation {
    /// Lower-case name, as in kernel names.
    pub fn name(self) -> &'static str {
        match self {
            Activation::Silu => "silu",
            Activation::Gelu => "gelu",
        }
    }

    /// The activation of a value, within a few units in the last place of f32.
    ///
    /// `tanh(u) = 1 - 2 / (1 + exp(2u))` turns the second form into `x * sigmoid(2u)`; both
    /// saturate to 0 and x without a NaN at any finite x.
    pub fn apply<'k>(self, k: &'k Builder, x: Val<'k, f32>) -> Val<'k, f32> {
        const SQRT_2_OVER_PI: f32 = 0.797_884_6;
        let exponent = match self {
            Activation::Silu => -x,
            Activation::Gelu => {
                let cubic = (x * x).fma(x * 0.044_715, x);
                cubic * (-2.0 * SQRT_2_OVER_PI)
            }
        };
        let one = k.constant(1f32);
        x * (one + exponent.exp()).rcp()
    }
}
