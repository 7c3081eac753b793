//! Steps that prompts and decoding share.

use super::cases::{ENDLESS, config, entry, groups, prompt};
use super::world::World;
use crate::serve::scheduler::{BatchBudget, PromptBudget, RowCosts};

const BATCH: BatchBudget = BatchBudget {
    rows: 8,
    least: 2,
    short: 4,
    many: 3,
    // Attention costs nothing here, and steps so much that rows do not count.
    costs: RowCosts {
        step: 1000,
        keys: usize::MAX / 4096,
    },
};

/// `decoding` requests that decode for ever, and a budget.
fn world(decoding: usize, budget: PromptBudget) -> World {
    let mut world = World::new(config(32, 4096), 1);
    world.scheduler.set_prompt_budget(budget);
    for i in 0..decoding {
        world.submit(entry(prompt(i as u32 + 1, 3), 900), ENDLESS);
    }
    for _ in 0..decoding.max(2) + 4 {
        world.queue(false);
        world.report();
    }
    world
}

/// Rows of prompts in the next steps, and rows that decode.
fn next_steps(world: &mut World, steps: usize) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for _ in 0..steps {
        let work = world.queue(false);
        let Some(work) = work else {
            break;
        };
        let rows = groups(&work);
        let prompts = rows
            .iter()
            .filter(|(_, rows)| *rows > 1)
            .map(|(_, rows)| rows);
        let decoding = rows.iter().filter(|(_, rows)| *rows == 1).count();
        found.push((prompts.sum(), decoding));
        world.report();
    }
    found
}

#[test]
fn a_long_prompt_has_what_decoding_leaves_of_a_batch() {
    let mut world = world(3, PromptBudget::Batch(BATCH));
    world.submit(entry(prompt(99, 20), 2), 0);
    assert_eq!(next_steps(&mut world, 4), [(5, 3), (5, 3), (5, 3), (5, 3)]);
}

#[test]
fn steps_take_turns_where_decoding_fills_a_batch() {
    let mut world = world(7, PromptBudget::Batch(BATCH));
    world.submit(entry(prompt(99, 12), 2), 0);
    let found = next_steps(&mut world, 6);
    assert_eq!(found, [(4, 0), (0, 7), (4, 0), (0, 7), (4, 0), (0, 8)]);
}

#[test]
fn many_short_prompts_go_in_one_step() {
    let mut world = world(3, PromptBudget::Batch(BATCH));
    for i in 0..5 {
        world.submit(entry(prompt(50 + i, 4), 2), 0);
    }
    assert_eq!(next_steps(&mut world, 1), [(20, 3)]);
}

#[test]
fn a_number_is_a_number() {
    let mut world = world(3, PromptBudget::Rows(7));
    world.submit(entry(prompt(99, 20), 2), 0);
    assert_eq!(next_steps(&mut world, 3), [(7, 3), (7, 3), (6, 3)]);
}

#[test]
fn a_prompt_costs_who_decodes_no_more_than_a_share_of_their_time() {
    let costs = RowCosts { step: 0, keys: 64 };
    let mut world = world(3, PromptBudget::Batch(BatchBudget { costs, ..BATCH }));
    world.submit(entry(prompt(99, 20), 2), 0);
    // Half as much again as the three rows of decoding, so four rows; fewer behind some keys.
    assert_eq!(
        next_steps(&mut world, 5),
        [(4, 3), (3, 3), (3, 3), (3, 3), (3, 3)]
    );
}

/// Every number of sequences, and every depth: by the costs, the time between two of their tokens.
#[test]
fn no_depth_and_no_number_of_others_makes_it_longer() {
    let costs = RowCosts {
        step: 24,
        keys: 3072,
    };
    let batch = BatchBudget {
        rows: 64,
        least: 16,
        costs,
        ..BATCH
    };
    for decoding in 1..=200 {
        for depth in (0..20_000).step_by(500) {
            for is_own_turn in [false, true] {
                let rows = batch.affordable(decoding, depth, is_own_turn) as f64;
                let turn = f64::from(u8::from(is_own_turn)) * 24.0;
                let alone = 24.0 + decoding as f64;
                let more = rows * (1.0 + depth as f64 / 3072.0) + turn;
                let one = 1.0 + depth as f64 / 3072.0 + turn;
                assert!(more <= (1.5 * alone).max(one), "{decoding} {depth}");
            }
        }
    }
}

#[test]
fn the_budget_and_what_steps_were_for_are_counted() {
    for (decoding, budget, rows) in [
        (3, PromptBudget::Batch(BATCH), 5),
        (0, PromptBudget::Batch(BATCH), 7),
        (7, PromptBudget::Batch(BATCH), 4),
        (3, PromptBudget::Rows(7), 7),
        (3, PromptBudget::Rows(4000), 512),
        (3, PromptBudget::All, 512),
    ] {
        let world = world(decoding, budget);
        assert_eq!(world.scheduler.counters().prompt_budget, rows, "{budget:?}");
    }
    let mut world = world(3, PromptBudget::Rows(7));
    let steps = |world: &World| {
        let c = world.scheduler.counters();
        [c.prompt_steps, c.decode_steps, c.mixed_steps]
    };
    let before = steps(&world);
    world.submit(entry(prompt(99, 20), 2), 0);
    // Three steps with pieces of the prompt, then others.
    let found = next_steps(&mut world, 5);
    let mixed = found.iter().filter(|(prompts, _)| *prompts > 0).count() as u64;
    assert_eq!(mixed, 3);
    let after = steps(&world);
    assert_eq!(after, [before[0], before[1] + 2, before[2] + 3]);
    let mut alone = self::world(0, PromptBudget::Rows(7));
    alone.submit(entry(prompt(5, 600), 2), 0);
    // Nothing decodes meanwhile: as many rows as a step has.
    assert_eq!(next_steps(&mut alone, 2), [(512, 0), (88, 0)]);
    assert_eq!(steps(&alone), [2, 0, 0]);
}
