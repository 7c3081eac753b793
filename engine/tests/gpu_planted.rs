//! Values that are no numbers, or too large or small, in place of a weight, on a GPU: its logits are those
//! of the reference or an error that names the operation.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/plants.rs"]
mod plants;
mod reference;

use common::{gpu, model, shared};
use gannet_engine::settings::{KvType, Precision};
use gannet_engine::{
    DeviceChoice, Engine, Error, ExecutorChoice, GenerateOptions, Generation, Request, Sampling,
    Settings,
};
use gannet_gguf::Gguf;
use plants::{generates_nothing, plant_everywhere, planted, runner, with_a_nan_in_down};

#[test]
fn gpu_weights() {
    if !gpu("planted weights") {
        return;
    }
    let on_gpu = (DeviceChoice::Cuda(0), Precision::Fast);
    let mut runners = vec![runner("cuda", on_gpu, 1e-3, 1.0 / 1024.0)];
    runners[0].settings.executor = ExecutorChoice::Graph;
    for name in ["Q4_K_M", "F16"] {
        let part = format!("models/rustdoc-tiny-{name}.gguf");
        if let Some(file) = shared("planted weights", &part) {
            plant_everywhere(&file, &runners, 1e-2);
        }
    }
}

#[test]
fn gpu_generation_ends_with_the_operation() {
    if gpu("generation of no numbers")
        && let Some(model) = with_a_nan_in_down("generation of no numbers")
    {
        generates_nothing(&model, DeviceChoice::Cuda(0));
    }
}

/// The token that gives no numbers.
const SPOILT: u32 = 300;

/// Kinds of prompts.
const KINDS: usize = 12;

/// A request: of an odd number one that has the token somewhere, and of every third one that the host chooses
/// for. Other tokens of prompts are below the token's.
fn beside(i: usize) -> Request {
    let kind = i % KINDS;
    let len = [4, 30, 64, 9, 100, 2, 33, 70][kind % 8];
    // Some begin alike.
    let start = if kind.is_multiple_of(3) { 0 } else { kind };
    let token = |n: usize| ((n * n * 7 + start * 31 + 11 * n + 5) % 290) as u32;
    let mut tokens: Vec<u32> = (0..len).map(token).collect();
    if i % 2 == 1 {
        tokens[(i * 7) % len] = SPOILT;
    }
    let mut request = Request::new(tokens).with_options(GenerateOptions {
        max_tokens: 1 + (kind * 7) % 24,
        ignore_eog: true,
        sampling: Sampling {
            temperature: if kind % 4 == 1 { 0.9 } else { 0.0 },
            seed: kind as u64,
            ..Sampling::default()
        },
        ..GenerateOptions::default()
    });
    if i.is_multiple_of(3) {
        request.logit_bias = vec![(SPOILT, f32::NEG_INFINITY), (9, 1.5)];
    }
    request
}

/// What made a request's logits what they are is looked for while steps of others are queued: their texts are
/// as alone, those that the host chooses for among them.
#[test]
fn gpu_requests_beside_one_without_numbers() {
    let test = "requests beside one without numbers";
    if !gpu(test) {
        return;
    }
    let Some(file) = shared(test, "golden/arch/llama/llama.gguf") else {
        return;
    };
    let gguf = Gguf::open(&file).unwrap();
    let embedding = gguf.tensor("token_embd.weight").unwrap();
    let element = u64::from(SPOILT) * embedding.dims[0];
    let copy = planted(&file, embedding, element, f32::NAN);
    let model = model(copy.path());
    // In f32 throughout: no choice depends on how many rows a step has.
    let settings = |slots| Settings {
        device: DeviceChoice::Cuda(0),
        context: Some(192),
        slots: Some(slots),
        precision: Precision::Exact,
        kv_type: KvType::F32,
        // It refuses the model, of which one token in its prompt gives no numbers.
        gate: false,
        ..Settings::default()
    };
    // Whatever was generated, and the position that made it end.
    let heard = |result: Result<Generation, Error>| match result {
        Ok(generation) => Ok(generation.tokens),
        Err(Error::NotFinite(why)) => {
            println!("{why}");
            Err(why.origin.map(|origin| origin.position))
        }
        Err(other) => panic!("{other}"),
    };
    let count = 6 * KINDS;
    let engine = Engine::new(&model, &settings(1)).unwrap();
    let alone: Vec<_> = (0..count)
        .map(|i| heard(engine.submit(beside(i)).wait()))
        .collect();
    drop(engine);
    assert!(alone.iter().filter(|heard| heard.is_err()).count() >= count / 2);
    for slots in [3, 8] {
        let engine = Engine::new(&model, &settings(slots)).unwrap();
        let handles: Vec<_> = (0..count).map(|i| engine.submit(beside(i))).collect();
        for (i, (handle, alone)) in handles.into_iter().zip(&alone).enumerate() {
            let found = heard(handle.wait());
            // There may have been no room to look for the position.
            if found != Err(None) || alone.is_ok() {
                assert_eq!(&found, alone, "{i} of {slots} at once");
            }
        }
    }
}
