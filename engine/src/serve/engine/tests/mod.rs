//! Engines on an executor that fails where a seed says, against the same requests alone.
//!
//! `GANNET_ORDERS=all` runs ten thousand orders; otherwise a sample of them.

mod spoilt;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rayon::prelude::*;

use super::callers::into_channel;
use super::callers::{Callers, Listener};
use super::core::{Core, Submitted};
use super::failing::{Failing, Random, cpu, micro, micro_f16};
use super::request::{Prompt, Request, Update};
use crate::Error;
use crate::exec::Limits;
use crate::exec::sample::Sampling;
use crate::kv::BlockTable;
use crate::model::Model;
use crate::serve::session::{Finish, GenerateOptions, Generation};

/// Orders that there are.
const ORDERS: u64 = 10_000;
/// One in so many is in a sample.
const SHARE: u64 = 10;

/// Requests of which orders are made: some begin alike, some are drawn, some chosen on the host.
fn request(kind: usize) -> Request {
    let prefix: Vec<u32> = (0..70).map(|i| (i * 13 + 5) % 200).collect();
    let own: Vec<u32> = (0..[3, 40, 1, 17][kind % 4])
        .map(|i| (i * 7 + kind as u32 * 31 + 1) % 200)
        .collect();
    let grows = kind >= 14;
    let prompt = match kind % 3 {
        // They need blocks as they go on.
        _ if grows => own,
        // Whole blocks: who comes second copies the last of them.
        0 if kind.is_multiple_of(2) => prefix[..64].to_vec(),
        0 => [&prefix[..], &own].concat(),
        1 => [&prefix[..33], &own].concat(),
        _ => own,
    };
    Request {
        prompt: Prompt::Tokens(prompt),
        options: GenerateOptions {
            max_tokens: if grows { 100 } else { 1 + (kind * 13) % 50 },
            ignore_eog: true,
            sampling: Sampling {
                temperature: if kind.is_multiple_of(2) { 0.8 } else { 0.0 },
                repetition_penalty: if kind % 4 == 2 { 1.1 } else { 1.0 },
                seed: kind as u64,
                ..Sampling::default()
            },
            ..GenerateOptions::default()
        },
        priority: (kind % 3) as u8,
        logit_bias: match kind % 5 {
            4 => vec![(9, 2.0), (11, f32::NEG_INFINITY)],
            _ => Vec::new(),
        },
        log_probs: (kind % 7 == 6).then_some(2),
        ..Request::default()
    }
}

/// Kinds of requests.
const KINDS: usize = 18;

struct Caller {
    kind: usize,
    key: u64,
    updates: Receiver<Update>,
    cancelled: bool,
}

/// A core whose callers hear of their requests.
struct Served {
    core: Core,
    callers: Callers,
}

impl Served {
    fn new(core: Core) -> Served {
        let callers = Callers::default();
        Served { core, callers }
    }

    fn submit(&mut self, key: u64, request: Request) -> Receiver<Update> {
        let (updates, heard) = channel();
        self.callers.add(key, Box::new(into_channel(updates)));
        if let Err(why) = self.core.submit(Submitted::now(key, request)) {
            self.callers.end(key, Err(why));
        }
        heard
    }

    fn submit_kind(&mut self, kind: usize, key: u64) -> Caller {
        Caller {
            kind,
            key,
            updates: self.submit(key, request(kind)),
            cancelled: false,
        }
    }

    fn turn(&mut self) {
        self.core.turn(Duration::ZERO, &mut self.callers);
    }

    fn run_to_end(&mut self) {
        while !self.core.is_idle() {
            self.turn();
        }
    }
}

/// Everything that a caller heard; the end, exactly once, comes last.
fn heard(caller: &Caller) -> (Vec<u32>, Result<Generation, Error>) {
    let mut tokens = Vec::new();
    let mut updates = caller.updates.try_iter();
    for update in updates.by_ref() {
        match update {
            Update::Prompt { done, total } => assert!(done <= total),
            Update::Token { id, log_probs, .. } => {
                // The last token may come again, with bytes that no character was made of.
                let is_rest = log_probs.is_none() && tokens.last() == Some(&id);
                let wanted = request(caller.kind).log_probs.is_some();
                assert!(is_rest || log_probs.is_some() == wanted);
                tokens.push(id);
            }
            Update::Ended(result) => {
                assert!(updates.next().is_none(), "nothing follows the end");
                if let Ok(generation) = &result {
                    let rest = tokens.split_off(generation.tokens.len());
                    assert!(rest.is_empty() || rest == tokens[tokens.len() - 1..]);
                }
                return (tokens, result);
            }
        }
    }
    panic!("request {} of kind {} never ended", caller.key, caller.kind);
}

fn alone(model: &Arc<Model>, kind: usize) -> Vec<u32> {
    let core = Core::new(model, Box::new(cpu(model, Limits::new(1, 160))));
    let mut served = Served::new(core);
    let caller = served.submit_kind(kind, 0);
    served.run_to_end();
    let (tokens, result) = heard(&caller);
    assert_eq!(result.unwrap().tokens, tokens);
    assert_eq!(tokens.len(), request(kind).options.max_tokens);
    tokens
}

/// What orders met.
#[derive(Debug, Default, Clone, Copy)]
struct Met {
    failed: u64,
    lost: u64,
    cancelled: u64,
    whole: u64,
    preempted: u64,
    copied: u64,
    saved: u64,
    restored: u64,
}

impl Met {
    fn add(self, other: Met) -> Met {
        Met {
            failed: self.failed + other.failed,
            lost: self.lost + other.lost,
            cancelled: self.cancelled + other.cancelled,
            whole: self.whole + other.whole,
            preempted: self.preempted + other.preempted,
            copied: self.copied + other.copied,
            saved: self.saved + other.saved,
            restored: self.restored + other.restored,
        }
    }
}

fn order(model: &Arc<Model>, texts: &[Vec<u32>], seed: u64) -> Met {
    let mut random = Random::new(seed);
    let slots = 1 + random.below(4);
    let is_tight = random.once_in(3);
    let blocks = 5 + if is_tight { 0 } else { random.below(slots * 2) };
    let limits = Limits {
        cache_blocks: blocks.min(BlockTable::blocks_for(slots, 160)),
        saved_blocks: [0, 3, 10][random.below(3)],
        max_rows: slots.max(8 + random.below(56)),
        ..Limits::new(slots, 160)
    };
    let rate = [0, 0, 200, 40][random.below(4)];
    let fatal = [0, 0, 0, 4][random.below(4)];
    let faults = Random::new(seed ^ 0xabcd);
    let executor = Failing::executor(cpu(model, limits), faults, rate, fatal);
    let mut served = Served::new(Core::new(model, executor));
    let mut callers: Vec<Caller> = Vec::new();
    let requests = 1 + random.below(9);
    while callers.len() < requests || !served.core.is_idle() {
        if callers.len() < requests && random.once_in(3) {
            let first = if is_tight { 12 } else { 0 };
            let kind = first + random.below(KINDS - first);
            let key = callers.len() as u64;
            callers.push(served.submit_kind(kind, key));
        }
        if !callers.is_empty() && random.once_in(25) {
            let at = random.below(callers.len());
            (served.core).cancel(callers[at].key, &mut served.callers);
            callers[at].cancelled = true;
        }
        served.turn();
    }
    let mut met = Met::default();
    for caller in &callers {
        let (tokens, result) = heard(caller);
        let text = &texts[caller.kind];
        assert_eq!(tokens, text[..tokens.len().min(text.len())], "seed {seed}");
        match result {
            Ok(generation) => {
                assert_eq!(generation.tokens, tokens, "seed {seed}");
                let whole = tokens.len() == text.len();
                assert!(
                    whole || caller.cancelled,
                    "seed {seed}: kind {}",
                    caller.kind
                );
                assert!(whole || generation.finish == Finish::Stopped);
                met.whole += u64::from(whole);
                met.cancelled += u64::from(!whole);
            }
            Err(Error::Step(_)) => met.failed += 1,
            Err(Error::Lost(_)) => met.lost += 1,
            Err(other) => panic!("seed {seed}: {other}"),
        }
    }
    let counters = served.core.counters().scheduler;
    assert_eq!(counters.blocks_held, 0, "seed {seed}: {counters:?}");
    let in_use = counters.blocks_free + counters.blocks_cached;
    assert_eq!(in_use, limits.cache_blocks, "seed {seed}");
    assert_eq!((counters.waiting, counters.running), (0, 0), "seed {seed}");
    assert_eq!(counters.places_free, limits.saved_blocks, "seed {seed}");
    met.preempted = counters.preemptions;
    met.copied = counters.copied_blocks;
    (met.saved, met.restored) = (counters.saved_blocks, counters.restored_blocks);
    met
}

/// Faults at every call of an executor, in joins, prompts, decodes, copies, saves, restores and
/// cancellations: nobody is lost, no block leaks, and every text is what it is alone.
#[test]
fn whatever_fails_the_others_go_on() {
    orders_of(&micro());
}

#[test]
fn whatever_fails_the_others_go_on_with_a_model_in_f16() {
    orders_of(&micro_f16());
}

fn orders_of(model: &Arc<Model>) {
    let texts: Vec<Vec<u32>> = (0..KINDS).map(|kind| alone(model, kind)).collect();
    let all = std::env::var_os("GANNET_ORDERS").is_some_and(|orders| orders == "all");
    let share = if all { 1 } else { SHARE };
    let orders = (0..ORDERS).into_par_iter().filter(|seed| seed % share == 0);
    let met = orders.map(|seed| order(model, &texts, seed));
    let met = met.reduce(Met::default, Met::add);
    println!("{met:?}");
    let Met {
        failed,
        lost,
        cancelled,
        whole,
        preempted,
        copied,
        saved,
        restored,
    } = met;
    for (what, count) in [
        ("failed", failed),
        ("lost", lost),
        ("cancelled", cancelled),
        ("whole", whole),
        ("preempted", preempted),
        ("copied", copied),
        ("saved", saved),
        ("restored", restored),
    ] {
        assert!(count > 0, "no order met {what}");
    }
}

#[test]
fn what_cannot_run_is_refused_with_its_reason() {
    let model = micro();
    let core = Core::new(&model, Box::new(cpu(&model, Limits::new(1, 64))));
    let mut served = Served::new(core);
    let mut refused = |request: Request| match served.submit(0, request).try_recv() {
        Ok(Update::Ended(Err(why))) => why.to_string(),
        other => panic!("{other:?}"),
    };
    let tokens = |tokens: Vec<u32>| Request::new(tokens);
    assert!(refused(tokens(vec![])).contains("no tokens"));
    assert!(refused(tokens(vec![1; 65])).contains("65 tokens do not fit"));
    assert!(refused(tokens(vec![1 << 30])).contains("not in the vocabulary"));
    let biased = Request {
        logit_bias: vec![(1 << 30, 1.0)],
        ..tokens(vec![1])
    };
    assert!(refused(biased).contains("not in the vocabulary"));
    let options = GenerateOptions {
        stop: vec![String::new()],
        ..GenerateOptions::default()
    };
    assert!(refused(tokens(vec![1]).with_options(options)).contains("stop string"));
    let counters = served.core.counters();
    assert_eq!((counters.refused, counters.requests), (5, 0));
}

#[test]
fn hooks_and_biases_forbid_tokens() {
    let model = micro();
    let free = alone(&model, 1);
    let banned = free[0];
    let run = |request: Request| {
        let core = Core::new(&model, Box::new(cpu(&model, Limits::new(1, 160))));
        let mut served = Served::new(core);
        let heard = served.submit(0, request);
        served.run_to_end();
        match heard.try_iter().last() {
            Some(Update::Ended(Ok(generation))) => generation,
            other => panic!("{other:?}"),
        }
    };
    let biased = run(Request {
        logit_bias: vec![(banned, f32::NEG_INFINITY)],
        ..request(1)
    });
    assert!(!biased.tokens.contains(&banned));
    let hooked = run(Request {
        logit_hook: Some(Box::new(move |_: &[u32], logits: &mut [f32]| {
            logits[banned as usize] = f32::NEG_INFINITY;
        })),
        ..request(1)
    });
    assert_eq!(hooked.tokens, biased.tokens);
    let late = run(Request {
        deadline: Some(Duration::ZERO),
        ..request(1)
    });
    assert_eq!(late.finish, Finish::Deadline);
    assert!(late.tokens.is_empty());
}

#[test]
fn a_cancelled_request_frees_its_slot_within_a_step() {
    let model = micro();
    let core = Core::new(&model, Box::new(cpu(&model, Limits::new(1, 160))));
    let mut served = Served::new(core);
    let first = served.submit_kind(11, 0);
    let has_token = |caller: &Caller| {
        let mut updates = caller.updates.try_iter();
        updates.any(|update| matches!(update, Update::Token { .. }))
    };
    while !has_token(&first) {
        served.turn();
    }
    let second = served.submit_kind(1, 1);
    served.turn();
    assert!(!has_token(&second), "there is one slot");
    served.core.cancel(0, &mut served.callers);
    let steps = served.core.counters().executor.steps;
    while !has_token(&second) {
        served.turn();
    }
    // The step of its prompt, which has its first token.
    assert_eq!(served.core.counters().executor.steps, steps + 1);
}
