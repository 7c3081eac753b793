//! Every format has everything: a registry row, known vectors that dequantise bit for bit, a
//! round-trip within a bound, random blocks of the right spread, and a way to the GPU.

use gannet_quant::repack::{self, gpu_format, is_exact_on_gpu};
use gannet_quant::{Error, Format, Matrix};
use std::path::PathBuf;

fn data(file: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/dequant")
        .join(file);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().expect("four bytes")))
        .collect()
}

fn dequantized(format: Format, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; bytes.len() / format.block_bytes() * format.block_len()];
    format.dequantize(bytes, &mut out).expect("whole blocks");
    out
}

fn assert_bit_equal(what: &str, left: &[f32], right: &[f32]) {
    assert_eq!(left.len(), right.len(), "{what}: length");
    for (i, (l, r)) in left.iter().zip(right).enumerate() {
        assert_eq!(
            l.to_bits(),
            r.to_bits(),
            "{what}: weight {i}: {l} is not {r}"
        );
    }
}

/// Normally distributed values with an outlier in every 500, from a small generator.
fn weights(n: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut unit = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    (0..n)
        .map(|i| {
            let normal = (0..12).map(|_| unit()).sum::<f32>() - 6.0;
            normal * if i % 500 == 499 { 4.0 } else { 1.0 } * 0.02
        })
        .collect()
}

fn nmse(a: &[f32], b: &[f32]) -> f64 {
    let error: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    error / b.iter().map(|&b| f64::from(b).powi(2)).sum::<f64>()
}

#[test]
fn rows_are_in_order_and_findable() {
    for (i, &format) in Format::ALL.iter().enumerate() {
        assert_eq!(format as usize, i);
        assert_eq!(format.spec().format, format);
        assert_eq!(Format::from_ggml_id(format.ggml_id()), Some(format));
        assert_eq!(
            Format::from_name(&format.name().to_lowercase()),
            Some(format)
        );
    }
    assert_eq!(Format::from_ggml_id(4), None);
    assert_eq!(Format::from_name("Q4"), None);
}

#[test]
fn every_format_dequantises_its_vectors_bit_for_bit() {
    let manifest: serde_json::Value = serde_json::from_slice(&data("manifest.json")).unwrap();
    let rows = manifest["types"].as_array().unwrap();
    for &format in Format::ALL {
        let row = rows.iter().find(|row| row["name"] == format.name());
        let row = row.unwrap_or_else(|| panic!("{format} has no vectors"));
        assert_eq!(row["ggml_type"], format.ggml_id(), "{format}");
        assert_eq!(row["block_size"], format.block_len(), "{format}");
        assert_eq!(row["bytes_per_block"], format.block_bytes(), "{format}");
        let raw = data(row["raw"].as_str().unwrap());
        let expected = floats(&data(row["expected"].as_str().unwrap()));
        assert_bit_equal(format.name(), &dequantized(format, &raw), &expected);
        // Blocks are read at any address.
        let mut shifted = vec![0];
        shifted.extend_from_slice(&raw);
        assert_bit_equal(
            format.name(),
            &dequantized(format, &shifted[1..]),
            &expected,
        );
    }
}

/// The largest error of a round trip over normally distributed weights: about a fifth above what
/// these quantisers reach, so that a search that stops working is noticed.
fn round_trip_bound(format: Format) -> f64 {
    match format {
        Format::F32 => 0.0,
        Format::F16 => 6e-8,
        Format::BF16 => 4e-6,
        Format::Q8_0 | Format::Q8_1 => 4e-5,
        Format::Q8_K => 9e-5,
        Format::Q6_K => 3.5e-4,
        Format::Q5_0 | Format::Q5_1 => 2.5e-3,
        Format::Q5_K => 1.6e-3,
        Format::Q4_0 | Format::Q4_1 => 9e-3,
        Format::Q4_K | Format::IQ4_NL | Format::IQ4_XS => 6.5e-3,
        Format::MXFP4 => 1.6e-2,
        Format::Q3_K => 2.5e-2,
        Format::Q2_K => 8e-2,
        Format::NVFP4 => 1e-2,
        Format::IQ1_S => 0.26,
        Format::IQ1_M => 0.22,
        Format::IQ2_XXS => 0.137,
        Format::IQ2_XS => 0.102,
        Format::IQ2_S => 7.1e-2,
        Format::IQ3_XXS => 4e-2,
        Format::IQ3_S => 2.1e-2,
        // Three values for normally distributed weights: no choice of them is below 0.19.
        Format::TQ1_0 | Format::TQ2_0 => 0.26,
    }
}

#[test]
fn a_round_trip_stays_within_its_bound() {
    let x = weights(64 * 256);
    for &format in Format::ALL {
        let mut blocks = vec![0; format.row_bytes(x.len()).unwrap()];
        format.quantize(&x, &mut blocks).unwrap();
        let error = nmse(&dequantized(format, &blocks), &x);
        eprintln!("{format:7} round trip NMSE {error:.2e}");
        assert!(error <= round_trip_bound(format), "{format}: {error:e}");
    }
}

/// How much further from awkward values than others a format may be.
fn coarseness(format: Format) -> f32 {
    match format {
        // The largest codes lie far apart, and the rule clips peaks.
        Format::MXFP4 => 2.6,
        // No magnitude is larger than 2688.
        Format::NVFP4 => 3.1,
        // Nothing is zero beside a peak.
        Format::IQ2_XXS | Format::IQ2_XS | Format::IQ2_S => 2.8,
        Format::IQ3_XXS | Format::IQ3_S => 3.0,
        Format::IQ1_S | Format::IQ1_M => 1.8,
        // One magnitude for 256 weights.
        Format::TQ1_0 | Format::TQ2_0 => 2.3,
        _ => 1.0,
    }
}

#[test]
fn awkward_values_quantise_to_something_finite_and_near() {
    let constant = |v: f32| vec![v; 256];
    let ramp = |a: f32, b: f32| (0..256).map(|i| a + b * i as f32).collect::<Vec<f32>>();
    let mut one_spike = constant(0.0);
    one_spike[77] = -3.0;
    let cases = [
        ("zeros", constant(0.0), 0.0),
        ("subnormal", constant(1e-42), 1e-6),
        ("tiny", constant(-1e-20), 1e-6),
        ("ones", constant(1.0), 0.1),
        ("minus ones", constant(-1.0), 0.1),
        ("positive ramp", ramp(5.0, 0.01), 0.6),
        ("negative ramp", ramp(-5.0, -0.01), 0.6),
        ("spike", one_spike, 0.2),
        ("large", ramp(-30000.0, 200.0), 9000.0),
    ];
    for &format in Format::ALL {
        let coarse = coarseness(format);
        for (name, x, tolerance) in &cases {
            let mut blocks = vec![0xAA; format.row_bytes(256).unwrap()];
            format.quantize(x, &mut blocks).unwrap();
            for (i, (y, x)) in dequantized(format, &blocks).iter().zip(x).enumerate() {
                assert!(
                    (y - x).abs() <= coarse * tolerance,
                    "{format} {name} {i}: {y} for {x}"
                );
            }
        }
        let mut blocks = vec![0; format.row_bytes(256).unwrap()];
        format.quantize(&constant(f32::MAX), &mut blocks).unwrap();
        let clipped = dequantized(format, &blocks);
        assert!(
            clipped.iter().all(|v| !v.is_nan()),
            "{format}: NaN out of a finite value"
        );
    }
}

#[test]
fn wrong_lengths_and_values_are_errors() {
    let format = Format::Q4_K;
    let mut y = vec![0.0; 256];
    assert!(matches!(
        format.dequantize(&[0; 143], &mut y),
        Err(Error::Size { .. })
    ));
    assert!(matches!(
        format.dequantize(&[0; 144], &mut y[..255]),
        Err(Error::PartialBlock { .. })
    ));
    y[9] = f32::NAN;
    let refused = format.quantize(&y, &mut [0; 144]);
    assert_eq!(
        refused,
        Err(Error::NotFinite {
            format: "Q4_K",
            index: 9
        })
    );
    assert!(matches!(
        Matrix::new(format, 2, 256, &[0; 144]),
        Err(Error::Size { .. })
    ));
    assert!(matches!(
        Matrix::new(format, 2, 128, &[0; 144]),
        Err(Error::PartialBlock { .. })
    ));
    assert!(matches!(
        Matrix::new(Format::F32, usize::MAX, 256, &[]),
        Err(Error::TooLarge { .. })
    ));
    assert_eq!(
        format.row_bytes(usize::MAX / 256 * 256),
        Some(usize::MAX / 256 * 144)
    );
    assert_eq!(Format::F32.row_bytes(usize::MAX), None);
}

#[test]
fn random_weights_have_the_spread_asked_for_and_no_order() {
    const STD: f32 = 0.03;
    for &format in Format::ALL {
        let blocks = (1 << 18) / format.block_len();
        let mut bytes = vec![0; blocks * format.block_bytes()];
        format.random(11, STD, &mut bytes);
        let w = dequantized(format, &bytes);
        let n = w.len() as f64;
        let mean = w.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let std = (w
            .iter()
            .map(|&v| (f64::from(v) - mean).powi(2))
            .sum::<f64>()
            / n)
            .sqrt();
        let ratio = std / f64::from(STD);
        eprintln!(
            "{format:7} random std ratio {ratio:.3}, mean/std {:+.4}",
            mean / std
        );
        assert!((0.95..1.05).contains(&ratio), "{format}: std {std}");
        assert!(mean.abs() < 0.03 * std, "{format}: mean {mean}");
        // A piece made alone equals the same piece of the whole; another seed differs.
        let (skip, take) = (blocks / 3, 5);
        let mut piece = vec![0; take * format.block_bytes()];
        format.random_from(11, skip as u64, STD, &mut piece);
        assert_eq!(
            piece,
            bytes[skip * format.block_bytes()..][..piece.len()],
            "{format}"
        );
        format.random_from(12, skip as u64, STD, &mut piece);
        assert_ne!(
            piece,
            bytes[skip * format.block_bytes()..][..piece.len()],
            "{format}"
        );
        // One thread makes the same bytes as many.
        let one = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .build()
            .unwrap();
        let mut alone = vec![0; bytes.len()];
        one.install(|| format.random(11, STD, &mut alone));
        assert!(alone == bytes, "{format}: depends on the number of threads");
    }
}

#[test]
fn every_format_reaches_the_gpu() {
    for &format in Format::ALL {
        let to = gpu_format(format);
        assert_eq!(
            gpu_format(to),
            to,
            "{format}: a conversion ends after one step"
        );
        // Odd shapes: more rows than a task holds, a last task that is not full.
        for (rows, cols) in [(1, 256), (3, 512), (1031, 256)] {
            let mut blocks = vec![0; rows * format.row_bytes(cols).unwrap()];
            format.random(5, 0.02, &mut blocks);
            let m = Matrix::new(format, rows, cols, &blocks).unwrap();

            let (layout, packed) = repack::pack(&m).unwrap();
            let (converted_format, converted) = repack::convert(&m).unwrap();
            assert_eq!((layout.format, converted_format), (to, to));
            assert_eq!(
                repack::unpack(&layout, &packed).unwrap(),
                converted,
                "{format}"
            );
            if format == to {
                assert_eq!(converted, blocks, "{format}");
            }
            let (before, after) = (dequantized(format, &blocks), dequantized(to, &converted));
            if is_exact_on_gpu(format) {
                assert_bit_equal(format.name(), &after, &before);
            } else {
                assert!(nmse(&after, &before) < 1e-7, "{format}");
            }
        }
    }
}

/// Packing band by band gives what packing at once gives, whatever the cuts.
#[test]
fn bands_make_the_packed_matrix() {
    for &format in Format::ALL {
        for (rows, cols) in [(1, 256), (7, 768), (1031, 256)] {
            let mut blocks = vec![0; rows * format.row_bytes(cols).unwrap()];
            format.random(11, 0.02, &mut blocks);
            let m = Matrix::new(format, rows, cols, &blocks).unwrap();
            let (layout, expected) = repack::pack(&m).unwrap();
            let packer = repack::BandPacker::new(&m).unwrap();
            assert_eq!(packer.layout(), &layout);
            for per_band in [1, 3, 64, 500, rows] {
                let mut written = vec![0u8; layout.bytes];
                let mut packed = vec![0xEE; layout.bytes];
                for first in (0..rows).step_by(per_band) {
                    let band = first..rows.min(first + per_band);
                    let mut out = vec![0xEE; packer.band_bytes(&band)];
                    packer.pack(&band, &mut out).unwrap();
                    for piece in packer.pieces(&band) {
                        let to = piece.to..piece.to + piece.len;
                        packed[to.clone()].copy_from_slice(&out[piece.from..][..piece.len]);
                        written[to].iter_mut().for_each(|times| *times += 1);
                    }
                }
                assert!(packed == expected, "{format} {rows}x{cols} by {per_band}");
                assert!(written.iter().all(|&times| times == 1), "{format}");
            }
        }
    }
}

#[test]
fn bands_keep_to_their_buffer() {
    for &format in Format::ALL {
        let (rows, cols) = (37, 512);
        let blocks = vec![0; rows * format.row_bytes(cols).unwrap()];
        let m = Matrix::new(format, rows, cols, &blocks).unwrap();
        let packer = repack::BandPacker::new(&m).unwrap();
        for bytes in [0, 100, 3000, 10_000, 1 << 20] {
            let most = packer.rows_within(bytes).min(rows);
            for band in [0..most, rows - most..rows] {
                assert!(
                    band.is_empty() || packer.band_bytes(&band) <= bytes,
                    "{format}"
                );
            }
        }
        assert!(packer.rows_within(1 << 20) >= rows);
        let wrong = packer.pack(&(0..2), &mut vec![0; packer.band_bytes(&(0..2)) + 1]);
        assert!(matches!(wrong, Err(Error::Size { .. })));
    }
    let mut large = vec![0; 2 * 292];
    Format::Q8_K
        .quantize(&[1e6; 256], &mut large[292..])
        .unwrap();
    let m = Matrix::new(Format::Q8_K, 2, 256, &large).unwrap();
    let packer = repack::BandPacker::new(&m).unwrap();
    let mut out = vec![0; packer.band_bytes(&(1..2))];
    let error = packer.pack(&(1..2), &mut out).unwrap_err();
    assert!(matches!(
        error,
        Error::OutOfRange {
            row: 1,
            index: 0,
            ..
        }
    ));
    let empty = Matrix::new(Format::Q4_K, 0, 256, &[]).unwrap();
    let packer = repack::BandPacker::new(&empty).unwrap();
    packer.pack(&(0..0), &mut []).unwrap();
}

#[test]
fn golden_blocks_convert_exactly() {
    let exact = [
        Format::Q5_0,
        Format::IQ4_NL,
        Format::Q8_1,
        Format::Q3_K,
        Format::MXFP4,
        Format::NVFP4,
        Format::IQ3_S,
        Format::TQ1_0,
        Format::TQ2_0,
    ];
    for format in exact {
        assert!(is_exact_on_gpu(format), "{format}");
        let raw = data(&format!("{format}.bin"));
        let cols = raw.len() / format.block_bytes() * format.block_len();
        let m = Matrix::new(format, 1, cols, &raw).unwrap();
        let (to, converted) = repack::convert(&m).unwrap();
        assert_bit_equal(
            format.name(),
            &dequantized(to, &converted),
            &floats(&data(&format!("{format}.f32"))),
        );
    }
}

/// Every scale of MXFP4, the subnormal ones and those that make weights infinite too, with every code.
#[test]
fn every_power_of_two_keeps_its_value_on_the_way_to_the_gpu() {
    let twice = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0].map(|v: f64| 2.0 * v);
    for e in 0..=u8::MAX {
        let mut block = [0; 17];
        block[0] = e;
        for code in 0..16 {
            block[1 + code] = (code as u8) << 4 | code as u8;
        }
        let expected: Vec<f32> = (0..32)
            .map(|i| {
                let magnitude = (twice[i % 8] * (f64::from(e) - 128.0).exp2()) as f32;
                // Code 8 is the zero without a sign.
                if i % 16 > 8 { -magnitude } else { magnitude }
            })
            .collect();
        assert_bit_equal("MXFP4", &dequantized(Format::MXFP4, &block), &expected);
        let m = Matrix::new(Format::MXFP4, 1, 32, &block).unwrap();
        let (to, converted) = repack::convert(&m).unwrap();
        assert_bit_equal("on the GPU", &dequantized(to, &converted), &expected);
    }
}

/// The blocks that ggml's rule makes: the largest magnitude decides, ties go to the smaller one.
#[test]
fn mxfp4_rounds_by_the_rule_of_its_standard() {
    let codes = |peak: f32, v: f32| {
        let mut x = [0.0; 32];
        (x[0], x[17]) = (peak, v);
        let mut block = [0; 17];
        Format::MXFP4.quantize(&x, &mut block).unwrap();
        (block[0], block[1] & 15, block[2] >> 4)
    };
    // A peak of 4 to 8 has scale 1, of which 6 is the largest.
    for (peak, code) in [(4.0, 6), (5.0, 6), (5.01, 7), (7.99, 7), (-6.0, 15)] {
        assert_eq!(codes(peak, 0.0), (127, code, 0), "{peak}");
    }
    assert_eq!(codes(3.99, 0.0), (126, 7, 0));
    assert_eq!(codes(8.0, 0.0), (128, 6, 0));
    let roundings = [
        (0.25, 0),
        (0.26, 1),
        (0.75, 1),
        (1.75, 3),
        (1.76, 4),
        (-0.25, 0),
        (-0.26, 9),
        (-3.5, 13),
        (-3.51, 14),
    ];
    for (v, code) in roundings {
        assert_eq!(codes(6.0, v), (127, 7, code), "{v}");
    }
    assert_eq!(codes(0.0, 0.0), (0, 0, 0));
    // 2^-125 is the smallest peak that the rule serves; below, the scale stays at its least.
    assert_eq!(codes(2.0 * f32::MIN_POSITIVE, 0.0), (0, 6, 0));
    assert_eq!(codes(f32::MIN_POSITIVE, 0.0), (0, 4, 0));
    assert_eq!(codes(f32::MAX, 0.0), (252, 7, 0));
}

#[test]
fn planes_hold_the_parts_of_blocks_where_the_layout_says() {
    // (format, plane, first byte of it in a block, bytes of it per block)
    let parts: &[(Format, &str, usize, usize)] = &[
        (Format::F32, "w", 0, 4),
        (Format::F16, "w", 0, 2),
        (Format::BF16, "w", 0, 2),
        (Format::Q8_0, "q", 2, 32),
        (Format::Q8_0, "d", 0, 2),
        (Format::Q4_0, "q", 2, 16),
        (Format::Q4_0, "d", 0, 2),
        (Format::Q4_K, "q", 16, 128),
        (Format::Q4_K, "s", 0, 16),
        (Format::Q5_K, "q", 48, 128),
        (Format::Q5_K, "h", 16, 32),
        (Format::Q5_K, "s", 0, 16),
        (Format::Q6_K, "l", 0, 128),
        (Format::Q6_K, "h", 128, 64),
        (Format::Q6_K, "s", 192, 16),
        (Format::Q6_K, "d", 208, 2),
    ];
    let (rows, cols) = (7, 768);
    for &(format, name, start, len) in parts {
        let mut blocks = vec![0; rows * format.row_bytes(cols).unwrap()];
        format.random(9, 1.0, &mut blocks);
        let m = Matrix::new(format, rows, cols, &blocks).unwrap();
        let (layout, packed) = repack::pack(&m).unwrap();
        let plane = layout.plane(name).unwrap();
        let per_row = cols / format.block_len();
        assert_eq!(plane.offset % repack::PLANE_ALIGN, 0);
        assert_eq!(plane.bytes_per_row, per_row * len);
        for (r, b) in [(0, 0), (0, 2), (6, per_row - 1)] {
            let found = &packed[plane.offset + r * plane.bytes_per_row + b * len..][..len];
            let expected = &m.row(r)[b * format.block_bytes() + start..][..len];
            assert_eq!(found, expected, "{format} {name} row {r} block {b}");
        }
    }
    let planes: usize = Format::ALL
        .iter()
        .filter(|&&f| gpu_format(f) == f)
        .map(|&f| repack::planes(f, rows, cols).unwrap().planes.len())
        .sum();
    assert_eq!(planes, parts.len(), "a plane is missing in this test");
}

#[test]
fn packing_writes_every_byte_and_checks_sizes() {
    let blocks = vec![0x5A; 3 * 144];
    let m = Matrix::new(Format::Q4_K, 3, 256, &blocks).unwrap();
    let layout = repack::planes(Format::Q4_K, 3, 256).unwrap();
    let (mut zeros, mut ones) = (vec![0; layout.bytes], vec![0xFF; layout.bytes]);
    repack::pack_into(&m, &mut zeros).unwrap();
    repack::pack_into(&m, &mut ones).unwrap();
    assert_eq!(zeros, ones);
    assert!(matches!(
        repack::pack_into(&m, &mut ones[1..]),
        Err(Error::Size { .. })
    ));
    assert!(matches!(
        repack::unpack(&layout, &zeros[1..]),
        Err(Error::Size { .. })
    ));
    let inconsistent = Matrix { rows: 4, ..m };
    assert!(matches!(
        repack::pack_into(&inconsistent, &mut ones),
        Err(Error::Size { .. })
    ));
    assert!(matches!(
        repack::planes(Format::Q3_K, 1, 256),
        Err(Error::NoLayout { .. })
    ));
    assert!(matches!(
        repack::planes(Format::F32, usize::MAX, 8),
        Err(Error::TooLarge { .. })
    ));
    let empty = Matrix::new(Format::Q4_K, 0, 256, &[]).unwrap();
    let (layout, packed) = repack::pack(&empty).unwrap();
    assert!(repack::unpack(&layout, &packed).unwrap().is_empty());
    let narrow = Matrix::new(Format::Q4_1, 5, 0, &[]).unwrap();
    assert!(repack::convert(&narrow).unwrap().1.is_empty());
    assert!(repack::pack(&narrow).is_ok());
}

#[test]
fn a_weight_beyond_f16_is_named() {
    let mut blocks = vec![0; 2 * 292];
    Format::Q8_K
        .quantize(&[1e6; 256], &mut blocks[292..])
        .unwrap();
    let m = Matrix::new(Format::Q8_K, 2, 256, &blocks).unwrap();
    let expected = Error::OutOfRange {
        from: "Q8_K",
        to: "F16",
        row: 1,
        index: 0,
    };
    assert_eq!(repack::pack(&m).unwrap_err(), expected);
    assert_eq!(repack::convert(&m).unwrap_err(), expected);
}
