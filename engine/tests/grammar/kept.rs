//! Grammars that are compiled once for all who come with the same ones.

use std::sync::{Arc, Barrier};

use gannet_engine::internals::text::grammar::{Grammar, GrammarCounts, Grammars};
use gannet_engine::internals::text::tokenizer::{TokenizerOptions, from_metadata};
use gannet_engine::{GenerateOptions, Request};

use super::{engine_of, model, opened};

fn grammars() -> Grammars {
    let options = TokenizerOptions::default();
    let tokenizer = from_metadata(model().metadata(), &options).unwrap();
    Grammars::new(&Arc::new(tokenizer))
}

fn counts(hits: u64, misses: u64) -> GrammarCounts {
    GrammarCounts { hits, misses }
}

/// A schema of its own for each number.
fn numbered(i: usize) -> Grammar {
    Grammar::JsonSchema(format!("{{\"const\": {i}}}"))
}

#[test]
fn a_grammar_is_compiled_once_for_each_kind_text_and_vocabulary() {
    let grammars = grammars();
    let schema = |text: &str| Grammar::JsonSchema(text.to_owned());
    let object = schema("{\"type\": \"object\"}");
    grammars.compile(&object).unwrap();
    assert_eq!(grammars.counts(), counts(0, 1));
    grammars.compile(&object.clone()).unwrap();
    assert_eq!(grammars.counts(), counts(1, 1));
    // Another text, though it means the same, and another kind of the same text.
    grammars.compile(&schema("{\"type\":\"object\"}")).unwrap();
    grammars.compile(&Grammar::JsonObject).unwrap();
    grammars
        .compile(&Grammar::Regex("true".to_owned()))
        .unwrap();
    grammars.compile(&schema("true")).unwrap();
    assert_eq!(grammars.counts(), counts(1, 5));
    let others = self::grammars();
    others.compile(&object).unwrap();
    assert_eq!(others.counts(), counts(0, 1));
}

/// What one text does to its matcher is nothing to the next.
#[test]
fn each_has_a_copy_at_the_start() {
    let grammars = grammars();
    let regex = Grammar::Regex("ab*c".to_owned());
    let token = |text: &str| {
        let tokenizer = model().tokenizer();
        let id = (0..tokenizer.vocab_size() as u32)
            .find(|&id| tokenizer.token_bytes(id) == text.as_bytes());
        id.unwrap()
    };
    let (a, c) = (token("a"), token("c"));
    let mut first = grammars.compile(&regex).unwrap();
    for _ in 0..2 {
        first.accept(a).unwrap();
        first.accept(c).unwrap();
        assert!(first.is_complete());
        let mut next = grammars.compile(&regex).unwrap();
        assert!(!next.is_complete() && !next.may_end());
        let allowed = next.allowed().unwrap().unwrap();
        assert!(allowed.contains(a) && !allowed.contains(c));
        first = next;
    }
    assert_eq!(grammars.counts(), counts(2, 1));
}

#[test]
fn the_last_few_are_kept() {
    let grammars = grammars();
    for i in 0..32 {
        grammars.compile(&numbered(i)).unwrap();
    }
    grammars.compile(&numbered(0)).unwrap();
    assert_eq!(grammars.counts(), counts(1, 32));
    // One more: the one that was used longest ago goes, and that is no more the first.
    grammars.compile(&numbered(32)).unwrap();
    grammars.compile(&numbered(0)).unwrap();
    assert_eq!(grammars.counts(), counts(2, 33));
    grammars.compile(&numbered(1)).unwrap();
    assert_eq!(grammars.counts(), counts(2, 34));
}

/// Half a million bytes are too many to keep, and of smaller ones the last stay.
#[test]
fn what_is_kept_has_bounds_in_bytes_too() {
    let of_bytes = |title: usize, bytes: usize| {
        let text = "x".repeat(bytes / 200 - 40);
        let property = |k| format!("\"a_property_{k:04}\": {{\"const\": \"{text}\"}}");
        let all: Vec<String> = (0..200).map(property).collect();
        let properties = all.join(", ");
        Grammar::JsonSchema(format!(
            "{{\"title\": \"{title}\", \"type\": \"object\", \"properties\": {{{properties}}}}}"
        ))
    };
    let grammars = grammars();
    for _ in 0..2 {
        grammars.compile(&of_bytes(0, 500_000)).unwrap();
    }
    assert_eq!(grammars.counts(), counts(0, 2));
    // More than 6 MB each, by what they are taken for, of 64.
    for title in 0..11 {
        grammars.compile(&of_bytes(title, 100_000)).unwrap();
    }
    assert_eq!(grammars.counts(), counts(0, 13));
    grammars.compile(&of_bytes(10, 100_000)).unwrap();
    grammars.compile(&of_bytes(0, 100_000)).unwrap();
    assert_eq!(grammars.counts(), counts(1, 14));
}

#[test]
fn what_is_refused_is_not_kept() {
    let grammars = grammars();
    let wrong = Grammar::Regex("(".to_owned());
    let why = grammars.compile(&wrong).map(|_| ()).unwrap_err();
    assert_eq!(grammars.compile(&wrong).map(|_| ()).unwrap_err(), why);
    assert_eq!(grammars.counts(), counts(0, 2));
}

#[test]
fn those_who_come_at_once_wait_for_one() {
    let grammars = grammars();
    let together = Barrier::new(8);
    std::thread::scope(|threads| {
        for _ in 0..8 {
            threads.spawn(|| {
                together.wait();
                grammars.compile(&numbered(7)).unwrap();
            });
        }
    });
    assert_eq!(grammars.counts(), counts(7, 1));
}

/// The model is its own: other tests compile with theirs.
#[test]
fn a_second_request_with_the_same_schema_compiles_nothing() {
    let engine = engine_of(&opened(), 2, 64);
    let grammar = Grammar::JsonSchema("{\"enum\": [\"one\", \"two\"]}".to_owned());
    let mut texts = Vec::new();
    for _ in 0..2 {
        let mut request = Request::new("The number is ").with_options(GenerateOptions {
            max_tokens: 8,
            ..GenerateOptions::default()
        });
        request.grammar = Some(grammar.clone());
        texts.push(engine.submit(request).wait().unwrap().text);
    }
    assert_eq!(texts[0], texts[1]);
    let counters = engine.counters().unwrap();
    assert_eq!((counters.grammar_hits, counters.grammar_misses), (1, 1));
}
