//! A grammar beside the other controls of a request, and every control by itself.

use std::sync::atomic::{AtomicUsize, Ordering};

use gannet_engine::requests::Grammar;
use gannet_engine::{
    DeviceChoice, Engine, Finish, GenerateOptions, Generation, Request, Sampling, Settings, Update,
};

use super::{drawn, engine, model};

fn integers() -> Grammar {
    let schema = r#"{"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99},
                     "minItems": 3, "maxItems": 12}"#;
    Grammar::JsonSchema(schema.to_owned())
}

fn with_grammar(grammar: &Grammar, seed: u64) -> Request {
    let mut request = drawn("Some numbers: ", seed, 120);
    request.grammar = Some(grammar.clone());
    request
}

fn texts(engine: &Engine, requests: Vec<Request>) -> Vec<String> {
    let handles: Vec<_> = requests.into_iter().map(|r| engine.submit(r)).collect();
    handles
        .into_iter()
        .map(|h| h.wait().unwrap().text)
        .collect()
}

/// Choice `i` is what a request alone gives with that much added to its seed, with a grammar and without.
#[test]
fn choices_are_what_each_seed_gives() {
    let engine = engine(8, 256);
    for grammar in [None, Some(integers())] {
        let request = |seed, n| Request {
            grammar: grammar.clone(),
            n,
            ..drawn("Some numbers: ", seed, 40)
        };
        let alone: Vec<String> = (7..12)
            .map(|seed| engine.submit(request(seed, 1)).wait().unwrap().text)
            .collect();
        let before = engine.counters().unwrap().scheduler.prompt_rows;
        let choices = engine.submit_choices(request(7, 5)).unwrap();
        let given: Vec<String> = choices
            .into_iter()
            .map(|h| h.wait().unwrap().text)
            .collect();
        assert_eq!(given, alone);
        assert!(alone.iter().any(|text| *text != alone[0]));
        let rows = engine.counters().unwrap().scheduler.prompt_rows - before;
        assert!(rows < 5 * 8, "{rows} rows of the prompt");
    }
}

#[test]
fn choices_that_cannot_be_are_refused() {
    let engine = engine(2, 64);
    let of = |n| Request {
        n,
        ..Request::new("A")
    };
    let error = engine.submit_choices(of(0)).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("n is 0"), "{error}");
    let error = engine.submit_choices(of(1000)).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("128"), "{error}");
    let error = engine.submit(of(3)).wait().unwrap_err();
    assert!(error.to_string().contains("submit_choices"), "{error}");
    let hooked = |n| Request {
        logit_hook: Some(Box::new(|_: &[u32], _: &mut [f32]| ())),
        ..of(n)
    };
    let error = engine.submit_choices(hooked(2)).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("hook"), "{error}");
    assert_eq!(engine.submit_choices(hooked(1)).unwrap().len(), 1);
}

/// Texts with grammars, and those beside them without, are the same however few blocks there are: who
/// gives its own back goes on where its grammar was.
#[test]
fn who_gives_way_goes_on_with_its_grammar() {
    let kinds = || -> Vec<Request> {
        (0..12)
            .map(|i| match i % 3 {
                0 => drawn("Ownership is", i, 150),
                1 => Request::new("A trait").with_options(GenerateOptions {
                    max_tokens: 150,
                    ..GenerateOptions::default()
                }),
                _ => with_grammar(&integers(), i),
            })
            .collect()
    };
    let alone: Vec<String> = kinds()
        .into_iter()
        .flat_map(|r| texts(&engine(1, 256), vec![r]))
        .collect();
    let settings = Settings {
        device: DeviceChoice::Cpu,
        slots: Some(6),
        context: Some(256),
        cache_blocks: Some(9),
        ..Settings::default()
    };
    let crowded = Engine::new(model(), &settings).unwrap();
    assert_eq!(texts(&crowded, kinds()), alone);
    let preempted = crowded.counters().unwrap().scheduler.preemptions;
    assert!(preempted > 0, "nobody gave way");
}

fn finished(request: Request) -> Generation {
    engine(2, 256).submit(request).wait().unwrap()
}

#[test]
fn a_grammar_goes_with_every_way_of_choosing() {
    let penalised = Sampling {
        repetition_penalty: 1.3,
        presence_penalty: 0.5,
        ..Sampling::default()
    };
    let filtered = Sampling {
        temperature: 1.5,
        top_k: 5,
        top_p: 0.9,
        min_p: 0.05,
        seed: 3,
        ..Sampling::default()
    };
    for sampling in [Sampling::default(), penalised, filtered] {
        let mut request = with_grammar(&integers(), 0);
        request.options.sampling = sampling;
        request.options.ignore_eog = true;
        request.logit_bias = vec![(5, 30.0)];
        request.log_probs = Some(2);
        let engine = engine(1, 256);
        let mut handle = engine.submit(request);
        let (mut tokens, mut end) = (0, None);
        while let Some(update) = handle.next_update() {
            match update {
                Update::Token { log_probs, .. } => {
                    let found = log_probs.expect("they were asked for");
                    assert!(found.chosen <= found.top[0].1 && found.top.len() == 2);
                    tokens += 1;
                }
                Update::Ended(result) => end = Some(result.unwrap()),
                _ => {}
            }
        }
        let generation = end.unwrap();
        assert_eq!(tokens, generation.tokens.len());
        let list: Vec<u8> = serde_json::from_str(&generation.text).unwrap();
        assert!(list.len() >= 3 && list.iter().all(|n| *n < 100));
        assert_eq!(generation.finish, Finish::EndOfText);
    }
}

/// A text that is complete with its last token has ended; one token fewer cuts it.
#[test]
fn a_complete_text_has_ended() {
    let of = |max_tokens| {
        let mut request = drawn("x", 0, max_tokens);
        request.grammar = Some(Grammar::Regex("abcabcabc".to_owned()));
        finished(request)
    };
    let whole = of(20);
    assert_eq!(
        (whole.text.as_str(), whole.finish),
        ("abcabcabc", Finish::EndOfText)
    );
    let exact = of(whole.tokens.len());
    assert_eq!(
        (exact.text.as_str(), exact.finish),
        ("abcabcabc", Finish::EndOfText)
    );
    let cut = of(whole.tokens.len() - 1);
    assert!("abcabcabc".starts_with(&cut.text));
    assert_eq!(cut.finish, Finish::Length);
}

/// Where biases leave nothing that the grammar allows, that request alone ends with an error.
#[test]
fn a_request_without_a_token_ends_alone() {
    let engine = engine(4, 128);
    let mut stuck = drawn("x", 0, 20);
    stuck.grammar = Some(Grammar::Regex("[0-9]{4}".to_owned()));
    stuck.logit_hook = Some(Box::new(|_: &[u32], logits: &mut [f32]| {
        logits.fill(f32::NEG_INFINITY)
    }));
    let others: Vec<_> = (0..3)
        .map(|seed| engine.submit(with_grammar(&integers(), seed)))
        .collect();
    let error = engine.submit(stuck).wait().unwrap_err();
    assert!(error.to_string().contains("grammar allows"), "{error}");
    for other in others {
        assert_eq!(other.wait().unwrap().finish, Finish::EndOfText);
    }
}

#[test]
fn a_cancelled_request_frees_what_it_has() {
    let engine = engine(2, 256);
    for seed in 0..6 {
        let mut handle = engine.submit(with_grammar(
            &Grammar::Regex("[a-z ]{500}".to_owned()),
            seed,
        ));
        let first = handle.find(|update| matches!(update, Update::Token { .. }));
        assert!(first.is_some());
        drop(handle);
    }
    let after = engine.submit(with_grammar(&integers(), 1)).wait().unwrap();
    assert_eq!(after.finish, Finish::EndOfText);
    let counters = engine.counters().unwrap();
    assert_eq!(
        (counters.scheduler.running, counters.scheduler.waiting),
        (0, 0)
    );
}

/// No token that ends the text comes before so many others.
#[test]
fn texts_have_the_fewest_tokens_that_are_asked_for() {
    let ends: Vec<u32> = (0..8192)
        .filter(|&id| model().tokenizer().is_eog(id))
        .collect();
    let of = |min_tokens| Request {
        logit_bias: ends.iter().map(|&id| (id, 1e4)).collect(),
        min_tokens,
        ..drawn("A", 1, 30)
    };
    assert_eq!(finished(of(0)).tokens.len(), 0);
    let found = finished(of(12));
    assert_eq!((found.tokens.len(), found.finish), (12, Finish::EndOfText));
    let stops: Vec<u32> = found.tokens[..1].to_vec();
    let mut stopped = of(3);
    stopped.options.stop_tokens = stops.clone();
    let found = finished(stopped);
    assert_eq!(found.tokens.len(), 3);
    assert!(!found.tokens.contains(&stops[0]));
    // The end of a grammar is an end.
    let mut short = of(10);
    short.grammar = Some(Grammar::Regex("ab".to_owned()));
    let found = finished(short);
    assert_eq!(
        (found.text.as_str(), found.finish),
        ("ab", Finish::EndOfText)
    );
}

/// A control token is part of a text where it is to be shown, and of no other.
#[test]
fn control_tokens_are_shown_where_they_are_asked_for() {
    let of = |shown: &[u32]| {
        let mut request = drawn("x", 0, 20);
        request.grammar = Some(Grammar::Lark(
            r#"start: "a" <|end_header_id|> "b""#.to_owned(),
        ));
        request.options.shown_tokens = shown.to_vec();
        finished(request).text
    };
    let token = model().tokenizer().token_id("<|end_header_id|>").unwrap();
    assert_eq!(of(&[]), "ab");
    assert_eq!(of(&[token]), "a<|end_header_id|>b");
}

/// A grammar is followed from the first token, and its hook is asked before it.
#[test]
fn a_hook_comes_before_the_grammar() {
    let calls = std::sync::Arc::new(AtomicUsize::new(0));
    let seen = std::sync::Arc::clone(&calls);
    let mut request = drawn("x", 0, 20);
    request.grammar = Some(Grammar::Regex("[xy]{6}".to_owned()));
    request.logit_hook = Some(Box::new(move |_: &[u32], logits: &mut [f32]| {
        seen.fetch_add(1, Ordering::Relaxed);
        assert!(logits.iter().all(|l| l.is_finite()));
    }));
    assert_eq!(finished(request).text.len(), 6);
    assert!(calls.load(Ordering::Relaxed) >= 2);
}
