//! The registers that a tile unpacks to are the A fragment of the instruction, by its published formula.

use super::{Stored, TILED};
use gannet_quant::Format;
use gannet_quant::scalar::LeF16;
use gannet_quant::tile::{TileLayout, kernel, pack};

/// Row and column of element `i` (0 to 7) of a lane in the A fragment of `wgmma.m64nNk16`: that of
/// `mma.m16n8k16`, 16 rows further for each warp.
fn element(thread: usize, i: usize) -> (usize, usize) {
    let (warp, lane) = (thread / 32, thread % 32);
    let (g, t) = (lane >> 2, lane & 3);
    (
        16 * warp + g + 8 * ((i >> 1) & 1),
        2 * t + (i & 1) + 8 * (i >> 2),
    )
}

/// The row of the tile that a row of the instruction computes.
fn tile_row(instruction_row: usize) -> usize {
    let (warp, row) = (instruction_row / 16, instruction_row % 16);
    16 * warp + if row < 8 { 2 * row } else { 2 * (row - 8) + 1 }
}

/// The column that a position of 64 stands for.
fn column(position: usize) -> usize {
    position / 2 + 32 * (position % 2)
}

fn factor(layout: &TileLayout, packed: &[u8], row: usize) -> f32 {
    let at = layout.factors_offset() + 4 * row;
    f32::from_le_bytes(packed[at..][..4].try_into().unwrap())
}

#[test]
fn registers_are_the_fragment_of_the_instruction() {
    for format in TILED {
        let block = format.block_len().max(32);
        for (rows, cols) in [(64, 256), (100, 5 * block), (3, 256 + block)] {
            let stored = Stored::integers(format, rows, cols, 8);
            let weights = stored.weights();
            let (layout, packed) = pack(&stored.matrix()).unwrap();
            let tiles =
                (0..layout.row_blocks()).flat_map(|b| (0..layout.k_tiles()).map(move |k| (b, k)));
            for (row_block, k_tile) in tiles {
                let tile = &packed[layout.tile_offset(row_block, k_tile)..][..layout.tile_bytes()];
                for (group, thread) in (0..4).flat_map(|group| (0..128).map(move |t| (group, t))) {
                    let registers = kernel::registers(format, tile, group, thread).unwrap();
                    for (step, i) in (0..4).flat_map(|step| (0..8).map(move |i| (step, i))) {
                        let (row, col) = element(thread, i);
                        let row = 64 * row_block + tile_row(row);
                        let k = 256 * k_tile + 64 * group + column(16 * step + col);
                        let pair = registers[4 * step + i / 2];
                        let seen = LeF16::from_bits((pair >> (16 * (i % 2))) as u16).get();
                        let inside = row < rows && k < cols;
                        let expected = if inside { weights[row * cols + k] } else { 0.0 };
                        let seen = seen * factor(&layout, &packed, row);
                        assert_eq!(seen, expected, "{format} [{rows}, {cols}]: {row}, {k}");
                    }
                }
            }
        }
    }
}

#[test]
fn rows_that_a_kernel_sees_are_in_order() {
    for format in TILED {
        let stored = Stored::integers(format, 70, 256 + format.block_len().max(32), 9);
        let (layout, packed) = pack(&stored.matrix()).unwrap();
        let weights = stored.weights();
        for (row, weights) in weights.chunks_exact(stored.cols).enumerate() {
            assert_eq!(
                kernel::row(&layout, &packed, row).unwrap(),
                weights,
                "{format}: {row}"
            );
        }
        assert!(kernel::row(&layout, &packed, 70).is_err());
        assert!(kernel::row(&layout, &packed[1..], 0).is_err());
    }
    assert!(kernel::registers(Format::Q4_K, &[0; 9471], 0, 0).is_err());
    assert!(kernel::registers(Format::F32, &[0; 64], 0, 0).is_err());
}
