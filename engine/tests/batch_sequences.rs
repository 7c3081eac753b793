//! Many sequences on one executor: each gives, bit for bit, what it gives alone.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/sequences.rs"]
mod sequences;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use common::{model, shared};
use gannet_engine::Finish;
use gannet_engine::batch::SeqId;
use gannet_engine::settings::Precision;
use gannet_engine::{
    Batch, DeviceChoice, Error, Event, GenerateOptions, Model, SamplerOn, Sampling, Session,
    Settings,
};
use sequences::{add_known, alone, assert_same, given, prompt, request, run_all};

/// The demonstration model, which the repository ships.
fn tiny() -> Arc<Model> {
    let part = "models/rustdoc-tiny-Q4_K_M.gguf";
    model(&shared("batch_sequences", part).expect("the model is in the repository"))
}

fn options(device: DeviceChoice, slots: usize, context: usize) -> Settings {
    Settings {
        device,
        precision: Precision::Exact,
        context: Some(context),
        slots: Some(slots),
        ..Settings::default()
    }
}

fn cpu(slots: usize, context: usize) -> Settings {
    options(DeviceChoice::Cpu, slots, context)
}

#[test]
fn thirty_two_prompts_give_what_each_gives_alone() {
    let model = tiny();
    let mut session = Session::new(&model, &cpu(1, 160)).unwrap();
    let mut batch = Batch::new(&model, &cpu(32, 256)).unwrap();
    let requests: Vec<_> = (0..40).map(|i| request(&model, i)).collect();
    let ids: Vec<SeqId> = (requests.iter())
        .map(|(prompt, options)| batch.add(prompt, options.clone()).unwrap())
        .collect();
    let mut streamed = HashMap::<SeqId, (Vec<u32>, String)>::new();
    let mut most = 0;
    let mut finished = HashMap::new();
    while !batch.is_idle() {
        finished.extend(given(batch.step(|id, event| {
            if let Event::Token { id: token, text } = event {
                let (tokens, so_far) = streamed.entry(id).or_default();
                tokens.push(token);
                so_far.push_str(text);
            }
            ControlFlow::Continue(())
        })));
        most = most.max(batch.running());
    }
    assert_eq!(most, 32, "all slots were used");
    assert_eq!(batch.table().blocks_in_use(), 0);
    for (i, (id, (prompt, options))) in ids.iter().zip(&requests).enumerate() {
        let expected = alone(&mut session, prompt, options);
        assert_same(&finished[id], &expected, &format!("sequence {i}"));
        assert_eq!(streamed[id], (expected.tokens, expected.text), "{i}");
    }
}

#[test]
fn sequences_join_and_leave_at_any_time() {
    let model = tiny();
    let mut session = Session::new(&model, &cpu(1, 160)).unwrap();
    let mut batch = Batch::new(&model, &cpu(4, 160)).unwrap();
    let mut added = Vec::new();
    let mut finished = HashMap::new();
    let (mut removed, mut stopped, mut seen) = (None, None, 0);
    let mut round = 0;
    while round < 12 || !batch.is_idle() {
        if round < 12 {
            let (prompt, options) = request(&model, round);
            let id = batch.add(&prompt, options.clone()).unwrap();
            added.push((id, prompt, options));
        }
        if round == 5 {
            // One of those that decode, in the middle.
            let mut ids = added.iter().map(|a| a.0);
            let id = ids.find(|id| !finished.contains_key(id)).unwrap();
            removed = batch.remove(id).map(|generation| (id, generation));
            assert!(batch.remove(id).is_none(), "it is gone");
        }
        finished.extend(given(batch.step(|id, event| {
            let is_token = matches!(event, Event::Token { .. });
            if round > 6 && is_token && stopped.is_none_or(|s| s == id) {
                seen += 1;
                stopped = Some(id);
                if seen == 2 {
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })));
        round += 1;
    }
    let (removed, partial) = removed.unwrap();
    for (id, prompt, options) in &added {
        let expected = alone(&mut session, prompt, options);
        if *id == removed {
            assert_eq!(partial.finish, Finish::Stopped);
            assert!(!partial.tokens.is_empty());
            assert!(expected.tokens.starts_with(&partial.tokens));
            assert!(!finished.contains_key(id));
        } else if Some(*id) == stopped {
            let found = &finished[id];
            assert_eq!(found.finish, Finish::Stopped);
            assert!(expected.tokens.starts_with(&found.tokens));
        } else {
            assert_same(&finished[id], &expected, &format!("sequence {id}"));
        }
    }
    assert_eq!((batch.running(), batch.table().blocks_in_use()), (0, 0));
}

#[test]
fn the_same_prompt_is_held_once() {
    sequences::whole_blocks_in_common(&tiny(), &cpu);
}

#[test]
fn a_block_that_stays_known_is_copied_by_all_who_write() {
    let model = tiny();
    let options = GenerateOptions {
        max_tokens: 5,
        ignore_eog: true,
        ..GenerateOptions::default()
    };
    let prompt = prompt(&model, 0, 64);
    let mut session = Session::new(&model, &cpu(1, 160)).unwrap();
    let expected = alone(&mut session, &prompt, &options);
    let mut batch = Batch::new(&model, &cpu(8, 160)).unwrap();
    add_known(&mut batch, &prompt, &options, 8);
    for (_, found) in run_all(&mut batch) {
        assert_same(&found, &expected, "a sequence");
    }
    let stats = batch.stats();
    assert_eq!((stats.computed, stats.shared), (64 + 8, 8 * 63));
    assert_eq!(stats.copied_blocks, 8);
}

#[test]
fn a_block_that_is_not_whole_is_everyones_own() {
    sequences::part_of_a_block_in_common(&tiny(), &cpu);
}

/// Sequences that draw and greedy ones share a prompt, whoever comes first and wherever their tokens are
/// chosen.
#[test]
fn greedy_sequences_and_drawn_ones_share_a_prompt() {
    let model = tiny();
    let greedy = GenerateOptions {
        max_tokens: 12,
        ignore_eog: true,
        ..GenerateOptions::default()
    };
    let drawn = GenerateOptions {
        sampling: Sampling {
            temperature: 0.9,
            seed: 3,
            ..Sampling::default()
        },
        ..greedy.clone()
    };
    let (one, other) = (prompt(&model, 0, 40), prompt(&model, 50, 40));
    let mut session = Session::new(&model, &cpu(1, 160)).unwrap();
    let cases = [
        (vec![(&one, &greedy), (&other, &greedy)], 0),
        (vec![(&one, &greedy), (&one, &greedy)], 32),
        (vec![(&one, &greedy), (&one, &drawn)], 32),
        (vec![(&one, &drawn), (&one, &greedy)], 32),
        (vec![(&one, &greedy), (&other, &drawn)], 0),
    ];
    for sampler_on in [SamplerOn::Device, SamplerOn::Cpu] {
        for (requests, shared) in &cases {
            let settings = Settings {
                sampler_on,
                ..cpu(4, 160)
            };
            let mut batch = Batch::new(&model, &settings).unwrap();
            let ids: Vec<SeqId> = (requests.iter())
                .map(|(prompt, options)| batch.add(prompt, (*options).clone()).unwrap())
                .collect();
            let finished: HashMap<_, _> = run_all(&mut batch).into_iter().collect();
            let stats = batch.stats();
            assert_eq!((stats.shared, stats.computed), (*shared, 80 - shared));
            for (id, (prompt, options)) in ids.iter().zip(requests) {
                let expected = alone(&mut session, prompt, options);
                assert_same(&finished[id], &expected, "a sequence");
            }
        }
    }
}

#[test]
fn a_known_prefix_is_not_computed_again() {
    sequences::known_prefix(&tiny(), &cpu);
}

#[test]
fn sequences_that_run_out_of_blocks_give_the_same_text_later() {
    sequences::out_of_blocks(&tiny(), &cpu);
}

#[test]
fn the_context_ends_a_sequence_as_it_does_alone() {
    let model = tiny();
    let options = GenerateOptions {
        max_tokens: 500,
        ignore_eog: true,
        ..GenerateOptions::default()
    };
    let mut session = Session::new(&model, &cpu(1, 70)).unwrap();
    let mut batch = Batch::new(&model, &cpu(3, 70)).unwrap();
    let prompts = [70, 69, 31, 5].map(|len| prompt(&model, len, len));
    for prompt in &prompts {
        batch.add(prompt, options.clone()).unwrap();
    }
    let mut finished = run_all(&mut batch);
    finished.sort_by_key(|(id, _)| *id);
    for (prompt, (id, found)) in prompts.iter().zip(&finished) {
        let expected = alone(&mut session, prompt, &options);
        assert_same(found, &expected, &format!("sequence {id}"));
        assert_eq!(found.finish, Finish::Context);
        assert_eq!(found.tokens.len(), 71 - prompt.len());
    }
}

#[test]
fn stop_strings_end_a_text_without_leaking() {
    let model = tiny();
    let mut session = Session::new(&model, &cpu(1, 256)).unwrap();
    let mut batch = Batch::new(&model, &cpu(8, 256)).unwrap();
    let prompt = prompt(&model, 0, 12);
    let options = GenerateOptions {
        max_tokens: 60,
        ignore_eog: true,
        sampling: Sampling {
            temperature: 0.8,
            seed: 3,
            ..Sampling::default()
        },
        ..GenerateOptions::default()
    };
    let mut ends = vec![0];
    let whole = session.generate_tokens(&prompt, &options, |event| {
        if let Event::Token { text, .. } = event {
            ends.push(ends[ends.len() - 1] + text.len());
        }
        ControlFlow::Continue(())
    });
    let whole = whole.unwrap();
    let letters: Vec<(usize, char)> = whole.text.char_indices().collect();
    let mut spanning = 0;
    for start in (5..letters.len().saturating_sub(12)).step_by(9) {
        let end = letters[start + 4 + start % 8].0;
        let stop = &whole.text[letters[start].0..end];
        let stopping = GenerateOptions {
            stop: vec!["never in it".to_owned(), stop.to_owned()],
            ..options.clone()
        };
        let mut given = String::new();
        session.clear();
        let found = session
            .generate_tokens(&prompt, &stopping, |event| {
                if let Event::Token { text, .. } = event {
                    given.push_str(text);
                }
                ControlFlow::Continue(())
            })
            .unwrap();
        let at = whole.text.find(stop).unwrap();
        assert_eq!(found.finish, Finish::StopString, "{stop:?}");
        assert_eq!(found.text, whole.text[..at], "{stop:?}");
        assert_eq!(given, found.text, "{stop:?}");
        assert!(whole.tokens.starts_with(&found.tokens));
        let inside = at + 1..at + stop.len();
        spanning += usize::from(ends.iter().any(|end| inside.contains(end)));
        batch.add(&prompt, stopping).unwrap();
        let (_, together) = run_all(&mut batch).remove(0);
        assert_same(&together, &found, stop);
    }
    assert!(spanning > 3);
}

/// What follows a stopped text follows what was given out, not what the model went on to say.
#[test]
fn a_session_goes_on_from_the_text_given_out() {
    let model = tiny();
    let mut session = Session::new(&model, &cpu(1, 256)).unwrap();
    let first = prompt(&model, 0, 12);
    let mut options = GenerateOptions {
        max_tokens: 30,
        ignore_eog: true,
        ..GenerateOptions::default()
    };
    let whole = alone(&mut session, &first, &options);
    let middle = whole.text.char_indices().nth(10).unwrap().0;
    let end = whole.text.char_indices().nth(18).unwrap().0;
    options.stop = vec![whole.text[middle..end].to_owned()];
    let stopped = alone(&mut session, &first, &options);
    assert_eq!(stopped.finish, Finish::StopString);
    options.stop.clear();
    let second = prompt(&model, 40, 10);
    let go_on = |_: Event<'_>| ControlFlow::Continue(());
    let found = session.generate_tokens(&second, &options, go_on).unwrap();
    let all = [&first[..], &stopped.tokens, &second].concat();
    let expected = alone(&mut session, &all, &options);
    assert_eq!(found.tokens, expected.tokens);
}

/// Interpreted kernels share and copy blocks as the CPU does.
#[test]
fn interpreted_sequences_give_what_each_gives_alone() {
    let model = tiny();
    let options = options(DeviceChoice::Interp, 3, 64);
    let mut session = Session::new(&model, &options).unwrap();
    let mut batch = Batch::new(&model, &options).unwrap();
    let requests: Vec<_> = (0..3)
        .map(|i| {
            let options = GenerateOptions {
                max_tokens: 3,
                ignore_eog: true,
                sampling: Sampling {
                    temperature: [0.0, 0.9, 0.9][i],
                    seed: i as u64,
                    ..Sampling::default()
                },
                ..GenerateOptions::default()
            };
            (prompt(&model, 0, 32), options)
        })
        .collect();
    for (prompt, options) in &requests {
        batch.add(prompt, options.clone()).unwrap();
    }
    let mut finished = run_all(&mut batch);
    finished.sort_by_key(|(id, _)| *id);
    // The whole block is computed once; each of the two others copies it for its last row.
    let stats = batch.stats();
    assert_eq!((stats.computed, stats.shared), (32 + 2, 2 * 31));
    assert_eq!(stats.copied_blocks, 2);
    for ((prompt, options), (id, found)) in requests.iter().zip(&finished) {
        let expected = alone(&mut session, prompt, options);
        assert_same(found, &expected, &format!("sequence {id}"));
    }
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let model = tiny();
    let mut small = cpu(2, 256);
    small.cache_blocks = Some(2);
    let mut batch = Batch::new(&model, &small).unwrap();
    let options = GenerateOptions::default();
    let refused = |e: Result<SeqId, Error>| e.unwrap_err().to_string();
    assert!(refused(batch.add(&[], options.clone())).contains("no tokens"));
    let long = batch.add(&[1; 65], options.clone());
    assert!(refused(long).contains("context of 64"));
    let outside = batch.add(&[u32::MAX], options.clone());
    assert!(refused(outside).contains("vocabulary"));
    let empty = GenerateOptions {
        stop: vec![String::new()],
        ..options.clone()
    };
    assert!(refused(batch.add(&[1], empty)).contains("stop string"));
    assert!(batch.is_idle());
    // Where nothing is to be generated the prompt is computed, and then known.
    let nothing = GenerateOptions {
        max_tokens: 0,
        ..options
    };
    batch.add(&prompt(&model, 0, 40), nothing).unwrap();
    let (_, found) = run_all(&mut batch).remove(0);
    assert_eq!((found.tokens.len(), found.finish), (0, Finish::Length));
    assert_eq!(batch.stats().computed, 40);
}
