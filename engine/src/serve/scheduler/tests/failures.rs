//! Steps that fail: what they end, what they send back, and what they leave alone.

use std::panic::catch_unwind;

use super::super::weakness::Weakness;
use super::super::{ChosenBy, Entry, RequestId, SchedulerConfig};
use super::cases::{ENDLESS, config, entry, groups, prompt};
use super::world::{Fate, Progress, World};
use crate::kv::BLOCK_TOKENS;

fn small_steps() -> SchedulerConfig {
    SchedulerConfig {
        rows: 64,
        steps_ahead: 4,
        ..config(3, 256)
    }
}

fn failed(world: &World) -> Vec<RequestId> {
    let failed = |p: &&Progress| p.fate == Some(Fate::Failed);
    let progress = world.progress.iter().filter(|(_, p)| failed(p));
    progress.map(|(&id, _)| id).collect()
}

#[test]
fn a_failed_step_ends_those_who_have_rows_in_it() {
    let mut world = World::new(small_steps(), 1);
    let first = world.submit(entry(prompt(1, 64), 20), ENDLESS);
    let second = world.submit(entry(prompt(2, 64), 20), ENDLESS);
    world.queue(true);
    world.queue(false);
    world.report();
    assert_eq!(failed(&world), [first]);
    assert_eq!(world.scheduler.tokens(first), None);
    assert_eq!(world.scheduler.tokens(second).map(<[u32]>::len), Some(64));
    world.run_to_end();
    assert_eq!(failed(&world), [first]);
    assert_eq!(world.scheduler.counters().restarts, 0);
}

/// Who was given blocks that the failed step was to fill computes them, and nobody fails but who had
/// rows in that step.
#[test]
fn who_stands_on_a_failed_step_goes_back() {
    let mut world = World::new(small_steps(), 1);
    let first = world.submit(entry(prompt(1, 64), 20), ENDLESS);
    let mut longer = prompt(1, 64);
    longer.extend(prompt(2, 40));
    let second = world.submit(entry(longer.clone(), 20), ENDLESS);
    let third = world.submit(entry(longer, 20), ENDLESS);
    assert_eq!(groups(&world.queue(true).unwrap()), [(0, 64)]);
    assert_eq!(groups(&world.queue(false).unwrap()), [(0, 1), (1, 40)]);
    // Stands on what the second one stands on.
    assert_eq!(
        groups(&world.queue(false).unwrap()),
        [(0, 1), (1, 1), (2, 8)]
    );
    world.report();
    assert_eq!(failed(&world), [first]);
    let counters = world.scheduler.counters();
    assert_eq!((counters.restarts, counters.waiting), (2, 2));
    assert_eq!((counters.blocks_held, counters.blocks_cached), (0, 0));
    assert_eq!(groups(&world.queue(false).unwrap()), [(1, 64)]);
    world.run_to_end();
    assert_eq!(failed(&world), [first]);
    assert_eq!(
        world.scripts[&second].chosen(),
        world.scripts[&third].chosen()
    );
}

#[test]
fn a_failed_prefix_is_not_found_though_its_owner_is_gone() {
    let mut world = World::new(small_steps(), 1);
    let first = world.submit(entry(prompt(1, 64), 20), ENDLESS);
    world.queue(true);
    world.cancel(first);
    assert_eq!(world.scheduler.counters().blocks_cached, 2);
    world.report();
    assert_eq!(world.scheduler.counters().blocks_cached, 0);
    assert_eq!(failed(&world), []);
    world.run_to_end();
}

/// Blocks that were filled before the failed step stay known.
#[test]
fn what_came_before_a_failed_step_stays() {
    let mut world = World::new(small_steps(), 1);
    world.submit(entry(prompt(1, 200), 20), ENDLESS);
    world.queue(false);
    world.queue(true);
    world.report();
    world.report();
    let counters = world.scheduler.counters();
    assert_eq!(counters.blocks_cached, 64 / BLOCK_TOKENS);
    assert_eq!(counters.failed_requests, 1);
    world.submit(entry(prompt(1, 200), 20), ENDLESS);
    assert_eq!(world.queue(false).unwrap().rows[0].position, 64);
    world.run_to_end();
}

/// Who waits for a prefix computes it when the one that was to is gone, in whatever way.
#[test]
fn nobody_waits_for_a_prefix_that_nobody_computes() {
    for fails in [false, true] {
        let mut world = World::new(small_steps(), 1);
        let first = world.submit(entry(prompt(1, 250), 5), ENDLESS);
        world.submit(entry(prompt(1, 240), 5), ENDLESS);
        assert_eq!(groups(&world.queue(fails).unwrap()), [(0, 64)]);
        assert_eq!(groups(&world.queue(false).unwrap()), [(0, 64)]);
        if !fails {
            world.cancel(first);
        }
        world.report();
        // It goes on from what is known.
        let rows = world.queue(false).unwrap().rows;
        assert_eq!(rows[0].position, if fails { 0 } else { 128 });
        world.run_to_end();
    }
}

/// Rows of a request that has ended fail without anybody's notice.
#[test]
fn a_failure_of_zombies_ends_nobody() {
    let mut world = World::new(small_steps(), 1);
    let first = world.submit(entry(prompt(1, 5), 20), ENDLESS);
    world.queue(false);
    world.queue(true);
    world.cancel(first);
    world.submit(entry(prompt(2, 5), 20), ENDLESS);
    world.queue(false);
    world.run_to_end();
    assert_eq!(failed(&world), []);
    assert_eq!(world.scheduler.counters().failed_steps, 1);
}

#[test]
#[should_panic(expected = "in the order of their tickets")]
fn a_step_is_reported_after_those_before_it() {
    let mut world = World::new(small_steps(), 1);
    world.submit(entry(prompt(1, 5), 20), ENDLESS);
    world.queue(false);
    let second = world.queue(false).unwrap();
    world.scheduler.fail(second.ticket);
}

/// When the device is gone everybody hears of it, and nothing is left.
#[test]
fn when_all_steps_fail_all_requests_end() {
    let mut world = World::new(small_steps(), 1);
    for i in 0..8 {
        world.submit(entry(prompt(i % 3, 40), 9), ENDLESS);
    }
    while world.alive().next().is_some() {
        world.queue(true);
        world.report();
        world.scheduler.check();
    }
    world.check_end();
}

/// A request computes a block that another makes known meanwhile, and publishes what goes on from it
/// under that one's block. When the step fails in which it computed its own, what goes on from it is
/// wrong, though the block that it is found by is right.
#[test]
fn damage_goes_on_behind_what_others_know() {
    let run = |weakness: Option<Weakness>| {
        let config = SchedulerConfig {
            rows: 20,
            ..small_steps()
        };
        let mut world = World::new(config, 1);
        if let Some(weakness) = weakness {
            world.weaken(weakness);
        }
        let by_host = Entry {
            chosen_by: ChosenBy::Host,
            ..entry(prompt(1, 32), 60)
        };
        let other = world.submit(by_host, ENDLESS);
        while world.scheduler.tokens(other).unwrap().len() < 63 {
            world.queue(false);
            world.report();
        }
        let mut tokens = world.scripts[&other].tokens[..64].to_vec();
        tokens.extend(prompt(2, 40));
        world.queue(false);
        let first = world.submit(entry(tokens.clone(), 20), ENDLESS);
        let joins = world.queue(true).unwrap();
        assert_eq!(
            (groups(&joins), joins.rows[0].position),
            (vec![(1, 20)], 32)
        );
        world.report();
        assert_eq!(world.scheduler.tokens(other).unwrap().len(), 64);
        for _ in 0..2 {
            world.queue(false);
        }
        assert_eq!(world.scheduler.table().known_blocks(), 2);
        world.queue(false);
        assert_eq!(world.scheduler.table().known_blocks(), 3);
        world.report();
        assert_eq!(failed(&world), [first]);
        world.submit(entry(tokens, 20), ENDLESS);
        world.run_to_end();
        assert_eq!(failed(&world), [first]);
    };
    run(None);
    let noticed = catch_unwind(|| run(Some(Weakness::DamageEndsWithTheStep)));
    assert!(noticed.is_err());
}
