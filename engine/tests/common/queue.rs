//! Steps that queue: sequences that share steps, prompts and decodes mixed, against each alone.

#![allow(unreachable_pub)]

use std::time::Duration;

use gannet_engine::internals::exec::sample::Sampling;
use gannet_engine::internals::exec::{Executor, SlotChoice, StepRows};
use gannet_engine::internals::kv::BlockTable;
use gannet_engine::internals::plan::StepRow;

/// Sequences whose prompts are read in chunks of different lengths, so that steps mix.
pub struct Sequence {
    pub prompt: Vec<u32>,
    pub chunk: usize,
    pub sampling: Sampling,
}

/// What sequences give, so many tokens each, in steps that they share. Steps are queued `ahead` before
/// the tokens of the first are taken.
pub fn together(
    executor: &mut dyn Executor,
    sequences: &[Sequence],
    tokens: usize,
    ahead: usize,
) -> Vec<Vec<u32>> {
    let limits = executor.limits();
    let mut table = BlockTable::new(limits.num_slots, limits.context, limits.cache_blocks);
    for (slot, s) in sequences.iter().enumerate() {
        table.reserve(slot, s.prompt.len() + tokens).unwrap();
        let choice = SlotChoice {
            slot: slot as u32,
            sampling: &s.sampling,
            history: &s.prompt,
            draws: 0,
        };
        executor.set_slot(&choice).unwrap();
    }
    let mut found = vec![Vec::new(); sequences.len()];
    // Of each, positions that were queued; of each step, whose outputs it has.
    let mut queued = vec![0; sequences.len()];
    let mut in_flight = std::collections::VecDeque::new();
    let last = |s: &Sequence| s.prompt.len() + tokens - 1;
    loop {
        let (mut rows, mut outputs, mut of) = (Vec::new(), Vec::new(), Vec::new());
        for (slot, s) in sequences.iter().enumerate() {
            let from = queued[slot];
            let to = match from < s.prompt.len() {
                true => (from + s.chunk).min(s.prompt.len()),
                false => (from + 1).min(last(s)),
            };
            for position in from..to {
                let token = s.prompt.get(position).copied();
                let token = token.unwrap_or(StepRow::CHOSEN);
                if position + 1 >= s.prompt.len() {
                    outputs.push(rows.len() as u32);
                    of.push(slot);
                }
                rows.push(StepRow::new(token, position as u32 + 1, slot as u32));
            }
            queued[slot] = to;
        }
        let idle = rows.is_empty();
        if !idle {
            let rows = match rows.len() == outputs.len() {
                true => StepRows::padded_batch(rows),
                false => StepRows::new(rows).with_outputs(outputs),
            };
            executor.queue(&rows.step(&table)).unwrap();
            in_flight.push_back(of);
        }
        while in_flight.len() > if idle { 0 } else { ahead } {
            let taken = executor.take(Duration::from_secs(20)).unwrap();
            let taken = taken.expect("a step that was queued ends");
            for (slot, token) in in_flight.pop_front().unwrap().into_iter().zip(taken) {
                found[slot].push(token);
            }
        }
        if idle {
            return found;
        }
    }
}

/// Sequences of a vocabulary, some greedy and some drawn.
pub fn sequences(vocab_size: usize, drawn: bool) -> Vec<Sequence> {
    let sequence = |slot: usize, len: usize, chunk: usize| Sequence {
        prompt: (0..len)
            .map(|i| ((i * i * 7 + 13 * slot + 3 * i + 11) % vocab_size) as u32)
            .collect(),
        chunk,
        sampling: Sampling {
            temperature: if drawn && slot != 1 { 0.9 } else { 0.0 },
            repetition_penalty: if drawn { 1.2 } else { 1.0 },
            seed: slot as u64,
            ..Sampling::default()
        },
    };
    vec![
        sequence(0, 5, 2),
        sequence(1, 37, 12),
        sequence(2, 1, 1),
        sequence(3, 18, 18),
    ]
}
