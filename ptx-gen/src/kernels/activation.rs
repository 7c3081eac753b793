//! What kernels share: activation functions and the element types of the key/value cache.

use crate::build::{Builder, Val};

/// Activation of a gated linear unit.
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

/// Element type of the key/value cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KvType {
    /// 16-bit float.
    F16,
    /// 32-bit float.
    F32,
}

impl KvType {
    /// Lower-case name, as in kernel names.
    pub fn name(self) -> &'static str {
        match self {
            KvType::F16 => "f16",
            KvType::F32 => "f32",
        }
    }

    /// Bytes of an element.
    pub fn bytes(self) -> u32 {
        match self {
            KvType::F16 => 2,
            KvType::F32 => 4,
        }
    }
}
