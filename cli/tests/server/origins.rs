//! Where the server listens, and pages of which origins may ask it.

use std::net::TcpStream;

use crate::client::{Answer, raw};
use crate::harness::{Server, serve};

const ORIGIN: &str = "https://example.org";

fn allowed(answer: &Answer) -> Option<&str> {
    answer.head.header("access-control-allow-origin")
}

fn preflight(server: &Server, origin: &str) -> Answer {
    let headers = [
        ("Origin", origin),
        ("Access-Control-Request-Method", "POST"),
        (
            "Access-Control-Request-Headers",
            "content-type,authorization",
        ),
    ];
    server.send(&raw("OPTIONS", "/v1/chat/completions", &headers, b""))
}

fn get(server: &Server, origin: &str) -> Answer {
    server.send(&raw("GET", "/v1/models", &[("Origin", origin)], b""))
}

#[test]
fn no_page_of_another_origin_may_ask_unless_it_is_named() {
    let closed = Server::start(&[]);
    assert_eq!(allowed(&get(&closed, ORIGIN)), None);
    let refused = preflight(&closed, ORIGIN);
    assert_eq!((refused.status(), allowed(&refused)), (405, None));

    let open = Server::start(&[
        "--cors-origin",
        ORIGIN,
        "--cors-origin",
        "http://localhost:3000",
    ]);
    for origin in [ORIGIN, "http://localhost:3000"] {
        assert_eq!(allowed(&get(&open, origin)), Some(origin));
        let answer = preflight(&open, origin);
        assert_eq!((answer.status(), allowed(&answer)), (200, Some(origin)));
        let methods = answer.head.header("access-control-allow-methods").unwrap();
        assert!(methods.contains("POST"), "{methods}");
    }
    for other in [
        "https://example.com",
        "https://example.org.evil.example",
        "null",
    ] {
        assert_eq!(allowed(&get(&open, other)), None, "{other}");
        assert_eq!(allowed(&preflight(&open, other)), None, "{other}");
    }
    let all = Server::start(&["--cors-origin", "*"]);
    assert_eq!(allowed(&get(&all, "https://any.example")), Some("*"));
    // An error is told to pages, too.
    let error = all.send(&raw("GET", "/nowhere", &[("Origin", ORIGIN)], b""));
    assert_eq!((error.status(), allowed(&error)), (404, Some("*")));
}

#[test]
fn this_machine_alone_is_served_unless_told_otherwise() {
    let server = Server::start(&[]);
    assert_eq!(server.address.ip().to_string(), "127.0.0.1");
    let elsewhere = |port: u16| TcpStream::connect(("127.0.0.2", port));
    assert!(elsewhere(server.address.port()).is_err());
    let open = Server::start_loading(&["--host", "127.0.0.2"]);
    assert!(elsewhere(open.address.port()).is_ok());
    // A port that is taken is an error of a line.
    let port = server.address.port().to_string();
    let second = serve(&["--port", &port]).output().unwrap();
    assert_ne!(second.status.code(), Some(0));
}
