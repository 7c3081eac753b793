//! The engine's thread under many callers.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

#[path = "common/callers.rs"]
mod callers;
mod common;

use std::sync::Arc;

use callers::{KINDS, request, requests, submit_from_many};
use common::{model, shared};
use gannet_engine::{DeviceChoice, Engine, Model, Request, Session, Settings, Update};

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
