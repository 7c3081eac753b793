//! Texts that match a grammar, on the small model and the CPU.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

mod texts;

use std::path::Path;
use std::sync::{Arc, OnceLock};

use gannet_engine::{DeviceChoice, Engine, GenerateOptions, Model, Request, Sampling, Settings};

/// The model that is shipped.
fn model() -> &'static Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    MODEL.get_or_init(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let file = folder.join("../cli/models/rustdoc-tiny-Q4_K_M.gguf");
        Arc::new(Model::open(file).unwrap())
    })
}

fn engine(slots: usize, context: usize) -> Engine {
    let settings = Settings {
        device: DeviceChoice::Cpu,
        slots: Some(slots),
        context: Some(context),
        ..Settings::default()
    };
    Engine::new(model(), &settings).unwrap()
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
