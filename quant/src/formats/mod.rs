//! The blocks: one `#[repr(C)]` struct per format, exactly as it lies in a file, and what it means.
//!
//! Every block has alignment 1 (its scalars are byte arrays, see [`crate::scalar`]), so bytes at any
//! address can be viewed as blocks with [`blocks`]. Layouts and formulas are ggml's; each struct's
//! comment states them.

mod codebook_search;
mod coded;
mod error_weights;
mod float;
mod grids;
mod iq1;
mod iq2;
mod iq3;
mod iq4;
mod mxfp4;
mod nvfp4;
mod q2_k;
mod q3_k;
mod q4;
mod q4_k;
mod q5;
mod q5_k;
mod q6_k;
mod q8;
mod scale_search;
mod ternary;

pub(crate) use coded::Coded;
pub use float::{BlockBF16, BlockF16, BlockF32};
pub use iq1::{BlockIq1M, BlockIq1S};
pub use iq2::{BlockIq2S, BlockIq2Xs, BlockIq2Xxs};
pub use iq3::{BlockIq3S, BlockIq3Xxs};
pub use iq4::{BlockIq4Nl, BlockIq4Xs, IQ4_VALUES};
pub use mxfp4::{BlockMxfp4, MXFP4_VALUES};
pub(crate) use mxfp4::{e2m1_doubled, half_scale};
pub use nvfp4::BlockNvfp4;
pub use q2_k::BlockQ2K;
pub use q3_k::BlockQ3K;
pub use q4::{BlockQ4_0, BlockQ4_1};
pub use q4_k::{BlockQ4K, pack_scales_mins, scales_mins};
pub use q5::{BlockQ5_0, BlockQ5_1};
pub use q5_k::BlockQ5K;
pub use q6_k::BlockQ6K;
pub use q8::{BlockQ8_0, BlockQ8_1, BlockQ8K};
pub use ternary::{BlockTq1, BlockTq2};

use crate::random::Words;
use bytemuck::Pod;

/// Weights in a super-block of the K formats.
pub const SUPER_BLOCK: usize = 256;

/// A block of weights. `size_of::<Self>()` is its size in a file.
pub trait Block: Pod + Send + Sync {
    /// Weights in the block.
    const LEN: usize;

    /// Writes the `LEN` weights to `y`, bit-exact.
    fn dequantize(&self, y: &mut [f32]);

    /// The block that is close to the `LEN` finite values `x`. Where `importance` is given, one value
    /// for each, the square of an error counts by it; formats of a fixed rule take no notice.
    fn quantize(x: &[f32], importance: Option<&[f32]>) -> Self;

    /// A block of random weights, mean 0, standard deviation about `std`.
    fn random(words: &mut Words, std: f32) -> Self;
}

/// Views bytes as blocks; bytes after the last whole block are left out.
#[inline]
pub fn blocks<B: Block>(bytes: &[u8]) -> &[B] {
    const { assert!(align_of::<B>() == 1) };
    let whole = bytes.len() - bytes.len() % size_of::<B>();
    bytemuck::cast_slice(&bytes[..whole])
}

/// Views bytes as blocks to be written; bytes after the last whole block are left out.
#[inline]
pub fn blocks_mut<B: Block>(bytes: &mut [u8]) -> &mut [B] {
    const { assert!(align_of::<B>() == 1) };
    let whole = bytes.len() - bytes.len() % size_of::<B>();
    bytemuck::cast_slice_mut(&mut bytes[..whole])
}
