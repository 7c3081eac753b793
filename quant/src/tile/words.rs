//! How the codes of a thread are packed into words: pure permutations of bits, and their inverses.
//!
//! The order is chosen for the unpacking kernel: a code that can be masked in place costs one
//! instruction, and a shift serves as many codes as it can. The tables stand at the head of
//! [`tile`](super).

/// The codes of a quad of threads and 64 columns as register pairs (low half, high half 16 bits above):
/// `[4 * step + register][thread of the quad]`.
pub(super) type Fragment = [[u32; 4]; 16];

/// Words of a thread and 64 columns at most.
pub(super) const MOST_WORDS: usize = 8;

/// The words of a quad, `[word][thread of the quad]`; a format of `b` bits uses the first `b`.
pub(super) type Words = [[u32; 4]; MOST_WORDS];

/// Bit 0 of both halves.
const ONES: u32 = 0x0001_0001;

/// The first register of each word of 6-bit codes (bits 0 to 5); the second (bits 10 to 15) has the same row
/// and step: `+ 2`.
const SIX_WHOLE: [usize; 6] = [0, 1, 4, 5, 8, 12];
/// The registers of 6-bit codes whose bits are spread.
const SIX_SPREAD: [usize; 4] = [9, 11, 13, 15];

/// The codes of two rows, 64 columns each, as a quad of threads holds them.
#[inline]
pub(super) fn fragment(even: &[u8; 64], odd: &[u8; 64]) -> Fragment {
    let (even, odd) = (pairs(even), pairs(odd));
    std::array::from_fn(|register| {
        let (step, register) = (register / 4, register % 4);
        let row = if register % 2 == 0 { &even } else { &odd };
        let first = 8 * step + 4 * (register / 2);
        std::array::from_fn(|t| row[first + t])
    })
}

/// The inverse of [`fragment`].
#[inline]
pub(super) fn rows(fragment: &Fragment) -> [[u8; 64]; 2] {
    let mut rows = [[0; 64]; 2];
    for (register, lanes) in fragment.iter().enumerate() {
        let (step, register) = (register / 4, register % 4);
        let row = &mut rows[register % 2];
        let first = 8 * step + 4 * (register / 2);
        for (t, &pair) in lanes.iter().enumerate() {
            row[first + t] = pair as u8;
            row[32 + first + t] = (pair >> 16) as u8;
        }
    }
    rows
}

/// Column `i` in the low half, column `32 + i` in the high one.
#[inline]
fn pairs(codes: &[u8; 64]) -> [u32; 32] {
    std::array::from_fn(|i| u32::from(codes[i]) | u32::from(codes[32 + i]) << 16)
}

/// Packs codes of `BITS` bits.
#[inline]
pub(super) fn encode<const BITS: usize>(f: &Fragment) -> Words {
    let mut words = Words::default();
    // One thread at a time is the same code for each: it becomes vectors of four.
    for t in 0..4 {
        let r: [u32; 16] = std::array::from_fn(|register| f[register][t]);
        let x: [u32; MOST_WORDS] = match BITS {
            4 => four(&r),
            5 => five(&r),
            6 => six(&r),
            _ => eight(&r),
        };
        for (word, x) in words.iter_mut().zip(x) {
            word[t] = x;
        }
    }
    words
}

/// The inverse of [`encode`].
#[inline]
pub(super) fn decode<const BITS: usize>(words: &Words) -> Fragment {
    let mut fragment = Fragment::default();
    for t in 0..4 {
        let x: [u32; MOST_WORDS] = std::array::from_fn(|word| words[word][t]);
        let r: [u32; 16] = match BITS {
            4 => from_four(&x),
            5 => from_five(&x),
            6 => from_six(&x),
            _ => from_eight(&x),
        };
        for (register, r) in fragment.iter_mut().zip(r) {
            register[t] = r;
        }
    }
    fragment
}

#[inline]
fn four(r: &[u32; 16]) -> [u32; MOST_WORDS] {
    std::array::from_fn(|s| match s {
        0..4 => r[4 * s] | r[4 * s + 2] << 4 | r[4 * s + 1] << 8 | r[4 * s + 3] << 12,
        _ => 0,
    })
}

#[inline]
fn from_four(x: &[u32; MOST_WORDS]) -> [u32; 16] {
    const PLACE: [usize; 4] = [0, 8, 4, 12];
    std::array::from_fn(|r| (x[r / 4] >> PLACE[r % 4]) & (15 * ONES))
}

#[inline]
fn five(r: &[u32; 16]) -> [u32; MOST_WORDS] {
    std::array::from_fn(|n| {
        let whole = match n {
            0..4 => r[4 * n] | r[4 * n + 2] << 5 | r[4 * n + 1] << 10,
            4 => r[3] | r[7] << 5 | r[11] << 10,
            _ => return 0,
        };
        whole | ((r[15] >> n) & ONES) << 15
    })
}

#[inline]
fn from_five(x: &[u32; MOST_WORDS]) -> [u32; 16] {
    let code = |word: usize, bit: usize| (x[word] >> bit) & (31 * ONES);
    std::array::from_fn(|r| match (r / 4, r % 4) {
        (3, 3) => (0..5).map(|n| ((x[n] >> 15) & ONES) << n).sum(),
        (step, 3) => code(4, 5 * step),
        (step, register) => code(step, [0, 10, 5][register]),
    })
}

#[inline]
fn six(r: &[u32; 16]) -> [u32; MOST_WORDS] {
    let spread = SIX_SPREAD.map(|register| r[register]);
    let low = |i: usize| spread[i] & (3 * ONES);
    std::array::from_fn(|n| {
        let middle = match n {
            0..4 => (spread[n] >> 2) & (15 * ONES),
            4 => low(0) | low(1) << 2,
            5 => low(2) | low(3) << 2,
            _ => return 0,
        };
        r[SIX_WHOLE[n]] | middle << 6 | r[SIX_WHOLE[n] + 2] << 10
    })
}

#[inline]
fn from_six(x: &[u32; MOST_WORDS]) -> [u32; 16] {
    let mut r = [0; 16];
    for (&register, x) in SIX_WHOLE.iter().zip(x) {
        r[register] = x & (63 * ONES);
        r[register + 2] = (x >> 10) & (63 * ONES);
    }
    for (i, &register) in SIX_SPREAD.iter().enumerate() {
        let low = x[4 + i / 2] >> (6 + 2 * (i % 2));
        r[register] = ((x[i] >> 6) & (15 * ONES)) << 2 | low & (3 * ONES);
    }
    r
}

#[inline]
fn eight(r: &[u32; 16]) -> [u32; MOST_WORDS] {
    std::array::from_fn(|n| r[2 * n] | r[2 * n + 1] << 8)
}

#[inline]
fn from_eight(x: &[u32; MOST_WORDS]) -> [u32; 16] {
    std::array::from_fn(|r| (x[r / 2] >> (8 * (r % 2))) & (255 * ONES))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Words as Random;

    fn random<const BITS: usize>(seed: u64) -> Fragment {
        let mut random = Random::for_block(seed, BITS as u64);
        let mask = ((1 << BITS) - 1) * ONES;
        std::array::from_fn(|_| std::array::from_fn(|_| random.word() as u32 & mask))
    }

    fn round_trip<const BITS: usize>() {
        for seed in 0..50 {
            let fragment = random::<BITS>(seed);
            let words = encode::<BITS>(&fragment);
            assert_eq!(decode::<BITS>(&words), fragment, "{BITS} bits");
            assert!(words[BITS..].iter().flatten().all(|&w| w == 0));
            let [even, odd] = rows(&fragment);
            assert_eq!(super::fragment(&even, &odd), fragment);
        }
    }

    #[test]
    fn words_are_a_permutation_of_the_bits_of_codes() {
        round_trip::<4>();
        round_trip::<5>();
        round_trip::<6>();
        round_trip::<8>();
        // 16 registers of two codes fill as many words as a code has bits: with an inverse, no bit is
        // left over and none is in two places.
        let full = |bits: u32| [[((1u32 << bits) - 1) * ONES; 4]; 16];
        assert!(
            encode::<5>(&full(5))[..5]
                .iter()
                .flatten()
                .all(|&w| w == u32::MAX)
        );
        assert!(
            encode::<6>(&full(6))[..6]
                .iter()
                .flatten()
                .all(|&w| w == u32::MAX)
        );
    }
}
