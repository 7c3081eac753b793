//! Parity of batches, chunks, sequences alone and products of bytes, on executors that need no GPU.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{model, shared};
use gannet_engine::internals::exec::StepRows;
use gannet_engine::internals::kv::BlockTable;
use gannet_engine::settings::{Buffers, Faults, Overrides, Precision, Settings};
use gannet_engine::tools::make_executor;
use gannet_engine::tools::parity::{Mode, ParityOptions, Report, Side, Tolerance, compare, diff};
use gannet_engine::{DeviceChoice, Error};
use gannet_gguf::{Gguf, TensorType};
use half::f16;
use tempfile::NamedTempFile;

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

/// A copy of a model of which the scale of one block of a tensor is a factor of what it was.
fn with_a_scale_off(file: &Path, tensor: &str, block: u64, factor: f32) -> NamedTempFile {
    let gguf = Gguf::open(file).unwrap();
    let tensor = gguf.tensor(tensor).unwrap();
    let behind = match tensor.ty {
        TensorType::Q6_K => 208,
        TensorType::Q3_K => 108,
        TensorType::Q2_K => 80,
        _ => 0,
    };
    let block = block % (tensor.elements() / tensor.ty.block_len());
    let at = (tensor.offset + block * tensor.ty.block_bytes() + behind) as usize;
    let mut bytes = std::fs::read(file).unwrap();
    let scale = f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32();
    let off = f16::from_f32(scale * factor).to_le_bytes();
    bytes[at..at + 2].copy_from_slice(&off);
    let copy = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
    std::fs::write(copy.path(), bytes).unwrap();
    copy
}

/// The fast CPU on one file against the exact one on another, in lockstep on a prompt.
fn fast_against_exact(fast: &Path, exact: &Path) -> Report {
    let make = |file, precision| {
        let settings = Settings {
            device: DeviceChoice::Cpu,
            precision,
            context: Some(64),
            buffers: Buffers::Distinct,
            ..Settings::default()
        };
        make_executor(&model(file), &settings).unwrap().executor
    };
    let (mut left, mut right) = (make(exact, Precision::Exact), make(fast, Precision::Fast));
    let limits = left.limits();
    let mut table = BlockTable::new(1, limits.context, limits.cache_blocks);
    let ids: Vec<u32> = (0..19).map(|i| i * i * 7 + 3 * i + 11).collect();
    table.reserve(0, ids.len()).unwrap();
    let rows = StepRows::of_slot(&ids, 0, 0..ids.len());
    let (left, right) = (left.inspect(), right.inspect());
    let tolerance = Tolerance::PerOperation;
    diff(left, right, &rows.step(&table), Mode::Lockstep, tolerance).unwrap()
}

#[test]
fn one_scale_of_a_model_that_is_off_by_a_twentieth_is_found() {
    let off = [
        ("blk.0.attn_q", 3, 1.05),
        ("blk.2.attn_v", 200, 0.95),
        ("blk.3.ffn_gate", 511, 1.05),
        ("blk.1.ffn_down", 77, 1.05),
    ];
    for name in [
        "Q4_K_M",
        "Q8_0",
        "Q4_0",
        "Q5_K_M",
        "more/4l-Q2_K",
        "more/4l-IQ4_NL",
    ] {
        let part = match name.strip_prefix("more/") {
            Some(name) => format!("models/more/rustdoc-tiny-{name}.gguf"),
            None => format!("models/rustdoc-tiny-{name}.gguf"),
        };
        let Some(file) = shared("one scale that is off", &part) else {
            continue;
        };
        let right = fast_against_exact(&file, &file);
        assert!(right.passes(), "{name}: {:?}", right.first_failure());
        let of_bytes = right
            .buffers
            .iter()
            .filter(|row| row.buffer.ends_with("bytes"));
        let worst = of_bytes.clone().map(|row| row.nmse).fold(0.0, f64::max);
        println!("{name}: {worst:e} of {}", of_bytes.count());
        for (tensor, block, factor) in off {
            let weight = format!("{tensor}.weight");
            let copy = with_a_scale_off(&file, &weight, block, factor);
            let report = fast_against_exact(copy.path(), &file);
            let failed: Vec<_> = report.buffers.iter().filter(|row| !row.pass).collect();
            let is_found = |row: &&gannet_engine::tools::parity::BufferRow| {
                row.buffer == format!("{tensor} of the same bytes")
            };
            assert!(
                failed.len() == 1 && failed.iter().all(is_found),
                "{name}, {tensor}: {failed:?}"
            );
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
