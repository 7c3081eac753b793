//! Many threads on one engine: random lengths, sampling and cancellations, against each request alone.

#![allow(unreachable_pub)]

use std::sync::{Arc, Mutex};

use gannet_engine::requests::Prompt;
use gannet_engine::{
    Engine, Finish, GenerateOptions, Generation, Model, Request, Sampling, Settings, Update,
};

/// Threads that submit.
const THREADS: usize = 32;

/// Kinds of requests.
pub const KINDS: usize = 16;

/// Requests: 2,000 under `GANNET_ORDERS=all`, otherwise so many.
pub fn requests(sample: usize) -> usize {
    let all = std::env::var_os("GANNET_ORDERS").is_some_and(|orders| orders == "all");
    if all { 2000 } else { sample }
}

/// A request of a kind.
pub fn request(vocab_size: usize, kind: usize) -> Request {
    let len = [4, 30, 64, 9, 100, 1, 33, 70][kind % 8];
    // Some begin alike.
    let start = if kind.is_multiple_of(3) { 0 } else { kind };
    let token = |i: usize| ((i * i * 7 + start * 31 + 11 * i + 5) % vocab_size) as u32;
    let options = GenerateOptions {
        max_tokens: 1 + (kind * 7) % 24,
        ignore_eog: true,
        sampling: Sampling {
            temperature: if kind % 4 == 1 { 0.9 } else { 0.0 },
            top_k: if kind.is_multiple_of(5) { 0 } else { 40 },
            seed: kind as u64,
            ..Sampling::default()
        },
        ..GenerateOptions::default()
    };
    let mut request = Request::new(Prompt::Tokens((0..len).map(token).collect()));
    request.priority = (kind % 2) as u8;
    request.with_options(options)
}

/// Bytes of memory that the process has, where the system tells.
fn resident() -> Option<usize> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: usize = pages.split(' ').nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

/// Submits from many threads, some of which cancel or let go, and hands each generation to `check` with
/// its kind and whether it was cancelled. Every handle ends.
pub fn submit_from_many(
    model: &Arc<Model>,
    settings: &Settings,
    requests: usize,
    check: impl Fn(usize, bool, &Generation) + Sync,
) {
    let engine = Engine::new(model, settings).unwrap();
    let vocab_size = model.plan().vocab_size;
    let early = Mutex::new(None);
    std::thread::scope(|threads| {
        for thread in 0..THREADS {
            let (engine, check, early) = (&engine, &check, &early);
            threads.spawn(move || {
                for i in (thread..requests).step_by(THREADS) {
                    if i == requests / 2 {
                        *early.lock().unwrap() = resident();
                    }
                    let kind = (i * 5 + thread) % KINDS;
                    let mut handle = engine.submit(request(vocab_size, kind));
                    let cancels = i % 11 == 7;
                    if i % 13 == 5 {
                        // Nobody waits for it.
                        continue;
                    }
                    if cancels {
                        // Some before they are heard of, some in the middle.
                        if i.is_multiple_of(2) {
                            handle.next_update();
                        }
                        handle.cancel();
                    }
                    let mut ended = None;
                    for update in &mut handle {
                        if let Update::Ended(result) = update {
                            ended = Some(result.unwrap());
                        }
                    }
                    let generation = ended.expect("every handle ends");
                    assert!(cancels || generation.finish == Finish::Length);
                    check(kind, cancels, &generation);
                }
            });
        }
    });
    // Those that were let go end, too.
    let counters = loop {
        let counters = engine.counters().unwrap();
        if counters.scheduler.running + counters.scheduler.waiting == 0
            && counters.scheduler.steps_in_flight == 0
        {
            break counters;
        }
    };
    assert_eq!(counters.scheduler.blocks_held, 0);
    // What there is after half of them is all that they take.
    if let (Some(early), Some(now)) = (early.into_inner().unwrap(), resident()) {
        let grown = now.saturating_sub(early);
        assert!(grown < 16 << 20, "{grown} bytes more than half way through");
    }
    assert_eq!(counters.requests, requests as u64);
    assert!(counters.first_token.count() > 0 && counters.inter_token.count() > 0);
}
