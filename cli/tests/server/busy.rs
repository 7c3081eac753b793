//! Servers that take nothing now: full, loading; and requests that take too long.

use std::time::Duration;

use serde_json::json;

use crate::client::{Answer, read_stream};
use crate::harness::{Server, greedy, streamed, with};

const PATH: &str = "/v1/completions";

fn is_not_now(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status(), status, "{}", answer.text());
    assert_eq!(answer.error()["code"], code);
    let after = answer.head.header("retry-after").unwrap();
    assert!(after.parse::<u32>().unwrap() > 0);
}

#[test]
fn a_full_queue_refuses_more_until_there_is_room() {
    let args = ["--slots", "1", "--queue", "1", "--fault", "slow-steps=20"];
    let server = Server::start(&args);
    let long = streamed(greedy("Ownership is", 1000));
    let first = server.begin(PATH, &long);
    let mut second = server.open();
    second
        .send(&crate::client::request("POST", PATH, &long))
        .unwrap();
    server.until_running(1.0, 1.0);
    for body in [
        long.clone(),
        greedy("x", 1),
        with(greedy("x", 1), json!({"n": 2})),
    ] {
        is_not_now(&server.post(PATH, &body), 429, "rate_limit_exceeded");
    }
    assert_eq!(server.metrics().get("requests_refused_total"), 3.0);
    // More at once than there ever is room for.
    let never = server.post(PATH, &with(greedy("x", 1), json!({"n": 3})));
    assert_eq!(
        (never.status(), &never.error()["param"]),
        (400, &json!("n"))
    );
    // What asks for nothing of the model is answered.
    assert_eq!(server.get("/v1/models").status(), 200);
    drop(first);
    assert_eq!(second.head().unwrap().status, 200);
    drop(second);
    server.until_idle();
    assert_eq!(server.post(PATH, &greedy("x", 1)).status(), 200);
}

#[test]
fn a_server_that_loads_says_so() {
    let server = Server::start_loading(&["--fault", "slow-load=1500"]);
    assert_eq!(server.get("/health/live").status(), 200);
    for path in ["/health", "/health/ready"] {
        is_not_now(&server.get(path), 503, "model_loading");
    }
    for body in [greedy("x", 1), streamed(greedy("x", 1))] {
        is_not_now(&server.post(PATH, &body), 503, "model_loading");
    }
    server.until("it is ready", |s| s.get("/health/ready").status() == 200);
    assert_eq!(server.post(PATH, &greedy("x", 1)).status(), 200);
}

#[test]
fn a_request_ends_when_its_time_is_over() {
    let server = Server::start(&["--timeout", "1", "--fault", "slow-steps=20"]);
    let long = greedy("Ownership is", 1000);
    let whole = server.post(PATH, &long);
    assert_eq!(
        (whole.status(), &whole.error()["code"]),
        (408, &json!("timeout"))
    );
    let stream = read_stream(&mut server.begin(PATH, &streamed(long))).unwrap();
    assert_eq!(stream.error.unwrap()["code"], "timeout");
    assert!(!stream.text.is_empty() && !stream.is_done);
    assert!(server.until_idle() < Duration::from_secs(1));
    assert_eq!(server.metrics().ended("abort"), 2.0);
}

/// The budget is what was asked for, and steps are counted by what they had.
#[test]
fn the_budget_of_prompts_and_the_steps_that_share_it_are_told() {
    let server = Server::start(&[
        "--prompt-budget",
        "5",
        "--slots",
        "2",
        "--ctx",
        "512",
        "--fault",
        "slow-steps=5",
    ]);
    assert_eq!(server.metrics().get("prompt_budget"), 5.0);
    let steps = || {
        let m = server.metrics();
        let of = |name: &str| m.get(&format!("steps_{name}_total"));
        [of("of_prompts"), of("decoding"), of("mixed")]
    };
    // A prompt alone takes a step, and each token behind the first one.
    server.post(PATH, &greedy("Ownership is", 6));
    assert_eq!(steps(), [1.0, 5.0, 0.0]);
    // One that joins while another decodes has pieces of its steps.
    let mut long = server.begin(PATH, &streamed(greedy("A trait", 400)));
    // It decodes, and goes on to for longer than this takes.
    assert!(long.event().unwrap().is_some());
    let prompt: Vec<u32> = (0..41).map(|i| 300 + i).collect();
    server.post(
        PATH,
        &json!({"prompt": prompt, "max_tokens": 1, "temperature": 0}),
    );
    let [_, _, mixed] = steps();
    drop(long);
    assert_eq!(mixed, 9.0);
    server.until_idle();
}
