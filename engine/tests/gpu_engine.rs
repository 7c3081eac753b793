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
use gannet_engine::{DeviceChoice, Engine, Model, Settings};

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
