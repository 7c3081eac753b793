//! Random mixes of sequences: what each gives is, bit for bit, what it gives alone.
//!
//! Logits by the executor itself, of every position, in steps of which each has rows of some sequences,
//! as chunks of many sizes, some behind a prefix that another sequence computed. Texts by a batch that
//! sequences join and leave at any time, drawn and not, with too few blocks for all of them at once.

#![allow(dead_code, unreachable_pub, reason = "each test target uses its part")]

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::ControlFlow;
use std::sync::Arc;

use gannet_engine::batch::SeqId;
use gannet_engine::internals::exec::{Executor, StepRows};
use gannet_engine::internals::kv::{BLOCK_TOKENS, BlockTable};
use gannet_engine::internals::plan::StepRow;
use gannet_engine::tools::make_executor;
use gannet_engine::{
    Batch, Event, GenerateOptions, Generation, Model, Sampling, Session, Settings,
};

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// One of `from..=to`.
    pub fn within(&mut self, from: usize, to: usize) -> usize {
        from + self.below(to - from + 1)
    }
}

/// How large a mix is.
#[derive(Clone, Copy)]
pub struct Mix {
    pub seed: u64,
    /// Sequences, and slots for them.
    pub sequences: usize,
    pub slots: usize,
    /// Tokens of a sequence, prompt and what follows.
    pub tokens: usize,
    /// Rows of a step.
    pub rows: usize,
}

impl Mix {
    fn settings(&self, settings: &Settings, slots: usize) -> Settings {
        Settings {
            context: Some(self.tokens.next_multiple_of(BLOCK_TOKENS) + BLOCK_TOKENS),
            slots: Some(slots),
            max_rows: Some(self.rows),
            max_outputs: Some(self.rows),
            ..settings.clone()
        }
    }

    /// Tokens of each sequence; every third begins as the one before.
    fn sequences(&self, random: &mut Random, vocab: usize) -> Vec<Vec<u32>> {
        let mut made: Vec<Vec<u32>> = Vec::new();
        for i in 0..self.sequences {
            let len = random.within(self.tokens / 2, self.tokens);
            let mut tokens: Vec<u32> = (0..len).map(|_| random.below(vocab) as u32).collect();
            if i % 3 == 2 {
                let before = &made[i - 1];
                let most = len.min(before.len());
                let common = random.within(most * 3 / 4, most - 1);
                tokens[..common].copy_from_slice(&before[..common]);
            }
            made.push(tokens);
        }
        made
    }
}

/// The logits of an executor's last step: a hash of the bits of each row, since vocabularies are large.
fn rows_of_logits(executor: &mut dyn Executor) -> Vec<u64> {
    let vocab = executor.plan().vocab_size;
    let rows = executor.logits().unwrap().chunks_exact(vocab);
    let hash = |row: &[f32]| {
        assert!(row.iter().all(|logit| logit.is_finite()));
        let mut hasher = DefaultHasher::new();
        row.iter()
            .for_each(|logit| logit.to_bits().hash(&mut hasher));
        hasher.finish()
    };
    rows.map(hash).collect()
}

fn table(executor: &dyn Executor) -> BlockTable {
    let limits = executor.limits();
    BlockTable::new(limits.num_slots, limits.context, limits.cache_blocks)
}

/// A sequence alone: all of its prompt at once, as far as a step goes, then token by token.
fn logits_alone(
    executor: &mut dyn Executor,
    tokens: &[u32],
    prompt: usize,
    rows: usize,
) -> Vec<u64> {
    let mut table = table(executor);
    table.reserve(0, tokens.len()).unwrap();
    let mut found = Vec::new();
    while found.len() < tokens.len() {
        let first = found.len();
        let end = match first < prompt {
            true => prompt.min(first + rows),
            false => first + 1,
        };
        let step = StepRows::prompt(&tokens[first..end], 0, first);
        let step = step.with_outputs(0..(end - first) as u32);
        executor.run(&step.step(&table)).unwrap();
        found.extend(rows_of_logits(executor));
    }
    found
}

/// A sequence under way: which, and how many of its tokens are in the cache.
struct Running {
    sequence: usize,
    done: usize,
}

/// Logits of every position of every sequence in a random mix, against each alone; gives how many
/// positions were known from others.
pub fn logits_are_those_alone(model: &Arc<Model>, settings: &Settings, mix: Mix) -> usize {
    let mut random = Random(mix.seed);
    let mut single = make_executor(model, &mix.settings(settings, 1)).unwrap();
    let mut many = make_executor(model, &mix.settings(settings, mix.slots)).unwrap();
    let (single, many) = (single.executor.as_mut(), many.executor.as_mut());
    let sequences = mix.sequences(&mut random, single.plan().vocab_size);
    let alone: Vec<Vec<u64>> = (sequences.iter())
        .map(|tokens| {
            let prompt = random.within(1, tokens.len());
            logits_alone(single, tokens, prompt, mix.rows)
        })
        .collect();
    // A context bounds the rows of a step, too.
    let most = mix.rows.min(many.limits().max_rows);
    let mut table = table(many);
    let mut slots: Vec<Option<Running>> = (0..mix.slots).map(|_| None).collect();
    let mut waiting = (0..sequences.len()).collect::<Vec<_>>();
    let (mut compared, mut shared, mut widest) = (0, 0, 0);
    while !waiting.is_empty() || slots.iter().any(Option::is_some) {
        for (slot, running) in slots.iter_mut().enumerate() {
            if running.is_none() && !waiting.is_empty() && random.below(3) > 0 {
                let sequence = waiting.remove(0);
                let tokens = &sequences[sequence];
                table.release(slot);
                let known = table.attach(slot, tokens).min(tokens.len() - 1);
                shared += known;
                *running = Some(Running {
                    sequence,
                    done: known,
                });
            }
        }
        // Rows of some of them, in any order, of each a chunk.
        let mut order: Vec<usize> = (0..mix.slots).filter(|&s| slots[s].is_some()).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, random.below(i + 1));
        }
        let keep = random.within(1, order.len().max(1));
        order.truncate(keep);
        let mut rows: Vec<StepRow> = Vec::new();
        let mut of_row: Vec<(usize, usize)> = Vec::new();
        let mut advanced = Vec::new();
        for &slot in &order {
            let running = slots[slot].as_mut().expect("it is one of those");
            let tokens = &sequences[running.sequence];
            let left = (tokens.len() - running.done).min(most - rows.len());
            if left == 0 {
                continue;
            }
            let chunk = match random.below(3) {
                0 => 1,
                1 => random.within(1, left),
                _ => random.within(1, left.min(5)),
            };
            let range = running.done..running.done + chunk;
            table.reserve(slot, range.end).unwrap();
            let copies = table.make_writable(slot, range.start, range.end).unwrap();
            many.copy_blocks(&copies).unwrap();
            for position in range.clone() {
                let length = position as u32 + 1;
                rows.push(StepRow::new(tokens[position], length, slot as u32));
                of_row.push((running.sequence, position));
            }
            running.done = range.end;
            advanced.push((slot, running.sequence, range.end));
        }
        if rows.is_empty() {
            continue;
        }
        widest = widest.max(rows.len());
        // Sometimes of all of them, sometimes of the last of each.
        let all = random.below(4) > 0;
        let last_of_its = |i: usize| of_row.get(i + 1).map(|n| n.0) != Some(of_row[i].0);
        let outputs: Vec<u32> = (0..rows.len())
            .filter(|&i| all || last_of_its(i))
            .map(|i| i as u32)
            .collect();
        let step = StepRows::new(rows).with_outputs(outputs.iter().copied());
        many.run(&step.step(&table)).unwrap();
        for (found, output) in rows_of_logits(many).iter().zip(outputs) {
            let (sequence, position) = of_row[output as usize];
            let expected = &alone[sequence][position];
            assert!(
                found == expected,
                "seed {}: sequence {sequence} at {position}, in a step of {} rows",
                mix.seed,
                of_row.len()
            );
            compared += 1;
        }
        for (slot, sequence, done) in advanced {
            let tokens = &sequences[sequence];
            table.publish(slot, &tokens[..done]);
            if done == tokens.len() {
                table.release(slot);
                slots[slot] = None;
            }
        }
    }
    println!(
        "seed {}: {compared} rows of logits compared, {shared} positions shared, up to {widest} rows",
        mix.seed
    );
    let tokens: usize = sequences.iter().map(Vec::len).sum();
    assert!(compared > tokens / 3, "{compared} of {tokens}");
    shared
}

/// Requests of a mix: half of them greedy, half drawn at temperature 1; some begin alike.
fn requests(mix: &Mix, random: &mut Random, vocab: usize) -> Vec<(Vec<u32>, GenerateOptions)> {
    let prompts = mix.sequences(random, vocab);
    let mut made = Vec::new();
    for (i, mut prompt) in prompts.into_iter().enumerate() {
        prompt.truncate(prompt.len() * 2 / 3);
        let sampling = Sampling {
            temperature: (i % 2) as f32,
            top_k: [0, 40][random.below(2)],
            seed: random.next(),
            ..Sampling::default()
        };
        let options = GenerateOptions {
            max_tokens: mix.tokens - prompt.len() - random.below(mix.tokens / 6),
            sampling,
            ignore_eog: true,
            ..GenerateOptions::default()
        };
        made.push((prompt, options));
    }
    made
}

/// Texts of sequences that join and leave a batch at random, against each in a session alone, and
/// against a session that goes on from a part of it.
pub fn texts_are_those_alone(model: &Arc<Model>, settings: &Settings, mix: Mix) {
    let mut random = Random(mix.seed ^ 0x7465_7874);
    let requests = requests(&mix, &mut random, model.plan().vocab_size);
    let mut session = Session::new(model, &mix.settings(settings, 1)).unwrap();
    let go_on = |_: Event<'_>| ControlFlow::Continue(());
    let mut generate = |prompt: &[u32], options: &GenerateOptions| -> Generation {
        session.clear();
        session.generate_tokens(prompt, options, go_on).unwrap()
    };
    let alone: Vec<Generation> = requests.iter().map(|(p, o)| generate(p, o)).collect();
    // Each again from the middle of what it said, where nothing but the most likely is chosen.
    for ((prompt, options), said) in requests.iter().zip(&alone).step_by(2) {
        let half = said.tokens.len() / 2;
        let mut longer = prompt.clone();
        longer.extend(&said.tokens[..half]);
        let rest = GenerateOptions {
            max_tokens: said.tokens.len() - half,
            ..options.clone()
        };
        let found = generate(&longer, &rest);
        assert_eq!(
            found.tokens,
            said.tokens[half..],
            "seed {}: continued",
            mix.seed
        );
    }
    let mut tight = mix.settings(settings, mix.slots);
    // A little more than the longest takes, and not what all take together.
    let each = mix.tokens.div_ceil(BLOCK_TOKENS) + 1;
    tight.cache_blocks = Some(each * mix.slots.div_ceil(2) + 1);
    let mut batch = Batch::new(model, &tight).unwrap();
    let mut ids: Vec<(SeqId, usize)> = Vec::new();
    let mut finished: HashMap<SeqId, Generation> = HashMap::new();
    let mut waiting = 0..requests.len();
    let mut dropped = None;
    while !waiting.is_empty() || !batch.is_idle() {
        for _ in 0..random.below(4) {
            if let Some(i) = waiting.next() {
                let (prompt, options) = &requests[i];
                ids.push((batch.add(prompt, options.clone()).unwrap(), i));
            }
        }
        // One leaves before it is done.
        if dropped.is_none() && ids.len() > mix.slots {
            let (id, i) = ids[random.below(ids.len())];
            if let Some(part) = batch.remove(id) {
                assert!(
                    alone[i].tokens.starts_with(&part.tokens),
                    "seed {}",
                    mix.seed
                );
                dropped = Some(id);
            }
        }
        let ended = batch.step(|_, _| ControlFlow::Continue(()));
        finished.extend(ended.into_iter().map(|(id, g)| (id, g.unwrap())));
    }
    for (id, i) in ids {
        if Some(id) != dropped {
            let (found, expected) = (&finished[&id].tokens, &alone[i].tokens);
            assert_eq!(found, expected, "seed {}: sequence {i}", mix.seed);
        }
    }
    let texts: std::collections::BTreeSet<_> = alone.iter().map(|g| &g.tokens).collect();
    assert!(texts.len() > alone.len() / 2, "the sequences differ");
}
