//! Where every bit of a tile lies, from the documentation's formulas written once more.

use super::{Stored, TILED};
use gannet_quant::formats::{BlockQ4K, BlockQ6K, blocks, blocks_mut, scales_mins};
use gannet_quant::scalar::LeF16;
use gannet_quant::tile::{TileParts, pack};
use gannet_quant::{Format, formats};
use std::collections::HashSet;

fn bits_of(format: Format) -> usize {
    match format {
        Format::Q4_K | Format::Q4_0 => 4,
        Format::Q5_K => 5,
        Format::Q6_K => 6,
        Format::Q8_0 => 8,
        _ => 16,
    }
}

/// The bit of the tile that holds bit `bit` of the code of row `row`, column `k`.
fn place(format: Format, row: usize, k: usize, bit: usize) -> usize {
    let (j, half, i) = (k / 64, k % 64 / 32, k % 32);
    let (s, h, t) = (i / 8, i % 8 / 4, i % 4);
    let (p, odd) = (row / 2, row % 2);
    let (thread, a) = (4 * p + t, odd + 2 * h);
    if bits_of(format) == 16 {
        let (w, g) = (p / 8, p % 8);
        let (r, position) = (16 * w + g + 8 * odd, 2 * i + half);
        let (chunk, byte) = (position / 8, position % 8 * 2);
        return 8 * (j * 8192 + r * 128 + ((chunk ^ (r % 8)) * 16) + byte) + bit;
    }
    let (word, position) = match (format, s, a) {
        (Format::Q5_K, 3, 3) => (bit, 15),
        (Format::Q5_K, _, 3) => (4, 5 * s + bit),
        (Format::Q5_K, ..) => (s, [0, 10, 5][a] + bit),
        (Format::Q6_K, 0 | 1, _) => (2 * s + odd, 10 * h + bit),
        (Format::Q6_K, _, 0 | 2) => (2 + s, 10 * h + bit),
        (Format::Q6_K, ..) => {
            let n = 2 * (s - 2) + h;
            match bit {
                2.. => (n, 6 + bit - 2),
                _ => (4 + n / 2, [6, 8][n % 2] + bit),
            }
        }
        (Format::Q8_0, ..) => (2 * s + h, 8 * odd + bit),
        _ => (s, [0, 8, 4, 12][a] + bit),
    };
    let word_at = match (format, word) {
        (Format::Q8_0, _) => j * 4096 + word / 4 * 2048 + thread * 16 + word % 4 * 4,
        (Format::Q5_K, 4) => 8192 + (j * 128 + thread) * 4,
        (Format::Q6_K, 4..) => 8192 + (j * 128 + thread) * 8 + (word - 4) * 4,
        _ => j * 2048 + thread * 16 + word * 4,
    };
    8 * word_at + position + 16 * half
}

/// What a tile holds for an integer weight.
fn code(format: Format, weight: f32) -> u32 {
    match format {
        Format::F16 => u32::from(LeF16::new(weight).bits()),
        Format::Q4_0 => (weight as i32 + 8) as u32,
        Format::Q6_K => (weight as i32 + 32) as u32,
        Format::Q8_0 => (weight as i32 + 128) as u32,
        _ => weight as u32,
    }
}

#[test]
fn every_bit_of_every_code_is_where_the_documentation_says() {
    for format in TILED {
        let stored = Stored::integers(format, 64, 256, 5);
        let (layout, packed) = pack(&stored.matrix()).unwrap();
        let factor = f32::from_le_bytes(packed[layout.factors_offset()..][..4].try_into().unwrap());
        let mut taken = HashSet::new();
        for (at, &weight) in stored.weights().iter().enumerate() {
            let (row, k) = (at / 256, at % 256);
            let expected = match format {
                Format::BF16 => {
                    let first = layout.factors_offset() + 4 * row;
                    let of_row = f32::from_le_bytes(packed[first..][..4].try_into().unwrap());
                    code(Format::F16, weight / of_row)
                }
                _ => code(format, weight),
            };
            for bit in 0..bits_of(format) {
                let place = place(format, row, k, bit);
                assert!(
                    taken.insert(place),
                    "{format}: {row}, {k}, bit {bit}: taken"
                );
                let found = packed[place / 8] >> (place % 8) & 1;
                assert_eq!(
                    u32::from(found),
                    expected >> bit & 1,
                    "{format}: {row}, {k}, {bit}"
                );
            }
        }
        // As many places as the part has bits: each is taken once.
        let parts = TileParts::of(format).unwrap();
        assert_eq!(taken.len(), 8 * parts.more_words.end, "{format}");
        assert!(taken.iter().all(|&place| place < 8 * parts.more_words.end));
        assert!(factor > 0.0);
    }
}

fn half_at(packed: &[u8], at: usize) -> f32 {
    LeF16::from_bits(u16::from_le_bytes([packed[at], packed[at + 1]])).get()
}

#[test]
fn scales_are_where_the_documentation_says() {
    for format in TILED.into_iter().filter(|&format| bits_of(format) < 16) {
        let stored = Stored::random(format, 64, 512, 6);
        let (layout, packed) = pack(&stored.matrix()).unwrap();
        let parts = TileParts::of(format).unwrap();
        for row in 0..64 {
            let first = layout.factors_offset() + 4 * row;
            let factor = f32::from_le_bytes(packed[first..][..4].try_into().unwrap());
            let up = (1 << 24) as f32 / factor;
            let row_bytes = stored.matrix().row(row);
            for k in 0..2 {
                let tile = &packed[layout.tile_offset(0, k)..][..layout.tile_bytes()];
                let scales = |j: usize| {
                    &tile[parts.scales.start + (j * 32 + row / 2) * 8 + row % 2 * 4..][..4]
                };
                let base = |size: usize| parts.base.start + row * size;
                let pairs = |d: &[f32]| {
                    for j in 0..4 {
                        let (low, high) = (half_at(scales(j), 0), half_at(scales(j), 2));
                        assert_eq!((low, high), (d[2 * j] * up, d[2 * j + 1] * up), "{format}");
                    }
                };
                let affine = |d: f32, dmin: f32, packed_scales: &[u8; 12]| {
                    let (sc, m) = scales_mins(packed_scales);
                    for j in 0..4 {
                        assert_eq!(
                            scales(j),
                            [sc[2 * j], sc[2 * j + 1], m[2 * j], m[2 * j + 1]]
                        );
                    }
                    assert_eq!(
                        (half_at(tile, base(4)), half_at(tile, base(4) + 2)),
                        (d * up, -dmin * up)
                    );
                };
                match format {
                    Format::Q4_K => {
                        let b = &blocks::<BlockQ4K>(row_bytes)[k];
                        affine(b.d.get(), b.dmin.get(), &b.scales);
                    }
                    Format::Q5_K => {
                        let b = &blocks::<formats::BlockQ5K>(row_bytes)[k];
                        affine(b.d.get(), b.dmin.get(), &b.scales);
                    }
                    Format::Q6_K => {
                        let b = &blocks::<BlockQ6K>(row_bytes)[k];
                        let biased = |group: usize| (i32::from(b.scales[group]) + 128) as u8;
                        for j in 0..4 {
                            assert_eq!(scales(j), [0, 2, 1, 3].map(|n| biased(4 * j + n)));
                        }
                        assert_eq!(half_at(tile, base(2)), b.d.get() * up);
                    }
                    Format::Q8_0 => {
                        let b = &blocks::<formats::BlockQ8_0>(row_bytes)[8 * k..][..8];
                        pairs(&b.iter().map(|b| b.d.get()).collect::<Vec<_>>());
                    }
                    _ => {
                        let b = &blocks::<formats::BlockQ4_0>(row_bytes)[8 * k..][..8];
                        pairs(&b.iter().map(|b| b.d.get()).collect::<Vec<_>>());
                    }
                }
            }
        }
    }
}

/// Flips each bit of the second block of a row, `skip` aside, whose first block fixes the exponent.
fn flip(stored: &Stored, skip: std::ops::Range<usize>) {
    let (_, packed) = pack(&stored.matrix()).unwrap();
    let block = stored.format.block_bytes();
    let mut places = HashSet::new();
    for byte in (0..block).filter(|byte| !skip.contains(byte)) {
        for bit in 0..8 {
            let mut data = stored.data.clone();
            data[block + byte] ^= 1 << bit;
            let flipped = Stored { data, ..*stored };
            let (_, after) = pack(&flipped.matrix()).unwrap();
            let differ: Vec<(usize, u8)> = (0..packed.len())
                .filter(|&i| packed[i] != after[i])
                .map(|i| (i, packed[i] ^ after[i]))
                .collect();
            assert_eq!(differ.len(), 1, "{}: byte {byte}, bit {bit}", stored.format);
            assert_eq!(differ[0].1.count_ones(), 1);
            assert!(
                places.insert(differ[0]),
                "{}: byte {byte}, bit {bit}",
                stored.format
            );
        }
    }
    assert_eq!(places.len(), 8 * (block - skip.len()));
}

#[test]
fn a_bit_of_a_block_is_one_bit_of_a_tile() {
    let mut q4 = Stored::random(Format::Q4_K, 1, 512, 1);
    blocks_mut::<BlockQ4K>(&mut q4.data)[0].d = LeF16::new(1.0);
    flip(&q4, 0..4);
    let mut q5 = Stored::random(Format::Q5_K, 1, 512, 1);
    blocks_mut::<formats::BlockQ5K>(&mut q5.data)[0].d = LeF16::new(1.0);
    flip(&q5, 0..4);
    let mut q6 = Stored::random(Format::Q6_K, 1, 512, 1);
    blocks_mut::<BlockQ6K>(&mut q6.data)[0].d = LeF16::new(1.0);
    flip(&q6, 208..210);
    flip(&Stored::random(Format::Q8_0, 1, 64, 1), 0..2);
    flip(&Stored::random(Format::Q4_0, 1, 64, 1), 0..2);
    let half = Stored::random(Format::F16, 1, 64, 1);
    flip(&half, 0..0);
}
