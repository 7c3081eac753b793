//! Orders of events by their seeds, and whether they notice a scheduler that is wrong.
//!
//! `GANNET_ORDERS=all` runs a hundred thousand; otherwise a sample of them.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rayon::prelude::*;

use super::super::weakness::Weakness;
use super::super::{
    BatchBudget, ChosenBy, Entry, PromptBudget, RowCosts, SchedulerConfig, SchedulerCounters,
};
use super::Random;
use super::world::World;
use crate::exec::Limits;
use crate::kv::{BLOCK_TOKENS, PrefixKey};

/// Orders that there are.
const ORDERS: u64 = 100_000;
/// One in so many is in a sample.
const SHARE: usize = 40;
/// Orders that may pass before a weakness is noticed.
const PATIENCE: u64 = 2000;

/// What an order is after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Theme {
    /// Whatever there is.
    Mixed,
    /// Sequences that grow in a cache that holds little more than one.
    Tight,
    /// Prompts that begin alike, in steps that fail.
    Alike,
}

/// What an order may have in it.
struct Scenario {
    requests: usize,
    /// One in so many steps fails; none for 0.
    failures: usize,
    /// Steps that fail with it.
    in_a_row: usize,
    cancels: bool,
    /// Prompts that others begin like.
    families: Vec<Vec<u32>>,
    lengthy: bool,
    classes: usize,
    context: usize,
}

fn config(theme: Theme, random: &mut Random) -> SchedulerConfig {
    let slots = match theme {
        Theme::Mixed => 1 + random.below(6),
        Theme::Tight | Theme::Alike => 3 + random.below(4),
    };
    let context = BLOCK_TOKENS * (2 + random.below(6)) - random.below(9);
    let of_one = context.div_ceil(BLOCK_TOKENS);
    let blocks = match theme {
        Theme::Mixed => 1 + random.below(slots * of_one),
        Theme::Tight => of_one + random.below(slots),
        Theme::Alike => slots * of_one - random.below(of_one),
    };
    let rows = match random.below(3) {
        0 if theme != Theme::Tight => 1 + random.below(8),
        1 => 16 + random.below(32),
        _ => 200,
    };
    let limits = Limits {
        max_rows: 1 + random.below(2) * random.below(50) + rows / 2,
        max_outputs: match theme != Theme::Tight && random.once_in(4) {
            true => 1 + random.below(slots),
            false => slots,
        },
        cache_blocks: blocks,
        saved_blocks: random.below(2) * random.below(2 * of_one),
        ..Limits::new(slots, context)
    };
    SchedulerConfig {
        limits,
        rows,
        steps_ahead: match theme {
            Theme::Mixed | Theme::Tight => 1 + random.below(4),
            Theme::Alike => 2 + random.below(3),
        },
        overtakes: 1 + random.below(3) as u64,
    }
}

fn scenario(theme: Theme, random: &mut Random, context: usize) -> Scenario {
    let family = |random: &mut Random| -> Vec<u32> {
        let tokens = (0..context).map(|_| random.below(3) as u32);
        tokens.collect()
    };
    let families = match theme {
        Theme::Mixed | Theme::Tight => 1 + random.below(3),
        Theme::Alike => 1,
    };
    Scenario {
        requests: 3 + random.below(12),
        failures: match theme {
            Theme::Mixed => [0, 0, 0, 30][random.below(4)],
            Theme::Tight => [0, 0, 10, 30][random.below(4)],
            Theme::Alike => [0, 10, 15, 30][random.below(4)],
        },
        in_a_row: random.below(2) * random.below(4),
        cancels: random.once_in(2),
        families: (0..families).map(|_| family(random)).collect(),
        lengthy: theme == Theme::Tight,
        classes: 1 + random.below(3),
        context,
    }
}

/// A request of a family: the beginning of it, whole blocks more often than not, and sometimes more.
fn entry(random: &mut Random, scenario: &Scenario) -> Entry {
    let family = &scenario.families[random.below(scenario.families.len())];
    // Who goes on for long begins with little, so that blocks run out on the way.
    let most = match scenario.lengthy {
        true => scenario.context / 3,
        false => scenario.context,
    };
    let mut shared = 1 + random.below(most.max(1));
    if shared > BLOCK_TOKENS && !random.once_in(3) {
        shared -= shared % BLOCK_TOKENS;
    }
    let mut prompt = family[..shared].to_vec();
    if !random.once_in(3) {
        let more = random.below(20).min(scenario.context - shared);
        prompt.extend((0..more).map(|_| random.below(2) as u32));
    }
    Entry {
        prompt,
        max_tokens: 1 + random.below(if scenario.lengthy { 150 } else { 12 }),
        priority: random.below(scenario.classes) as u8,
        key: PrefixKey {
            adapter: u32::from(random.once_in(5)),
            salt: 0,
        },
        chosen_by: match random.once_in(4) {
            true => ChosenBy::Host,
            false => ChosenBy::Device,
        },
    }
}

/// One order of events. Panics when a rule is broken.
fn explore(seed: u64, weakness: Option<Weakness>) -> World {
    let random = &mut Random::new(seed);
    let theme = [Theme::Mixed, Theme::Tight, Theme::Alike][random.below(3)];
    let config = config(theme, random);
    let mut world = World::new(config, seed);
    let budget = match seed % 3 {
        0 => PromptBudget::All,
        1 => PromptBudget::Rows(1 + random.below(40)),
        _ => PromptBudget::Batch(BatchBudget {
            rows: 1 + random.below(12),
            least: random.below(6),
            short: random.below(20),
            many: 1 + random.below(4),
            costs: RowCosts {
                step: random.below(10),
                keys: 1 + random.below(100),
            },
        }),
    };
    world.scheduler.set_prompt_budget(budget);
    if let Some(weakness) = weakness {
        world.weaken(weakness);
    }
    let scenario = scenario(theme, random, world.scheduler.context());
    let (mut to_come, mut events, mut failing) = (scenario.requests, 0, 0);
    let (queues, reports) = (1 + random.below(8), 1 + random.below(4));
    while to_come > 0 || world.alive().next().is_some() || world.in_flight() > 0 {
        events += 1;
        assert!(events < 30_000, "it does not end");
        match random.below(4 + queues + reports) {
            0 | 1 => {
                let burst = match theme {
                    Theme::Mixed | Theme::Tight => (1 + random.below(5)).min(to_come),
                    Theme::Alike => to_come,
                };
                for _ in 0..burst {
                    let entry = entry(random, &scenario);
                    // Few seeds, so that some give the same text; larger ones go on for longer.
                    let least = u64::from(theme == Theme::Tight);
                    world.submit(entry, least + random.below(3) as u64);
                }
                to_come -= burst;
            }
            2 if scenario.cancels && random.once_in(3) => {
                let alive: Vec<_> = world.alive().collect();
                if !alive.is_empty() {
                    world.cancel(alive[random.below(alive.len())]);
                }
            }
            event if event >= 4 + queues => world.report(),
            _ => {
                if scenario.failures > 0 && random.once_in(scenario.failures) {
                    failing = 1 + scenario.in_a_row;
                }
                if world.queue(failing > 0).is_some() {
                    failing = failing.saturating_sub(1);
                }
            }
        }
        world.scheduler.check();
    }
    world.check_end();
    world
}

#[test]
fn whatever_happens_every_request_ends_with_its_text() {
    let all = std::env::var_os("GANNET_ORDERS").is_some_and(|orders| orders == "all");
    let share = if all { 1 } else { SHARE };
    let seeds: Vec<u64> = (0..ORDERS).step_by(share).collect();
    let run = |&seed: &u64| {
        let outcome = catch_unwind(|| explore(seed, None).scheduler.counters());
        outcome.unwrap_or_else(|_| panic!("seed {seed}"))
    };
    let counters: Vec<_> = seeds.par_iter().map(run).collect();
    let sum = |of: fn(&SchedulerCounters) -> u64| counters.iter().map(of).sum::<u64>();
    // The sample reaches what it is there for.
    for (what, reached) in [
        ("prompt rows", sum(|c| c.prompt_rows)),
        ("decode rows", sum(|c| c.decode_rows)),
        ("tokens found", sum(|c| c.prefix_hits)),
        ("copies", sum(|c| c.copied_blocks)),
        ("preemptions", sum(|c| c.preemptions)),
        ("blocks saved", sum(|c| c.saved_blocks)),
        ("blocks restored", sum(|c| c.restored_blocks)),
        ("restarts", sum(|c| c.restarts)),
        ("failures", sum(|c| c.failed_requests)),
        ("cancellations", sum(|c| c.cancellations)),
    ] {
        println!("{reached} {what} in {} orders", seeds.len());
        assert!(reached > 0, "no {what}");
    }
}

#[test]
fn what_happens_follows_from_the_seed() {
    for seed in 0..20 {
        let run = || {
            let world = explore(seed, None);
            (world.scheduler.counters(), world.steps)
        };
        assert_eq!(run(), run(), "seed {seed}");
    }
}

#[test]
fn every_weakness_is_noticed() {
    // Cases of their own stand for what is rare.
    let rare = [
        Weakness::DamageEndsWithTheStep,
        Weakness::ResumedEarly,
        Weakness::FailureStaysSaved,
        Weakness::RestoredEarly,
        Weakness::RestoredAtOnce,
    ];
    for &weakness in Weakness::ALL.iter().filter(|w| !rare.contains(w)) {
        let notices = |&seed: &u64| {
            let run = AssertUnwindSafe(|| explore(seed, Some(weakness)));
            catch_unwind(run).is_err()
        };
        let noticed = (0..PATIENCE).find(notices);
        println!("{weakness:?} is noticed by seed {noticed:?}");
        assert!(noticed.is_some(), "{weakness:?} is not noticed");
    }
}
