//! Steps that prompts and decoding share.

use super::cases::{ENDLESS, config, entry, groups, prompt};
use super::world::World;
use crate::serve::scheduler::{BatchBudget, PromptBudget};

const BATCH: BatchBudget = BatchBudget {
    rows: 8,
    least: 2,
    short: 4,
    many: 3,
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
