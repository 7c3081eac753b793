//! The formats with codebooks, ternary digits and small floats: any bytes are weights, every scale has its
//! value, quantising heeds what errors count, and weights that a format holds keep their values.

use gannet_quant::{Format, Matrix, repack};

const FORMATS: [Format; 11] = [
    Format::MXFP4,
    Format::NVFP4,
    Format::IQ1_S,
    Format::IQ1_M,
    Format::IQ2_XXS,
    Format::IQ2_XS,
    Format::IQ2_S,
    Format::IQ3_XXS,
    Format::IQ3_S,
    Format::TQ1_0,
    Format::TQ2_0,
];

fn dequantized(format: Format, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; bytes.len() / format.block_bytes() * format.block_len()];
    format.dequantize(bytes, &mut out).expect("whole blocks");
    out
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}

/// Random words.
fn words(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) ^ (state >> 43)
    }
}

/// Normally distributed numbers.
fn normal(seed: u64, len: usize) -> Vec<f32> {
    let mut word = words(seed);
    let mut unit = || (word() & 0xFFFF) as f32 / 65536.0;
    (0..len)
        .map(|_| (0..12).map(|_| unit()).sum::<f32>() - 6.0)
        .collect()
}

/// `sum(importance * (x - y)^2)`, with the importance of the columns.
fn weighted_error(x: &[f32], y: &[f32], importance: &[f32]) -> f64 {
    let columns = importance.iter().cycle();
    let terms = x.iter().zip(y).zip(columns);
    terms
        .map(|((x, y), w)| f64::from(*w) * f64::from(x - y).powi(2))
        .sum()
}

#[test]
fn any_bytes_are_weights() {
    let mut word = words(3);
    for &format in Format::ALL {
        let len = format.block_bytes();
        let blocks = (0..500).map(|_| (0..len).map(|_| word() as u8).collect());
        let same = [0x00, 0x7F, 0x80, 0xFF].map(|byte| vec![byte; len]);
        for block in blocks.chain(same) {
            let weights: Vec<f32> = dequantized(format, &block);
            let m = Matrix::new(format, 1, format.block_len(), &block).unwrap();
            // On the way to a GPU too; a weight beyond f16 is an error there.
            if let Ok((to, converted)) = repack::convert(&m) {
                assert_eq!(dequantized(to, &converted).len(), weights.len());
            }
        }
    }
}

/// Every scale of NVFP4 with every code, against the standard's definition of the two floats; f16 holds
/// them all.
#[test]
fn every_scale_of_nvfp4_has_its_value_also_on_the_gpu() {
    let codes = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    for scale in 0..=u8::MAX {
        let (exponent, mantissa) = (i32::from(scale >> 3 & 15), f64::from(scale & 7));
        let value = match (scale, exponent) {
            (0x7F, _) => 0.0,
            (_, 0) => mantissa / 8.0 * 2f64.powi(-6),
            _ => (1.0 + mantissa / 8.0) * 2f64.powi(exponent - 7),
        };
        let mut block = [0; 36];
        block[..4].fill(scale);
        for g in 0..4 {
            for j in 0..8u8 {
                block[4 + 8 * g + usize::from(j)] = j | (j | 8) << 4;
            }
        }
        let expected: Vec<f32> = (0..64)
            .map(|i| match i % 16 {
                // Code 8 is the zero without a sign.
                j @ 0..9 => (value * codes[j % 8]) as f32,
                j => -(value * codes[j % 8]) as f32,
            })
            .collect();
        let found = dequantized(Format::NVFP4, &block);
        // A scale of zero leaves signs to the zeros.
        let plain = |x: &[f32]| bits(&x.iter().map(|v| v + 0.0).collect::<Vec<_>>());
        assert_eq!(plain(&found), plain(&expected), "scale {scale:#x}");
        let m = Matrix::new(Format::NVFP4, 1, 64, &block).unwrap();
        let (to, converted) = repack::convert(&m).unwrap();
        assert_eq!(bits(&dequantized(to, &converted)), bits(&found));
    }
}

/// Where errors in few columns count much, they become smaller than without knowing that.
#[test]
fn importance_is_heeded() {
    let cols = 512;
    let importance: Vec<f32> = (0..cols)
        .map(|i| if i % 7 == 0 { 30.0 } else { 0.3 })
        .collect();
    let x = normal(5, 8 * cols);
    for format in FORMATS {
        let mut plain = vec![0; format.row_bytes(x.len()).unwrap()];
        let mut weighted = plain.clone();
        format.quantize(&x, &mut plain).unwrap();
        format
            .quantize_weighted(&x, &importance, &mut weighted)
            .unwrap();
        let error = |blocks: &[u8]| weighted_error(&x, &dequantized(format, blocks), &importance);
        let (without, with) = (error(&plain), error(&weighted));
        eprintln!("{format:7} {without:.1} without, {with:.1} with importance");
        match format {
            // Its rule takes no notice.
            Format::MXFP4 => assert_eq!(plain, weighted),
            // There is one scale to choose for 256 weights.
            Format::TQ1_0 | Format::TQ2_0 => assert!(with < 0.99 * without, "{format}"),
            _ => assert!(with < 0.5 * without, "{format}: {with} of {without}"),
        }
    }
}

/// Weights that a block stands for become a block of nearly the same weights.
#[test]
fn what_a_format_holds_it_finds_again() {
    for format in FORMATS {
        let mut blocks = vec![0; format.row_bytes(256 * 40).unwrap()];
        format.random(8, 0.5, &mut blocks);
        let x = dequantized(format, &blocks);
        let mut again = vec![0; blocks.len()];
        format.quantize(&x, &mut again).unwrap();
        let ones = vec![1.0; 256];
        let zeros = vec![0.0; x.len()];
        let error = weighted_error(&x, &dequantized(format, &again), &ones);
        let error = error / weighted_error(&x, &zeros, &ones);
        eprintln!("{format:7} {error:.2e}");
        assert!(error <= refound_bound(format), "{format}: {error:e}");
    }
}

fn refound_bound(format: Format) -> f64 {
    match format {
        Format::MXFP4 | Format::TQ1_0 | Format::TQ2_0 => 0.0,
        // Neighbouring scales and shifts look alike.
        Format::IQ1_S | Format::IQ1_M => 5.5e-2,
        _ => 4.5e-4,
    }
}

#[test]
fn ternary_weights_keep_their_values() {
    let mut word = words(9);
    for format in [Format::TQ1_0, Format::TQ2_0] {
        for d in [0.0078125, 1.5, 3.0e-5, 1000.0] {
            let x: Vec<f32> = (0..512).map(|_| d * (word() % 3) as f32 - d).collect();
            let mut blocks = vec![0; format.row_bytes(512).unwrap()];
            format.quantize(&x, &mut blocks).unwrap();
            let d = half::f16::from_f32(d).to_f32();
            for (y, x) in dequantized(format, &blocks).iter().zip(&x) {
                assert_eq!(y.abs(), if *x == 0.0 { 0.0 } else { d });
                assert!(y * x >= 0.0);
            }
        }
    }
}
