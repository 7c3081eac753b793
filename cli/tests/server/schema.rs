//! The server against its own description: schemathesis asks whatever the OpenAPI document allows, and what
//! it does not.
//!
//! `GANNET_SCHEMATHESIS` names the program where it is not on the path. `GANNET_FUZZ=all` asks more.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::harness::Server;

fn schemathesis() -> Option<PathBuf> {
    let named = std::env::var_os("GANNET_SCHEMATHESIS").map(PathBuf::from);
    let program = named.unwrap_or_else(|| PathBuf::from("schemathesis"));
    let works = Command::new(&program).arg("--version").output();
    works.is_ok_and(|o| o.status.success()).then_some(program)
}

#[test]
fn schemathesis_finds_no_server_error_and_no_status_that_is_not_described() {
    let Some(program) = schemathesis() else {
        println!("skipped: no schemathesis; pip install schemathesis");
        return;
    };
    let is_all = std::env::var_os("GANNET_FUZZ").is_some_and(|v| v == "all");
    let server = Server::start(&["--ctx", "64"]);
    let url = format!("http://{}/openapi.json", server.address);
    let most = if is_all { "200" } else { "8" };
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(program)
        .args([
            "run",
            &url,
            "--max-examples",
            most,
            "--seed",
            "7",
            "--no-color",
        ])
        .args([
            "--checks",
            "not_a_server_error,status_code_conformance,content_type_conformance",
        ])
        .args([
            "--phases",
            "examples,coverage,fuzzing",
            "--generation-database",
            "none",
        ])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(server.metrics().answered(200) > 10.0, "{said}");
    server.until_idle();
}

/// What every route may answer is described, and every description is an answer of the error's shape.
#[test]
fn the_document_describes_what_routes_answer() {
    let server = Server::start_loading(&[]);
    let document = server.get("/openapi.json").json();
    let mut paths = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            paths.insert(path.clone());
            let responses = operation["responses"].as_object().unwrap();
            let has = |status: &str| responses.contains_key(status);
            assert!(has("200"), "{method} {path}");
            if method == "post" {
                for status in ["400", "401", "404", "408", "413", "415", "503"] {
                    assert!(has(status), "{method} {path} describes no {status}");
                }
                let reads_only = [
                    "/api/show",
                    "/tokenize",
                    "/detokenize",
                    "/apply-template",
                    "/v1/messages/count_tokens",
                ];
                let waits = !reads_only.contains(&path.as_str());
                assert_eq!(has("429"), waits, "{method} {path}");
            }
            for (status, response) in responses {
                let text = response["description"].as_str().unwrap_or_default();
                assert!(!text.is_empty(), "{method} {path} {status}");
            }
        }
    }
    for path in [
        "/v1/models",
        "/v1/completions",
        "/v1/chat/completions",
        "/health",
        "/metrics",
    ] {
        assert!(paths.contains(path), "{path} is not described");
    }
    assert!(matches!(document["openapi"], Value::String(_)));
}
