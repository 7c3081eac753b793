//! Little-endian scalars as they lie in a block.
//!
//! They are byte arrays underneath, hence have alignment 1: a block can be read at any address and
//! a cast of bytes to blocks can only fail on its length. On little-endian machines the accessors
//! compile to plain loads.

use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};

/// An IEEE half-precision number.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Pod, Zeroable)]
pub struct LeF16([u8; 2]);

impl LeF16 {
    /// `value` rounded to nearest even; may become infinite.
    pub fn new(value: f32) -> Self {
        Self::from_bits(f16::from_f32(value).to_bits())
    }

    /// `value` rounded to nearest even and kept within the finite range: what a block's scale
    /// needs, because an infinite scale makes NaN of a zero weight.
    pub fn finite(value: f32) -> Self {
        let limit = f16::MAX.to_f32();
        Self::new(value.clamp(-limit, limit))
    }

    /// The number with these bits.
    pub const fn from_bits(bits: u16) -> Self {
        LeF16(bits.to_le_bytes())
    }

    /// The bits of the number.
    #[inline]
    pub const fn bits(self) -> u16 {
        u16::from_le_bytes(self.0)
    }

    /// The exact value.
    ///
    /// Straight-line integer code, so that a loop over it becomes vector instructions: the exponent
    /// and mantissa are moved to their f32 places and a multiplication by 2^112, exact also for
    /// subnormals, corrects the bias.
    #[inline]
    pub fn get(self) -> f32 {
        const BIAS: f32 = f32::from_bits((127 + 112) << 23);
        let bits = u32::from(self.bits());
        let magnitude = (bits & 0x7FFF) << 13;
        let value = (f32::from_bits(magnitude) * BIAS).to_bits();
        // The largest exponent means infinity or NaN in both formats.
        let special = if magnitude >= 0x7C00 << 13 {
            0x7F80_0000
        } else {
            0
        };
        f32::from_bits((bits & 0x8000) << 16 | value | special)
    }
}

/// A bfloat16 number.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Pod, Zeroable)]
pub struct LeBf16([u8; 2]);

impl LeBf16 {
    /// `value` rounded to nearest even.
    pub fn new(value: f32) -> Self {
        LeBf16(bf16::from_f32(value).to_bits().to_le_bytes())
    }

    /// The exact value.
    #[inline]
    pub fn get(self) -> f32 {
        f32::from_bits(u32::from(u16::from_le_bytes(self.0)) << 16)
    }
}

/// An IEEE single-precision number.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Pod, Zeroable)]
pub struct LeF32([u8; 4]);

impl LeF32 {
    /// The number `value`.
    pub const fn new(value: f32) -> Self {
        LeF32(value.to_le_bytes())
    }

    /// The exact value.
    #[inline]
    pub const fn get(self) -> f32 {
        f32::from_le_bytes(self.0)
    }
}

/// A 16-bit integer.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Pod, Zeroable)]
pub struct LeI16([u8; 2]);

impl LeI16 {
    /// The integer `value`.
    pub const fn new(value: i16) -> Self {
        LeI16(value.to_le_bytes())
    }

    /// The value.
    #[inline]
    pub const fn get(self) -> i16 {
        i16::from_le_bytes(self.0)
    }
}

/// An unsigned 16-bit integer.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Pod, Zeroable)]
pub struct LeU16([u8; 2]);

impl LeU16 {
    /// The integer `value`.
    pub const fn new(value: u16) -> Self {
        LeU16(value.to_le_bytes())
    }

    /// The value.
    #[inline]
    pub const fn get(self) -> u16 {
        u16::from_le_bytes(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_has_its_value() {
        for bits in 0..=u16::MAX {
            let (ours, expected) = (LeF16::from_bits(bits).get(), f16::from_bits(bits).to_f32());
            let same = ours.to_bits() == expected.to_bits() || ours.is_nan() && expected.is_nan();
            assert!(same, "{bits:#06x}: {ours} is not {expected}");
        }
    }
}
