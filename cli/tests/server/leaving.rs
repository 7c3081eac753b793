//! Clients that leave: what they held is free within a second, wherever they were.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{Connection, request};
use crate::harness::{Server, greedy, streamed, with, words};

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

/// A request whose client goes away.
struct Left {
    what: &'static str,
    path: &'static str,
    body: Value,
    choices: f64,
}

fn cases() -> Vec<Left> {
    let long = greedy("Ownership is", 900);
    let message = json!([{"role": "user", "content": "Ownership is"}]);
    let say = json!({"messages": message, "max_tokens": 900, "ignore_eos": true});
    // Its prompt takes several steps.
    let reads = greedy(&words(500), 2);
    let left = |what, path, body: &Value, choices| Left {
        what,
        path,
        body: body.clone(),
        choices,
    };
    let ask =
        json!({"model": "rustdoc-tiny", "messages": message, "max_tokens": 900, "stream": true});
    let respond = json!({"input": "Ownership is", "max_output_tokens": 900, "stream": true});
    let generate =
        json!({"model": "rustdoc-tiny", "prompt": "Ownership is", "options": {"num_predict": 900}});
    vec![
        left("a message", "/v1/messages", &ask, 1.0),
        left("a response", "/v1/responses", &respond, 1.0),
        left("lines", "/api/generate", &generate, 1.0),
        left("a stream", COMPLETIONS, &streamed(long.clone()), 1.0),
        left("an answer in one piece", COMPLETIONS, &long, 1.0),
        left("a stream of a reply", CHAT, &streamed(say.clone()), 1.0),
        left("a reply", CHAT, &say, 1.0),
        left(
            "three at once",
            COMPLETIONS,
            &with(long.clone(), json!({"n": 3})),
            3.0,
        ),
        left("a prompt that is read", COMPLETIONS, &reads, 1.0),
        left(
            "a prompt that is read for a stream",
            COMPLETIONS,
            &streamed(reads.clone()),
            1.0,
        ),
    ]
}

fn ask(server: &Server, path: &str, body: &Value) -> Connection {
    let mut connection = server.open();
    connection.send(&request("POST", path, body)).unwrap();
    connection
}

/// A look at a server that is asked nothing else takes less, unless the machine has no time for it.
const LOOK: Duration = Duration::from_millis(50);

/// Drops a connection and waits until the server holds nothing of it: for a second, or longer by as much as
/// the machine is too slow to look.
fn leave(server: &Server, connection: Connection, is_free: impl Fn(&Server) -> bool, what: &str) {
    let begun = Instant::now();
    drop(connection);
    server.until(what, is_free);
    let took = begun.elapsed();
    let begun = Instant::now();
    server.metrics();
    let slower = begun.elapsed().as_secs_f64() / LOOK.as_secs_f64();
    let most = Duration::from_secs(1).mul_f64(slower.max(1.0));
    assert!(took < most, "{what}: {took:?}, at most {most:?}");
}

#[test]
fn a_client_that_leaves_frees_its_slot_and_its_cache() {
    let args = [
        "--slots",
        "4",
        "--fault",
        "slow-steps=60",
        "--prompt-budget",
        "64",
    ];
    let server = Server::start(&args);
    let mut aborted = 0.0;
    for case in cases() {
        let connection = ask(&server, case.path, &case.body);
        server.until(case.what, |s| {
            let metrics = s.metrics();
            metrics.get("num_requests_running") > 0.0 && metrics.get("kv_cache_usage_perc") > 0.0
        });
        leave(&server, connection, |s| s.metrics().is_idle(), case.what);
        aborted += case.choices;
        let ended = server.metrics();
        assert_eq!(ended.ended("abort"), aborted, "{}", case.what);
    }
    let metrics = server.metrics();
    assert!(metrics.get("engine_cancellations_total") > 0.0);
    assert_eq!(metrics.ended("length") + metrics.ended("error"), 0.0);
}

#[test]
fn a_client_that_leaves_while_it_waits_is_forgotten() {
    let server = Server::start(&["--slots", "1", "--fault", "slow-steps=60"]);
    let long = streamed(greedy("Ownership is", 900));
    let mut runs = server.begin(COMPLETIONS, &long);
    for (i, case) in cases().iter().enumerate() {
        let connection = ask(&server, case.path, &case.body);
        server.until("it waits", |s| {
            s.metrics().get("num_requests_waiting") > 0.0
        });
        let is_free = |s: &Server| s.metrics().get("num_requests_waiting") == 0.0;
        leave(&server, connection, is_free, case.what);
        assert!(runs.event().unwrap().is_some(), "{i}");
    }
    let is_idle = |s: &Server| s.metrics().is_idle();
    leave(&server, runs, is_idle, "the one that ran");
    assert_eq!(server.metrics().ended("abort"), 13.0);
}

/// Half a request holds nothing, and is not waited for for ever.
#[test]
fn half_a_request_is_not_waited_for() {
    let server = Server::start(&["--patience", "1"]);
    let whole = request("POST", COMPLETIONS, &greedy("x", 1));
    for half in [0, 1, 20, whole.len() - 60, whole.len() - 1] {
        let mut connection = server.open();
        connection.send(&whole[..half]).unwrap();
        connection.patience(Duration::from_secs(10));
        let begun = Instant::now();
        let (rest, _) = connection.rest();
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(6), "{half}: {took:?}");
        let rest = String::from_utf8_lossy(&rest).into_owned();
        assert!(!rest.contains("HTTP/1.1 200"), "{half}: {rest}");
        // One that says so is told the same at once.
        let mut connection = server.open();
        connection.send(&whole[..half]).unwrap();
        connection.finish_sending().unwrap();
        let (rest, _) = connection.rest();
        assert!(!rest.starts_with(b"HTTP/1.1 200"), "{half}");
    }
    // A byte now and then is no progress.
    let mut trickle = server.open();
    let begun = Instant::now();
    let mut sent = 0;
    while begun.elapsed() < Duration::from_secs(8) && sent < 40 {
        if trickle.send(&whole[sent..=sent]).is_err() {
            break;
        }
        sent += 1;
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(begun.elapsed() < Duration::from_secs(4), "{sent} bytes");
    assert_eq!(server.post(COMPLETIONS, &greedy("x", 1)).status(), 200);
}
