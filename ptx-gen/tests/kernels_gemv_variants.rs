//! The variants of matrix-vector products: each against f64 with the roundings that its
//! arithmetic states, and what the roundings cost.

#![allow(clippy::unwrap_used)]

mod common;

use common::products::{Part, Weights, gemv, gemv_glu, rounded};
use common::{Random, nmse};
use gannet_ptx_gen::kernels::{
    Activation, Arithmetic, Epilogue, GemvGluSpec, GemvSpec, GemvVariant, WeightFormat,
};
use gannet_ptx_gen::target::Target;

const TARGET: Target = Target::Sm80;

fn spec(format: WeightFormat, rows: u32, cols: u32, tokens_per_block: u32) -> GemvSpec {
    GemvSpec {
        target: TARGET,
        format,
        rows,
        cols,
        tokens_per_block,
        epilogue: Epilogue::default(),
        hands_over: false,
        variant: None,
    }
}

/// Bytes of a group that lanes of 32 a row load, the default's first.
fn widths(format: WeightFormat) -> &'static [u32] {
    match format {
        WeightFormat::F32 => &[16],
        WeightFormat::F16 | WeightFormat::BF16 => &[16, 8],
        _ => &[16, 8, 4],
    }
}

/// Lanes that take a row in loads of this many bytes.
fn lanes(format: WeightFormat, width: u32) -> &'static [u32] {
    match (format.block_len(), width) {
        (256, 8) => &[16, 32],
        (256, 4) => &[32],
        _ => &[8, 16, 32],
    }
}

/// Every combination that `check` lets pass.
fn legal(spec: &GemvSpec) -> Vec<GemvSpec> {
    let mut legal = Vec::new();
    for arithmetic in Arithmetic::ALL {
        for lanes in [8, 16, 32] {
            for width in [4, 8, 16] {
                for (rows_per_slot, warps) in [(1, 1), (2, 3), (4, 2)] {
                    let variant = Some(GemvVariant {
                        arithmetic,
                        lanes,
                        width,
                        warps,
                        rows_per_slot,
                    });
                    let spec = GemvSpec {
                        variant,
                        ..spec.clone()
                    };
                    legal.extend(spec.check().is_ok().then_some(spec));
                }
            }
        }
    }
    legal
}

#[test]
fn every_variant_of_every_format() {
    for format in WeightFormat::ALL {
        // The least, ragged ones, and one where every lane has several steps.
        let columns: &[u32] = match format.block_len() {
            1 => &[4, 12, 160, 300, 1536],
            32 => &[32, 160, 2080],
            _ => &[256, 1280],
        };
        for cols in columns {
            let specs = legal(&spec(format, 11, *cols, 1));
            let arithmetics = match format {
                WeightFormat::F32 => 1,
                WeightFormat::F16 | WeightFormat::BF16 => 2,
                _ => 3,
            };
            let of_all = |width: &u32| 3 * arithmetics * lanes(format, *width).len();
            let least = if format.block_len() == 1 && cols % 8 != 0 {
                widths(format).last().map_or(0, of_all)
            } else {
                widths(format).iter().map(of_all).sum()
            };
            assert_eq!(specs.len(), least, "{format:?} {cols}");
            for spec in specs {
                gemv(spec, &[3], Part::All).pass();
            }
        }
    }
}

/// The narrow arithmetics, by tokens a block; a product of one token is the first of nine.
#[test]
fn a_tokens_result_depends_on_it_alone() {
    for format in WeightFormat::ALL {
        for (arithmetic, width) in (Arithmetic::ALL.into_iter())
            .flat_map(|a| widths(format).iter().map(move |width| (a, *width)))
        {
            let mut alone: Option<Vec<f32>> = None;
            for tokens_per_block in [1, 2, 4, 8] {
                for (rows_per_slot, warps) in [(1, 4), (2, 2)] {
                    let mut spec = spec(format, 21, 1536, tokens_per_block);
                    let default = spec.default_variant();
                    spec.variant = Some(GemvVariant {
                        arithmetic,
                        width,
                        lanes: if width == 16 { default.lanes } else { 32 },
                        rows_per_slot,
                        warps,
                    });
                    if spec.check().is_err() {
                        continue;
                    }
                    let trial = gemv(spec.clone(), &[9, 1], Part::All);
                    trial.pass();
                    let [nine, one] = &trial.results(2)[..] else {
                        unreachable!()
                    };
                    let same = |a: &[f32], b: &[f32]| {
                        a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
                    };
                    let first = alone.get_or_insert_with(|| nine.clone());
                    assert!(same(nine, first), "{}", spec.kernel().name);
                    assert!(same(one, &first[..one.len()]), "{}", spec.kernel().name);
                }
            }
            let exists = match format {
                WeightFormat::F32 => arithmetic == Arithmetic::F32,
                WeightFormat::F16 | WeightFormat::BF16 => arithmetic != Arithmetic::Dp4a,
                _ => true,
            };
            assert_eq!(alone.is_some(), exists);
        }
    }
}

#[test]
fn long_rows_are_staged_in_chunks() {
    for format in WeightFormat::ALL {
        for arithmetic in Arithmetic::ALL {
            for width in widths(format) {
                for (cols, tokens) in [(17920, 2), (14336, 8)] {
                    let mut spec = spec(format, 5, cols, tokens);
                    let variant = GemvVariant {
                        arithmetic,
                        width: *width,
                        rows_per_slot: 1,
                        ..spec.default_variant()
                    };
                    assert_eq!(variant.lanes, 32);
                    spec.variant = Some(variant);
                    if spec.check().is_ok() {
                        gemv(spec, &[tokens], Part::All).pass();
                    }
                }
            }
        }
    }
}

#[test]
fn gated_units_and_what_is_added() {
    use WeightFormat::{F16, Q4_0, Q4K, Q5K, Q6K, Q8_0};
    for arithmetic in Arithmetic::ALL {
        for (gate, up, width) in [
            (Q4K, Q4K, 16),
            (Q4K, Q6K, 16),
            (Q8_0, Q4K, 16),
            (Q6K, Q6K, 16),
            (F16, F16, 16),
            (Q4K, Q4K, 8),
            (Q4K, Q6K, 4),
            (Q8_0, Q4K, 8),
            (Q5K, Q4_0, 4),
            (Q4_0, F16, 8),
            (F16, F16, 8),
        ] {
            for (tokens_per_block, n) in [(1, 1), (4, 5)] {
                let mut spec = GemvGluSpec {
                    target: TARGET,
                    gate,
                    up,
                    rows: 37,
                    cols: 1536,
                    tokens_per_block,
                    activation: Activation::Silu,
                    variant: None,
                };
                let default = spec.default_variant();
                spec.variant = Some(GemvVariant {
                    arithmetic,
                    width,
                    lanes: if width == 16 { default.lanes } else { 32 },
                    rows_per_slot: 1,
                    ..default
                });
                assert_eq!(
                    spec.check().is_ok(),
                    arithmetic != Arithmetic::Dp4a || up != F16
                );
                if spec.check().is_ok() {
                    gemv_glu(spec, &[n], Part::All).pass();
                }
            }
        }
        for width in [16, 8, 4] {
            let mut spec = GemvSpec {
                epilogue: Epilogue {
                    bias: true,
                    residual: true,
                },
                ..spec(Q6K, 37, 512, 2)
            };
            let default = spec.default_variant();
            spec.variant = Some(GemvVariant {
                arithmetic,
                width,
                lanes: if width == 16 { default.lanes } else { 32 },
                ..default
            });
            gemv(spec, &[3], Part::All).pass();
        }
    }
}

/// What is left of the limits, for activations as models have them: a hundredth 50 times as large.
#[test]
fn arithmetics_keep_their_limits() {
    for format in WeightFormat::ALL {
        for arithmetic in Arithmetic::ALL {
            for (cols, outliers) in [(1536, false), (1536, true), (8960, true)] {
                let mut spec = spec(format, 64, cols, 4);
                spec.variant = Some(GemvVariant {
                    arithmetic,
                    ..spec.default_variant()
                });
                if spec.check().is_err() {
                    continue;
                }
                let (rows, cols) = (spec.rows as usize, spec.cols as usize);
                let mut random = Random::new(7);
                let mut x = random.gaussians(4 * cols);
                for x in &mut x {
                    *x *= if outliers && random.below(100) == 0 {
                        50.0
                    } else {
                        1.0
                    };
                }
                let w = Weights::new(format, spec.rows, spec.cols, 1);
                let trial = common::products::gemv_of(&spec, &w, &x);
                let found = &trial.results(2)[0];
                let exact = w.times(&x, rows);
                let error = nmse(found, &exact);
                let rounding = nmse_of(&w.times(&rounded(arithmetic, &x, cols), rows), &exact);
                println!(
                    "{} {arithmetic:?} {cols} outliers {outliers}: {error:.1e}, of activations \
                     {rounding:.1e}",
                    format.name()
                );
                assert!(error < arithmetic.limit(), "{error:e}");
            }
        }
    }
}

fn nmse_of(a: &[f64], b: &[f64]) -> f64 {
    let error: f64 = a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum();
    error / b.iter().map(|b| b * b).sum::<f64>()
}

/// Activations beyond f16, tiny ones and rows of zeros.
#[test]
fn no_activation_overflows() {
    for format in WeightFormat::ALL {
        for arithmetic in [Arithmetic::F16x2, Arithmetic::Dp4a] {
            for size in [1e20f32, 1e-25, 0.0] {
                let mut spec = spec(format, 11, 768, 1);
                spec.variant = Some(GemvVariant {
                    arithmetic,
                    ..spec.default_variant()
                });
                if spec.check().is_err() {
                    continue;
                }
                let x: Vec<f32> = Random::new(3)
                    .gaussians(768)
                    .iter()
                    .map(|x| x * size)
                    .collect();
                let w = Weights::new(format, 11, 768, 1);
                let trial = common::products::gemv_of(&spec, &w, &x);
                let exact = w.times(&x, 11);
                let found = &trial.results(2)[0];
                let error = nmse(found, &exact);
                assert!(
                    error < arithmetic.limit(),
                    "{} {size:e}: {error:e}",
                    spec.kernel().name
                );
            }
        }
    }
}

#[test]
fn loads_that_do_not_exist_are_refused() {
    use WeightFormat::{BF16, F16, F32, Q4_0, Q4K, Q5K, Q6K, Q8_0};
    let refusal = |format: WeightFormat, cols, lanes, width| {
        let mut spec = spec(format, 100, cols, 1);
        spec.variant = Some(GemvVariant {
            lanes,
            width,
            ..spec.default_variant()
        });
        spec.check().err()
    };
    let four = "a lane multiplies four columns at least";
    let few = "fewer lanes share a row than load a block of weights";
    for (format, cols, lanes, width, why) in [
        (F32, 512, 32, 8, four),
        (F32, 512, 32, 4, four),
        (F16, 512, 32, 4, four),
        (BF16, 516, 32, 4, four),
        (F16, 516, 32, 16, "rows are odd multiples of 8 bytes"),
        (Q4K, 512, 8, 8, few),
        (Q5K, 512, 16, 4, few),
        (Q6K, 512, 8, 4, few),
        (Q4_0, 512, 32, 2, "a lane loads 16, 8 or 4 bytes of codes"),
        (Q8_0, 512, 32, 32, "a lane loads 16, 8 or 4 bytes of codes"),
    ] {
        let found = refusal(format, cols, lanes, width).unwrap_or_default();
        assert!(found.contains(why), "{format:?} {cols}: {found}");
        assert!(found.contains(&format!("-w{width}-")), "{found}");
    }
    for format in WeightFormat::ALL {
        for width in widths(format) {
            for lanes in lanes(format, *width) {
                assert_eq!(refusal(format, 512, *lanes, *width), None);
            }
        }
    }
}

#[test]
fn names_are_read_as_written() {
    let variants = spec(WeightFormat::Q4K, 8960, 1536, 1).variants();
    for variant in &variants {
        assert_eq!(variant.to_string().parse(), Ok(*variant));
    }
    let variant = GemvVariant {
        arithmetic: Arithmetic::Dp4a,
        lanes: 16,
        width: 8,
        rows_per_slot: 2,
        warps: 16,
    };
    assert_eq!(variant.to_string(), "dp4a-l16-w8-r2-b16");
    for wrong in [
        "",
        "dp4a",
        "dp4a-l16-w8-r2",
        "dp4a-l016-w8-r2-b16",
        "f64-l16-w8-r2-b16",
        "dp4a-l16-w8-r2-b16-",
    ] {
        assert!(wrong.parse::<GemvVariant>().is_err(), "{wrong}");
    }
}

/// The products of a 1.5B and an 8B model: few variants, all legal, all distinct, and their
/// kernels are sound.
#[test]
fn variants_of_models() {
    use WeightFormat::{F16, Q4_0, Q4K, Q5K, Q6K, Q8_0};
    let shapes = [
        (Q4K, 1536, 1536),
        (Q4K, 256, 1536),
        (Q4K, 8960, 1536),
        (Q4K, 1536, 8960),
        (Q6K, 1536, 8960),
        (Q6K, 151_936, 1536),
        (Q4K, 4096, 4096),
        (Q4K, 1024, 4096),
        (Q4K, 14336, 4096),
        (Q6K, 4096, 14336),
        (Q6K, 128_256, 4096),
        (Q5K, 4096, 4096),
        (Q8_0, 4096, 4096),
        (Q4_0, 4096, 4096),
        (F16, 4096, 4096),
    ];
    for (format, rows, cols) in shapes {
        for tokens in [1, 2, 4, 8] {
            let spec = spec(format, rows, cols, tokens);
            let variants = spec.variants();
            assert_eq!(variants[0], spec.default_variant());
            // The table of what was measured has every load of every arithmetic.
            for arithmetic in Arithmetic::ALL {
                for width in widths(format) {
                    let of = |v: &GemvVariant| (v.arithmetic, v.width) == (arithmetic, *width);
                    let exists = format != F16 || arithmetic != Arithmetic::Dp4a;
                    assert_eq!(variants.iter().any(of), exists);
                }
            }
            assert!((2..=50).contains(&variants.len()), "{}", variants.len());
            if tokens == 1 {
                println!("{} {rows}x{cols}: {}", format.name(), variants.len());
            }
            let mut names = std::collections::BTreeSet::new();
            for (i, variant) in variants.iter().enumerate() {
                let spec = GemvSpec {
                    variant: Some(*variant),
                    ..spec.clone()
                };
                spec.check().unwrap();
                assert!(names.insert(spec.kernel().name));
                if i % 7 == 0 {
                    let text = spec.kernel().ptx();
                    assert!(text.is_ok(), "{variant}: {text:?}");
                }
            }
        }
    }
}
