//! Caches: of keys and values, too small for all at once, and of compiled grammars.

use serde_json::{Value, json};

use crate::harness::{Server, greedy, streamed};

const PATH: &str = "/v1/completions";

/// The newest give way and are computed again: what they say is what they say alone.
#[test]
fn who_gives_way_says_the_same_and_who_can_never_fit_is_refused() {
    let server = Server::start(&["--cache-blocks", "8", "--slots", "4", "--ctx", "512"]);
    let prompts = [
        "Ownership is",
        "A trait object",
        "The borrow checker",
        "Iterators are",
    ];
    let bodies: Vec<Value> = prompts.iter().map(|prompt| greedy(prompt, 120)).collect();
    let alone: Vec<String> = bodies.iter().map(|b| server.post(PATH, b).said()).collect();
    assert_eq!(server.metrics().get("num_preemptions_total"), 0.0);
    std::thread::scope(|threads| {
        for round in 0..2 {
            for (body, alone) in bodies.iter().zip(&alone) {
                let server = &server;
                threads.spawn(move || match round {
                    0 => assert_eq!(&server.post(PATH, body).said(), alone),
                    _ => {
                        let stream = server.stream(PATH, &streamed(body.clone()));
                        assert_eq!(&stream.text, alone);
                        assert!(stream.is_done);
                    }
                });
            }
        }
    });
    assert!(server.metrics().get("num_preemptions_total") > 0.0);
    // 8 blocks have 256 positions; the context alone would have room for it.
    for body in [
        json!({"prompt": vec![5; 300]}),
        json!({"prompt": vec![5; 300], "stream": true}),
    ] {
        let answer = server.post(PATH, &body);
        assert_eq!(answer.status(), 400, "{}", answer.text());
        let error = answer.error();
        assert_eq!(error["code"], "context_length_exceeded");
        let message = error["message"].as_str().unwrap();
        assert!(
            message.contains("300 tokens") && message.contains("256 tokens"),
            "{message}"
        );
    }
    server.until_idle();
}

/// Requests of every kind share what was compiled for the first with the same grammar.
#[test]
fn a_schema_is_compiled_once_for_all_requests_that_have_it() {
    let server = Server::start(&["--ctx", "256"]);
    let schema = json!({"type": "object", "properties": {"public": {"type": "boolean"}},
                        "required": ["public"], "additionalProperties": false});
    let ask = |schema: &Value, n: usize| {
        let answer = server.post(
            "/v1/chat/completions",
            &json!({
                "messages": [{"role": "user", "content": "Is it public?"}], "max_tokens": 24, "n": n, "seed": 7,
                "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
            }),
        );
        assert_eq!(answer.status(), 200, "{}", answer.text());
        answer.json()["choices"].clone()
    };
    let compiled = || {
        let metrics = server.metrics();
        let hits = metrics.get("grammar_cache_hits_total");
        (hits, metrics.get("grammar_cache_misses_total"))
    };
    assert_eq!(compiled(), (0.0, 0.0));
    let first = ask(&schema, 1);
    assert_eq!(compiled(), (0.0, 1.0));
    assert_eq!(ask(&schema, 1), first);
    assert_eq!(compiled(), (1.0, 1.0));
    // Choices of a request have copies of one.
    ask(&schema, 3);
    assert_eq!(compiled(), (2.0, 1.0));
    ask(&json!({"type": "object", "properties": {}}), 1);
    assert_eq!(compiled(), (2.0, 2.0));
    let other = json!({"model": "rustdoc-tiny", "prompt": "Is it public?", "stream": false, "raw": true,
                       "format": schema, "options": {"num_predict": 24}});
    assert_eq!(server.post("/api/generate", &other).status(), 200);
    assert_eq!(compiled(), (3.0, 2.0));
}
