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
    #[inline]
    pub fn get(self) -> f32 {
        f16::from_bits(self.bits()).to_f32()
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
