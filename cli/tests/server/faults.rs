//! Faults under load: their clients hear of them as is stated, all others finish with the text that they have
//! alone, and what the server counts is what its clients counted.

use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{read_stream, request};
use crate::harness::{Server, greedy, streamed, with};

const PATH: &str = "/v1/completions";

/// Clients at once, and requests that each sends one after the other.
const CLIENTS: usize = 16;
const EACH: usize = 3;

/// Requests: drawn or not, chosen on the device or on the host, with prompts that begin alike.
fn body(kind: usize) -> Value {
    let prompts = [
        "Ownership is",
        "Ownership is a trait",
        "The borrow checker",
        "fn main() {",
    ];
    let prompt = format!(
        "{} {}",
        prompts[kind % 4],
        "and a value ".repeat(kind % 3 * 6)
    );
    let drawn = json!({"temperature": 0.8, "seed": kind});
    let body = greedy(&prompt, 10 + kind * 5 % 17);
    match kind % 3 {
        0 => with(body, drawn),
        _ => body,
    }
}

/// The same as a stream in which every token is told of.
fn counted(kind: usize) -> Value {
    let told = json!({"logprobs": 0, "stream_options": {"include_usage": true}});
    with(streamed(body(kind)), told)
}

const KINDS: usize = 12;

/// What each request says alone.
fn alone() -> Vec<String> {
    let server = Server::start(&[]);
    (0..KINDS)
        .map(|kind| server.post(PATH, &body(kind)).said())
        .collect()
}

/// What clients counted.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct Counted {
    whole: u64,
    failed: u64,
    refused: u64,
    prompt: u64,
    cached: u64,
    tokens: u64,
}

impl Counted {
    fn add(&mut self, other: Counted) {
        self.whole += other.whole;
        self.failed += other.failed;
        self.refused += other.refused;
        self.prompt += other.prompt;
        self.cached += other.cached;
        self.tokens += other.tokens;
    }
}

/// A request to its end. What is refused for want of room is asked again.
fn ask(server: &Server, kind: usize, alone: &str, code: &str) -> Counted {
    let mut counted_here = Counted::default();
    loop {
        let mut connection = server.open();
        connection
            .send(&request("POST", PATH, &counted(kind)))
            .unwrap();
        let head = connection.head().unwrap();
        if head.status == 429 {
            counted_here.refused += 1;
            std::thread::sleep(Duration::from_millis(30));
            continue;
        }
        if head.status != 200 {
            // Nothing had been said when it failed.
            assert_eq!(head.header("content-type"), Some("application/json"));
            assert!([500, 503].contains(&head.status), "{}", head.status);
            counted_here.failed += 1;
            return counted_here;
        }
        let stream = read_stream(&mut connection).unwrap();
        assert!(
            alone.starts_with(&stream.text),
            "{alone:?}: {:?}",
            stream.text
        );
        counted_here.tokens += stream.tokens;
        if let Some(error) = stream.error {
            assert_eq!(error["code"], code, "{error}");
            assert!(!stream.is_done && stream.finish.is_none());
            // Its connection is closed behind it.
            assert_eq!(connection.rest().0, b"");
            counted_here.failed += 1;
            return counted_here;
        }
        assert!(stream.is_done);
        assert_eq!(stream.text, alone);
        let usage = stream.usage.unwrap();
        let number = |value: &Value| value.as_u64().unwrap();
        assert_eq!(number(&usage["completion_tokens"]), stream.tokens);
        counted_here.whole += 1;
        counted_here.prompt += number(&usage["prompt_tokens"]);
        counted_here.cached += number(&usage["prompt_tokens_details"]["cached_tokens"]);
        return counted_here;
    }
}

/// All clients, all of their requests.
fn load(server: &Server, alone: &[String], code: &str) -> Counted {
    let all = Mutex::new(Counted::default());
    std::thread::scope(|threads| {
        for client in 0..CLIENTS {
            let all = &all;
            threads.spawn(move || {
                for i in 0..EACH {
                    let kind = (client * 7 + i * 5) % KINDS;
                    let counted = ask(server, kind, &alone[kind], code);
                    all.lock().unwrap().add(counted);
                }
            });
        }
    });
    all.into_inner().unwrap()
}

#[test]
fn steps_that_fail_end_their_requests_alone_and_all_is_counted() {
    let alone = alone();
    for (fault, fails) in [("fail-step=9", 1), ("fail-every=40", 4), ("nan-at=12", 1)] {
        let server = Server::start(&["--slots", "6", "--queue", "5", "--fault", fault]);
        let counted = load(&server, &alone, "internal_error");
        assert_eq!(
            counted.whole + counted.failed,
            (CLIENTS * EACH) as u64,
            "{fault}"
        );
        assert!(counted.failed >= fails, "{fault}: {counted:?}");
        assert!(counted.whole > 5, "{fault}: {counted:?}");
        server.until_idle();
        let metrics = server.metrics();
        let found = Counted {
            whole: (metrics.ended("length") + metrics.ended("stop")) as u64,
            failed: metrics.ended("error") as u64,
            refused: metrics.get("requests_refused_total") as u64,
            prompt: metrics.get("prompt_tokens_total") as u64,
            cached: metrics.get("prompt_tokens_cached_total") as u64,
            tokens: metrics.get("generation_tokens_total") as u64,
        };
        assert_eq!(found, counted, "{fault}");
        assert_eq!(metrics.ended("abort"), 0.0);
        assert_eq!(metrics.answered(429) as u64, counted.refused, "{fault}");
        // It goes on.
        if fault != "fail-every=40" {
            assert_eq!(server.post(PATH, &body(1)).said(), alone[1]);
        }
    }
}

/// Where the step fails that gives the first token there is a status, and an event where it comes later.
#[test]
fn a_failure_in_mid_stream_is_an_event_and_the_end_of_the_connection() {
    let message = json!([{"role": "user", "content": "Ownership is"}]);
    let say = json!({"messages": message, "max_tokens": 20, "temperature": 0, "ignore_eos": true});
    for (path, body) in [
        (PATH, greedy("Ownership is", 20)),
        ("/v1/chat/completions", say),
    ] {
        let server = Server::start(&["--fault", "fail-step=8"]);
        let mut connection = server.begin(path, &streamed(body.clone()));
        let stream = read_stream(&mut connection).unwrap();
        let error = stream.error.unwrap();
        assert_eq!(
            (&error["type"], &error["code"]),
            (&json!("server_error"), &json!("internal_error"))
        );
        assert!(
            error["message"]
                .as_str()
                .unwrap()
                .contains("a planted fault"),
            "{error}"
        );
        assert!(!stream.text.is_empty() && !stream.is_done && stream.finish.is_none());
        let (rest, in_order) = connection.rest();
        assert!(rest.is_empty() && in_order);

        let server = Server::start(&["--fault", "fail-step=8"]);
        let whole = server.post(path, &body);
        assert_eq!(whole.status(), 500);
        assert_eq!(whole.error()["code"], "internal_error");
        let server = Server::start(&["--fault", "fail-step=1"]);
        let first = server.post(path, &streamed(body));
        assert_eq!(
            (first.status(), &first.error()["code"]),
            (500, &json!("internal_error"))
        );
        assert!(server.metrics().is_idle());
    }
}

/// Streams of other clients end alike: with an error in their words, and nothing that looks like an end.
#[test]
fn streams_of_all_dialects_fail_alike() {
    let messages = json!([{"role": "user", "content": "Ownership is"}]);
    let cases = [
        (
            "/v1/messages",
            json!({"model": "rustdoc-tiny", "messages": messages, "max_tokens": 40, "stream": true}),
            "event: error",
            "message_stop",
        ),
        (
            "/v1/responses",
            json!({"input": "Ownership is", "max_output_tokens": 40, "stream": true}),
            "\"type\":\"error\"",
            "response.completed",
        ),
        (
            "/api/generate",
            json!({"model": "rustdoc-tiny", "prompt": "Ownership is"}),
            "{\"error\":",
            "\"done\":true",
        ),
        (
            "/api/chat",
            json!({"model": "rustdoc-tiny", "messages": messages}),
            "{\"error\":",
            "\"done\":true",
        ),
    ];
    for (path, body, error, end) in cases {
        let server = Server::start(&["--fault", "fail-step=4"]);
        let mut connection = server.open();
        connection.send(&request("POST", path, &body)).unwrap();
        let head = connection.head().unwrap();
        assert_eq!(head.status, 200, "{path}");
        // It is closed behind it.
        let (rest, in_order) = connection.rest();
        let rest = String::from_utf8_lossy(&rest);
        assert!(
            rest.contains(error) && rest.contains("a planted fault"),
            "{path}: {rest}"
        );
        assert!(!rest.contains(end) && in_order, "{path}: {rest}");
        assert!(server.metrics().is_idle());
    }
}

#[test]
fn an_engine_that_is_lost_ends_the_process_with_an_error() {
    let alone = alone();
    for (fault, code) in [
        ("lose-at=15", "engine_lost"),
        ("panic-at=15", "engine_lost"),
    ] {
        let mut server = Server::start(&["--slots", "8", "--fault", fault]);
        let unhealthy = Mutex::new(0);
        std::thread::scope(|threads| {
            for client in 0..CLIENTS {
                let (server, alone, unhealthy) = (&server, &alone, &unhealthy);
                threads.spawn(move || {
                    let counted = ask(server, client % KINDS, &alone[client % KINDS], code);
                    if counted.failed == 0 {
                        return;
                    }
                    // Whoever comes later hears the same.
                    let later = server.post(PATH, &body(0));
                    assert_eq!(later.status(), 503);
                    assert_eq!(later.error()["code"], code);
                    assert!(later.head.header("retry-after").is_some());
                    assert_eq!(server.get("/health/ready").status(), 503);
                    assert_eq!(server.get("/health/live").status(), 200);
                    *unhealthy.lock().unwrap() += 1;
                });
            }
        });
        assert!(*unhealthy.lock().unwrap() > 3, "{fault}");
        let (status, took) = server.wait();
        assert_eq!(status.code(), Some(1), "{fault}: {}", server.said());
        assert!(took < Duration::from_secs(5), "{fault}: {took:?}");
        assert!(server.said().contains("error: "), "{}", server.said());
    }
}
