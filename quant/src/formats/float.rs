//! The plain floating-point formats, as blocks of one weight.

use super::Block;
use crate::random::Words;
use crate::scalar::{LeBf16, LeF16, LeF32};
use bytemuck::{Pod, Zeroable};

/// One f32 weight, little-endian.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct BlockF32(pub LeF32);

/// One f16 weight, little-endian.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct BlockF16(pub LeF16);

/// One bfloat16 weight, little-endian.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub struct BlockBF16(pub LeBf16);

impl Block for BlockF32 {
    const LEN: usize = 1;

    #[inline]
    fn dequantize(&self, y: &mut [f32]) {
        y[0] = self.0.get();
    }

    fn quantize(x: &[f32], _importance: Option<&[f32]>) -> Self {
        BlockF32(LeF32::new(x[0]))
    }

    fn random(words: &mut Words, std: f32) -> Self {
        BlockF32(LeF32::new(words.pair()[0] * std))
    }
}

impl Block for BlockF16 {
    const LEN: usize = 1;

    #[inline]
    fn dequantize(&self, y: &mut [f32]) {
        y[0] = self.0.get();
    }

    fn quantize(x: &[f32], _importance: Option<&[f32]>) -> Self {
        BlockF16(LeF16::new(x[0]))
    }

    fn random(words: &mut Words, std: f32) -> Self {
        BlockF16(LeF16::finite(words.pair()[0] * std))
    }
}

impl Block for BlockBF16 {
    const LEN: usize = 1;

    #[inline]
    fn dequantize(&self, y: &mut [f32]) {
        y[0] = self.0.get();
    }

    fn quantize(x: &[f32], _importance: Option<&[f32]>) -> Self {
        BlockBF16(LeBf16::new(x[0]))
    }

    fn random(words: &mut Words, std: f32) -> Self {
        BlockBF16(LeBf16::new(words.pair()[0] * std))
    }
}
