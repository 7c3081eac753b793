//! Parity of batches, chunks, sequences alone and products of bytes, on executors that need no GPU.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

mod common;

use common::{model, shared};
use gannet_engine::Error;
use gannet_engine::settings::{Faults, Overrides, Settings};
use gannet_engine::tools::parity::{ParityOptions, Report, Side, compare};

/// Compares on the micro-model of a family and checks that everything passes.
fn reports(test: &str, family: &str, options: &ParityOptions) -> Option<Vec<Report>> {
    let path = shared(test, &format!("golden/arch/{family}/{family}.gguf"))?;
    let model = model(&path);
    let vocab = model.plan().vocab_size as u32;
    let tokens = options.tokens.iter().map(|t| t % vocab).collect();
    let options = ParityOptions {
        tokens,
        ..options.clone()
    };
    let reports = compare(&model, &options).unwrap_or_else(|e| panic!("{family}: {e}"));
    for r in &reports {
        assert!(
            r.passes(),
            "{family}: {} at {}: {:?}",
            r.step,
            r.position,
            r.first_failure()
        );
    }
    Some(reports)
}

fn options(left: Side, right: Side, batch: usize) -> ParityOptions {
    ParityOptions {
        left,
        right,
        tokens: (0..21).map(|i| i * i * 7 + 3 * i + 11).collect(),
        generate: 2,
        batch,
        ..ParityOptions::default()
    }
}

fn steps(reports: &[Report]) -> Vec<&str> {
    reports.iter().map(|r| r.step.as_str()).collect()
}

#[test]
fn batches_with_dead_rows() {
    for family in ["llama", "qwen3"] {
        let options = options(Side::Cpu, Side::Interp, 3);
        let Some(reports) = reports("parity of batches", family, &options) else {
            continue;
        };
        let prompts = ["prompt of slot 0", "prompt of slot 1", "prompt of slot 2"];
        let mut expected: Vec<&str> = prompts.iter().flat_map(|&p| [p, p]).collect();
        expected.extend(["batch of 3"; 2]);
        assert_eq!(steps(&reports), expected);
        let rows: Vec<usize> = reports.iter().map(|r| r.rows).collect();
        assert_eq!(rows, [16, 5, 13, 5, 10, 5, 4, 4]);
    }
}

#[test]
fn chunks_against_the_whole() {
    for (left, right) in [
        (Side::Cpu, Side::Cpu),
        (Side::Cpu, Side::Interp),
        (Side::Interp, Side::Interp),
    ] {
        let options = ParityOptions {
            chunk: Some(9),
            ..options(left, right, 2)
        };
        let Some(reports) = reports("parity of chunks", "qwen2", &options) else {
            return;
        };
        let rows: Vec<usize> = reports.iter().map(|r| r.rows).collect();
        assert_eq!(rows, [9, 9, 3, 9, 9, 2, 2], "{left} {right}");
        let at: Vec<usize> = reports.iter().map(|r| r.position).collect();
        assert_eq!(at, [0, 9, 18, 0, 9, 21, 22], "{left} {right}");
    }
}

#[test]
fn sequences_alone_and_in_a_batch() {
    for executor in [Side::Cpu, Side::CpuFast, Side::Interp] {
        let options = ParityOptions {
            alone: true,
            ..options(Side::Cpu, executor, 3)
        };
        let Some(reports) = reports("parity of sequences alone", "llama", &options) else {
            return;
        };
        assert_eq!(
            steps(&reports),
            ["batch of 3", "batch of 3", "decode of 3"],
            "{executor}"
        );
        assert!(reports.iter().all(|r| r.buffers.len() == 3), "{executor}");
    }
}

#[test]
fn comparisons_of_nothing_are_refused() {
    let Some(path) = shared("parity of nothing", "golden/arch/llama/llama.gguf") else {
        return;
    };
    let model = model(&path);
    let none = |change: fn(&mut ParityOptions)| {
        let mut options = options(Side::Cpu, Side::Cpu, 1);
        options.tokens.truncate(1);
        change(&mut options);
        matches!(compare(&model, &options), Err(Error::Request(_)))
    };
    assert!(none(|o| o.tokens.clear()));
    assert!(none(|o| o.batch = 0));
    assert!(none(|o| o.chunk = Some(0)));
}

/// A variant that rounds activations to bytes.
const DP4A: &str = "dp4a-l32-w16-r1-b4";

fn forced(variant: &str) -> Overrides {
    Overrides {
        gemv: Some(variant.parse().unwrap()),
        ..Overrides::default()
    }
}

/// The limits of a report's rows that are made by products.
fn limits(reports: &[Report], unit: &str) -> Vec<f64> {
    let rows = reports.iter().flat_map(|r| &r.buffers);
    let rows = rows.filter(|row| row.unit.starts_with(unit));
    rows.map(|row| row.limit).collect()
}

#[test]
fn products_of_bytes_have_a_limit_of_their_own() {
    let test = "parity of int8 products";
    let Some(path) = shared(test, "models/rustdoc-tiny-Q4_K_M.gguf") else {
        return;
    };
    let model = model(&path);
    let options = |variant, omit_launch| ParityOptions {
        tokens: vec![3, 141, 59],
        generate: 1,
        settings: Settings {
            overrides: forced(variant),
            faults: Faults {
                omit_launch,
                ..Faults::default()
            },
            ..Settings::default()
        },
        ..options(Side::Cpu, Side::Interp, 1)
    };
    // Of a gated unit at least that of its activation.
    for (variant, limit, gated) in [(DP4A, 1e-3, 1e-3), ("f32-l32-w16-r1-b4", 1e-9, 1e-6)] {
        let reports = compare(&model, &options(variant, None)).unwrap();
        for report in &reports {
            assert!(report.passes(), "{variant}: {:?}", report.first_failure());
        }
        let errors = reports.iter().flat_map(|r| &r.buffers).map(|row| row.nmse);
        let worst = errors.fold(0.0, f64::max);
        println!("{variant}: worst {worst:e}");
        assert_eq!(worst > 1e-6, limit > 1e-6, "{variant}: {worst:e}");
        for (unit, limit) in [("matmul", limit), ("gated matmul", gated)] {
            let limits = limits(&reports, unit);
            let as_stated = limits.iter().all(|&l| l == limit);
            assert!(!limits.is_empty() && as_stated, "{unit}: {limits:?}");
        }
        assert!(limits(&reports, "rms_norm").iter().all(|&l| l == 1e-10));
    }
    // What is wrong stays wrong.
    for launch in [1, 8] {
        let reports = compare(&model, &options(DP4A, Some(launch))).unwrap();
        assert!(reports.iter().any(|r| !r.passes()), "without {launch}");
    }
}

#[test]
fn sides_go_by_the_names_that_were_given_and_the_fast_cpu_passes() {
    let Some(path) = shared("parity with cpu-fast", "models/rustdoc-tiny-Q4_K_M.gguf") else {
        return;
    };
    let model = model(&path);
    for (left, right) in [(Side::Cpu, Side::CpuFast), (Side::CpuFast, Side::Cpu)] {
        for chunk in [None, Some(9)] {
            let options = ParityOptions {
                chunk,
                ..options(left, right, 2)
            };
            for report in compare(&model, &options).unwrap() {
                assert_eq!(report.left, left.to_string());
                assert_eq!(report.right, right.to_string());
                assert!(report.passes(), "{:?}", report.first_failure());
            }
        }
    }
}

#[test]
fn a_variant_that_no_product_has_is_refused() {
    let Some(path) = shared("a variant of no product", "golden/arch/llama/llama.gguf") else {
        return;
    };
    let model = model(&path);
    for right in [Side::Cpu, Side::Interp, Side::CudaEager] {
        let options = ParityOptions {
            settings: Settings {
                overrides: forced("f32-l99-w16-r2-b4"),
                ..Settings::default()
            },
            tokens: vec![3, 1, 4],
            ..options(Side::Cpu, right, 1)
        };
        let found = compare(&model, &options);
        let Err(Error::Request(line)) = &found else {
            panic!("{right}: {found:?}");
        };
        assert!(
            line.contains("f32-l99-w16-r2-b4") && !line.contains('\n'),
            "{line}"
        );
    }
}
