//! The CUDA executors against the CPU operation by operation, and against each other bit by bit.

mod common;

use std::path::Path;

use common::{gpu, model, shared};
use gannet_engine::Config;
use gannet_engine::exec::Precision;
use gannet_engine::parity::{ParityOptions, Report, compare};

fn parity(
    path: &Path,
    left: &str,
    right: &str,
    precision: Precision,
    generate: usize,
) -> Vec<Report> {
    let model = model(path);
    let vocab = model.plan().vocab_size as u32;
    let tokens: Vec<u32> = (0..45u32)
        .map(|i| (i * i * 7 + 3 * i + 11) % vocab)
        .collect();
    let options = ParityOptions {
        left: left.to_owned(),
        right: right.to_owned(),
        precision,
        gpu: 0,
        tokens,
        generate,
        config: Config::default(),
    };
    compare(&model, &options).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn check(path: &Path, reports: &[Report]) {
    for report in reports {
        let worst = report.worst().expect("buffers were compared");
        assert!(
            report.passes(),
            "{} at {} ({} rows): {:?}, worst {worst:?}",
            path.display(),
            report.position,
            report.rows,
            report.first_failure()
        );
    }
    let worst = reports
        .iter()
        .filter_map(Report::worst)
        .max_by(|a, b| (a.nmse / a.limit.max(1e-300)).total_cmp(&(b.nmse / b.limit.max(1e-300))));
    println!(
        "{}: {} steps, worst {worst:?}",
        path.display(),
        reports.len()
    );
}

/// The tests of each file, so that one without its file is skipped alone.
macro_rules! files {
    ($($module:ident: $part:literal,)*) => {
        $(mod $module {
            #[test]
            fn gpu_agrees_with_the_cpu_operation_by_operation() {
                super::agrees_with_the_cpu($part);
            }

            #[test]
            fn gpu_graph_is_bit_equal_to_eager() {
                super::graph_is_bit_equal_to_eager($part);
            }
        })*
    };
}

files! {
    micro_llama: "golden/arch/llama/llama.gguf",
    micro_llama3_scaled: "golden/arch/llama3-scaled/llama3-scaled.gguf",
    micro_qwen2: "golden/arch/qwen2/qwen2.gguf",
    micro_qwen3: "golden/arch/qwen3/qwen3.gguf",
    f16: "models/rustdoc-tiny-F16.gguf",
    q8_0: "models/rustdoc-tiny-Q8_0.gguf",
    q6_k: "models/rustdoc-tiny-Q6_K.gguf",
    q4_k_m: "models/rustdoc-tiny-Q4_K_M.gguf",
    q4_0: "models/rustdoc-tiny-Q4_0.gguf",
}

fn agrees_with_the_cpu(part: &str) {
    let test = "parity of CPU and GPU";
    if !gpu(test) {
        return;
    }
    let Some(path) = shared(test, part) else {
        return;
    };
    for precision in [Precision::Exact, Precision::Fast] {
        check(&path, &parity(&path, "cpu", "cuda-eager", precision, 3));
    }
}

fn graph_is_bit_equal_to_eager(part: &str) {
    let test = "parity of eager and graph";
    if !gpu(test) {
        return;
    }
    let Some(path) = shared(test, part) else {
        return;
    };
    let reports = parity(&path, "cuda-eager", "cuda-graph", Precision::Fast, 64);
    check(&path, &reports);
}
