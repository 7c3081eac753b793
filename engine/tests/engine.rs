//! The engine's thread under many callers.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

#[path = "common/callers.rs"]
mod callers;
mod common;

use std::path::Path;
use std::sync::Arc;

use callers::{KINDS, request, requests, submit_from_many};
use common::{model, shared};
use gannet_engine::{
    DeviceChoice, Engine, GenerateOptions, Model, Request, Session, Settings, Update,
};
use gannet_gguf::{Gguf, TensorType};

fn settings(slots: usize) -> Settings {
    Settings {
        device: DeviceChoice::Cpu,
        context: Some(192),
        slots: Some(slots),
        ..Settings::default()
    }
}

fn tiny(what: &str) -> Option<Arc<Model>> {
    tiny_of(what, "F16")
}

fn tiny_of(what: &str, types: &str) -> Option<Arc<Model>> {
    let part = format!("models/rustdoc-tiny-{types}.gguf");
    Some(model(&shared(what, &part)?))
}

/// The tokens of each kind alone.
fn alone(model: &Arc<Model>) -> Vec<Vec<u32>> {
    let engine = Engine::new(model, &settings(1)).unwrap();
    let one = |kind| engine.submit(request(model.plan().vocab_size, kind)).wait();
    (0..KINDS).map(|kind| one(kind).unwrap().tokens).collect()
}

#[test]
fn what_callers_get_is_what_they_get_alone() {
    for types in ["F16", "Q8_0", "Q4_K_M"] {
        let Some(model) = tiny_of("many callers", types) else {
            continue;
        };
        let texts = alone(&model);
        submit_from_many(
            &model,
            &settings(12),
            requests(150),
            |kind, cancelled, generation| {
                let (found, text) = (&generation.tokens, &texts[kind]);
                assert_eq!(found[..], text[..found.len()], "{types}, kind {kind}");
                assert!(
                    cancelled || found.len() == text.len(),
                    "{types}, kind {kind}"
                );
            },
        );
    }
}

/// A prompt that many ask for is computed once, whoever comes while it is being computed.
#[test]
fn a_prefix_is_computed_once() {
    let Some(model) = tiny("a prefix of many") else {
        return;
    };
    let engine = Engine::new(&model, &settings(8)).unwrap();
    let prefix: Vec<u32> = (0..160).map(|i| i * 3 + 1).collect();
    let of = |last: u32| Request::new([&prefix[..], &[last]].concat());
    let first = engine.submit(of(1));
    let others: Vec<_> = (2..8).map(|last| engine.submit(of(last))).collect();
    drop(first);
    for other in others {
        other.wait().unwrap();
    }
    let counters = engine.counters().unwrap().scheduler;
    assert!(counters.prompt_rows < 160 * 2 + 8 * 33, "{counters:?}");
    assert!(counters.prefix_hits >= 5 * 160, "{counters:?}");
}

#[test]
fn a_session_gives_the_same_text() {
    let Some(model) = tiny("a session and an engine") else {
        return;
    };
    let mut session = Session::new(&model, &settings(1)).unwrap();
    let engine = Engine::new(&model, &settings(2)).unwrap();
    for (prompt, temperature) in [("Ownership is", 0.0), ("A trait", 0.8)] {
        let mut options = gannet_engine::GenerateOptions {
            max_tokens: 24,
            ..gannet_engine::GenerateOptions::default()
        };
        options.sampling.temperature = temperature;
        options.sampling.seed = 3;
        session.clear();
        let go_on = |_: gannet_engine::Event<'_>| std::ops::ControlFlow::Continue(());
        let expected = session.generate(prompt, &options, go_on).unwrap();
        let mut handle = engine.submit(Request::new(prompt).with_options(options));
        let mut text = String::new();
        let ended = loop {
            match handle.next_update() {
                Some(Update::Token { text: piece, .. }) => text += &piece,
                Some(Update::Ended(result)) => break result.unwrap(),
                Some(_) => {}
                None => panic!("an end comes"),
            }
        };
        assert_eq!((&text, &ended.tokens), (&expected.text, &expected.tokens));
        assert_eq!(ended.text, text);
        assert!(handle.next_update().is_none() && handle.try_update().is_none());
    }
}

/// Handles of an engine that is dropped hear that it has ended.
#[test]
fn an_engine_that_goes_ends_its_handles() {
    let Some(model) = tiny("an engine that goes") else {
        return;
    };
    let engine = Engine::new(&model, &settings(1)).unwrap();
    let handles: Vec<_> = (0..4).map(|_| engine.submit(Request::new("fn"))).collect();
    drop(engine);
    for handle in handles {
        // Done before, or told.
        if let Err(why) = handle.wait() {
            assert!(why.to_string().contains("the engine has ended"), "{why}");
        }
    }
}

/// A copy of a model of which the first element of a row of a tensor is no number.
fn with_a_nan_in(file: &Path, tensor: &str, row: u64) -> Arc<Model> {
    let gguf = Gguf::open(file).unwrap();
    let table = gguf.tensor(tensor).unwrap();
    assert_eq!(table.ty, TensorType::F32, "{tensor}");
    let at = (table.offset + row * table.dims[0] * 4) as usize;
    let mut bytes = std::fs::read(file).unwrap();
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    let copy = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
    std::fs::write(copy.path(), bytes).unwrap();
    model(copy.path())
}

/// Requests to `model` that come upon no number beside others that do not: the former end with the error
/// that says where, the others give what they give alone.
fn others_go_on(model: &Arc<Model>, what: &str, bad: &[Vec<u32>]) {
    let options = GenerateOptions {
        max_tokens: 12,
        ignore_eog: true,
        ..GenerateOptions::default()
    };
    let of = |prompt: &[u32]| Request::new(prompt.to_vec()).with_options(options.clone());
    let good = |i: usize| (1..8 + i as u32).map(|k| 100 + k * 3 + i as u32).collect();
    let good: Vec<Vec<u32>> = (0..bad.len()).map(good).collect();
    let settings = |slots| Settings {
        context: Some(64),
        ..settings(slots)
    };
    let alone = Engine::new(model, &settings(1)).unwrap();
    let alone = |prompt: &Vec<u32>| alone.submit(of(prompt)).wait().unwrap().tokens;
    let expected: Vec<_> = good.iter().map(alone).collect();
    let engine = Engine::new(model, &settings(4)).unwrap();
    let submit =
        |(good, bad): (&Vec<u32>, &Vec<u32>)| [good, bad].map(|prompt| engine.submit(of(prompt)));
    let handles: Vec<_> = good.iter().zip(bad).map(submit).collect();
    for ([good, bad], expected) in handles.into_iter().zip(expected) {
        assert_eq!(good.wait().unwrap().tokens, expected, "{what}");
        let line = bad.wait().unwrap_err().to_string();
        assert!(
            line.contains("NaN") && line.contains("embed"),
            "{what}: {line}"
        );
    }
    let counters = engine.counters().unwrap().scheduler;
    assert_eq!((counters.blocks_held, counters.running), (0, 0), "{what}");
    // The engine serves on.
    let again = engine.submit(of(&good[0])).wait().unwrap();
    assert_eq!(again.tokens.len(), 12, "{what}");
}

#[test]
fn requests_beside_one_without_numbers_go_on() {
    let test = "requests beside one without numbers";
    let ordinary = |i: u32, len: u32| (0..len).map(|k| 90 + k * 2 + i).collect::<Vec<u32>>();
    // An embedding that only some prompts have; the heads are tensors of their own.
    let token = 77;
    let with_token = |at: usize| {
        let mut prompt = ordinary(3, 24);
        prompt[at] = token;
        prompt
    };
    let bad: Vec<_> = [0, 9, 23, 1, 15].map(with_token).into();
    for folder in ["golden/arch/llama", "golden/arch/phi3"] {
        if let Some(file) = shared(test, &common::micro_file(folder)) {
            let model = with_a_nan_in(&file, "token_embd.weight", token.into());
            others_go_on(&model, folder, &bad);
        }
    }
    // A position that longer prompts have, and others come to in mid-text.
    let folder = "golden/arch2/gpt2";
    if let Some(file) = shared(test, &common::micro_file(folder)) {
        let model = with_a_nan_in(&file, "position_embd.weight", 25);
        let bad: Vec<_> = [30, 15, 26, 25, 20].map(|len| ordinary(5, len)).into();
        others_go_on(&model, folder, &bad);
    }
}
