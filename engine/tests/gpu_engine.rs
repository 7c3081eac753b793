//! The engine's thread on a GPU: many callers, and nothing that waits or compiles while it serves.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

#[path = "common/callers.rs"]
mod callers;
mod common;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use callers::{KINDS, request, requests, submit_from_many};
use common::{gpu, model, shared};
use gannet_engine::internals::exec::DecodeStart;
use gannet_engine::internals::kv::{BlockTable, KvType};
use gannet_engine::internals::serve::Listener;
use gannet_engine::internals::serve::core::{Core, Submitted};
use gannet_engine::requests::LogProbs;
use gannet_engine::settings::{Faults, Precision};
use gannet_engine::times::Phase;
use gannet_engine::tools::make_executor;
use gannet_engine::{
    DeviceChoice, Engine, Error, Event, Generation, Model, Request, Sampling, Settings,
};

fn tiny(what: &str) -> Option<Arc<Model>> {
    file(what, "models/rustdoc-tiny-Q4_K_M.gguf")
}

fn file(what: &str, part: &str) -> Option<Arc<Model>> {
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

fn callers_get_what_they_get_alone(part: &str) {
    let Some(model) = file("many callers", part) else {
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

#[test]
fn gpu_callers_get_what_they_get_alone_f16() {
    callers_get_what_they_get_alone("models/rustdoc-tiny-F16.gguf");
}

#[test]
fn gpu_callers_get_what_they_get_alone_q4_k_m() {
    callers_get_what_they_get_alone("models/rustdoc-tiny-Q4_K_M.gguf");
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

/// A step that leaves no token fails its own requests, and the engine goes on.
#[test]
fn gpu_a_failed_step_ends_its_requests_alone() {
    let Some(model) = tiny("a step that fails") else {
        return;
    };
    let settings = Settings {
        device: DeviceChoice::Cuda(0),
        context: Some(128),
        slots: Some(4),
        gate: false,
        ..Settings::default()
    };
    // The last launch of a decode is what hands its tokens out.
    let mut executor = make_executor(&model, &settings).unwrap().executor;
    let mut table = BlockTable::new(4, 128, BlockTable::blocks_for(4, 128));
    table.reserve(0, 64).unwrap();
    let sampling = Sampling::default();
    let start = DecodeStart::after(0, &[1], &sampling);
    let device = executor.measure().unwrap();
    let launches = device.launch_times(&[start], 1, &table).unwrap().len();
    drop(executor);
    let faults = Faults {
        omit_launch: Some(launches - 1),
        ..Faults::default()
    };
    let engine = Engine::new(&model, &Settings { faults, ..settings }).unwrap();
    let ask = |max_tokens| {
        let mut request = Request::new(vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        request.options.max_tokens = max_tokens;
        request.options.ignore_eog = true;
        engine.submit(request)
    };
    for _ in 0..3 {
        let handles = [ask(8), ask(8), ask(1), ask(8)];
        let ended = handles.map(|handle| handle.wait());
        for (i, ended) in ended.into_iter().enumerate() {
            match ended {
                Ok(generation) => assert!(i == 2 && generation.tokens.len() == 1),
                Err(Error::Step(why)) => assert!(why.contains("without writing a token"), "{why}"),
                Err(other) => panic!("{other}"),
            }
        }
    }
    let counters = engine.counters().unwrap().scheduler;
    assert_eq!((counters.running, counters.blocks_held), (0, 0));
    assert!(counters.failed_requests >= 9, "{counters:?}");
}

/// Tokens that came of each request.
#[derive(Default)]
struct Heard(HashMap<u64, usize>);

impl Listener for Heard {
    fn hear(&mut self, key: u64, event: Event<'_>, _: Option<LogProbs>) -> ControlFlow<()> {
        if let Event::Token { .. } = event {
            *self.0.entry(key).or_default() += 1;
        }
        ControlFlow::Continue(())
    }

    fn end(&mut self, _: u64, result: Result<Generation, Error>) {
        result.unwrap();
    }
}

fn growing(seed: usize, len: usize, max_tokens: usize) -> Request {
    let mut request = Request::new((0..len as u32).map(|i| i * 7 + 3).collect::<Vec<u32>>());
    request.options.max_tokens = max_tokens;
    request.options.ignore_eog = true;
    request.options.sampling.seed = seed as u64;
    request.options.sampling.temperature = if seed.is_multiple_of(2) { 0.9 } else { 0.0 };
    request
}

/// With steps of it queued ahead: the very next step is another's.
#[test]
fn gpu_a_cancelled_request_frees_its_slot_within_a_step() {
    let Some(model) = tiny("a cancelled request") else {
        return;
    };
    let executor = make_executor(&model, &exact(1)).unwrap().executor;
    let mut core = Core::new(&model, executor);
    core.warm_up().unwrap();
    let mut heard = Heard::default();
    let submit = |core: &mut Core, key, request| {
        core.submit(Submitted::now(key, request)).unwrap();
    };
    let patience = Duration::from_micros(200);
    let of = |heard: &Heard, key: u64| heard.0.get(&key).copied().unwrap_or(0);
    for key in (0..40).step_by(2) {
        submit(&mut core, key, growing(1, 9, 150));
        while of(&heard, key) < 5 {
            core.turn(patience, &mut heard);
        }
        submit(&mut core, key + 1, growing(1, 20, 1));
        core.turn(patience, &mut heard);
        assert_eq!(of(&heard, key + 1), 0, "there is one slot");
        assert!(core.counters().scheduler.steps_in_flight > 1);
        core.cancel(key, &mut heard);
        let steps = core.counters().executor.steps;
        while of(&heard, key + 1) == 0 {
            core.turn(patience, &mut heard);
        }
        assert_eq!(core.counters().executor.steps, steps + 1);
        assert!(core.is_idle());
    }
}

/// In a cache that is too small for all: blocks go to the host and come back without a wait.
#[test]
fn gpu_who_gives_way_goes_on_with_the_same_text() {
    let Some(model) = tiny("sequences that give way") else {
        return;
    };
    let ask = |seed: usize| growing(seed, 10 + seed * 3, 130);
    let alone = Engine::new(&model, &exact(1)).unwrap();
    let texts: Vec<Vec<u32>> = (0..16)
        .map(|seed| alone.submit(ask(seed)).wait().unwrap().tokens)
        .collect();
    drop(alone);
    let settings = Settings {
        cache_blocks: Some(9),
        saved_blocks: Some(12),
        ..exact(4)
    };
    let engine = Engine::new(&model, &settings).unwrap();
    let before = engine.counters().unwrap().executor;
    let handles: Vec<_> = (0..16).map(|seed| engine.submit(ask(seed))).collect();
    for (handle, text) in handles.into_iter().zip(&texts) {
        assert_eq!(handle.wait().unwrap().tokens, *text);
    }
    let counters = engine.counters().unwrap();
    let scheduler = counters.scheduler;
    println!("{scheduler:?}");
    assert!(scheduler.preemptions > 0 && scheduler.restored_blocks > 0);
    assert_eq!((scheduler.places_free, scheduler.blocks_held), (12, 0));
    let after = counters.executor;
    assert_eq!(after.synchronizations, before.synchronizations);
    assert_eq!(
        (after.modules, after.graphs),
        (before.modules, before.graphs)
    );
}
