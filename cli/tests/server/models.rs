//! A folder of models: loaded when they are asked for, unloaded when nobody uses them, as many at once as may
//! be.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::Server;

/// A folder with copies of the embedded model, something that is none, and one that cannot be loaded.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/rustdoc-tiny-Q4_K_M.gguf");
    for name in ["one.gguf", "two.GGUF", "three.gguf"] {
        std::fs::copy(&model, folder.path().join(name)).unwrap();
    }
    std::fs::write(folder.path().join("notes.txt"), "no model").unwrap();
    std::fs::write(folder.path().join("broken.gguf"), "GGUF and nothing more").unwrap();
    folder
}

fn start(folder: &tempfile::TempDir, args: &[&str]) -> Server {
    let path = folder.path().to_str().unwrap();
    Server::start(&[&["--models", path], args].concat())
}

/// The models that are loaded.
fn loaded(server: &Server) -> Vec<String> {
    let list = server.get("/v1/models").json();
    let all = list["data"].as_array().unwrap().iter();
    all.filter(|model| model["loaded"] == true)
        .map(|model| model["id"].as_str().unwrap().to_owned())
        .collect()
}

fn ask(model: &str) -> Value {
    json!({"model": model, "prompt": "Ownership is", "max_tokens": 4, "temperature": 0})
}

fn text(server: &Server, model: &str) -> String {
    let answer = server.post("/v1/completions", &ask(model));
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let answer = answer.json();
    assert_eq!(answer["model"], model);
    answer["choices"][0]["text"].as_str().unwrap().to_owned()
}

#[test]
fn models_of_a_folder_are_loaded_when_they_are_asked_for() {
    let folder = folder();
    let server = start(&folder, &["--max-models", "2"]);
    let list = server.get("/v1/models").json();
    let names: Vec<&str> = (list["data"].as_array().unwrap().iter())
        .map(|model| model["id"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["broken", "one", "three", "two"]);
    assert_eq!(loaded(&server), [""; 0]);
    let first = text(&server, "one");
    assert_eq!(text(&server, "two"), first);
    assert_eq!(loaded(&server), ["one", "two"]);
    // The one that was used longest ago makes room.
    assert_eq!(text(&server, "two"), first);
    assert_eq!(text(&server, "three"), first);
    assert_eq!(loaded(&server), ["three", "two"]);
    // One that is in use stays: there is more than there may be, until it is done.
    let mut stream = ask("two");
    stream["stream"] = json!(true);
    stream["max_tokens"] = json!(500);
    stream["ignore_eos"] = json!(true);
    let busy = server.begin("/v1/completions", &stream);
    assert_eq!(text(&server, "one"), first);
    assert!(loaded(&server).contains(&"two".to_owned()));
    drop(busy);
    let unknown = server.post("/v1/completions", &ask("four"));
    assert_eq!(unknown.status(), 404);
    assert_eq!(unknown.error()["code"], "model_not_found");
    let broken = server.post("/v1/completions", &ask("broken"));
    assert_eq!(broken.status(), 503);
    assert_eq!(broken.error()["code"], "model_broken");
    let why = broken.error()["message"].to_string();
    assert!(why.contains("broken.gguf"), "{why}");
    assert_eq!(text(&server, "one"), first);
}

#[test]
fn models_that_nobody_uses_are_unloaded() {
    let folder = folder();
    let server = start(&folder, &["--keep-alive", "1"]);
    text(&server, "one");
    text(&server, "two");
    let took = server.until("both are unloaded", |s| loaded(s).is_empty());
    assert!(took > Duration::from_millis(500), "{took:?}");
    text(&server, "one");
    assert_eq!(loaded(&server), ["one"]);
}

#[test]
fn many_who_ask_at_once_wait_for_one_load() {
    let folder = folder();
    let server = start(&folder, &[]);
    let texts: Vec<String> = std::thread::scope(|threads| {
        let asked: Vec<_> = (0..12)
            .map(|i| {
                let server = &server;
                threads.spawn(move || text(server, ["one", "two", "three"][i % 3]))
            })
            .collect();
        asked.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(texts.iter().all(|text| *text == texts[0]), "{texts:?}");
    assert_eq!(loaded(&server).len(), 3);
}
