//! What the formats with codebooks and small floats have in common: a block is small integers, and a
//! scale for each group of them.

use super::Block;

/// A block whose weight `i` is `scales()[i / (LEN / GROUPS)] * codes()[i]`, rounded once. The scales are
/// single-rounded products of the numbers in the block, so the integers lose nothing.
pub(crate) trait Coded<const LEN: usize, const GROUPS: usize>: Block {
    /// The largest magnitude of a code.
    const LARGEST: i8;

    /// The weights in units of their scales, in order.
    fn codes(&self) -> [i8; LEN];

    /// The scale of each group of `LEN / GROUPS` weights.
    fn scales(&self) -> [f32; GROUPS];

    /// The weights.
    #[inline]
    fn expand(&self, y: &mut [f32]) {
        let (codes, scales) = (self.codes(), self.scales());
        let groups = codes.chunks_exact(LEN / GROUPS);
        for ((y, codes), scale) in y.chunks_exact_mut(LEN / GROUPS).zip(groups).zip(scales) {
            for (y, &code) in y.iter_mut().zip(codes) {
                *y = scale * f32::from(code);
            }
        }
    }
}

/// The 4-bit value `i` of `bytes`, the low half of a byte first.
#[inline(always)]
pub(super) fn nibble(bytes: &[u8], i: usize) -> u8 {
    (bytes[i / 2] >> (4 * (i % 2))) & 15
}
