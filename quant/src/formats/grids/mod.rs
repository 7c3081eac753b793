//! The codebooks of the IQ formats: which groups of 8 (or 4) magnitudes a code may stand for.
//!
//! The numbers are ggml's, taken from gguf-py (`gguf/quants.py`, version 0.19): every value of a word is
//! the index of its magnitude among the levels of the format. To make the words again:
//!
//! ```python
//! import gguf.quants as q
//! for cls, bits in ((q.IQ1_S, 2), (q.IQ2_XXS, 2), (q.IQ2_XS, 2), (q.IQ2_S, 2), (q.IQ3_XXS, 3), (q.IQ3_S, 3)):
//!     cls.init_grid()
//!     level = {int(v): i for i, v in enumerate(cls.grid_map)}
//!     rows = cls.grid.reshape(cls.grid_shape)
//!     print(cls.__name__, [sum(level[int(v)] << (bits * k) for k, v in enumerate(row)) for row in rows])
//! ```
//!
//! Always holds: a table is as long as its index has values, so no bytes of a file reach beyond one.

mod iq1;
mod iq2;
mod iq3;

/// A codebook: `N` entries of `DIM` values each.
pub(crate) struct Grid<const N: usize, const DIM: usize> {
    /// The values of each entry.
    pub(crate) values: [[i8; DIM]; N],
    /// The entries as levels, packed: what a search reads.
    pub(super) packed: [u16; N],
}

impl<const N: usize, const DIM: usize> Grid<N, DIM> {
    /// The entries `packed`, with `16 / DIM` bits a level at most: 2 for 8 values, 3 for 4.
    const fn new<const LEVELS: usize>(packed: [u16; N], levels: [i8; LEVELS]) -> Self {
        assert!(N.is_power_of_two());
        let (bits, mut values, mut n) = (bits_of::<DIM>(), [[0; DIM]; N], 0);
        while n < N {
            let mut k = 0;
            while k < DIM {
                values[n][k] = levels[((packed[n] >> (bits * k)) & ((1 << bits) - 1)) as usize];
                k += 1;
            }
            n += 1;
        }
        Grid { values, packed }
    }

    /// The entry `index`, of which only the bits that the table has count.
    #[inline(always)]
    pub(crate) fn entry(&self, index: usize) -> [i8; DIM] {
        self.values[index % N]
    }
}

/// Bits of a level in a packed entry.
pub(super) const fn bits_of<const DIM: usize>() -> usize {
    if DIM == 8 { 2 } else { 3 }
}

/// The magnitudes of IQ2's levels.
pub(super) const IQ2_LEVELS: [i8; 3] = [0x08, 0x19, 0x2b];
/// The magnitudes of IQ3_XXS's levels.
pub(super) const IQ3XXS_LEVELS: [i8; 8] = [0x04, 0x0c, 0x14, 0x1c, 0x24, 0x2c, 0x34, 0x3e];
/// The magnitudes of IQ3_S's levels.
pub(super) const IQ3S_LEVELS: [i8; 8] = [1, 3, 5, 7, 9, 11, 13, 15];
/// Eight times the values of IQ1's levels.
pub(super) const IQ1_LEVELS: [i8; 3] = [-8, 0, 8];

/// IQ1_S and IQ1_M, times 8.
pub(crate) static IQ1S: Grid<2048, 8> = Grid::new(iq1::IQ1S, IQ1_LEVELS);
/// IQ2_XXS.
pub(crate) static IQ2XXS: Grid<256, 8> = Grid::new(iq2::IQ2XXS, IQ2_LEVELS);
/// IQ2_XS.
pub(crate) static IQ2XS: Grid<512, 8> = Grid::new(iq2::IQ2XS, IQ2_LEVELS);
/// IQ2_S.
pub(crate) static IQ2S: Grid<1024, 8> = Grid::new(iq2::IQ2S, IQ2_LEVELS);
/// IQ3_XXS.
pub(crate) static IQ3XXS: Grid<256, 4> = Grid::new(iq3::IQ3XXS, IQ3XXS_LEVELS);
/// IQ3_S.
pub(crate) static IQ3S: Grid<512, 4> = Grid::new(iq3::IQ3S, IQ3S_LEVELS);

/// The signs of eight weights of which seven are stored: the eighth makes the number of minuses even.
#[inline(always)]
pub(crate) const fn even_signs(seven: u8) -> u8 {
    let seven = seven & 0x7F;
    seven | ((seven.count_ones() as u8 & 1) << 7)
}

/// `values`, each of 1 to 127, with a minus where `signs` has a bit.
#[inline(always)]
pub(crate) fn with_signs(values: [i8; 8], signs: u8) -> [i8; 8] {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // Byte `k` keeps bit `k`; adding 0x7f moves "not zero" to bit 7.
    let kept = (u64::from(signs) * ONES) & 0x8040_2010_0804_0201;
    let minus = ((kept + 0x7F * ONES) >> 7) & ONES;
    // Two's complement in each byte; none carries, for no value is zero.
    let values = u64::from_le_bytes(values.map(|v| v as u8));
    ((values ^ (minus * 0xFF)) + minus)
        .to_le_bytes()
        .map(|v| v as i8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn check<const N: usize, const DIM: usize>(
        name: &str,
        grid: &Grid<N, DIM>,
        levels: &[i8],
        mean_square: f64,
    ) {
        let distinct: HashSet<_> = grid.values.iter().collect();
        assert_eq!(distinct.len(), N, "{name}: an entry stands twice");
        let values = grid.values.as_flattened();
        assert!(values.iter().all(|v| levels.contains(v)), "{name}");
        for level in levels {
            assert!(values.contains(level), "{name}: {level} is never used");
        }
        let bits = bits_of::<DIM>() * DIM;
        for &packed in &grid.packed {
            assert!(u32::from(packed) < 1 << bits, "{name}: {packed:#x}");
            for k in 0..DIM {
                let level = usize::from(packed) >> (bits / DIM * k) & ((1 << (bits / DIM)) - 1);
                assert!(level < levels.len(), "{name}: level {level}");
            }
        }
        let squares: f64 = values.iter().map(|&v| f64::from(v).powi(2)).sum();
        let found = squares / values.len() as f64;
        assert!((found / mean_square - 1.0).abs() < 1e-6, "{name}: {found}");
    }

    /// Counts, ranges, no entry twice, and the mean squares of gguf-py's tables.
    #[test]
    fn codebooks_have_their_structure() {
        check(
            "IQ1",
            &IQ1S,
            &IQ1_LEVELS,
            (8.0f64 * 0.770_828_934_4).powi(2),
        );
        check("IQ2_XXS", &IQ2XXS, &IQ2_LEVELS, 23.117_745_906_1f64.powi(2));
        check("IQ2_XS", &IQ2XS, &IQ2_LEVELS, 24.217_268_099_8f64.powi(2));
        check("IQ2_S", &IQ2S, &IQ2_LEVELS, 24.430_343_321_5f64.powi(2));
        check(
            "IQ3_XXS",
            &IQ3XXS,
            &IQ3XXS_LEVELS,
            30.848_672_986_0f64.powi(2),
        );
        check("IQ3_S", &IQ3S, &IQ3S_LEVELS, 7.594_200_089_5f64.powi(2));
        assert_eq!(IQ2XXS.entry(0), [8; 8]);
        assert_eq!(IQ2XXS.entry(256), [8; 8]);
    }

    #[test]
    fn signs_are_even_in_number_and_apply_to_their_weights() {
        let known = [0x00, 0x81, 0x82, 0x03, 0x84, 0x05, 0x06, 0x87];
        assert_eq!(std::array::from_fn(|i| even_signs(i as u8)), known);
        for seven in 0..=u8::MAX {
            let signs = even_signs(seven);
            assert_eq!(signs & 0x7F, seven & 0x7F);
            assert_eq!(signs.count_ones() % 2, 0);
        }
        let values = [1, 8, 25, 43, 62, 127, 4, 15];
        for signs in 0..=u8::MAX {
            let expected: [i8; 8] = std::array::from_fn(|k| match signs >> k & 1 {
                0 => values[k],
                _ => -values[k],
            });
            assert_eq!(with_signs(values, signs), expected, "{signs:#x}");
        }
    }
}
