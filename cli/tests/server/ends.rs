//! How a server ends: asked to, asked twice, and past its limit.

use std::time::Duration;

use serde_json::Value;

use crate::client::{Connection, read_stream, request};
use crate::harness::{Server, greedy, streamed};

const PATH: &str = "/v1/completions";

fn is_leaving(server: &Server) -> bool {
    server.get("/health/ready").status() == 503
}

fn answers_503(server: &Server, path: &str, body: &Value) {
    let answer = server.post(path, body);
    assert_eq!(answer.status(), 503, "{path}");
    assert_eq!(answer.error()["code"], "draining", "{path}");
    assert!(answer.head.header("retry-after").is_some());
}

/// A connection on which an answer in one piece is awaited.
fn asks(server: &Server, body: &Value) -> Connection {
    let mut connection = server.open();
    connection.send(&request("POST", PATH, body)).unwrap();
    connection
}

#[test]
fn a_server_that_is_asked_to_end_takes_nothing_new_and_ends_what_runs() {
    for signal in ["TERM", "INT"] {
        let args = ["--slots", "1", "--fault", "slow-steps=20"];
        let mut server = Server::start(&args);
        let body = greedy("Ownership is", 60);
        let mut runs = server.begin(PATH, &streamed(body.clone()));
        let mut waits = asks(&server, &greedy("A trait", 3));
        server.until_running(1.0, 1.0);
        let mut idle = server.open();
        server.signal(signal);
        server.until("it is not ready", is_leaving);
        assert_eq!(server.get("/health").status(), 503);
        assert_eq!(server.get("/health/live").status(), 200);
        assert_eq!(server.get("/metrics").status(), 200);
        answers_503(&server, PATH, &body);
        answers_503(&server, "/v1/chat/completions", &body);
        answers_503(&server, "/tokenize", &body);
        // One that is open and was idle hears the same.
        idle.send(&request("POST", PATH, &body)).unwrap();
        assert_eq!(idle.answer().unwrap().status(), 503);
        let stream = read_stream(&mut runs).unwrap();
        assert!(stream.is_done, "{stream:?}");
        assert_eq!(stream.finish.as_deref(), Some("length"));
        assert_eq!(waits.answer().unwrap().status(), 200);
        let (status, took) = server.wait();
        assert_eq!(status.code(), Some(0), "{}", server.said());
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
}

#[test]
fn what_runs_is_waited_for_up_to_a_limit() {
    let mut server = Server::start(&["--drain", "1", "--fault", "slow-steps=30"]);
    let mut runs = server.begin(PATH, &streamed(greedy("Ownership is", 1000)));
    server.signal("TERM");
    let (status, took) = server.wait();
    assert_eq!(status.code(), Some(0));
    assert!(
        took > Duration::from_millis(800) && took < Duration::from_secs(4),
        "{took:?}"
    );
    // No end that looks like a good one.
    let (rest, _) = runs.rest();
    let rest = String::from_utf8_lossy(&rest);
    assert!(
        !rest.contains("[DONE]") && !rest.ends_with("0\r\n\r\n"),
        "{rest}"
    );
}

#[test]
fn a_second_signal_ends_a_server_at_once() {
    // Even one in the middle of a long step.
    for slow in ["slow-steps=30", "slow-steps=20000"] {
        let mut server = Server::start(&["--fault", slow]);
        let _runs = asks(&server, &greedy("Ownership is", 1000));
        std::thread::sleep(Duration::from_millis(200));
        server.signal("TERM");
        server.until("it is not ready", is_leaving);
        server.signal("TERM");
        let (status, took) = server.wait();
        assert!(took < Duration::from_secs(1), "{took:?}");
        assert!(status.code().is_some(), "{status}");
    }
}

#[test]
fn a_server_with_nothing_to_do_ends_at_once() {
    for args in [&[][..], &["--fault", "slow-load=5000"]] {
        let mut server = Server::start_loading(args);
        let _idle = server.open();
        server.signal("TERM");
        let (status, took) = server.wait();
        assert_eq!(status.code(), Some(0));
        assert!(took < Duration::from_secs(3), "{took:?}");
    }
}
