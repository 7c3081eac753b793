//! Requests for a [`Batch`], and what must hold of it on every device: each sequence gives what it
//! gives alone, and what sequences have in common is held and computed once.

#![allow(dead_code, unreachable_pub, reason = "each test target uses its part")]

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use gannet_engine::batch::{BatchStats, Finished, SeqId};
use gannet_engine::internals::kv::BLOCK_TOKENS;
use gannet_engine::tokenizer::EncodeOptions;
use gannet_engine::{
    Batch, Event, Finish, GenerateOptions, Generation, Model, Sampling, Session, Settings,
};

const TEXT: &str = "Ownership is a set of rules that govern how a program manages memory. \
    fn main() { let mut items = Vec::new(); items.push(1); } Some languages have garbage \
    collection that regularly looks for memory that is no longer used as the program runs; in \
    other languages, the programmer must explicitly allocate and free the memory. ";

/// `len` tokens of a text, from the `from`-th on.
pub fn prompt(model: &Model, from: usize, len: usize) -> Vec<u32> {
    let encode = EncodeOptions {
        add_special: false,
        parse_special: false,
    };
    let tokens = model.tokenizer().encode(TEXT, encode);
    let endless = tokens.iter().copied().cycle();
    endless.skip(from).take(len).collect()
}

/// The `i`-th of some very different requests.
pub fn request(model: &Model, i: usize) -> (Vec<u32>, GenerateOptions) {
    let sampled = Sampling {
        temperature: 0.8 + 0.05 * (i % 5) as f32,
        top_k: [0, 40, 5][i % 3],
        top_p: [0.9, 1.0][i % 2],
        repetition_penalty: [1.0, 1.3][i / 2 % 2],
        seed: 100 + i as u64,
        ..Sampling::default()
    };
    let sampling = match i % 4 {
        0 => Sampling::default(),
        1 => Sampling {
            repetition_penalty: 1.2,
            ..Sampling::default()
        },
        _ => sampled,
    };
    let options = GenerateOptions {
        max_tokens: 24 + i * 7 % 17,
        sampling,
        ignore_eog: !i.is_multiple_of(5),
        ..GenerateOptions::default()
    };
    (prompt(model, i * 3, 1 + i * 13 % 24), options)
}

pub fn go_on(_: SeqId, _: Event<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// What sequences gave that ended, none of them with an error.
pub fn given(finished: Vec<Finished>) -> Vec<(SeqId, Generation)> {
    let finished = finished.into_iter();
    finished.map(|(id, result)| (id, result.unwrap())).collect()
}

/// What the sequences of a batch give, in the order they end.
pub fn run_all(batch: &mut Batch) -> Vec<(SeqId, Generation)> {
    given(batch.run_to_end(go_on))
}

/// Adds a prompt so many times that is known: it was computed, and nothing asked for behind it. All of
/// them run the same steps from their first row on.
pub fn add_known(batch: &mut Batch, prompt: &[u32], options: &GenerateOptions, times: usize) {
    let nothing = GenerateOptions {
        max_tokens: 0,
        ..options.clone()
    };
    batch.add(prompt, nothing).unwrap();
    let (_, found) = run_all(batch).remove(0);
    assert_eq!((found.tokens.len(), found.finish), (0, Finish::Length));
    for _ in 0..times {
        batch.add(prompt, options.clone()).unwrap();
    }
}

pub fn alone(session: &mut Session, prompt: &[u32], options: &GenerateOptions) -> Generation {
    session.clear();
    session
        .generate_tokens(prompt, options, |_| ControlFlow::Continue(()))
        .unwrap()
}

pub fn assert_same(found: &Generation, expected: &Generation, what: &str) {
    assert_eq!(found.tokens, expected.tokens, "{what}");
    assert_eq!(found.text, expected.text, "{what}");
    assert_eq!(found.finish, expected.finish, "{what}");
    assert_eq!(found.prompt_tokens, expected.prompt_tokens, "{what}");
}

/// The same prompt 32 times, and its text as alone; with how many blocks all of it was held at most,
/// and what it took.
pub fn same_prompt(
    model: &Arc<Model>,
    device: &dyn Fn(usize, usize) -> Settings,
    len: usize,
) -> (usize, BatchStats) {
    const MORE: usize = 36;
    let context = len + MORE;
    let mut session = Session::new(model, &device(1, context)).unwrap();
    let mut options = device(32, context);
    // What they need together is far less than 32 contexts.
    options.cache_blocks = Some(context.div_ceil(BLOCK_TOKENS) + 96);
    let mut batch = Batch::new(model, &options).unwrap();
    let prompt = prompt(model, 0, len);
    let requests: Vec<_> = (0..32)
        .map(|i| GenerateOptions {
            max_tokens: MORE,
            ignore_eog: true,
            sampling: Sampling {
                temperature: if i == 0 { 0.0 } else { 0.9 },
                seed: i,
                ..Sampling::default()
            },
            ..GenerateOptions::default()
        })
        .collect();
    let ids: Vec<_> = (requests.iter())
        .map(|options| batch.add(&prompt, options.clone()).unwrap())
        .collect();
    let mut finished = HashMap::new();
    let (mut running, mut held) = (0, 0);
    while !batch.is_idle() {
        finished.extend(given(batch.step(go_on)));
        running = running.max(batch.running());
        held = held.max(batch.table().blocks_in_use());
    }
    assert_eq!(running, 32);
    let mut texts = std::collections::BTreeSet::new();
    for (id, options) in ids.iter().zip(&requests) {
        texts.insert(finished[id].text.clone());
        // Reading a long prompt takes a while; some of them stand for all.
        if len < 200 || options.sampling.seed.is_multiple_of(6) {
            let expected = alone(&mut session, &prompt, options);
            assert_same(&finished[id], &expected, &format!("sequence {id}"));
        }
    }
    assert!(texts.len() > 16, "the seeds differ");
    assert_eq!(batch.stats().preempted, 0);
    (held, batch.stats())
}

/// That what sequences have in common is held and computed once where it is whole blocks: each but the
/// first computes the last token, for what follows it, in a copy of its block.
pub fn whole_blocks_in_common(model: &Arc<Model>, device: &dyn Fn(usize, usize) -> Settings) {
    let (held, stats) = same_prompt(model, device, 1024);
    // Every sequence has the last block of the prompt, and two for the 35 positions behind it.
    assert_eq!(held, 1024 / BLOCK_TOKENS - 1 + 32 * 3);
    assert_eq!((stats.computed, stats.shared), (1024 + 31, 31 * 1023));
    assert_eq!(stats.copied_blocks, 31);
}

/// That tokens behind the last whole block in common are computed by each for itself.
pub fn part_of_a_block_in_common(model: &Arc<Model>, device: &dyn Fn(usize, usize) -> Settings) {
    let (held, stats) = same_prompt(model, device, 70);
    // The rest of the prompt, and 35 positions behind it.
    assert_eq!(held, 64 / BLOCK_TOKENS + 32 * 2);
    assert_eq!((stats.computed, stats.shared), (70 + 31 * 6, 31 * 64));
    assert_eq!(stats.copied_blocks, 0);
}

/// That what begins like something known is computed from there on only.
pub fn known_prefix(model: &Arc<Model>, device: &dyn Fn(usize, usize) -> Settings) {
    let mut session = Session::new(model, &device(1, 256)).unwrap();
    let mut batch = Batch::new(model, &device(2, 256)).unwrap();
    let options = GenerateOptions {
        max_tokens: 40,
        ignore_eog: true,
        ..GenerateOptions::default()
    };
    let first = prompt(model, 0, 100);
    batch.add(&first, options.clone()).unwrap();
    let (_, said) = run_all(&mut batch).remove(0);
    assert_eq!(batch.table().blocks_in_use(), 0);
    // A conversation that goes on: the first prompt, its answer and more.
    let mut second = first.clone();
    second.extend(&said.tokens);
    second.extend(prompt(model, 7, 9));
    let before = batch.stats();
    batch.add(&second, options.clone()).unwrap();
    let (_, found) = run_all(&mut batch).remove(0);
    assert_same(&found, &alone(&mut session, &second, &options), "second");
    // 149 tokens, of which 139 were in the cache: four blocks.
    assert_eq!(batch.stats().shared - before.shared, 128);
    assert_eq!(batch.stats().computed - before.computed, 149 - 128);
    // Something else at the start: nothing is known.
    let before = batch.stats();
    let other: Vec<u32> = second.iter().rev().copied().collect();
    batch.add(&other, options.clone()).unwrap();
    let (_, found) = run_all(&mut batch).remove(0);
    assert_same(&found, &alone(&mut session, &other, &options), "other");
    assert_eq!(batch.stats().shared, before.shared);
}

/// That sequences which give their blocks back for others give the same text later.
pub fn out_of_blocks(model: &Arc<Model>, device: &dyn Fn(usize, usize) -> Settings) {
    let mut session = Session::new(model, &device(1, 128)).unwrap();
    let mut tight = device(8, 128);
    tight.cache_blocks = Some(9);
    let mut batch = Batch::new(model, &tight).unwrap();
    let requests: Vec<_> = (0..12)
        .map(|i| {
            let (_, options) = request(model, i);
            let options = GenerateOptions {
                max_tokens: 60 + i,
                ignore_eog: true,
                ..options
            };
            (prompt(model, 5 * i, 20 + i), options)
        })
        .collect();
    let ids: Vec<_> = (requests.iter())
        .map(|(prompt, options)| batch.add(prompt, options.clone()).unwrap())
        .collect();
    let mut prompts = HashMap::new();
    let finished = batch.run_to_end(|id, event| {
        if let Event::Prompt { done, total } = event
            && done == total
        {
            *prompts.entry(id).or_insert(0) += 1;
        }
        ControlFlow::Continue(())
    });
    let finished: HashMap<_, _> = given(finished).into_iter().collect();
    for (id, (prompt, options)) in ids.iter().zip(&requests) {
        let expected = alone(&mut session, prompt, options);
        assert_same(&finished[id], &expected, &format!("sequence {id}"));
        assert_eq!(prompts[id], 1, "a prompt is announced once");
    }
    assert!(batch.stats().preempted > 0);
    assert_eq!(batch.table().blocks_in_use(), 0);
}
