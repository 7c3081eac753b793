//! What a kernel sees against the exact weights: within the stated bound, or refused.

use super::{Stored, TILED, set_scales};
use gannet_quant::formats::{
    BlockQ4_0, BlockQ4K, BlockQ5K, BlockQ6K, BlockQ8_0, blocks, blocks_mut, pack_scales_mins,
    scales_mins,
};
use gannet_quant::random::Words;
use gannet_quant::scalar::LeF16;
use gannet_quant::tile::{Fit, NMSE_LIMIT, TileLayout, TilePacker, kernel, unpack};
use gannet_quant::{Error, Format};

/// Makes every weight of block `at` zero without touching its `d`.
fn silence(stored: &mut Stored, at: usize) {
    let data = &mut stored.data;
    match stored.format {
        Format::Q4_K => blocks_mut::<BlockQ4K>(data)[at].scales = [0; 12],
        Format::Q5_K => blocks_mut::<BlockQ5K>(data)[at].scales = [0; 12],
        Format::Q6_K => blocks_mut::<BlockQ6K>(data)[at].scales = [0; 16],
        Format::Q8_0 => blocks_mut::<BlockQ8_0>(data)[at].qs = [0; 32],
        Format::Q4_0 => blocks_mut::<BlockQ4_0>(data)[at].qs = [0x88; 16],
        _ => unreachable!("no scales"),
    }
}

/// The exact minima of a row, times -1.
fn minima(stored: &Stored, row: usize) -> Vec<f64> {
    let row = stored.matrix().row(row);
    let of = |dmin: LeF16, scales: &[u8; 12]| {
        let (_, mins) = scales_mins(scales);
        let min = move |k: usize| f64::from(dmin.get()) * f64::from(mins[k / 32]);
        (0..256).map(min).collect::<Vec<_>>()
    };
    match stored.format {
        Format::Q4_K => blocks::<BlockQ4K>(row)
            .iter()
            .flat_map(|b| of(b.dmin, &b.scales))
            .collect(),
        Format::Q5_K => blocks::<BlockQ5K>(row)
            .iter()
            .flat_map(|b| of(b.dmin, &b.scales))
            .collect(),
        _ => vec![0.0; stored.cols],
    }
}

/// Asserts the documented bound for every weight of row `row`.
fn within_bound(stored: &Stored, layout: &TileLayout, packed: &[u8], row: usize) {
    let weights = stored.weights();
    let weights = &weights[row * stored.cols..][..stored.cols];
    let at = layout.factors_offset() + 4 * row;
    let factor = f64::from(f32::from_le_bytes(packed[at..][..4].try_into().unwrap()));
    let seen = kernel::row(layout, packed, row).unwrap();
    let minima = minima(stored, row);
    for (k, ((&exact, &seen), min)) in weights.iter().zip(&seen).zip(&minima).enumerate() {
        let (exact, seen) = (f64::from(exact), f64::from(seen));
        let parts = match stored.format {
            Format::Q4_K | Format::Q5_K => (exact + min).abs() + min.abs() + exact.abs(),
            Format::Q6_K => 2.0 * exact.abs(),
            Format::Q4_0 | Format::Q8_0 => exact.abs(),
            _ => 0.0,
        };
        let bound = 1.01 * (parts * 2f64.powi(-11) + factor * 2f64.powi(-24));
        let error = (seen - exact).abs();
        assert!(
            error <= bound,
            "{}: {row}, {k}: {seen} for {exact}, bound {bound}",
            stored.format
        );
    }
}

fn packed(stored: &Stored) -> Result<(TileLayout, Vec<u8>, Fit), Error> {
    let packer = TilePacker::new(&stored.matrix())?;
    let mut out = vec![0; packer.layout().bytes()];
    let fit = packer.pack_into(&mut out);
    assert_eq!(packer.fit(), fit, "{}", stored.format);
    let fit = fit?;
    Ok((packer.layout(), out, fit))
}

fn nmse(seen: &[f32], exact: &[f32]) -> f64 {
    let pairs = seen.iter().zip(exact);
    let error: f64 = pairs
        .map(|(&s, &x)| (f64::from(s) - f64::from(x)).powi(2))
        .sum();
    error / exact.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>()
}

#[test]
fn random_weights_are_within_the_bound() {
    for format in TILED {
        let stored = Stored::random(format, 70, 1024, 3);
        let (layout, bytes, _) = packed(&stored).unwrap();
        let mut seen = Vec::new();
        for row in 0..stored.rows {
            within_bound(&stored, &layout, &bytes, row);
            seen.extend(kernel::row(&layout, &bytes, row).unwrap());
        }
        let error = nmse(&seen, &stored.weights());
        eprintln!("{format:5} as a kernel sees it: NMSE {error:.1e}");
        assert!(error < 4e-7, "{format}: {error:e}");
    }
}

#[test]
fn published_blocks_are_within_the_bound() {
    for format in TILED {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/dequant");
        let data = std::fs::read(format!("{folder}/{format}.bin")).unwrap();
        let cols = data.len() / format.block_bytes() * format.block_len() / 8;
        let stored = Stored {
            format,
            rows: 8,
            cols,
            data,
        };
        let (layout, bytes, fit) = packed(&stored).unwrap();
        for row in 0..8 {
            within_bound(&stored, &layout, &bytes, row);
        }
        // The largest and the smallest BF16 there are stand in one row.
        let expected = [Fit::Exact, Fit::Rounded][usize::from(format == Format::BF16)];
        assert_eq!(fit, expected, "{format}");
        let back = unpack(&layout, &bytes).unwrap();
        assert_eq!(back[0] == stored.data, fit == Fit::Exact, "{format}");
    }
}

/// Scales at the ends of f16, and what is between.
const EXTREMES: [f32; 14] = [
    65504.0, -65504.0, 1039.0, 1040.0, -700.0, 1.0, 6.1e-5, -6.2e-5, 5.96e-8, -1.2e-7, 2.4e-6,
    3e-7, 0.0, -0.0,
];

#[test]
fn extreme_scales_are_within_the_bound() {
    for format in TILED.into_iter().filter(|f| f.block_len() > 1) {
        // A row an extreme, beside minima of another.
        let mut stored = Stored::random(format, EXTREMES.len(), 512, 4);
        let per_row = 512 / format.block_len();
        set_scales(&mut stored, |i| {
            let row = i / per_row;
            [
                EXTREMES[row],
                EXTREMES[(row + 5 * (i % per_row)) % EXTREMES.len()] / 16.0,
            ]
        });
        let (layout, bytes, _) = packed(&stored).unwrap();
        for row in 0..stored.rows {
            within_bound(&stored, &layout, &bytes, row);
        }
        // All of them in every row, every other byte random.
        let mut mixed = Stored::random(format, 20, 14 * 256, 5);
        let mut words = Words::for_block(1, 2);
        mixed.data.iter_mut().for_each(|b| *b = words.word() as u8);
        set_scales(&mut mixed, |_| {
            [0, 1].map(|_| EXTREMES[(words.word() % 14) as usize])
        });
        let (layout, bytes, _) = packed(&mixed).unwrap();
        for row in 0..mixed.rows {
            within_bound(&mixed, &layout, &bytes, row);
        }
    }
}

#[test]
fn nothing_is_lost_below_the_largest_scales_of_f16() {
    for format in TILED.into_iter().filter(|f| f.block_len() > 1) {
        for (largest, expected) in [(500.0, Fit::Exact), (65504.0, Fit::Rounded)] {
            let mut stored = Stored::random(format, 2, 1024, 6);
            // An odd number of units of 2^-24 beside the largest.
            let smallest = 3.0 * 2f32.powi(-24);
            set_scales(&mut stored, |i| {
                if i % 2 == 0 {
                    [largest, 0.0]
                } else {
                    [smallest, smallest]
                }
            });
            let (layout, bytes, fit) = packed(&stored).unwrap();
            // One scale a block is never beyond f16.
            let plain = matches!(format, Format::Q4_0 | Format::Q8_0);
            assert_eq!(
                fit,
                if plain { Fit::Exact } else { expected },
                "{format}, {largest}"
            );
            let back = unpack(&layout, &bytes).unwrap();
            assert_eq!(
                back[0] == stored.data,
                fit == Fit::Exact,
                "{format}, {largest}"
            );
        }
    }
}

#[test]
fn a_scale_far_above_all_weights_of_its_row_is_refused() {
    for format in TILED.into_iter().filter(|f| f.block_len() > 1) {
        let mut stored = Stored::random(format, 5, 1024, 7);
        let per_row = 1024 / format.block_len();
        let one = format == Format::Q8_0 || format == Format::Q4_0;
        let (silent, tiny) = (3 * per_row + 1, if one { 1e-4 } else { 1e-6 });
        let scales = |huge: f32| move |i| [if i == silent { huge } else { tiny }, 0.0];
        silence(&mut stored, silent);
        set_scales(&mut stored, scales(60000.0));
        let refused = packed(&stored).map(|_| ());
        let format = format.name();
        assert_eq!(refused, Err(Error::Imprecise { format, row: 3 }));
        // The same scale does no harm where it is needed, or where nothing else is there.
        set_scales(&mut stored, scales(tiny * 100.0));
        let (layout, bytes, _) = packed(&stored).unwrap();
        within_bound(&stored, &layout, &bytes, 3);
        set_scales(&mut stored, |i| {
            [if i == silent { 60000.0 } else { 0.0 }, 0.0]
        });
        let (layout, bytes, _) = packed(&stored).unwrap();
        assert!(
            kernel::row(&layout, &bytes, 3)
                .unwrap()
                .iter()
                .all(|&w| w == 0.0)
        );
    }
}

#[test]
fn what_is_accepted_is_precise() {
    let (mut accepted, mut refused) = (0, 0);
    for seed in 0..300 {
        let format = [Format::Q6_K, Format::Q8_0, Format::Q4_0][seed as usize % 3];
        let mut words = Words::for_block(13, seed);
        let mut stored = Stored::random(format, 1, 1024, seed);
        let spread = words.word() % 40;
        set_scales(&mut stored, |_| {
            [2f32.powi((words.word() % (spread + 1)) as i32 - 24), 0.0]
        });
        for block in 0..1024 / format.block_len() {
            if !words.word().is_multiple_of(8) {
                silence(&mut stored, block);
            }
        }
        match packed(&stored) {
            Ok((layout, bytes, _)) => {
                accepted += 1;
                let seen = kernel::row(&layout, &bytes, 0).unwrap();
                let error = nmse(&seen, &stored.weights());
                // A row of zeros has no relative error.
                assert!(
                    error.is_nan() || error <= NMSE_LIMIT,
                    "{format}, {seed}: {error:e}"
                );
                within_bound(&stored, &layout, &bytes, 0);
            }
            Err(error) => {
                refused += 1;
                assert!(matches!(error, Error::Imprecise { row: 0, .. }), "{error}");
            }
        }
    }
    assert!(
        accepted > 50 && refused > 20,
        "{accepted} accepted, {refused} refused"
    );
}

#[test]
fn weights_fade_below_an_unused_minimum_until_they_are_refused() {
    for format in [Format::Q4_K, Format::Q5_K] {
        let mut refused = Vec::new();
        for halvings in 0..24 {
            // `dmin` is 1,024 and all minima are 0: it fixes the exponent for nothing.
            let mut stored = Stored::random(format, 1, 1024, 8);
            set_scales(&mut stored, |_| [2f32.powi(-halvings), 1024.0]);
            let scales = pack_scales_mins(&[1; 8], &[0; 8]);
            match format {
                Format::Q4_K => blocks_mut::<BlockQ4K>(&mut stored.data)
                    .iter_mut()
                    .for_each(|b| b.scales = scales),
                _ => blocks_mut::<BlockQ5K>(&mut stored.data)
                    .iter_mut()
                    .for_each(|b| b.scales = scales),
            }
            let Ok((layout, bytes, _)) = packed(&stored) else {
                refused.push(halvings);
                continue;
            };
            let error = nmse(&kernel::row(&layout, &bytes, 0).unwrap(), &stored.weights());
            assert!(error <= NMSE_LIMIT, "{format}, {halvings}: {error:e}");
        }
        // Once too small, always too small.
        let first = refused[0];
        assert!((2..20).contains(&first), "{format}: {first}");
        assert!(
            refused.iter().copied().eq(first..24),
            "{format}: {refused:?}"
        );
    }
}

#[test]
fn what_is_no_number_stays_none() {
    for format in TILED.into_iter().filter(|f| f.block_len() > 1) {
        for broken in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            let mut stored = Stored::random(format, 3, 512, 9);
            let per_row = 512 / format.block_len();
            set_scales(&mut stored, |i| {
                [if i == per_row { broken } else { 0.01 }, 0.02]
            });
            let (layout, bytes, fit) = packed(&stored).unwrap();
            assert_eq!(fit, Fit::Exact);
            assert!(
                unpack(&layout, &bytes).unwrap()[0] == stored.data,
                "{format}"
            );
            let seen = kernel::row(&layout, &bytes, 1).unwrap();
            let (first, rest) = seen.split_at(format.block_len());
            let numbers = first.iter().filter(|w| w.is_finite()).count();
            assert_eq!(numbers, 0, "{format} {broken}");
            assert!(rest.iter().all(|w| w.is_finite()));
            within_bound(&stored, &layout, &bytes, 0);
        }
    }
}

#[test]
fn bf16_keeps_what_its_row_has_room_for() {
    let pack = |values: &[f32]| {
        let mut data = vec![0; 2 * values.len()];
        Format::BF16.quantize(values, &mut data).unwrap();
        let stored = Stored {
            format: Format::BF16,
            rows: 1,
            cols: values.len(),
            data,
        };
        let (layout, bytes, fit) = packed(&stored).unwrap();
        within_bound(&stored, &layout, &bytes, 0);
        (fit, unpack(&layout, &bytes).unwrap()[0] == stored.data)
    };
    // The whole significand 2^-32 below the largest weight, at both ends of the range.
    for largest in [1.0f32, 3e38, 1e-30, 1.5e-38, 1e-40] {
        let small = largest * 2f32.powi(-32) * 1.9921875;
        assert_eq!(
            pack(&[largest, small, -small, 0.0, -0.0]),
            (Fit::Exact, true),
            "{largest}"
        );
    }
    assert_eq!(
        pack(&[1.0, 1.9921875 * 2f32.powi(-40)]),
        (Fit::Rounded, false)
    );
    assert_eq!(pack(&[1.0, f32::MIN_POSITIVE]), (Fit::Rounded, false));
    // Signalling and quiet NaN, infinities.
    let data: Vec<u8> = [0x7f81u16, 0xffc3, 0x7f80, 0xff80, 0x3f80]
        .iter()
        .flat_map(|b| b.to_le_bytes())
        .collect();
    let stored = Stored {
        format: Format::BF16,
        rows: 1,
        cols: 5,
        data,
    };
    let (layout, bytes, fit) = packed(&stored).unwrap();
    assert_eq!(fit, Fit::Exact);
    assert!(unpack(&layout, &bytes).unwrap()[0] == stored.data);
    let seen = kernel::row(&layout, &bytes, 0).unwrap();
    assert!(seen[0].is_nan() && seen[1].is_nan());
    assert_eq!(seen[2..], [f32::INFINITY, f32::NEG_INFINITY, 1.0]);
}
