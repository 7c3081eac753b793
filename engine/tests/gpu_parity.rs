//! The CUDA executors against the CPU operation by operation, and against each other bit by bit.

mod common;
mod reference;

use std::path::{Path, PathBuf};

use common::{gpu, model, shared};
use gannet_engine::internals::kv::KvType;
use gannet_engine::settings::{Precision, Settings};
use gannet_engine::tools::parity::{ParityOptions, Report, Side, compare};
use reference::cases::heads_of;

/// Parity on tokens of the model's vocabulary, with what `options` say besides.
fn parity(path: &Path, left: Side, right: Side, options: ParityOptions) -> Vec<Report> {
    let model = model(path);
    let vocab = model.plan().vocab_size as u32;
    // A model of learned positions has no more than those: as many tokens as they leave room for,
    // which are generated twice, after the prompt and the rows behind it.
    let most = model.plan().max_positions().map(|all| (all - 50) / 2);
    let options = ParityOptions {
        left,
        right,
        tokens: (0..45u32)
            .map(|i| (i * i * 7 + 3 * i + 11) % vocab)
            .collect(),
        generate: most.map_or(options.generate, |most| options.generate.min(most)),
        ..options
    };
    compare(&model, &options).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn with(precision: Precision, generate: usize) -> ParityOptions {
    ParityOptions {
        settings: Settings {
            precision,
            ..Settings::default()
        },
        generate,
        ..ParityOptions::default()
    }
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
            fn gpu_graphs_are_bit_equal_to_eager() {
                super::graphs_are_bit_equal_to_eager($part);
            }

            #[test]
            fn gpu_graphs_of_large_batches_are_bit_equal_to_eager() {
                super::graphs_of_large_batches_are_bit_equal_to_eager($part);
            }

            #[test]
            fn gpu_caches_of_every_type_agree_with_the_cpu() {
                super::caches_of_every_type_agree_with_the_cpu($part);
            }

            #[test]
            fn gpu_batches_agree_with_the_cpu() {
                super::batches_agree_with_the_cpu($part);
            }

            #[test]
            fn gpu_chunks_agree_with_the_whole() {
                super::chunks_agree_with_the_whole($part);
            }

            #[test]
            fn gpu_sequences_agree_alone_and_in_a_batch() {
                super::sequences_agree_alone_and_in_a_batch($part);
            }
        })*
    };
}

files! {
    micro_llama: "golden/arch/llama/llama.gguf",
    micro_llama3_scaled: "golden/arch/llama3-scaled/llama3-scaled.gguf",
    micro_qwen2: "golden/arch/qwen2/qwen2.gguf",
    micro_qwen3: "golden/arch/qwen3/qwen3.gguf",
    micro_gpt2: "golden/arch2/gpt2/gpt2.gguf",
    f16: "models/rustdoc-tiny-F16.gguf",
    q8_0: "models/rustdoc-tiny-Q8_0.gguf",
    q6_k: "models/rustdoc-tiny-Q6_K.gguf",
    q4_k_m: "models/rustdoc-tiny-Q4_K_M.gguf",
    q4_0: "models/rustdoc-tiny-Q4_0.gguf",
}

/// The file, where it and a GPU are there.
fn on_gpu(test: &str, part: &str) -> Option<PathBuf> {
    if gpu(test) { shared(test, part) } else { None }
}

fn agrees_with_the_cpu(part: &str) {
    let Some(path) = on_gpu("parity of CPU and GPU", part) else {
        return;
    };
    for precision in [Precision::Exact, Precision::Fast] {
        let reports = parity(&path, Side::Cpu, Side::CudaEager, with(precision, 3));
        check(&path, &reports);
    }
}

/// Sixty-four tokens, alone and three at once, step by step and decoded.
fn graphs_are_bit_equal_to_eager(part: &str) {
    let Some(path) = on_gpu("parity of eager and graphs", part) else {
        return;
    };
    for right in [Side::CudaGraph, Side::CudaCapture] {
        for batch in [1, 3] {
            let options = ParityOptions {
                batch,
                ..with(Precision::Fast, 64)
            };
            check(&path, &parity(&path, Side::CudaEager, right, options));
        }
    }
}

/// The buckets of many rows, the last one with dead rows.
fn graphs_of_large_batches_are_bit_equal_to_eager(part: &str) {
    let Some(path) = on_gpu("parity of large batches", part) else {
        return;
    };
    for (right, batch) in [
        (Side::CudaGraph, 16),
        (Side::CudaGraph, 32),
        (Side::CudaGraph, 64),
        (Side::CudaCapture, 61),
    ] {
        let options = ParityOptions {
            batch,
            ..with(Precision::Fast, 8)
        };
        check(&path, &parity(&path, Side::CudaEager, right, options));
    }
}

/// Types of the cache that are not the default, alone and together, eager and replayed.
fn caches_of_every_type_agree_with_the_cpu(part: &str) {
    let Some(path) = on_gpu("parity of caches", part) else {
        return;
    };
    for kv_type in [KvType::F32, KvType::BF16, KvType::Int8] {
        for precision in [Precision::Exact, Precision::Fast] {
            let mut options = with(precision, 2);
            options.settings.kv_type = kv_type;
            options.batch = 3;
            check(
                &path,
                &parity(&path, Side::Cpu, Side::CudaEager, options.clone()),
            );
            let options = ParityOptions {
                generate: 24,
                ..options
            };
            check(
                &path,
                &parity(&path, Side::CudaEager, Side::CudaGraph, options),
            );
        }
    }
}

/// The largest bucket, whole and with dead rows.
#[test]
fn gpu_batches_of_64_agree_with_the_cpu() {
    let Some(path) = on_gpu("parity of 64 rows", "models/rustdoc-tiny-Q4_K_M.gguf") else {
        return;
    };
    for batch in [64, 50] {
        let options = ParityOptions {
            batch,
            ..with(Precision::Fast, 1)
        };
        check(&path, &parity(&path, Side::Cpu, Side::CudaEager, options));
    }
}

/// Batches for every kind of kernel, with dead rows and without.
fn batches_agree_with_the_cpu(part: &str) {
    let Some(path) = on_gpu("parity of batches", part) else {
        return;
    };
    for batch in [2, 3, 8, 11] {
        for precision in [Precision::Exact, Precision::Fast] {
            let options = ParityOptions {
                batch,
                ..with(precision, 2)
            };
            check(&path, &parity(&path, Side::Cpu, Side::CudaEager, options));
        }
    }
}

fn chunks_agree_with_the_whole(part: &str) {
    let Some(path) = on_gpu("parity of chunks", part) else {
        return;
    };
    for left in [Side::Cpu, Side::CudaEager] {
        for chunk in [1, 7, 16, 32] {
            let options = ParityOptions {
                chunk: Some(chunk),
                ..with(Precision::Fast, 2)
            };
            check(&path, &parity(&path, left, Side::CudaGraph, options));
        }
    }
}

fn sequences_agree_alone_and_in_a_batch(part: &str) {
    let Some(path) = on_gpu("parity of sequences alone", part) else {
        return;
    };
    for batch in [3, 8, 32] {
        for precision in [Precision::Exact, Precision::Fast] {
            let options = ParityOptions {
                batch,
                alone: true,
                ..with(precision, 8)
            };
            check(&path, &parity(&path, Side::Cpu, Side::CudaGraph, options));
        }
    }
}

#[test]
fn gpu_heads_of_every_multiple_of_8() {
    let part = "golden/arch/llama/llama.gguf";
    let Some(vocab) = on_gpu("heads of every size", part) else {
        return;
    };
    for dim in (8..=256).step_by(8) {
        let file = heads_of(dim).file(&vocab);
        for precision in [Precision::Exact, Precision::Fast] {
            let options = with(precision, 2);
            let reports = parity(file.path(), Side::Cpu, Side::CudaEager, options);
            check(file.path(), &reports);
        }
    }
}
