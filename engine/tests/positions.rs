//! Which position an error of logits without numbers names: in a step of a prompt NaN of a later token comes
//! to the rows of earlier ones, whose own logits are what they are.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/plants.rs"]
mod plants;
mod reference;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use common::{model, shared};
use gannet_engine::error::NotFinite;
use gannet_engine::tools::{eval, make_executor};
use gannet_engine::{Batch, DeviceChoice, Error, GenerateOptions, Settings};
use gannet_gguf::Gguf;
use plants::*;
use tempfile::NamedTempFile;

/// A copy of a model that gives no numbers for a token.
fn without(file: &Path, token: u64) -> NamedTempFile {
    let gguf = Gguf::open(file).unwrap();
    let embedding = gguf.tensor("token_embd.weight").unwrap();
    planted(file, embedding, token * embedding.dims[0], f32::NAN)
}

fn micro(test: &str) -> Option<PathBuf> {
    shared(test, "golden/arch/llama/llama.gguf")
}

/// Tokens of a text, none of them 300.
fn text(count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| (i * 13 + 5) % 250).collect()
}

fn not_finite<T>(result: Result<T, Error>) -> NotFinite {
    match result {
        Err(Error::NotFinite(found)) => *found,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("no error"),
    }
}

/// The logits in front of the token are given out where they were computed in other steps, and the error
/// names the token's position, wherever in a step it stands.
#[test]
fn the_first_position_without_numbers_is_named() {
    let Some(file) = micro("positions without numbers") else {
        return;
    };
    let copy = without(&file, 300);
    let model = model(copy.path());
    for mut runner in runners() {
        runner.settings.max_rows = Some(16);
        let mut executor = make_executor(&model, &runner.settings).unwrap().executor;
        for (at, first) in [(0, 0), (7, 0), (15, 0), (16, 0), (29, 0), (9, 20), (33, 33)] {
            let mut ids = text(40);
            ids[at] = 300;
            // Later ones are not the first.
            ids[38] = 300;
            let what = format!("{}: {at} from {first}", runner.name);
            let mut given = Vec::new();
            let found = not_finite(eval::logits(
                executor.as_mut(),
                &ids,
                first,
                |position, _| {
                    given.push(position);
                    Ok(())
                },
            ));
            assert_eq!(found.position, at.max(first), "{what}: {found}");
            let origin = found.origin.as_ref().unwrap();
            assert_eq!(origin.position, at, "{what}: {found}");
            assert!(origin.unit.starts_with("embed "), "{what}: {found}");
            let whole_steps = at.max(first) / 16 * 16;
            assert!(given.len() + first >= whole_steps && given.len() + first <= at.max(first));
        }
    }
}

#[test]
fn perplexity_names_the_position_in_the_text() {
    let Some(file) = micro("perplexity without numbers") else {
        return;
    };
    let copy = without(&file, 300);
    let model = model(copy.path());
    for runner in runners() {
        let mut executor = make_executor(&model, &runner.settings).unwrap().executor;
        // In the second half of the second window, and in its first.
        for (at, named) in [(32 + 21, 32 + 21), (32 + 5, 32 + 16)] {
            let mut ids = text(96);
            ids[at] = 300;
            let found = eval::perplexity(executor.as_mut(), &ids, None, 32, |_, _, _| {});
            let found = not_finite(found);
            assert_eq!(found.position, named, "{}: {found}", runner.name);
            assert_eq!(found.origin.unwrap().position, at, "{}", runner.name);
        }
    }
}

/// What a request without numbers computed is not taken for the prefix of one with numbers.
#[test]
fn prefixes_of_what_has_no_numbers_are_not_shared() {
    let Some(file) = micro("prefixes without numbers") else {
        return;
    };
    let copy = without(&file, 300);
    let model = model(copy.path());
    let options = GenerateOptions {
        max_tokens: 5,
        ignore_eog: true,
        ..GenerateOptions::default()
    };
    for device in [DeviceChoice::Cpu, DeviceChoice::Interp] {
        let settings = Settings {
            device,
            context: Some(96),
            max_rows: Some(64),
            ..Settings::default()
        };
        let run = |prompts: &[Vec<u32>]| {
            let mut batch = Batch::new(&model, &settings).unwrap();
            let one = |prompt: &Vec<u32>| {
                batch.add(prompt, options.clone()).unwrap();
                let mut finished = batch.run_to_end(|_, _| ControlFlow::Continue(()));
                finished.remove(0).1.map(|generation| generation.tokens)
            };
            prompts.iter().map(one).collect::<Vec<_>>()
        };
        let mut spoilt = text(40);
        spoilt.push(300);
        let mut right = text(40);
        right.push(7);
        let alone = run(&[right.clone()]).remove(0).unwrap();
        let mut both = run(&[spoilt, right]);
        assert_eq!(both.pop().unwrap().unwrap(), alone, "{device}");
        let found = not_finite(both.pop().unwrap());
        assert_eq!(found.position, 40, "{device}: {found}");
    }
}
