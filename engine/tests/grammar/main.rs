//! Texts that match a grammar, on the small model and the CPU.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

mod controls;
mod generator;
mod hostile;
mod kept;
mod schemas;
mod texts;
mod tools;
mod vocabularies;

use std::path::Path;
use std::sync::{Arc, OnceLock};

use gannet_engine::tokenizer::{DecodeOptions, StreamDecoder};
use gannet_engine::{DeviceChoice, Engine, GenerateOptions, Model, Request, Sampling, Settings};

/// The model that is shipped.
fn model() -> &'static Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    MODEL.get_or_init(opened)
}

/// The same, opened anew.
fn opened() -> Arc<Model> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = folder.join("../cli/models/rustdoc-tiny-Q4_K_M.gguf");
    Arc::new(Model::open(file).unwrap())
}

fn engine(slots: usize, context: usize) -> Engine {
    engine_of(model(), slots, context)
}

fn engine_of(model: &Arc<Model>, slots: usize, context: usize) -> Engine {
    let settings = Settings {
        device: DeviceChoice::Cpu,
        slots: Some(slots),
        context: Some(context),
        ..Settings::default()
    };
    Engine::new(model, &settings).unwrap()
}

/// What a hook does that makes a model write a text: tokens that go on with it are likelier by `by`; behind
/// it, and where it was left, nothing changes.
fn leads_to(target: String, prompt: usize, by: f32) -> impl FnMut(&[u32], &mut [f32]) + Send {
    move |history, logits| {
        let tokenizer = model().tokenizer();
        let options = DecodeOptions::default();
        let mut text = StreamDecoder::continuing(tokenizer, options);
        let text: String = history[prompt..].iter().map(|&id| text.push(id)).collect();
        let Some(rest) = target.strip_prefix(&text).filter(|rest| !rest.is_empty()) else {
            return;
        };
        for (id, logit) in (0..).zip(logits) {
            let bytes = tokenizer.token_bytes(id);
            if !bytes.is_empty() && rest.as_bytes().starts_with(bytes) {
                *logit += by + bytes.len() as f32;
            }
        }
    }
}

/// A request that draws at temperature 1.
fn drawn(prompt: &str, seed: u64, max_tokens: usize) -> Request {
    let sampling = Sampling {
        temperature: 1.0,
        seed,
        ..Sampling::default()
    };
    Request::new(prompt).with_options(GenerateOptions {
        max_tokens,
        sampling,
        ..GenerateOptions::default()
    })
}
