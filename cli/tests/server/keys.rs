//! Keys: who is let in, and what everybody may ask.

use std::io::Write;

use serde_json::json;

use crate::client::{JSON, raw};
use crate::harness::{Server, greedy};

#[test]
fn a_key_is_needed_where_there_is_one() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "first-key\n\n  second-key  ").unwrap();
    let path = file.path().to_str().unwrap();
    let server = Server::start(&["--api-key-file", path, "--api-key", "third-key"]);
    let body = greedy("x", 1).to_string();
    let ask = |headers: &[(&str, &str)]| {
        let headers = [&[JSON], headers].concat();
        server.send(&raw("POST", "/v1/completions", &headers, body.as_bytes()))
    };
    for key in ["first-key", "second-key", "third-key"] {
        let bearer = format!("Bearer {key}");
        assert_eq!(ask(&[("Authorization", &bearer)]).status(), 200, "{key}");
        assert_eq!(ask(&[("x-api-key", key)]).status(), 200, "{key}");
    }
    for headers in [
        &[][..],
        &[("Authorization", "Bearer first-ke")],
        &[("Authorization", "Bearer first-key2")],
        &[("Authorization", "Bearer ")],
        &[("Authorization", "Basic first-key")],
        &[("Authorization", "first-key")],
        &[
            ("Authorization", "Bearer wrong"),
            ("x-api-key", "first-key"),
        ],
        &[("x-api-key", "")],
        &[("X-Key", "first-key")],
    ] {
        let answer = ask(headers);
        assert_eq!(answer.status(), 401, "{headers:?}");
        let error = answer.error();
        assert_eq!(error["code"], "invalid_api_key");
        assert_eq!(error["type"], "authentication_error");
        assert_eq!(answer.head.header("www-authenticate"), Some("Bearer"));
        assert!(!error["message"].as_str().unwrap().contains("first-key"));
    }
    for path in ["/v1/models", "/metrics", "/v1/models/x"] {
        assert_eq!(server.get(path).status(), 401, "{path}");
    }
    for path in ["/health", "/health/live", "/health/ready", "/openapi.json"] {
        assert_eq!(server.get(path).status(), 200, "{path}");
    }
    // A refusal is told before a body is looked at.
    let unread = raw(
        "POST",
        "/v1/chat/completions",
        &[JSON],
        json!(1).to_string().as_bytes(),
    );
    assert_eq!(server.send(&unread).status(), 401);
}
