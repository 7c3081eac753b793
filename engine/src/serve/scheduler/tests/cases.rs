//! Cases of scheduling that are worth naming.

use std::panic::catch_unwind;

use super::super::weakness::Weakness;
use super::super::{
    ChosenBy, EndReason, Entry, Refusal, Scheduler, SchedulerConfig, TokenSource, Work,
};
use super::world::{Fate, World};
use crate::exec::Limits;
use crate::kv::{BLOCK_TOKENS, PrefixKey};

/// Seed of requests that never end by themselves, as far as these tests go.
pub(super) const ENDLESS: u64 = 20;

pub(super) fn config(slots: usize, context: usize) -> SchedulerConfig {
    SchedulerConfig {
        limits: Limits {
            max_rows: 512,
            ..Limits::new(slots, context)
        },
        rows: 512,
        steps_ahead: 2,
        overtakes: 4,
    }
}

pub(super) fn entry(prompt: Vec<u32>, max_tokens: usize) -> Entry {
    Entry {
        prompt,
        max_tokens,
        ..Entry::default()
    }
}

/// Tokens of a prompt that begins like no other of another number.
pub(super) fn prompt(number: u32, length: usize) -> Vec<u32> {
    let tokens = (0..length as u32).map(|i| number.wrapping_mul(7919) + i);
    tokens.collect()
}

/// Rows of each request in a step, in order.
pub(super) fn groups(work: &Work) -> Vec<(u64, usize)> {
    let groups = work.rows.chunk_by(|a, b| a.request == b.request);
    groups.map(|rows| (rows[0].request.0, rows.len())).collect()
}

#[test]
fn a_prefix_of_many_is_computed_once() {
    for arrive_late in [false, true] {
        let mut world = World::new(config(32, 4096), 1);
        let shared = prompt(1, 4000);
        for i in 0..32 {
            let mut tokens = shared.clone();
            tokens.extend(prompt(100 + i, 10));
            world.submit(entry(tokens, 8), u64::from(i));
            if arrive_late && i % 8 == 0 {
                // Others come while it is under way.
                world.queue(false);
                world.report();
            }
        }
        world.run_to_end();
        let counters = world.scheduler.counters();
        assert_eq!(counters.prompt_rows, 4000 + 32 * 10, "{counters:?}");
        assert_eq!(counters.prefix_hits, 31 * 4000);
        assert_eq!((counters.preemptions, counters.copied_blocks), (0, 0));
    }
}

#[test]
fn a_prompt_that_is_known_takes_a_copy_and_a_row() {
    let mut world = World::new(config(4, 256), 1);
    let tokens = prompt(1, 3 * BLOCK_TOKENS);
    for seed in 0..3 {
        world.submit(entry(tokens.clone(), 4), ENDLESS + seed);
    }
    let first = world.queue(false).unwrap();
    assert_eq!(groups(&first), [(0, 96)], "the others wait for it");
    let second = world.queue(false).unwrap();
    assert_eq!(groups(&second), [(0, 1), (1, 1), (2, 1)]);
    assert_eq!(second.copies.len(), 2);
    assert_eq!(second.joined.len(), 2);
    world.run_to_end();
    assert_eq!(world.scheduler.counters().prompt_rows, 96 + 2);
}

#[test]
fn decoding_goes_first_and_prompts_share_the_rest() {
    let config = SchedulerConfig {
        rows: 40,
        ..config(4, 256)
    };
    let mut world = World::new(config, 1);
    world.submit(entry(prompt(1, 5), 50), ENDLESS);
    assert_eq!(groups(&world.queue(false).unwrap()), [(0, 5)]);
    for i in 2..5 {
        world.submit(entry(prompt(i, 30), 50), ENDLESS);
    }
    assert_eq!(
        groups(&world.queue(false).unwrap()),
        [(0, 1), (1, 30), (2, 9)]
    );
    assert!(world.queue(false).is_none(), "two steps are in flight");
    world.report();
    let third = world.queue(false).unwrap();
    assert_eq!(groups(&third), [(0, 1), (1, 1), (2, 21), (3, 17)]);
    assert_eq!(third.rows[1].source, TokenSource::Chosen);
    assert!(third.rows[22].wanted && !third.rows[39].wanted);
    world.run_to_end();
}

#[test]
fn the_host_is_waited_for_by_its_own_requests_only() {
    let mut world = World::new(config(2, 256), 1);
    let by_host = Entry {
        chosen_by: ChosenBy::Host,
        ..entry(prompt(1, 5), 50)
    };
    world.submit(by_host, ENDLESS);
    world.submit(entry(prompt(2, 5), 50), ENDLESS);
    assert_eq!(groups(&world.queue(false).unwrap()), [(0, 5), (1, 5)]);
    assert_eq!(groups(&world.queue(false).unwrap()), [(1, 1)]);
    world.report();
    assert_eq!(groups(&world.queue(false).unwrap()), [(0, 1), (1, 1)]);
    world.run_to_end();
}

/// A slot is another's in the step after the last row was queued, before any result is known; and in
/// the step after a request was cancelled.
#[test]
fn a_slot_is_free_before_the_tokens_are_there() {
    let mut world = World::new(config(1, 256), 1);
    let first = world.submit(entry(prompt(1, 5), 1), ENDLESS);
    let second = world.submit(entry(prompt(2, 5), 50), ENDLESS);
    world.submit(entry(prompt(3, 5), 2), ENDLESS);
    assert_eq!(groups(&world.queue(false).unwrap()), [(0, 5)]);
    assert_eq!(groups(&world.queue(false).unwrap()), [(1, 5)]);
    let counters = world.scheduler.counters();
    assert_eq!(
        (counters.leaving, counters.running, counters.waiting),
        (1, 1, 1)
    );
    world.report();
    let fate = |world: &World, id| world.progress[&id].fate;
    assert_eq!(fate(&world, first), Some(Fate::Done(EndReason::MaxTokens)));
    world.cancel(second);
    assert_eq!(groups(&world.queue(false).unwrap()), [(2, 5)]);
    world.run_to_end();
}

#[test]
fn what_cannot_run_alone_is_refused() {
    let config = SchedulerConfig {
        limits: Limits {
            cache_blocks: 2,
            ..Limits::new(4, 256)
        },
        ..config(4, 256)
    };
    let mut scheduler = Scheduler::new(&config);
    assert_eq!(
        scheduler.submit(entry(vec![], 1)),
        Err(Refusal::EmptyPrompt)
    );
    assert_eq!(scheduler.submit(entry(vec![1], 0)), Err(Refusal::NoTokens));
    let too_long = Refusal::TooLong {
        tokens: 65,
        context: 64,
    };
    assert_eq!(scheduler.submit(entry(vec![1; 65], 1)), Err(too_long));
    let mut world = World::new(config, 1);
    let full = world.submit(entry(prompt(1, 64), 9), ENDLESS);
    world.submit(entry(prompt(1, 64), 9), ENDLESS);
    let grows = world.submit(entry(prompt(1, 60), 9), ENDLESS);
    world.run_to_end();
    for (id, tokens) in [(full, 1), (grows, 5)] {
        let progress = &world.progress[&id];
        assert_eq!(progress.fate, Some(Fate::Done(EndReason::ContextFull)));
        assert_eq!(progress.got.len(), tokens);
    }
}

/// One of the last class is overtaken by as many as the rule says, and then goes first.
#[test]
fn classes_go_first_up_to_a_bound() {
    let mut world = World::new(config(1, 256), 1);
    let late = Entry {
        priority: 2,
        ..entry(prompt(0, 5), 1)
    };
    world.submit(late, ENDLESS);
    for i in 1..20 {
        world.submit(entry(prompt(i, 5), 1), ENDLESS);
    }
    let mut joined = Vec::new();
    while let Some(work) = world.queue(false) {
        joined.extend(work.joined.iter().map(|id| id.0));
        world.report();
    }
    assert_eq!(joined.iter().position(|&id| id == 0), Some(7));
    world.run_to_end();
}

#[test]
fn the_last_in_rank_gives_way_and_comes_back() {
    let config = SchedulerConfig {
        limits: Limits {
            cache_blocks: 6,
            ..Limits::new(3, 160)
        },
        ..config(3, 160)
    };
    let mut world = World::new(config, 1);
    let first = world.submit(entry(prompt(1, 20), 100), ENDLESS);
    let urgent = world.submit(entry(prompt(2, 20), 100), ENDLESS);
    let patient = Entry {
        priority: 1,
        ..entry(prompt(3, 20), 100)
    };
    let last = world.submit(patient, ENDLESS);
    let mut went = Vec::new();
    while world.queue(false).is_some() || world.in_flight() > 0 {
        world.report();
        for id in [first, urgent, last] {
            let waits = world.progress[&id].fate.is_none()
                && world.scheduler.requests[&id].seat().is_none();
            if waits && world.steps > 1 && !went.contains(&id) {
                went.push(id);
            }
        }
    }
    assert_eq!(went, [last, urgent]);
    assert!(world.scheduler.counters().preemptions >= 2);
    world.check_end();
}

/// Though there is room for it: what is to be computed again ends with tokens that are still queued.
#[test]
fn who_gave_way_joins_again_once_its_tokens_are_known() {
    let run = |weakness: Option<Weakness>| {
        let config = SchedulerConfig {
            limits: Limits {
                cache_blocks: 3,
                ..Limits::new(2, 96)
            },
            steps_ahead: 4,
            ..config(2, 96)
        };
        let mut world = World::new(config, 1);
        if let Some(weakness) = weakness {
            world.weaken(weakness);
        }
        let first = world.submit(entry(prompt(1, 20), 60), ENDLESS);
        let second = world.submit(entry(prompt(2, 20), 60), ENDLESS);
        while world.scheduler.counters().preemptions == 0 {
            world.queue(false);
            if world.in_flight() > 2 {
                world.report();
            }
        }
        world.cancel(first);
        assert!(world.queue(false).is_none());
        world.report();
        assert_eq!(world.queue(false).unwrap().joined, [second]);
        world.run_to_end();
    };
    run(None);
    assert!(catch_unwind(|| run(Some(Weakness::ResumedEarly))).is_err());
}

/// What was published stays known after a request, until others need the room; the text is the same.
#[test]
fn an_evicted_prefix_is_computed_again() {
    let mut world = World::new(config(1, 128), 1);
    let ask = |world: &mut World, number, length| {
        world.submit(entry(prompt(number, length), 3), ENDLESS);
        world.run_to_end();
        world.scheduler.counters().prefix_hits
    };
    assert_eq!(ask(&mut world, 1, 70), 0);
    assert_eq!(ask(&mut world, 1, 70), 64, "known");
    assert_eq!(ask(&mut world, 2, 120), 64, "the whole cache");
    assert_eq!(ask(&mut world, 1, 70), 64, "evicted");
    let texts: Vec<_> = world.progress.values().map(|p| &p.got).collect();
    assert_eq!(texts[0], texts[1]);
    assert_eq!(texts[0], texts[3]);
}

/// A sequence that goes on from what another gave finds the tokens that were chosen, too.
#[test]
fn what_was_chosen_is_known_as_well() {
    let mut world = World::new(config(1, 256), 1);
    let id = world.submit(entry(prompt(1, 20), 60), ENDLESS);
    world.run_to_end();
    let mut tokens = world.scripts[&id].tokens.clone();
    tokens.push(9);
    world.submit(entry(tokens, 1), ENDLESS);
    world.run_to_end();
    assert_eq!(world.scheduler.counters().prefix_hits, 64);
}

#[test]
fn prefixes_are_shared_under_one_key_only() {
    let mut world = World::new(config(2, 256), 1);
    for (adapter, salt) in [(0, 0), (1, 0), (0, 1), (1, 0)] {
        let keyed = Entry {
            key: PrefixKey { adapter, salt },
            ..entry(prompt(1, 50), 2)
        };
        world.submit(keyed, ENDLESS);
        world.run_to_end();
    }
    assert_eq!(world.scheduler.counters().prefix_hits, 32);
}

#[test]
fn a_request_is_cancelled_wherever_it_is() {
    let config = SchedulerConfig {
        rows: 40,
        limits: Limits {
            cache_blocks: 5,
            ..Limits::new(3, 160)
        },
        ..config(3, 160)
    };
    // After each number of events, each of three requests.
    for events in 0..60 {
        for which in 0..3 {
            let mut world = World::new(config, events);
            let ids: Vec<_> = (0..3)
                .map(|i| world.submit(entry(prompt(i, 30), 60), ENDLESS))
                .collect();
            for event in 0..events {
                match event % 3 {
                    0 | 1 => drop(world.queue(false)),
                    _ => world.report(),
                }
            }
            world.cancel(ids[which]);
            world.cancel(ids[which]);
            world.scheduler.check();
            world.run_to_end();
        }
    }
}
