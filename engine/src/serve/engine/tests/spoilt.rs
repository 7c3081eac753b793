//! Requests without numbers beside others, on an executor that queues steps ahead.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use super::super::core::Core;
use super::super::failing::{Random, cpu, micro_without};
use super::super::request::{Prompt, Request, Update};
use super::Served;
use crate::Error;
use crate::exec::cpu::CpuExecutor;
use crate::exec::sample::Sampling;
use crate::exec::{DecodeStart, Executor, ExecutorKind, HostQueue, Inspect, Limits, Stats, Step};
use crate::kv::BlockTable;
use crate::model::Model;
use crate::plan::Plan;
use crate::serve::session::GenerateOptions;

/// The token that gives no numbers.
const SPOILT: u32 = 300;

/// An executor that is served as a device is: several steps are queued before the first is taken, and logits
/// are those of the step that ran last, whoever ran it.
struct Ahead(CpuExecutor);

impl Executor for Ahead {
    fn kind(&self) -> ExecutorKind {
        ExecutorKind::CudaEager
    }

    fn plan(&self) -> &Plan {
        self.0.plan()
    }

    fn limits(&self) -> Limits {
        self.0.limits()
    }

    fn run(&mut self, step: &Step<'_>) -> Result<(), Error> {
        self.0.run(step)
    }

    fn logits(&mut self) -> Result<&[f32], Error> {
        self.0.logits()
    }

    fn next(&mut self) -> Result<&[u32], Error> {
        self.0.next()
    }

    fn decode(
        &mut self,
        sequences: &[DecodeStart<'_>],
        steps: usize,
        table: &BlockTable,
        on_token: &mut dyn FnMut(usize, u32) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        self.0.decode(sequences, steps, table, on_token)
    }

    fn host_queue(&mut self) -> &mut HostQueue {
        self.0.host_queue()
    }

    fn copy_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<(), Error> {
        self.0.copy_blocks(pairs)
    }

    fn save_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<(), Error> {
        self.0.save_blocks(pairs)
    }

    fn restore_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<(), Error> {
        self.0.restore_blocks(pairs)
    }

    fn stats(&self) -> Stats {
        self.0.stats()
    }

    fn inspect(&mut self) -> &mut dyn Inspect {
        self.0.inspect()
    }
}

/// Some begin alike, some are drawn, some chosen on the host; every third has the token somewhere.
fn request(kind: usize) -> Request {
    let mut prompt: Vec<u32> = (0..50).map(|i| (i * 13 + 5) % 200).collect();
    prompt.truncate([50, 33, 7, 20][kind % 4]);
    prompt.extend((0..kind as u32 % 9).map(|i| (i * 7 + kind as u32 * 31 + 1) % 200));
    if kind.is_multiple_of(3) {
        let at = (kind * 11) % prompt.len();
        prompt[at] = SPOILT;
    }
    Request {
        prompt: Prompt::Tokens(prompt),
        options: GenerateOptions {
            max_tokens: 1 + (kind * 5) % 14,
            ignore_eog: true,
            sampling: Sampling {
                temperature: if kind.is_multiple_of(2) { 0.0 } else { 0.8 },
                seed: kind as u64,
                ..Sampling::default()
            },
            ..GenerateOptions::default()
        },
        logit_bias: match kind % 5 {
            1 | 4 => vec![(9, 2.0), (11, f32::NEG_INFINITY)],
            _ => Vec::new(),
        },
        ..Request::default()
    }
}

const KINDS: usize = 24;

/// The tokens of a request, or where its numbers end: the first position, and the operation. `None` where
/// there was no room to look for that.
type Outcome = Result<Vec<u32>, Option<(usize, String)>>;

fn outcome(updates: &Receiver<Update>) -> Outcome {
    match updates.try_iter().last() {
        Some(Update::Ended(Ok(generation))) => Ok(generation.tokens),
        Some(Update::Ended(Err(Error::NotFinite(why)))) => {
            let origin = why.origin;
            Err(origin.map(|origin| (origin.position, origin.unit)))
        }
        other => panic!("{other:?}"),
    }
}

fn alone(model: &Arc<Model>, kind: usize) -> Outcome {
    let core = Core::new(model, Box::new(cpu(model, Limits::new(1, 96))));
    let mut served = Served::new(core);
    let updates = served.submit(0, request(kind));
    served.run_to_end();
    outcome(&updates)
}

/// A core that looks for what made a request's logits what they are while steps of others are in flight.
#[test]
fn a_request_without_numbers_changes_nobody() {
    let model = micro_without(SPOILT);
    let right: Vec<Outcome> = (0..KINDS).map(|kind| alone(&model, kind)).collect();
    let spoilt = right.iter().filter(|outcome| outcome.is_err()).count();
    assert!((KINDS / 3..KINDS / 2).contains(&spoilt), "{spoilt}");
    for seed in 0..150 {
        let mut random = Random::new(seed);
        let slots = 1 + random.below(4);
        let is_tight = random.once_in(3);
        let own = BlockTable::blocks_for(slots, 96);
        let limits = Limits {
            cache_blocks: own + if is_tight { 0 } else { 3 },
            max_rows: slots.next_power_of_two().max(8 + random.below(40)),
            max_outputs: slots.next_power_of_two(),
            ..Limits::new(slots, 96)
        };
        let executor = Ahead(cpu(&model, limits));
        let mut served = Served::new(Core::new(&model, Box::new(executor)));
        served.core.warm_up().unwrap();
        let mut callers = Vec::new();
        let requests = 3 + random.below(9);
        while callers.len() < requests || !served.core.is_idle() {
            if callers.len() < requests && random.once_in(2) {
                let kind = random.below(KINDS);
                let key = callers.len() as u64;
                callers.push((kind, served.submit(key, request(kind))));
            }
            served.turn();
        }
        for (kind, updates) in &callers {
            let found = outcome(updates);
            if is_tight && found == Err(None) {
                assert!(right[*kind].is_err(), "seed {seed}, kind {kind}");
                continue;
            }
            assert_eq!(found, right[*kind], "seed {seed}, kind {kind}");
        }
        let counters = served.core.counters().scheduler;
        assert_eq!(counters.blocks_held, 0, "seed {seed}");
        let in_use = counters.blocks_free + counters.blocks_cached;
        assert_eq!(in_use, limits.cache_blocks, "seed {seed}");
    }
}
