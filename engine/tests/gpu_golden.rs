//! The CUDA executors against float64 references: logits, greedy text and perplexity of the trained
//! model in five formats, and logits of a micro-model of every family.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

#[macro_use]
mod common;

use common::{
    MICRO_MODELS, check_greedy, divergence, gpu, json, micro_divergence, micro_file, model,
    options, perplexity, shared, trained,
};
use gannet_engine::settings::Precision;
use gannet_engine::tools::make_executor;
use gannet_engine::{DeviceChoice, ExecutorChoice, Session, Settings};

const DEVICE: DeviceChoice = DeviceChoice::Cuda(0);

for_each_file! {
    gpu_logits: logits,
    gpu_greedy_text: greedy_text,
    gpu_text_perplexity: text_perplexity,
}

fn logits(file: &str) {
    let test = "logits on the GPU";
    if !gpu(test) {
        return;
    }
    let Some((folder, path)) = trained(test, file) else {
        return;
    };
    let model = model(&path);
    for precision in [Precision::Exact, Precision::Fast] {
        // Few rows at a time go through matrix-vector kernels, many through tensor cores.
        for max_rows in [1, 5, 256] {
            let options = Settings {
                max_rows: Some(max_rows),
                ..options(DEVICE, precision, max_rows)
            };
            let mut executor = make_executor(&model, &options).unwrap().executor;
            let d = divergence(&folder, file, executor.as_mut());
            println!(
                "{file} {precision:?} by {max_rows}: KLD max {:e} mean {:e} difference {:e} agreed {}/{}",
                d.max,
                d.mean(),
                d.max_difference,
                d.agreed,
                d.positions
            );
            assert!(
                d.positions > 100 && d.max <= 5e-6,
                "{file} {precision:?}: {d:?}"
            );
        }
    }
}

fn greedy_text(file: &str) {
    let test = "greedy text on the GPU";
    if !gpu(test) {
        return;
    }
    let Some((folder, path)) = trained(test, file) else {
        return;
    };
    let reference = json(&folder.join(format!("greedy-{file}.json")));
    let model = model(&path);
    for executor in [ExecutorChoice::Eager, ExecutorChoice::Graph] {
        let options = Settings {
            executor,
            ..options(DEVICE, Precision::Fast, 1)
        };
        let mut session = Session::new(&model, &options).unwrap();
        check_greedy(&mut session, &reference, 0.1);
    }
}

fn text_perplexity(file: &str) {
    let test = "perplexity on the GPU";
    if !gpu(test) {
        return;
    }
    let Some(text) = shared(test, "golden/rustdoc-tiny/val-200k.txt") else {
        return;
    };
    let name = format!("rustdoc-tiny-{file}.gguf");
    let Some((_, path)) = trained(test, file) else {
        return;
    };
    let model = model(&path);
    let options = options(DEVICE, Precision::Fast, 256);
    let mut executor = make_executor(&model, &options).unwrap().executor;
    let (found, reference) = perplexity(&text, &model, &name, executor.as_mut());
    let error = (found / reference - 1.0).abs();
    println!("{file}: {found} against {reference}: {error:e}");
    assert!(error <= 2e-3, "{file}: {error}");
}

/// Logits of a micro-model of every family, whose random weights of f32 feel the rounding of a cache
/// of f16, and of anything else, more than trained ones do.
#[test]
fn gpu_logits_of_micro_models() {
    let test = "logits of micro-models on the GPU";
    if !gpu(test) {
        return;
    }
    let mut beyond = Vec::new();
    for folder in MICRO_MODELS {
        let Some(path) = shared(test, &micro_file(folder)) else {
            continue;
        };
        let (model, folder) = (model(&path), path.parent().unwrap());
        for precision in [Precision::Exact, Precision::Fast] {
            let settings = Settings {
                context: Some(128),
                ..options(DEVICE, precision, 16)
            };
            let mut executor = make_executor(&model, &settings).unwrap().executor;
            let d = micro_divergence(folder, executor.as_mut());
            println!("{} {precision:?}: {d:?}", path.display());
            if d.positions < 30 || d.max > 3e-5 {
                beyond.push(format!("{} {precision:?}: {d:?}", path.display()));
            }
        }
    }
    // All of them, so that one family does not hide the next.
    assert!(beyond.is_empty(), "{}", beyond.join("\n"));
}
