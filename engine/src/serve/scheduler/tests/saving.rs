//! Requests that give way with what they have, and go on with it.

use std::panic::catch_unwind;

use super::super::weakness::Weakness;
use super::super::{RequestId, SchedulerConfig, Work};
use super::cases::{ENDLESS, config, entry, prompt};
use super::world::{Fate, World};
use crate::exec::Limits;

/// Two sequences of up to three blocks in a cache of four, and places for one.
fn tight() -> SchedulerConfig {
    SchedulerConfig {
        limits: Limits {
            cache_blocks: 4,
            saved_blocks: 3,
            ..Limits::new(2, 96)
        },
        steps_ahead: 4,
        ..config(2, 96)
    }
}

/// Two requests, and the step in which the second gives way; `fails` says of a step whether it does, by
/// how many there are behind it until then.
fn until_it_gives_way(
    weakness: Option<Weakness>,
    fails: impl Fn(usize) -> bool,
) -> (World, [RequestId; 2], Work) {
    // Where a step fails early, requests end early: the step is counted in a run without failures.
    let steps = |world: &mut World, fails: &dyn Fn(usize) -> bool| {
        for i in 0.. {
            let work = world.queue(fails(i)).unwrap();
            if world.scheduler.counters().preemptions > 0 {
                return (i, work);
            }
            if world.in_flight() > 2 {
                world.report();
            }
        }
        unreachable!("blocks run out");
    };
    let new = || {
        let mut world = World::new(tight(), 1);
        let first = world.submit(entry(prompt(1, 20), 70), ENDLESS);
        let second = world.submit(entry(prompt(2, 25), 70), ENDLESS);
        (world, [first, second])
    };
    let (last, _) = steps(&mut new().0, &|_| false);
    let (mut world, ids) = new();
    if let Some(weakness) = weakness {
        world.weaken(weakness);
    }
    let (_, work) = steps(&mut world, &|i| fails(last - i));
    (world, ids, work)
}

#[test]
fn who_gives_way_goes_on_with_what_it_had() {
    let (mut world, [first, second], work) = until_it_gives_way(None, |_| false);
    assert_eq!(work.saves.len(), 2, "{work:?}");
    assert!(work.rows.iter().all(|row| row.request == first));
    assert_eq!(world.scheduler.counters().places_free, 1);
    world.cancel(first);
    assert!(world.queue(false).is_none(), "it is still being saved");
    let before = world.scheduler.counters().prompt_rows;
    while world.in_flight() > 0 {
        world.report();
    }
    let work = world.queue(false).unwrap();
    assert_eq!(work.joined, [second]);
    // Its first block was known all the while.
    assert_eq!(work.restores.len(), 1, "{work:?}");
    assert_eq!(work.rows.len(), 1, "{work:?}");
    let counters = world.scheduler.counters();
    assert_eq!(
        (counters.prompt_rows, counters.restored_blocks),
        (before + 1, 1)
    );
    assert_eq!(counters.places_free, 3);
    world.run_to_end();
    assert_eq!(world.progress[&second].got, world.scripts[&second].chosen());
}

#[test]
fn what_could_not_be_saved_is_computed_again() {
    let (mut world, [first, second], work) = until_it_gives_way(None, |_| false);
    world.scheduler.lose_saved(work.ticket);
    assert_eq!(world.scheduler.counters().places_free, 3);
    world.cancel(first);
    while world.in_flight() > 0 {
        world.report();
    }
    let work = world.queue(false).unwrap();
    assert_eq!(work.joined, [second]);
    assert!(work.restores.is_empty() && work.rows.len() > 1);
    world.run_to_end();
    assert_eq!(world.progress[&second].got, world.scripts[&second].chosen());
}

/// The step that saves fails, or one in front of it of which a row is saved.
#[test]
fn what_stands_on_a_failed_step_is_not_restored() {
    let run = |weakness, behind| {
        let (mut world, [first, second], _) = until_it_gives_way(weakness, |b| b == behind);
        while world.in_flight() > 0 {
            world.report();
        }
        // Who has rows in the step fails; who only gives way in it does not.
        let fates = [first, second].map(|id| world.progress[&id].fate);
        let failed = Some(Fate::Failed);
        assert_eq!(
            fates,
            if behind == 0 {
                [failed, None]
            } else {
                [failed; 2]
            }
        );
        assert_eq!(world.scheduler.counters().places_free, 3);
        world.run_to_end();
    };
    run(None, 0);
    run(None, 1);
    let unnoticed = |behind| catch_unwind(|| run(Some(Weakness::FailureStaysSaved), behind));
    assert!(unnoticed(0).is_err());
}

#[test]
fn who_is_over_gives_its_places_back() {
    let (mut world, [_, second], _) = until_it_gives_way(None, |_| false);
    world.cancel(second);
    assert_eq!(world.scheduler.counters().places_free, 3);
    world.run_to_end();
}

/// Though its tokens are known and there is room.
#[test]
fn nobody_joins_with_what_is_still_being_saved() {
    let run = |weakness| {
        let (mut world, [first, second], _) = until_it_gives_way(weakness, |b| b == 0);
        world.cancel(first);
        while world.in_flight() > 1 {
            world.report();
        }
        assert!(world.queue(false).is_none());
        world.report();
        let work = world.queue(false).unwrap();
        assert_eq!(work.joined, [second]);
        assert!(work.restores.is_empty());
        world.run_to_end();
    };
    run(None);
    assert!(catch_unwind(|| run(Some(Weakness::RestoredEarly))).is_err());
}

/// A step that fails restores nothing; what it was to restore is known to nobody.
#[test]
fn what_a_failed_step_restores_is_not_known() {
    let run = |weakness: Option<Weakness>| {
        let config = SchedulerConfig {
            limits: Limits {
                cache_blocks: 4,
                saved_blocks: 2,
                ..Limits::new(2, 128)
            },
            ..config(2, 128)
        };
        let mut world = World::new(config, 1);
        if let Some(weakness) = weakness {
            world.weaken(weakness);
        }
        let first = world.submit(entry(prompt(1, 20), 105), ENDLESS);
        let second = world.submit(entry(prompt(2, 40), 60), ENDLESS);
        while world.progress[&first].fate.is_none() {
            world.queue(false);
            world.report();
        }
        // The first one has taken the whole cache.
        assert_eq!(world.scheduler.saved_positions(second), 64);
        let work = world.queue(true).unwrap();
        assert_eq!((work.restores.len(), work.rows.len()), (2, 1), "{work:?}");
        world.report();
        assert_eq!(world.progress[&second].fate, Some(Fate::Failed));
        let same = world.scripts[&second].tokens[..70].to_vec();
        world.submit(entry(same, 5), ENDLESS);
        assert_eq!(world.queue(false).unwrap().rows.len(), 70);
        world.run_to_end();
    };
    run(None);
    assert!(catch_unwind(|| run(Some(Weakness::RestoredAtOnce))).is_err());
}
