//! `gannet convert`, and folders where other commands take a model.

use std::fs;
use std::path::Path;

use gannet_gguf::{Gguf, TensorType};
use serde_json::json;

use crate::support::{here, names, run};

#[allow(dead_code, unreachable_pub)]
#[path = "../../../engine/tests/folder/made.rs"]
mod made;

use made::How;

/// A folder made of a micro-model, in a folder of its own.
fn folder() -> (tempfile::TempDir, String) {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("micro");
    fs::create_dir(&folder).unwrap();
    let gguf = here("../engine/tests/data/golden/arch/qwen2/qwen2.gguf");
    made::write(&Gguf::open(gguf).unwrap(), &folder, &How::default());
    (root, folder.to_str().unwrap().to_owned())
}

fn path(root: &Path, name: &str) -> String {
    root.join(name).to_str().unwrap().to_owned()
}

#[test]
fn a_folder_runs_and_becomes_a_file_that_says_the_same() {
    let (root, folder) = folder();
    let out = path(root.path(), "m.gguf");
    let done = run(&["convert", &folder, "-o", &out, "--type", "BF16", "--json"]).ok();
    assert_eq!(done.json()["type"], "bf16");
    let gguf = Gguf::open(&out).unwrap();
    assert_eq!(
        gguf.tensor("blk.0.attn_q.weight").unwrap().ty,
        TensorType::BF16
    );
    assert_eq!(
        gguf.tensor("blk.0.attn_norm.weight").unwrap().ty,
        TensorType::F32
    );
    assert_eq!(gguf.metadata().str("general.name").unwrap(), "micro");
    let kept = path(root.path(), "kept.gguf");
    run(&["convert", &folder, "-o", &kept]).ok();
    assert_eq!(names(root.path()), ["kept.gguf", "m.gguf", "micro"]);
    let text = |model: &str| {
        let args = [
            "run", "-m", model, "-p", "a b", "-n", "8", "--device", "cpu", "--exact",
        ];
        run(&args).ok().stdout
    };
    assert_eq!(text(&folder), text(&kept));
    let tokens = |model: &str| {
        run(&["tokenize", "-m", model, "--text", "the rain"])
            .ok()
            .stdout
    };
    assert_eq!(tokens(&folder), tokens(&kept));
    let said = run(&["inspect", &folder, "--json"]).ok().json();
    assert_eq!(said["runs"]["family"], "qwen2");
    assert_eq!(
        said["tensor_count"].as_u64().unwrap() as usize,
        gguf.tensors().len()
    );
    // The same blocks, from a folder or by way of a file.
    let (one, other) = (path(root.path(), "1.gguf"), path(root.path(), "2.gguf"));
    run(&["quantize", &folder, &one, "--type", "q8_0"]).ok();
    run(&["quantize", &kept, &other, "--type", "q8_0"]).ok();
    let (one, other) = (Gguf::open(one).unwrap(), Gguf::open(other).unwrap());
    for t in one.tensors() {
        assert_eq!(
            one.data(t),
            other.data(other.tensor(&t.name).unwrap()),
            "{}",
            t.name
        );
    }
}

#[test]
fn nothing_is_overwritten_and_nothing_half_is_left() {
    let (root, folder) = folder();
    let out = path(root.path(), "kept");
    fs::write(&out, "kept").unwrap();
    let line = run(&["convert", &folder, "-o", &out]);
    assert!(line.error().contains("--force"), "{}", line.error());
    assert_eq!(fs::read_to_string(&out).unwrap(), "kept");
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        let input = format!("{folder}/{file}");
        let line = run(&["convert", &folder, "-o", &input, "--force"]);
        assert!(
            line.error().contains("write to another file"),
            "{}",
            line.error()
        );
    }
    run(&["convert", &folder, "-o", &out, "--force"]).ok();
    Gguf::open(&out).unwrap();
    assert_eq!(names(root.path()), ["kept", "micro"]);
    assert_eq!(
        run(&["convert", &folder, "-o", "-", "--json"]).code,
        Some(2)
    );
    assert_eq!(
        run(&["convert", &folder, "-o", &out, "--type", "q4_0"]).code,
        Some(2)
    );
}

#[test]
fn folders_that_are_no_models_are_refused_in_one_line() {
    let (root, folder) = folder();
    let empty = path(root.path(), "empty");
    fs::create_dir(&empty).unwrap();
    let line = run(&["run", "-m", &empty, "-p", "a"]);
    assert!(line.error().contains("config.json"), "{}", line.error());
    let config = format!("{folder}/config.json");
    let mut changed: serde_json::Value =
        serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    changed["router_aux_loss_coef"] = json!(0.1);
    fs::write(&config, changed.to_string()).unwrap();
    let out = path(root.path(), "m.gguf");
    for args in [
        &["run", "-m", &folder, "-p", "a"][..],
        &["tokenize", "-m", &folder, "--text", "a"],
        &["convert", &folder, "-o", &out],
        &["quantize", &folder, &out, "--type", "q8_0"],
    ] {
        let line = run(args);
        assert!(
            line.error().contains("router_aux_loss_coef (0.1)"),
            "{}",
            line.error()
        );
    }
    let done = run(&["convert", &folder, "-o", &out, "--ignore-unknown"]).ok();
    assert!(done.stderr.contains("ignored"), "{}", done.stderr);
    // What cannot be run can be looked at.
    changed["architectures"] = json!(["MambaForCausalLM"]);
    fs::write(&config, changed.to_string()).unwrap();
    let said = run(&["inspect", &folder, "--json"]).ok().json();
    assert_eq!(said["runs"]["supported"], false);
    assert!(said["runs"]["reason"].as_str().unwrap().contains("Mamba"));
}
