//! The scripts, a test each.

use std::path::Path;
use std::process::Stdio;

use super::interpreters::Interpreter;
use super::pooled::write_pooled;
use super::server::Server;

/// The key of the servers of these tests.
const KEY: &str = "a-key-of-tests";

/// Runs a script beside this file against four servers: one as anybody starts it, one whose template has
/// tools, one that takes a single request at a time, and one whose model has vectors of texts.
fn run(interpreter: &Interpreter, script: &str) {
    let Some(mut command) = interpreter.find() else {
        return;
    };
    let plain = Server::start(&["--api-key", KEY]);
    let tools = Server::start(&["--api-key", KEY, "--chat-template", "hermes"]);
    let narrow = Server::start(&["--slots", "1", "--queue", "0"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pooled.gguf");
    write_pooled(&file);
    let pooled = Server::start(&["--api-key", KEY, "-m", file.to_str().unwrap()]);
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/clients")
        .join(script);
    let done = command
        .arg(path)
        .env("PLAIN", plain.url())
        .env("TOOLS", tools.url())
        .env("NARROW", narrow.url())
        .env("POOLED", pooled.url())
        .env("KEY", KEY)
        .env("NO_PROXY", "127.0.0.1")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.success(),
        "{script}: {}\n{said}{errors}",
        done.status
    );
}

#[test]
fn openai_of_python() {
    run(&Interpreter::Python("openai"), "openai_client.py");
}

#[test]
fn anthropic_of_python() {
    run(&Interpreter::Python("anthropic"), "anthropic_client.py");
}

#[test]
fn openai_of_npm() {
    run(&Interpreter::Node("openai"), "openai_client.cjs");
}

#[test]
fn anthropic_of_npm() {
    run(
        &Interpreter::Node("@anthropic-ai/sdk"),
        "anthropic_client.cjs",
    );
}

#[test]
fn ollama_of_python() {
    run(&Interpreter::Python("ollama"), "ollama_client.py");
}
