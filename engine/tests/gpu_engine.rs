//! The engine's thread on a GPU: many callers, and nothing that waits or compiles while it serves.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

#[path = "common/callers.rs"]
mod callers;
mod common;

use std::sync::Arc;

use callers::{KINDS, request, requests, submit_from_many};
use common::{gpu, model, shared};
use gannet_engine::internals::kv::KvType;
use gannet_engine::settings::Precision;
use gannet_engine::times::Phase;
use gannet_engine::{DeviceChoice, Engine, Model, Request, Settings};

fn tiny(what: &str) -> Option<Arc<Model>> {
    let part = "models/rustdoc-tiny-Q4_K_M.gguf";
    let path = shared(what, part)?;
    gpu(what).then(|| model(&path))
}

/// In f32 throughout, so that no choice is close enough to depend on which kernels a step of so many
/// rows takes.
fn exact(slots: usize) -> Settings {
    Settings {
        device: DeviceChoice::Cuda(0),
        context: Some(192),
        slots: Some(slots),
        precision: Precision::Exact,
        kv_type: KvType::F32,
        ..Settings::default()
    }
}

#[test]
fn gpu_callers_get_what_they_get_alone() {
    let Some(model) = tiny("many callers") else {
        return;
    };
    let engine = Engine::new(&model, &exact(1)).unwrap();
    let one = |kind| engine.submit(request(model.plan().vocab_size, kind)).wait();
    let texts: Vec<Vec<u32>> = (0..KINDS).map(|kind| one(kind).unwrap().tokens).collect();
    drop(engine);
    submit_from_many(
        &model,
        &exact(32),
        requests(2000),
        |kind, cancelled, generation| {
            let (found, text) = (&generation.tokens, &texts[kind]);
            assert_eq!(found[..], text[..found.len()], "kind {kind}");
            assert!(cancelled || found.len() == text.len(), "kind {kind}");
        },
    );
}

/// After the warm-up, requests of all lengths compile no kernel, build no graph and wait for nothing but
/// their tokens.
#[test]
fn gpu_nothing_is_made_while_requests_run() {
    let Some(model) = tiny("requests after a warm-up") else {
        return;
    };
    let settings = Settings {
        device: DeviceChoice::Cuda(0),
        context: Some(256),
        slots: Some(12),
        ..Settings::default()
    };
    let engine = Engine::new(&model, &settings).unwrap();
    let seconds = engine.load_report().phase_seconds(Phase::WarmUp);
    assert!(seconds > 0.0);
    println!("warm-up: {seconds} s");
    let before = engine.counters().unwrap().executor;
    let mut handles = Vec::new();
    for i in 0..1000usize {
        let token = |n: usize| ((n * 31 + i * 7) % model.plan().vocab_size) as u32;
        let tokens: Vec<u32> = (0..1 + (i * 37) % 230).map(token).collect();
        let mut request = Request::new(tokens);
        request.options.max_tokens = 1 + i % 20;
        request.options.ignore_eog = true;
        request.options.sampling.temperature = if i.is_multiple_of(4) { 0.7 } else { 0.0 };
        handles.push(engine.submit(request));
    }
    for handle in handles {
        handle.wait().unwrap();
    }
    let after = engine.counters().unwrap().executor;
    assert!(after.steps > before.steps);
    assert_eq!(after.modules, before.modules);
    assert_eq!(after.graphs, before.graphs);
    assert_eq!(after.synchronizations, before.synchronizations);
    assert_eq!(after.fallbacks, 0);
}
