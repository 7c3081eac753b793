//! Under which hosts the server answers: a page of another site whose name leads to this machine is kept out.

use serde_json::Value;

use crate::client::Answer;
use crate::harness::{Server, greedy, serve};

/// Asks with these lines behind the first, which says the version.
fn ask(server: &Server, first: &str, headers: &str) -> Answer {
    server.send(format!("{first}\r\n{headers}Connection: close\r\n\r\n").as_bytes())
}

fn get(server: &Server, host: &str) -> Answer {
    ask(
        server,
        "GET /v1/models HTTP/1.1",
        &format!("Host: {host}\r\n"),
    )
}

#[test]
fn a_server_of_this_machine_alone_answers_to_its_names_alone() {
    let server = Server::start(&[]);
    let port = server.address.port();
    for host in [
        "localhost".to_owned(),
        format!("127.0.0.1:{port}"),
        format!("LOCALHOST.:{port}"),
        format!("[::1]:{port}"),
        "127.0.0.1:1".to_owned(),
        "localhost:".to_owned(),
    ] {
        assert_eq!(get(&server, &host).status(), 200, "{host}");
    }
    let old = ask(&server, "GET /v1/models HTTP/1.0", "");
    assert_eq!(old.status(), 200, "no host");
    for host in [
        format!("evil.example:{port}"),
        "EVIL.example.".to_owned(),
        "localhost.evil.example".to_owned(),
        "[2001:db8::1]:80".to_owned(),
        "192.168.0.2".to_owned(),
        "localhost:port".to_owned(),
        String::new(),
    ] {
        let refused = get(&server, &host);
        assert_eq!(refused.status(), 403, "{host}");
        let error = refused.error();
        assert_eq!(error["code"], "host_not_allowed");
        assert_eq!(error["type"], "permission_error");
        let message = error["message"].as_str().unwrap();
        assert!(!message.contains('\n'), "{message}");
        if host.contains("evil") {
            let name = host.to_lowercase();
            let name = name.split(':').next().unwrap().trim_end_matches('.');
            let flag = format!("--allow-host {name} ");
            assert!(message.contains(&flag), "{message}");
        }
    }
    let whole = ask(
        &server,
        "GET http://evil.example/health HTTP/1.1",
        "Host: localhost\r\n",
    );
    assert_eq!(whole.status(), 403);
    server.until_idle();
    assert_eq!(server.metrics().answered(403), 8.0);
}

/// Each dialect has its shape of it, the page and work are kept from such a site too, and nothing runs.
#[test]
fn whatever_a_site_asks_under_its_own_name_is_refused() {
    let server = Server::start(&[]);
    let body = greedy("x", 4).to_string();
    let length = format!(
        "Content-Type: application/json\r\nContent-Length: {}",
        body.len()
    );
    for path in ["/", "/health", "/metrics", "/openapi.json", "/nowhere"] {
        let first = format!("GET {path} HTTP/1.1");
        let refused = ask(&server, &first, "Host: evil.example\r\n");
        assert_eq!(refused.status(), 403, "{path}");
    }
    for path in ["/v1/completions", "/v1/messages", "/api/chat"] {
        let mut connection = server.open();
        let head = format!("POST {path} HTTP/1.1\r\nHost: evil.example\r\n{length}\r\n\r\n");
        connection
            .send(&[head.as_bytes(), body.as_bytes()].concat())
            .unwrap();
        let refused = connection.answer().unwrap();
        assert_eq!(refused.status(), 403, "{path}");
        let error = refused.json();
        match path {
            "/api/chat" => assert!(error["error"].is_string(), "{error}"),
            "/v1/messages" => assert_eq!(error["type"], "error"),
            _ => assert_eq!(error["error"]["param"], Value::Null),
        }
    }
    assert_eq!(server.metrics().get("engine_requests_total"), 0.0);
}

#[test]
fn hosts_are_allowed_by_name_and_with_their_origins() {
    let server = Server::start(&[
        "--allow-host",
        "Gannet.example.org",
        "--cors-origin",
        "https://chat.example:8443",
    ]);
    for host in ["gannet.example.org:80", "chat.example", "localhost"] {
        assert_eq!(get(&server, host).status(), 200, "{host}");
    }
    assert_eq!(get(&server, "evil.example").status(), 403);
    for all in [&["--allow-host", "*"], &["--cors-origin", "*"]] {
        let open = Server::start_loading(all);
        assert_eq!(get(&open, "evil.example").status(), 200, "{all:?}");
    }
    let wrong = serve(&["--allow-host", "http://gannet.example.org"]).output();
    let wrong = wrong.unwrap();
    assert_eq!(wrong.status.code(), Some(2));
    let said = String::from_utf8_lossy(&wrong.stderr);
    assert!(said.contains("a host without a port"), "{said}");
}

/// Bound to more than this machine, the server is asked under whatever name it has there.
#[test]
fn a_server_of_a_network_is_asked_under_any_name_unless_told_otherwise() {
    let open = Server::start_loading(&["--host", "0.0.0.0"]);
    assert_eq!(get(&open, "any.example").status(), 200);
    let named = Server::start_loading(&["--host", "0.0.0.0", "--allow-host", "gannet.lan"]);
    assert_eq!(get(&named, "gannet.lan:8080").status(), 200);
    assert_eq!(get(&named, "any.example").status(), 403);
}
