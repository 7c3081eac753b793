//! Packing and its inverse, for shapes of every kind; and sizes.

use super::{Stored, TILED, set_scales};
use gannet_quant::random::Words;
use gannet_quant::scalar::LeF16;
use gannet_quant::tile::{Fit, RowOrder, TileLayout, TilePacker, TileParts, pack, unpack};
use gannet_quant::{Error, Format, Matrix, repack};

#[test]
fn sizes_are_those_of_the_documentation() {
    let sizes = [
        (Format::Q4_K, 9472),
        (Format::Q5_K, 11520),
        (Format::Q6_K, 13440),
        (Format::Q8_0, 17408),
        (Format::Q4_0, 9216),
        (Format::F16, 32768),
        (Format::BF16, 32768),
    ];
    for (format, bytes) in sizes {
        let parts = TileParts::of(format).unwrap();
        assert_eq!(parts.bytes(), bytes, "{format}");
        for part in [parts.words, parts.more_words, parts.scales, parts.base] {
            assert!(part.start.is_multiple_of(16) && part.end.is_multiple_of(16));
        }
        let layout = TileLayout::new(format, 130, 768, RowOrder::Stored).unwrap();
        assert_eq!((layout.row_blocks(), layout.k_tiles()), (3, 3));
        assert_eq!(layout.tile_offset(2, 1), 7 * bytes);
        assert_eq!(layout.factors_offset(), 9 * bytes);
        assert_eq!(layout.bytes(), 9 * bytes + 3 * 64 * 4);
    }
    for &format in Format::ALL {
        let tiled = TileParts::of(repack::gpu_format(format)).is_some();
        assert_eq!(tiled, format != Format::F32, "{format}");
    }
}

#[test]
fn random_shapes_come_back() {
    for format in TILED {
        let block = format.block_len();
        for seed in 0..12 {
            let mut words = Words::for_block(7, seed);
            let rows = 1 + (words.word() % 150) as usize;
            let most = (900 / block).max(3) as u64;
            let cols = block * (1 + words.word() % most) as usize;
            let stored = Stored::random(format, rows, cols, seed);
            let packer = TilePacker::new(&stored.matrix()).unwrap();
            // Nothing may be left as it was found.
            let mut packed = vec![0xa5; packer.layout().bytes()];
            let fit = packer.pack_into(&mut packed).unwrap();
            assert_eq!(fit, Fit::Exact, "{format} [{rows}, {cols}]");
            let back = unpack(&packer.layout(), &packed).unwrap();
            assert!(back[0] == stored.data, "{format} [{rows}, {cols}]");
            let mut again = vec![0x5a; packed.len()];
            packer.pack_into(&mut again).unwrap();
            assert!(
                again == packed,
                "{format} [{rows}, {cols}]: a byte was left"
            );
        }
    }
}

#[test]
fn gate_and_up_come_back_from_one_packed_matrix() {
    for format in TILED {
        let (rows, cols) = (45, 2 * format.block_len().max(48));
        let (gate, up) = (
            Stored::random(format, rows, cols, 1),
            Stored::random(format, rows, cols, 2),
        );
        let packer = TilePacker::interleaved(&gate.matrix(), &up.matrix()).unwrap();
        let mut packed = vec![0; packer.layout().bytes()];
        packer.pack_into(&mut packed).unwrap();
        assert!(unpack(&packer.layout(), &packed).unwrap() == [gate.data.clone(), up.data.clone()]);
        // The same as rows stored in turn.
        let row = gate.matrix().row_bytes();
        let rows_of = |s: &Stored| {
            s.data
                .chunks_exact(row)
                .map(<[u8]>::to_vec)
                .collect::<Vec<_>>()
        };
        let in_turn: Vec<u8> = rows_of(&gate)
            .into_iter()
            .zip(rows_of(&up))
            .flat_map(|(g, u)| [g, u].concat())
            .collect();
        let matrix = Matrix::new(format, 2 * rows, cols, &in_turn).unwrap();
        assert!(pack(&matrix).unwrap().1 == packed, "{format}");
    }
}

#[test]
fn a_loader_packs_one_row_block_at_a_time() {
    for format in TILED {
        let stored = Stored::random(format, 130, 512, 3);
        let (layout, packed) = pack(&stored.matrix()).unwrap();
        let packer = TilePacker::new(&stored.matrix()).unwrap();
        for block in 0..layout.row_blocks() {
            let mut tiles = vec![1; layout.row_block_bytes()];
            let mut factors = [1; 256];
            packer
                .pack_row_block(block, &mut tiles, &mut factors)
                .unwrap();
            assert!(tiles == packed[layout.tile_offset(block, 0)..][..tiles.len()]);
            assert!(factors == packed[layout.factors_offset() + 256 * block..][..256]);
        }
        let short = packer.pack_row_block(0, &mut [], &mut [0; 256]);
        assert!(matches!(short, Err(Error::Size { .. })));
    }
}

#[test]
fn other_formats_are_converted_first() {
    for &format in Format::ALL {
        let to = repack::gpu_format(format);
        let stored = Stored::random(format, 70, 512, 4);
        if format == Format::F32 {
            assert_eq!(
                pack(&stored.matrix()),
                Err(Error::NoLayout { format: "F32" })
            );
            continue;
        }
        let (_, converted) = repack::convert(&stored.matrix()).unwrap();
        let (layout, packed) = pack(&stored.matrix()).unwrap();
        assert_eq!(layout.format(), to);
        assert!(unpack(&layout, &packed).unwrap() == [converted], "{format}");
    }
}

#[test]
fn any_codes_and_any_ordinary_scales_come_back() {
    // Every byte random; scales of any sign, subnormal ones and zeros among them, up to 500.
    let scale = |words: &mut Words| {
        let bits = words.word() as u16;
        let half = LeF16::from_bits(bits & 0xbfff | (bits & 0x4000) >> 2);
        if half.get().abs() <= 500.0 {
            half.get()
        } else {
            LeF16::from_bits(bits & 0x83ff).get()
        }
    };
    for seed in 0..40 {
        for format in TILED.into_iter().filter(|f| f.block_len() > 1) {
            let mut words = Words::for_block(11, seed);
            let mut stored = Stored::random(format, 3, 512, seed);
            stored.data.iter_mut().for_each(|b| *b = words.word() as u8);
            set_scales(&mut stored, |_| [scale(&mut words), scale(&mut words)]);
            let (layout, packed) = pack(&stored.matrix()).unwrap();
            assert!(
                unpack(&layout, &packed).unwrap()[0] == stored.data,
                "{format}"
            );
        }
    }
}

#[test]
fn empty_matrices_and_wrong_sizes() {
    for format in TILED {
        for (rows, cols) in [(0, 256), (5, 0), (0, 0)] {
            let matrix = Matrix::new(format, rows, cols, &[]).unwrap();
            let (layout, packed) = pack(&matrix).unwrap();
            assert_eq!(packed.len(), layout.bytes());
            assert!(unpack(&layout, &packed).unwrap() == [vec![]]);
        }
        let stored = Stored::random(format, 2, 256, 1);
        let (layout, packed) = pack(&stored.matrix()).unwrap();
        assert!(matches!(
            unpack(&layout, &packed[1..]),
            Err(Error::Size { .. })
        ));
        let other = Stored::random(format, 3, 256, 1);
        let refused = TilePacker::interleaved(&stored.matrix(), &other.matrix());
        assert!(matches!(refused, Err(Error::Unequal { .. })));
        let huge = TileLayout::new(format, usize::MAX / 4, 1 << 20, RowOrder::Stored);
        assert!(matches!(huge, Err(Error::TooLarge { .. })));
        let odd = TileLayout::new(format, 3, 256, RowOrder::Interleaved);
        assert!(matches!(odd, Err(Error::Size { .. })));
    }
    let ragged = TileLayout::new(Format::Q4_K, 64, 128, RowOrder::Stored);
    assert!(matches!(ragged, Err(Error::PartialBlock { .. })));
}
