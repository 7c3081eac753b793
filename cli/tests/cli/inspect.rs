//! `gannet inspect` and `gannet tokenize`: files that need not be runnable.

use crate::support::{model, run, shared};

#[test]
fn a_model_that_runs() {
    let text = run(&["inspect", &model()]).ok().stdout;
    assert!(text.contains("runs: yes, as llama: 10 layers"), "{text}");
    assert!(
        text.contains("llama.attention.layer_norm_rms_epsilon = 0.00001\n"),
        "{text}"
    );
    assert!(
        text.contains("8,192 string]"),
        "long arrays are abbreviated: {text}"
    );
    assert!(!text.contains("blk.0.attn_q.weight"));
    let list = run(&["inspect", &model(), "--tensors"]).ok().stdout;
    let row = list
        .lines()
        .find(|l| l.starts_with("blk.0.ffn_down.weight"))
        .unwrap();
    assert!(row.contains("[256, 1024]"), "row-major shapes: {row}");
}

#[test]
fn json_has_it_all() {
    let object = run(&["inspect", &model(), "--json", "--tensors"])
        .ok()
        .json();
    assert_eq!(object["runs"]["supported"], true);
    assert_eq!(object["runs"]["memory"]["context"], 1024);
    // 2 (keys, values) x 10 layers x 2 heads x 64 elements x 1024 positions, in f16 and in f32.
    assert_eq!(object["runs"]["memory"]["kv_bytes_cuda"], 5_242_880);
    assert_eq!(object["runs"]["memory"]["kv_bytes_cpu"], 10_485_760);
    assert_eq!(object["tensor_count"], 92);
    assert_eq!(object["tensors"].as_array().unwrap().len(), 92);
    assert_eq!(object["metadata"]["general.architecture"], "llama");
    assert_eq!(object["metadata"]["tokenizer.ggml.tokens"]["len"], 8192);
    let bytes: u64 = object["types"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["bytes"].as_u64().unwrap())
        .sum();
    assert_eq!(bytes, 7_651_584);
}

#[test]
fn families_that_do_not_run_are_opened_and_refused_by_name() {
    for (file, family) in [
        ("vocab/ggml-vocab-falcon.gguf", "falcon"),
        ("vocab/ggml-vocab-bert-bge.gguf", "bert"),
    ] {
        let Some(path) = shared(file) else { continue };
        let path = path.to_str().unwrap();
        let object = run(&["inspect", path, "--json"]).ok().json();
        assert_eq!(object["runs"]["supported"], false);
        let reason = object["runs"]["reason"].as_str().unwrap();
        assert!(
            reason.contains(family) && reason.contains("llama, qwen2, qwen3"),
            "{reason}"
        );
        assert!(run(&["run", "x", "-m", path]).error().contains(family));
    }
}

#[test]
fn tokens_of_the_embedded_vocabulary() {
    let ids = |args: &[&str]| {
        let mut all = vec!["tokenize", "--json"];
        all.extend_from_slice(args);
        run(&all).ok().json()
    };
    assert_eq!(
        ids(&["--text", "Ownership is"]),
        serde_json::json!([46, 1170, 2238, 329])
    );
    let with_bos = serde_json::json!([8184, 46, 1170, 2238, 329]);
    assert_eq!(ids(&["--text", "Ownership is", "--add-special"]), with_bos);
    assert_eq!(ids(&["--text", ""]), serde_json::json!([]));
    assert_eq!(
        run(&["tokenize", "--text", "Ownership is"]).ok().stdout,
        "46 1170 2238 329\n"
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "Ownership is").unwrap();
    let path = file.path().to_str().unwrap();
    assert_eq!(
        ids(&["--file", path]),
        serde_json::json!([46, 1170, 2238, 329])
    );
    std::fs::write(file.path(), [b'a', 0xff]).unwrap();
    assert!(
        run(&["tokenize", "--file", path])
            .error()
            .contains("not UTF-8 text at byte 1")
    );
}

/// Files with a vocabulary and no weights serve, and `--pre` replaces what the file names.
#[test]
fn tokens_of_a_file_without_weights() {
    let Some(path) = shared("vocab/ggml-vocab-gpt-2.gguf") else {
        return;
    };
    let path = path.to_str().unwrap();
    let done = run(&["tokenize", "-m", path, "--text", "Hello world", "--json"]).ok();
    assert_eq!(done.json(), serde_json::json!([15496, 995]));
    run(&["tokenize", "-m", path, "--text", "1234", "--pre", "qwen2"]).ok();
    let unknown = run(&["tokenize", "-m", path, "--text", "1", "--pre", "no-such"]);
    assert!(unknown.error().contains("no-such"));
    let Some(bert) = shared("vocab/ggml-vocab-bert-bge.gguf") else {
        return;
    };
    let bert = bert.to_str().unwrap();
    let done = run(&["tokenize", "-m", bert, "--text", "A b"]).ok();
    assert_eq!(done.stdout, "1037 1038\n");
    let pieces = shared("vocab/ggml-vocab-phi-3.gguf").expect("lies beside it");
    for path in [bert, pieces.to_str().unwrap()] {
        let other = run(&["tokenize", "-m", path, "--text", "a", "--pre", "qwen2"]);
        assert!(other.one_line_of_usage().contains("--pre qwen2"));
    }
}
