//! What is drawn by random schemas validates against them.

use std::collections::VecDeque;

use gannet_engine::requests::Grammar;
use gannet_engine::{Engine, Finish, Handle};
use serde_json::Value;

use super::generator::{Random, schema};
use super::{drawn, engine};

/// Tokens of a completion at most.
const MOST_TOKENS: usize = 400;
/// Completions under way at once.
const AT_ONCE: usize = 16;

/// What became of completions.
#[derive(Debug, Default)]
struct Tally {
    schemas: usize,
    valid: usize,
    /// Cut by the bound of tokens.
    cut: usize,
    tokens: usize,
}

/// How many schemas: a share, and all where `GANNET_SCHEMAS=all`.
fn how_many() -> usize {
    match std::env::var("GANNET_SCHEMAS").as_deref() {
        Ok("all") => 1_000,
        _ => 60,
    }
}

fn validator(schema: &Value) -> jsonschema::Validator {
    let options = jsonschema::options().should_validate_formats(true);
    options.build(schema).unwrap()
}

/// Ends the oldest completion: it is valid, or cut and the beginning of something valid as far as JSON
/// goes.
fn check(schema: &Value, handle: Handle, tally: &mut Tally) {
    let generation = handle.wait().unwrap_or_else(|e| panic!("{e}: {schema}"));
    tally.tokens += generation.tokens.len();
    if generation.finish == Finish::Length {
        // What was cut may be complete all the same: a number of ever more digits.
        if let Err(error) = serde_json::from_str::<Value>(&generation.text) {
            assert!(error.is_eof(), "{error}: {schema} gave {}", generation.text);
        }
        tally.cut += 1;
        return;
    }
    assert_eq!(generation.finish, Finish::EndOfText, "{schema}");
    let value: Value = serde_json::from_str(&generation.text)
        .unwrap_or_else(|e| panic!("{e}: {schema} gave {:?}", generation.text));
    let errors: Vec<String> = validator(schema)
        .iter_errors(&value)
        .map(|e| e.to_string())
        .collect();
    assert!(
        errors.is_empty(),
        "{errors:?}: {schema} gave {}",
        generation.text
    );
    tally.valid += 1;
}

fn run(engine: &Engine, seeds: std::ops::Range<usize>) -> Tally {
    let mut tally = Tally::default();
    let mut under_way: VecDeque<(Value, Handle)> = VecDeque::new();
    for seed in seeds {
        let schema = schema(&mut Random::new(seed as u64));
        let mut request = drawn("As JSON: ", seed as u64, MOST_TOKENS);
        request.grammar = Some(Grammar::JsonSchema(schema.to_string()));
        if under_way.len() == AT_ONCE
            && let Some((schema, handle)) = under_way.pop_front()
        {
            check(&schema, handle, &mut tally);
        }
        under_way.push_back((schema, engine.submit(request)));
        tally.schemas += 1;
    }
    for (schema, handle) in under_way {
        check(&schema, handle, &mut tally);
    }
    tally
}

#[test]
fn what_is_drawn_by_random_schemas_validates() {
    let started = std::time::Instant::now();
    let tally = run(&engine(AT_ONCE, 512), 0..how_many());
    println!("{tally:?} in {:?}", started.elapsed());
    assert_eq!(tally.valid + tally.cut, how_many());
    assert!(tally.cut * 20 <= tally.schemas, "{tally:?}");
}
