//! A counter-based stream of random words: block `i` of a matrix gets the same words whoever makes
//! it, on whatever thread, in whatever order.
//!
//! The mixer is splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators",
//! 2014). It is good enough for test weights and costs two multiplications per eight bytes, so that
//! a model of several gigabytes takes seconds.

/// The words that belong to one block.
#[derive(Debug, Clone)]
pub struct Words {
    state: u64,
}

/// The odd increment of splitmix64: 2^64 divided by the golden ratio.
const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

impl Words {
    /// The stream of block number `block` under `seed`.
    #[inline]
    pub fn for_block(seed: u64, block: u64) -> Self {
        // Two rounds of mixing, so that the streams of neighbouring blocks and of neighbouring seeds
        // have nothing in common; the round over the seed is the same for a whole loop.
        let state = mix(mix(seed ^ 0x5851_F42D_4C95_7F2D).wrapping_add(block));
        Words { state }
    }

    /// The next 64 random bits.
    #[inline]
    pub fn word(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GAMMA);
        mix(self.state)
    }

    /// `N` random bytes.
    #[inline]
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        for chunk in out.chunks_mut(8) {
            chunk.copy_from_slice(&self.word().to_le_bytes()[..chunk.len()]);
        }
        out
    }

    /// `scale` times a factor in [0.75, 1.25), so that neighbouring blocks differ and a kernel that
    /// reads its neighbour's scale is caught.
    #[inline]
    pub fn jitter(&mut self, scale: f32) -> f32 {
        let unit = (self.word() >> 40) as f32 * (1.0 / (1 << 24) as f32);
        scale * (0.75 + 0.5 * unit)
    }

    /// [`jitter`](Self::jitter) with a random sign, for formats whose codes are not symmetric: the
    /// sign makes the mean zero.
    #[inline]
    pub fn signed_jitter(&mut self, scale: f32) -> f32 {
        let magnitude = self.jitter(scale);
        if self.word() >> 63 == 0 {
            magnitude
        } else {
            -magnitude
        }
    }

    /// Two numbers of standard deviation 1, nearly normal: the sum of four random bytes each.
    #[inline]
    pub fn pair(&mut self) -> [f32; 2] {
        // A uniform byte has variance (256^2 - 1) / 12; four of them sum to mean 510.
        const STEP: f32 = 1.0 / 147.800_54;
        let word = self.word();
        let pairs = (word & 0x00FF_00FF_00FF_00FF) + ((word >> 8) & 0x00FF_00FF_00FF_00FF);
        let low = (pairs & 0xFFFF) + ((pairs >> 16) & 0xFFFF);
        let high = ((pairs >> 32) & 0xFFFF) + (pairs >> 48);
        [(low as f32 - 510.0) * STEP, (high as f32 - 510.0) * STEP]
    }
}

/// Root mean square of the factor that [`Words::jitter`] applies: 1 + 0.5^2 / 12, square root.
pub(crate) const JITTER_RMS: f32 = 1.010_363;

#[inline]
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
