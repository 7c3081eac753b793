//! Vectors of texts, in the words of each dialect.

use serde_json::{Value, json};

use crate::client::Answer;
use crate::harness::Server;
use crate::pooled::write_pooled;

fn numbers(vector: &Value) -> Vec<f64> {
    let numbers = vector.as_array().unwrap().iter();
    numbers.map(|number| number.as_f64().unwrap()).collect()
}

fn length(vector: &[f64]) -> f64 {
    vector.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// A server of a model that has them.
fn pooled(args: &[&str]) -> (Server, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pooled.gguf");
    write_pooled(&file);
    let args = [&["-m", file.to_str().unwrap()], args].concat();
    (Server::start(&args), folder)
}

#[test]
fn the_older_route_gives_the_vector_as_the_model_makes_it() {
    let (server, _folder) = pooled(&["--ctx", "64"]);
    let old = |body: Value| -> Answer { server.post("/api/embeddings", &body) };
    let text = "Ownership moves a value.";
    let raw = old(json!({"model": "pooled", "prompt": text, "keep_alive": "5m", "options": {}}));
    assert_eq!(raw.status(), 200, "{}", raw.text());
    let raw = numbers(&raw.json()["embedding"]);
    let new = server.post("/api/embed", &json!({"model": "pooled", "input": text}));
    let unit = numbers(&new.json()["embeddings"][0]);
    assert_eq!((raw.len(), unit.len()), (256, 256));
    assert!((length(&unit) - 1.0).abs() < 1e-5);
    assert!((length(&raw) - 1.0).abs() > 0.01, "{}", length(&raw));
    for (a, b) in raw.iter().zip(&unit) {
        assert!((a / length(&raw) - b).abs() < 1e-6, "{a} {b}");
    }
    for empty in [
        json!({"model": "pooled", "prompt": ""}),
        json!({"model": "pooled"}),
    ] {
        let nothing = old(empty);
        assert_eq!(nothing.json(), json!({"embedding": []}));
    }
    for (body, status, named) in [
        (
            json!({"model": "pooled", "prompt": "word ".repeat(90)}),
            400,
            "64 tokens",
        ),
        (json!({"model": "pooled", "input": "x"}), 400, "input"),
        (json!({"model": "pooled", "prompt": ["x"]}), 400, "prompt"),
        (
            json!({"model": "pooled", "prompt": "x", "options": {"top_p": 2}}),
            400,
            "top_p",
        ),
        (json!({"model": "nobody", "prompt": "x"}), 404, "nobody"),
        (json!({"prompt": "x"}), 400, "model"),
    ] {
        let refused = old(body.clone());
        assert_eq!(refused.status(), status, "{body}");
        let said = refused.json()["error"].as_str().unwrap().to_owned();
        assert!(
            said.contains(named) && !said.contains('\n'),
            "{body}: {said}"
        );
    }
    server.until_idle();
}

#[test]
fn a_model_without_pooling_has_none_by_any_route() {
    let server = Server::start(&[]);
    for (path, body) in [
        ("/api/embed", json!({"model": "rustdoc-tiny", "input": "x"})),
        (
            "/api/embeddings",
            json!({"model": "rustdoc-tiny", "prompt": "x"}),
        ),
        ("/v1/embeddings", json!({"input": "x"})),
    ] {
        let refused = server.post(path, &body);
        assert_eq!(refused.status(), 400, "{path}");
        assert!(refused.text().contains("llama.pooling_type"), "{path}");
    }
}
