//! Engines on an executor that fails where a seed says, against the same requests alone.
//!
//! `GANNET_ORDERS=all` runs ten thousand orders; otherwise a sample of them.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::core::{Core, Submitted};
use super::request::{Prompt, Request, Update};
use crate::Error;
use crate::exec::cpu::CpuExecutor;
use crate::exec::sample::Sampling;
use crate::exec::{DecodeStart, Executor, ExecutorKind, HostQueue, Inspect, Limits};
use crate::exec::{SlotChoice, Stats, Step};
use crate::kv::BlockTable;
use crate::model::Model;
use crate::plan::Plan;
use crate::serve::session::{Finish, GenerateOptions, Generation};
use crate::settings::{Buffers, Precision};

/// Orders that there are.
const ORDERS: u64 = 10_000;
/// One in so many is in a sample.
const SHARE: u64 = 10;

/// A small generator: the same numbers every time.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491)
    }

    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % n as u64) as usize
    }

    fn once_in(&mut self, n: usize) -> bool {
        n > 0 && self.below(n) == 0
    }
}

fn micro() -> Arc<Model> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = folder.join("tests/data/golden/arch/llama/llama.gguf");
    Arc::new(Model::open(file).unwrap())
}

fn cpu(model: &Arc<Model>, limits: Limits) -> CpuExecutor {
    CpuExecutor::new(Arc::clone(model), Precision::Exact, limits, Buffers::Shared).unwrap()
}

/// An executor of which calls fail, before they do anything or after they have.
struct Failing {
    inner: CpuExecutor,
    random: Random,
    /// One call in so many fails; none for 0.
    rate: usize,
    /// One failure in so many takes the executor with it.
    fatal: usize,
    is_lost: bool,
    failures: u64,
}

impl Failing {
    fn fails(&mut self) -> bool {
        let fails = self.is_lost || self.random.once_in(self.rate);
        self.is_lost |= fails && self.random.once_in(self.fatal);
        self.failures += u64::from(fails);
        fails
    }

    fn guard(&mut self) -> Result<(), Error> {
        match self.fails() {
            true => Err(planted()),
            false => Ok(()),
        }
    }
}

fn planted() -> Error {
    Error::Interp("a planted fault".to_owned())
}

impl Executor for Failing {
    fn kind(&self) -> ExecutorKind {
        self.inner.kind()
    }

    fn plan(&self) -> &Plan {
        self.inner.plan()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn run(&mut self, step: &Step<'_>) -> Result<(), Error> {
        self.inner.run(step)
    }

    fn logits(&mut self) -> Result<&[f32], Error> {
        self.guard()?;
        self.inner.logits()
    }

    fn next(&mut self) -> Result<&[u32], Error> {
        self.inner.next()
    }

    fn decode(
        &mut self,
        sequences: &[DecodeStart<'_>],
        steps: usize,
        table: &BlockTable,
        on_token: &mut dyn FnMut(usize, u32) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        self.inner.decode(sequences, steps, table, on_token)
    }

    fn host_queue(&mut self) -> &mut HostQueue {
        self.inner.host_queue()
    }

    fn set_slot(&mut self, choice: &SlotChoice<'_>) -> Result<(), Error> {
        self.guard()?;
        self.inner.set_slot(choice)
    }

    fn queue(&mut self, step: &Step<'_>) -> Result<(), Error> {
        self.guard()?;
        self.inner.queue(step)?;
        if self.fails() {
            // It ran, and nobody will hear of it.
            self.inner.take(Duration::ZERO)?;
            return Err(planted());
        }
        Ok(())
    }

    fn take(&mut self, patience: Duration) -> Result<Option<Vec<u32>>, Error> {
        self.guard()?;
        // The device is slow now and then.
        match self.random.once_in(5) {
            true => Ok(None),
            false => self.inner.take(patience),
        }
    }

    fn abandon(&mut self) -> Result<(), Error> {
        self.inner.abandon()?;
        match self.is_lost {
            true => Err(planted()),
            false => Ok(()),
        }
    }

    fn copy_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<(), Error> {
        self.guard()?;
        self.inner.copy_blocks(pairs)?;
        self.guard()
    }

    fn stats(&self) -> Stats {
        self.inner.stats()
    }

    fn inspect(&mut self) -> &mut dyn Inspect {
        self.inner.inspect()
    }
}

/// Requests of which orders are made: some begin alike, some are drawn, some chosen on the host.
fn request(kind: usize) -> Request {
    let prefix: Vec<u32> = (0..70).map(|i| (i * 13 + 5) % 200).collect();
    let own: Vec<u32> = (0..[3, 40, 1, 17][kind % 4])
        .map(|i| (i * 7 + kind as u32 * 31 + 1) % 200)
        .collect();
    let prompt = match kind % 3 {
        // Whole blocks: who comes second copies the last of them.
        0 if kind.is_multiple_of(2) => prefix[..64].to_vec(),
        0 => [&prefix[..], &own].concat(),
        1 => [&prefix[..33], &own].concat(),
        _ => own,
    };
    Request {
        prompt: Prompt::Tokens(prompt),
        options: GenerateOptions {
            max_tokens: 1 + (kind * 13) % 50,
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
const KINDS: usize = 14;

struct Caller {
    kind: usize,
    key: u64,
    updates: Receiver<Update>,
    cancelled: bool,
}

fn submit(core: &mut Core, kind: usize, key: u64) -> Caller {
    let (updates, heard) = channel();
    core.submit(Submitted {
        key,
        request: request(kind),
        updates,
        at: Instant::now(),
    });
    Caller {
        kind,
        key,
        updates: heard,
        cancelled: false,
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
    let mut core = Core::new(model, Box::new(cpu(model, Limits::new(1, 160))));
    let caller = submit(&mut core, kind, 0);
    while !core.is_idle() {
        core.turn(Duration::ZERO);
    }
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
}

fn order(model: &Arc<Model>, texts: &[Vec<u32>], seed: u64) -> Met {
    let mut random = Random::new(seed);
    let slots = 1 + random.below(4);
    let blocks = 5 + random.below(slots * 2);
    let limits = Limits {
        cache_blocks: blocks.min(BlockTable::blocks_for(slots, 160)),
        max_rows: slots.max(8 + random.below(56)),
        ..Limits::new(slots, 160)
    };
    let executor = Failing {
        inner: cpu(model, limits),
        rate: [0, 0, 200, 40][random.below(4)],
        fatal: [0, 0, 0, 4][random.below(4)],
        random: Random::new(seed ^ 0xabcd),
        is_lost: false,
        failures: 0,
    };
    let mut core = Core::new(model, Box::new(executor));
    let mut callers: Vec<Caller> = Vec::new();
    let requests = 1 + random.below(9);
    while callers.len() < requests || !core.is_idle() {
        if callers.len() < requests && random.once_in(3) {
            let (kind, key) = (random.below(KINDS), callers.len() as u64);
            callers.push(submit(&mut core, kind, key));
        }
        if !callers.is_empty() && random.once_in(25) {
            let at = random.below(callers.len());
            core.cancel(callers[at].key);
            callers[at].cancelled = true;
        }
        core.turn(Duration::ZERO);
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
    let counters = core.counters().scheduler;
    assert_eq!(counters.blocks_held, 0, "seed {seed}: {counters:?}");
    let in_use = counters.blocks_free + counters.blocks_cached;
    assert_eq!(in_use, limits.cache_blocks, "seed {seed}");
    assert_eq!((counters.waiting, counters.running), (0, 0), "seed {seed}");
    met.preempted = counters.preemptions;
    met.copied = counters.copied_blocks;
    met
}

/// Faults at every call of an executor, in joins, prompts, decodes, copies and cancellations: nobody is
/// lost, no block leaks, and every text is what it is alone.
#[test]
fn whatever_fails_the_others_go_on() {
    let model = micro();
    let texts: Vec<Vec<u32>> = (0..KINDS).map(|kind| alone(&model, kind)).collect();
    let all = std::env::var_os("GANNET_ORDERS").is_some_and(|orders| orders == "all");
    let share = if all { 1 } else { SHARE };
    let orders = (0..ORDERS).into_par_iter().filter(|seed| seed % share == 0);
    let met = orders.map(|seed| order(&model, &texts, seed));
    let met = met.reduce(Met::default, |a, b| Met {
        failed: a.failed + b.failed,
        lost: a.lost + b.lost,
        cancelled: a.cancelled + b.cancelled,
        whole: a.whole + b.whole,
        preempted: a.preempted + b.preempted,
        copied: a.copied + b.copied,
    });
    println!("{met:?}");
    let Met {
        failed,
        lost,
        cancelled,
        whole,
        preempted,
        copied,
    } = met;
    for (what, count) in [
        ("failed", failed),
        ("lost", lost),
        ("cancelled", cancelled),
        ("whole", whole),
        ("preempted", preempted),
        ("copied", copied),
    ] {
        assert!(count > 0, "no order met {what}");
    }
}

#[test]
fn what_cannot_run_is_refused_with_its_reason() {
    let model = micro();
    let mut core = Core::new(&model, Box::new(cpu(&model, Limits::new(1, 64))));
    let mut refused = |request: Request| {
        let (updates, heard) = channel();
        let at = Instant::now();
        core.submit(Submitted {
            key: 0,
            request,
            updates,
            at,
        });
        match heard.try_recv() {
            Ok(Update::Ended(Err(why))) => why.to_string(),
            other => panic!("{other:?}"),
        }
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
    let counters = core.counters();
    assert_eq!((counters.refused, counters.requests), (5, 0));
}

#[test]
fn hooks_and_biases_forbid_tokens() {
    let model = micro();
    let free = alone(&model, 1);
    let banned = free[0];
    let run = |request: Request| {
        let mut core = Core::new(&model, Box::new(cpu(&model, Limits::new(1, 160))));
        let (updates, heard) = channel();
        core.submit(Submitted {
            key: 0,
            request,
            updates,
            at: Instant::now(),
        });
        while !core.is_idle() {
            core.turn(Duration::ZERO);
        }
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
    let mut core = Core::new(&model, Box::new(cpu(&model, Limits::new(1, 160))));
    let first = submit(&mut core, 11, 0);
    let has_token = |caller: &Caller| {
        let mut updates = caller.updates.try_iter();
        updates.any(|update| matches!(update, Update::Token { .. }))
    };
    while !has_token(&first) {
        core.turn(Duration::ZERO);
    }
    let second = submit(&mut core, 1, 1);
    core.turn(Duration::ZERO);
    assert!(!has_token(&second), "there is one slot");
    core.cancel(0);
    let steps = core.counters().executor.steps;
    while !has_token(&second) {
        core.turn(Duration::ZERO);
    }
    // The step of its prompt, which has its first token.
    assert_eq!(core.counters().executor.steps, steps + 1);
}
