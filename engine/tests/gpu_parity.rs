//! The CUDA executors against the CPU operation by operation, and against each other bit by bit.

mod common;

use std::path::Path;

use common::{FILES, gpu, model, shared};
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

#[test]
fn gpu_agrees_with_the_cpu_operation_by_operation() {
    let test = "parity of CPU and GPU";
    if !gpu(test) {
        return;
    }
    let micro = ["llama", "llama3-scaled", "qwen2", "qwen3"];
    let micro = micro.map(|m| format!("golden/arch/{m}/{m}.gguf"));
    let tiny = FILES.map(|f| format!("models/rustdoc-tiny-{f}.gguf"));
    for part in micro.iter().chain(&tiny) {
        let Some(path) = shared(test, part) else {
            continue;
        };
        for precision in [Precision::Exact, Precision::Fast] {
            check(&path, &parity(&path, "cpu", "cuda-eager", precision, 3));
        }
    }
}

#[test]
fn gpu_graph_is_bit_equal_to_eager() {
    let test = "parity of eager and graph";
    if !gpu(test) {
        return;
    }
    for file in FILES {
        let Some(path) = shared(test, &format!("models/rustdoc-tiny-{file}.gguf")) else {
            continue;
        };
        check(
            &path,
            &parity(&path, "cuda-eager", "cuda-graph", Precision::Fast, 64),
        );
    }
}
