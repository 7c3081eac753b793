//! That what a GPU computes of a sequence with `batch_invariant` does not depend on what runs beside it.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

#[path = "common/callers.rs"]
mod callers;
mod common;
#[path = "common/mixes.rs"]
mod mixes;

use std::path::Path;

use callers::{KINDS, request, requests, submit_from_many};
use common::{gpu, model, shared};
use gannet_engine::internals::kv::KvType;
use gannet_engine::settings::Precision;
use gannet_engine::{DeviceChoice, Engine, ExecutorChoice, Settings};
use mixes::{Mix, logits_are_those_alone, texts_are_those_alone};

fn settings(precision: Precision, kv_type: KvType) -> Settings {
    Settings {
        device: DeviceChoice::Cuda(0),
        precision,
        kv_type,
        batch_invariant: true,
        // It holds what is served against the CPU, which other tests do.
        gate: false,
        ..Settings::default()
    }
}

/// Mixes of few and many slots, of short chunks and long ones.
fn mixes(tokens: usize) -> [Mix; 3] {
    let mix = |seed: u64, slots: usize, rows: usize| Mix {
        seed,
        sequences: 3 * slots.min(12),
        slots,
        tokens,
        rows,
    };
    [mix(1, 3, 7), mix(2, 9, 100), mix(3, 32, 512)]
}

fn check(path: &Path, tokens: usize, precision: Precision, kv_type: KvType) {
    let model = model(path);
    let settings = settings(precision, kv_type);
    for mix in mixes(tokens) {
        logits_are_those_alone(&model, &settings, mix);
        for executor in [ExecutorChoice::Graph, ExecutorChoice::Eager] {
            let settings = Settings {
                executor,
                ..settings.clone()
            };
            texts_are_those_alone(&model, &settings, mix);
        }
    }
}

fn trained(part: &str) {
    if let Some(path) = shared("one text on a GPU", part)
        && gpu(part)
    {
        check(&path, 200, Precision::Fast, KvType::F16);
        check(&path, 200, Precision::Fast, KvType::Int8);
        check(&path, 100, Precision::Exact, KvType::F32);
    }
}

#[test]
fn gpu_an_f16_model_gives_one_text() {
    trained("models/rustdoc-tiny-F16.gguf");
}

#[test]
fn gpu_a_q8_0_model_gives_one_text() {
    trained("models/rustdoc-tiny-Q8_0.gguf");
}

#[test]
fn gpu_a_q4_k_m_model_gives_one_text() {
    trained("models/rustdoc-tiny-Q4_K_M.gguf");
}

/// A model of one's own, such as `gannet synth --shape qwen2.5-1.5b` writes.
#[test]
fn gpu_a_model_of_ones_own_gives_one_text() {
    let Some(path) = std::env::var_os("GANNET_INVARIANT_MODEL") else {
        eprintln!("skipped: one text of a model of one's own: GANNET_INVARIANT_MODEL is not set");
        return;
    };
    if gpu("one text of a model of one's own") {
        check(Path::new(&path), 300, Precision::Fast, KvType::F16);
    }
}

/// As it is served: prompts and decodes of many callers in one step, queued ahead.
#[test]
fn gpu_many_callers_get_what_they_get_alone() {
    for types in ["F16", "Q8_0", "Q4_K_M"] {
        let part = format!("models/rustdoc-tiny-{types}.gguf");
        let Some(path) = shared("many callers of one text", &part) else {
            continue;
        };
        if !gpu("many callers of one text") {
            return;
        }
        let model = model(&path);
        let slots = |slots: usize| Settings {
            context: Some(192),
            slots: Some(slots),
            ..settings(Precision::Fast, KvType::F16)
        };
        let engine = Engine::new(&model, &slots(1)).unwrap();
        let one = |kind| engine.submit(request(model.plan().vocab_size, kind)).wait();
        let texts: Vec<Vec<u32>> = (0..KINDS).map(|kind| one(kind).unwrap().tokens).collect();
        drop(engine);
        submit_from_many(&model, &slots(32), requests(600), |kind, _, generation| {
            let found = &generation.tokens;
            assert_eq!(
                found[..],
                texts[kind][..found.len()],
                "{types}, kind {kind}"
            );
        });
    }
}
