//! The parity gate on models that hold what is no number, or too large or small: the model is at fault then,
//! and the error says so as it does where the model runs; the device is not.
//!
//! `GANNET_PLANTED=all` plants in every tensor of every layer; by default in those of one layer.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/plants.rs"]
mod plants;
mod reference;

use std::path::Path;

use common::{model, shared};
use gannet_engine::Error;
use gannet_engine::error::NotFinite;
use gannet_engine::internals::exec::Limits;
use gannet_engine::internals::exec::interp::InterpExecutor;
use gannet_engine::settings::{Buffers, KvType, Precision};
use gannet_engine::tools::gate;
use gannet_gguf::Gguf;
use gannet_ptx_gen::target::Target;
use plants::*;

/// What the gate says of a model on interpreted kernels: that it is computed rightly, or why it has no
/// numbers. Never that the device is wrong.
fn gate_of(file: &Path, limits: Limits, what: &str) -> Option<NotFinite> {
    gate_in(Precision::Fast, file, limits, what)
}

fn gate_in(precision: Precision, file: &Path, limits: Limits, what: &str) -> Option<NotFinite> {
    let model = model(file);
    let mut executor = InterpExecutor::new(
        model.clone(),
        Target::Sm90a,
        precision,
        limits,
        Buffers::Shared,
    )
    .unwrap();
    match gate::check(&model, &mut executor) {
        Ok(reports) => {
            for report in &reports {
                let failure = report.first_failure();
                assert!(report.passes(), "{what}, {}: {failure:?}", report.step);
            }
            None
        }
        Err(Error::NotFinite(why)) => Some(*why),
        Err(other) => panic!("{what}: {other}"),
    }
}

/// Plants values in every chosen tensor of a model, one at a time.
fn plant_all(file: &Path, limits: Limits, values: &[f32]) {
    let gguf = Gguf::open(file).unwrap();
    let (mut ran, mut errors) = (0, 0);
    for (nth, tensor) in (0u64..).zip(gguf.tensors()) {
        if !is_chosen(&tensor.name) {
            continue;
        }
        for (i, &value) in (0u64..).zip(values) {
            let element = match tensor.name.as_str() {
                // The gate's first token is 11.
                "token_embd.weight" => 11 * tensor.dims[0] + i,
                _ => nth * 7919 + i * 104_729,
            };
            let what = format!("{value:e} in {} of {}", tensor.name, file.display());
            let copy = planted(file, tensor, element, value);
            let found = gate_of(copy.path(), limits, &what);
            if let Some(found) = &found {
                errors += 1;
                let line = found.to_string();
                let origin = found
                    .origin
                    .as_ref()
                    .unwrap_or_else(|| panic!("{what}: {line}"));
                let layer = tensor.name.strip_prefix("blk.");
                let layer = layer.map(|l| l.split('.').next().unwrap().parse::<usize>().unwrap());
                // Behind the planted weight, and not in front of it.
                let is_behind = layer.is_none_or(|l| origin.layer.is_none_or(|found| found >= l));
                assert!(is_behind, "{what}: {line}");
            }
            // Whatever reads NaN gives NaN.
            let is_read = tensor.name != "rope_freqs.weight";
            assert!(!value.is_nan() || !is_read || found.is_some(), "{what}");
            let is_tiny = value.abs() < 1e-6;
            assert!(!is_tiny || found.is_none(), "{what}: {found:?}");
            ran += 1;
        }
    }
    println!("{}: {errors} of {ran} are errors", file.display());
    assert!(errors > ran / 8 && errors < ran, "{errors} of {ran}");
}

#[test]
fn values_in_micro_models() {
    for part in ["llama", "qwen2", "gemma2"] {
        let part = format!("golden/arch/{part}/{part}.gguf");
        if let Some(file) = shared("the gate on planted weights", &part) {
            plant_all(&file, Limits::new(1, 40), &VALUES);
        }
    }
}

#[test]
fn values_in_a_trained_model() {
    let few = [f32::NAN, 65_520.0];
    let more = [f32::NAN, f32::NEG_INFINITY, 65_520.0, 1e-40];
    for (name, values) in [("Q4_K_M", &more[..]), ("F16", &few), ("Q8_0", &few)] {
        let part = format!("models/rustdoc-tiny-{name}.gguf");
        if let Some(file) = shared("the gate on planted weights", &part) {
            plant_all(&file, Limits::new(1, 16), values);
        }
    }
}

/// Tokens that only a decoded step, only a chunk, or only a batch has: what is served is held against
/// itself there, and gives no numbers on either side.
#[test]
fn tokens_that_only_what_is_served_has() {
    let part = "golden/arch/llama/llama.gguf";
    let Some(file) = shared("the gate on planted tokens", part) else {
        return;
    };
    let gguf = Gguf::open(&file).unwrap();
    let embedding = gguf.tensor("token_embd.weight").unwrap();
    let limits = Limits {
        max_outputs: 2,
        ..Limits::new(2, 128)
    };
    let token = |i: u64, slot: u64| (i * 37 + slot * 5 + 11) % embedding.dims[1];
    let mut found_in = Vec::new();
    for (i, slot) in [(13, 0), (14, 0), (50, 0), (85, 0), (0, 1), (1, 1)] {
        for value in [f32::NAN, f32::NEG_INFINITY] {
            let what = format!("{value} in token {i} of slot {slot}");
            let element = token(i, slot) * embedding.dims[0] + 3;
            let copy = planted(&file, embedding, element, value);
            let why = gate_of(copy.path(), limits, &what);
            let why = why.unwrap_or_else(|| panic!("{what}: no error"));
            let origin = why.origin.as_ref();
            let origin = origin.unwrap_or_else(|| panic!("{what}: {why}"));
            assert!(origin.unit.starts_with("embed "), "{what}: {why}");
            found_in.push(origin.position);
        }
    }
    assert_eq!(found_in, [13, 13, 14, 14, 50, 50, 85, 85, 0, 0, 1, 1]);
}

/// A value that a cache of f16 does not hold is no fault of the device, and the error says which cache does.
#[test]
fn values_that_the_cache_does_not_hold() {
    let part = "golden/arch/qwen2/qwen2.gguf";
    let Some(file) = shared("the gate on values beyond the cache", part) else {
        return;
    };
    let gguf = Gguf::open(&file).unwrap();
    let bias = gguf.tensor("blk.1.attn_v.bias").unwrap();
    for (element, value) in [(0, 65_520.0), (5, -1e6), (17, 1e20)] {
        let copy = planted(&file, bias, element, value);
        for (kv_type, is_held) in [
            (KvType::F16, false),
            (KvType::BF16, true),
            (KvType::F32, true),
            // Prompts attend in f16 to what bytes stand for.
            (KvType::Int8, false),
        ] {
            let what = format!("{value:e} in a cache of {}", kv_type.name());
            let limits = Limits {
                kv_type,
                ..Limits::new(1, 40)
            };
            if kv_type == KvType::Int8 {
                let exact = gate_in(Precision::Exact, copy.path(), limits, &what);
                assert_eq!(exact, None, "{what}, exact");
            }
            let found = gate_of(copy.path(), limits, &what);
            assert_eq!(found.is_none(), is_held, "{what}: {found:?}");
            if let Some(found) = found {
                let line = found.to_string();
                assert!(
                    line.contains("exceeds f16") && line.contains("(layer 1)"),
                    "{line}"
                );
                assert!(line.contains("choose --kv-type bf16 or f32"), "{line}");
            }
        }
    }
}
