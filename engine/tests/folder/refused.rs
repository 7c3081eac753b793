//! Folders that are damaged, of other models, or hostile: one line that names file, key and value.

use std::fs;
use std::path::Path;

use gannet_engine::{Model, ModelOptions};
use gannet_gguf::Gguf;
use serde_json::{Value, json};

use crate::common::{micro_file, shared};
use crate::made::{self, How};
use crate::spelled::folder_of;

fn line(folder: &Path) -> String {
    let error = match Model::open(folder) {
        Ok(_) => panic!("it opens"),
        Err(error) => error.to_string(),
    };
    let place = folder.display().to_string();
    assert!(error.starts_with(&place), "{error}");
    let line = error[place.len()..].to_owned();
    assert!(!line.contains('\n') && line.len() < 700, "{line}");
    line
}

fn check(line: &str, parts: &[&str]) {
    for part in parts {
        assert!(line.contains(part), "{part:?} is not in {line:?}");
    }
}

#[test]
fn configurations_are_refused_by_the_key() {
    let refused = |model: &str, change: &dyn Fn(&mut Value), parts: &[&str]| {
        if let Some(folder) = folder_of(model, change) {
            check(&line(folder.path()), parts);
        }
    };
    let llama = |key: &'static str, value: Value, parts: &[&str]| {
        let set = move |c: &mut Value| c[key] = value.clone();
        refused("arch/llama", &set, parts);
    };
    llama(
        "architectures",
        json!(["MambaForCausalLM"]),
        &["config.json: architectures", "Mamba", "LlamaForCausalLM"],
    );
    llama(
        "num_hidden_layers",
        json!(0),
        &["config.json: num_hidden_layers is 0", "from 1"],
    );
    llama(
        "num_hidden_layers",
        json!("2"),
        &["num_hidden_layers is \"2\"", "whole number"],
    );
    llama("num_hidden_layers", json!(7), &["blk.", "missing"]);
    llama("num_hidden_layers", json!(1), &["beyond block_count 1"]);
    llama("hidden_size", json!(1e30), &["hidden_size is 1e"]);
    llama(
        "num_attention_heads",
        json!(0),
        &["num_attention_heads is 0"],
    );
    llama("num_key_value_heads", json!(3), &["k_proj", "3 heads"]);
    llama("rms_norm_eps", json!(-1), &["rms_norm_eps is"]);
    llama("rope_theta", json!(0), &["rope_theta is"]);
    llama("vocab_size", json!(5), &["vocab_size is 5", "embedding"]);
    llama(
        "hidden_act",
        json!("gelu"),
        &["hidden_act is \"gelu\"", "silu"],
    );
    llama(
        "attention_multiplier",
        json!(0.5),
        &["key attention_multiplier (0.5)", "--ignore-unknown"],
    );
    llama(
        "quantization_config",
        json!({"bits": 4}),
        &["key quantization_config"],
    );
    llama(
        "num_local_experts",
        json!(8),
        &["key num_local_experts (8)"],
    );
    llama(
        "partial_rotary_factor",
        json!(0.5),
        &["partial_rotary_factor is 0.5"],
    );
    llama(
        "rope_scaling",
        json!({"type": "mrope"}),
        &["rope_scaling.type is \"mrope\"", "llama3"],
    );
    llama(
        "rope_scaling",
        json!({"type": "linear"}),
        &["rope_scaling.factor is missing"],
    );
    llama(
        "rope_scaling",
        json!({"type": "linear", "factor": -1}),
        &["rope_scaling.factor is"],
    );
    llama(
        "rope_scaling",
        json!({"type": "linear", "factor": 2, "extra": 1}),
        &["key rope_scaling.extra (1)"],
    );
    llama(
        "rope_scaling",
        json!({"type": "yarn", "rope_type": "linear", "factor": 2}),
        &["rope_scaling.type is \"yarn\""],
    );
    llama(
        "rope_scaling",
        json!({"type": "yarn", "factor": 2, "truncate": false}),
        &["rope_scaling.truncate"],
    );
    llama(
        "rope_scaling",
        json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1,
            "original_max_position_embeddings": 32}),
        &["rope_scaling.high_freq_factor is 1"],
    );
    llama(
        "rope_scaling",
        json!([1]),
        &["rope_scaling is [1]", "object"],
    );
    llama(
        "tie_word_embeddings",
        json!("no"),
        &["tie_word_embeddings is \"no\"", "true or false"],
    );
    llama(
        "attention_bias",
        json!(true),
        &["q_proj.weight", "has no bias", "attention_bias"],
    );
    llama("a\nkey", json!("\n"), &["key a\\nkey (\"\\n\")"]);
    let tied = |c: &mut Value| c["tie_word_embeddings"] = json!(false);
    refused(
        "arch/qwen2",
        &tied,
        &["lm_head.weight: missing", "tie_word_embeddings is false"],
    );
    let cap = |c: &mut Value| c["attn_logit_softcapping"] = Value::Null;
    refused("arch/gemma2", &cap, &["attn_logit_softcapping is null"]);
    let scalar = |c: &mut Value| c["query_pre_attn_scalar"] = json!(7);
    refused("arch/gemma3", &scalar, &["query_pre_attn_scalar is 7"]);
    let kind = |c: &mut Value| c["layer_types"] = json!(["chunked_attention"]);
    refused("arch/gemma3", &kind, &["layer_types", "chunked_attention"]);
    let few = |c: &mut Value| c["layer_types"] = json!(["full_attention"]);
    refused("arch/gemma3", &few, &["config.json: layer_types"]);
    let long = |c: &mut Value| {
        c["rope_scaling"] =
            json!({"type": "longrope", "long_factor": [1.0], "short_factor": [1.0]});
    };
    refused("arch/phi3", &long, &["rope_factors_"]);
    let gelu = |c: &mut Value| c["activation_function"] = json!("relu");
    refused("arch2/gpt2", &gelu, &["activation_function is \"relu\""]);
    let scaled = |c: &mut Value| c["scale_attn_by_inverse_layer_idx"] = json!(true);
    refused(
        "arch2/gpt2",
        &scaled,
        &["key scale_attn_by_inverse_layer_idx (true)"],
    );
}

/// What nothing uses can be ignored, and is then told.
#[test]
fn what_nothing_uses_is_ignored_on_request() {
    let Some(folder) = folder_of("arch/llama", &|c| c["strange"] = json!(1)) else {
        return;
    };
    let mut options = ModelOptions::default();
    options.ignore_unknown = true;
    let model = Model::open_with(folder.path(), &options).unwrap();
    let told: Vec<&str> = model.warnings().collect();
    assert!(
        told.iter().any(|line| line.contains("key strange (1)")),
        "{told:?}"
    );
}

#[test]
fn vocabularies_are_refused_by_what_they_have() {
    let Some(path) = shared("vocabularies", &micro_file("golden/arch/llama")) else {
        return;
    };
    let gguf = Gguf::open(path).unwrap();
    let refused = |change: &dyn Fn(&mut Value), parts: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let how = How {
            tokenizer: change,
            ..How::default()
        };
        made::write(&gguf, folder.path(), &how);
        check(&line(folder.path()), parts);
    };
    refused(
        &|t| t["model"]["type"] = json!("Unigram"),
        &["tokenizer.json: model.type \"Unigram\""],
    );
    refused(
        &|t| {
            t["model"]["type"] = json!("Unigram");
            t["model"]["vocab"] = json!([["a", -1.0]]);
        },
        &["\"Unigram\"", "BPE"],
    );
    refused(
        &|t| t["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!("x+"),
        &["pre_tokenizer", "x+"],
    );
    refused(
        &|t| t["pre_tokenizer"] = Value::Null,
        &["pre_tokenizer", "none"],
    );
    refused(
        &|t| t["normalizer"] = json!({"type": "Lowercase"}),
        &["normalizer \"Lowercase\""],
    );
    refused(
        &|t| t["model"]["end_of_word_suffix"] = json!("</w>"),
        &["end_of_word_suffix"],
    );
    refused(&|t| t["model"]["dropout"] = json!(0.1), &["dropout"]);
    refused(
        &|t| t["model"]["vocab"]["x\ny"] = json!(4_000_000_000_u64),
        &["\"x\\ny\"", "4000000000"],
    );
    refused(
        &|t| t["model"]["vocab"]["zz"] = json!(7),
        &["have the same id 7"],
    );
    refused(&|t| t["model"]["vocab"]["zz"] = json!(-1), &["JSON", "-1"]);
    refused(
        &|t| t["model"]["merges"][0] = json!("a b c"),
        &["JSON", "merge"],
    );
    refused(
        &|t| t["model"]["byte_fallback"] = json!(true),
        &["pre_tokenizer"],
    );
    refused(&|t| *t = json!([1]), &["tokenizer.json: JSON"]);
}

#[test]
fn files_that_are_missing_or_damaged_are_named() {
    let Some(folder) = folder_of("arch/llama", &|_| {}) else {
        return;
    };
    let file = |name: &str| folder.path().join(name);
    let with = |name: &str, bytes: &[u8], parts: &[&str]| {
        let before = fs::read(file(name)).ok();
        fs::write(file(name), bytes).unwrap();
        check(&line(folder.path()), parts);
        match before {
            Some(before) => fs::write(file(name), before).unwrap(),
            None => fs::remove_file(file(name)).unwrap(),
        }
    };
    with("config.json", b"{", &["/config.json: JSON"]);
    with("config.json", b"\xff", &["/config.json: JSON"]);
    with(
        "config.json",
        "[".repeat(200_000).as_bytes(),
        &["/config.json: JSON"],
    );
    with(
        "config.json",
        " ".repeat(600_000).as_bytes(),
        &["/config.json: 600000 bytes"],
    );
    with(
        "tokenizer.json",
        "[".repeat(200_000).as_bytes(),
        &["/tokenizer.json: JSON"],
    );
    with(
        "tokenizer_config.json",
        b"{\"bos_token\": 7}",
        &["/tokenizer_config.json: JSON"],
    );
    with(
        "chat_template.jinja",
        b"\xff",
        &["/chat_template.jinja: not UTF-8"],
    );
    with("model.safetensors", b"", &["/model.safetensors: header"]);
    let index = br#"{"weight_map":{"a":"../model.safetensors"}}"#;
    with(
        "model.safetensors.index.json",
        index,
        &["weight_map", "inside"],
    );
    for (name, part) in [
        ("model.safetensors", "expected model.safetensors.index.json"),
        ("tokenizer.json", "/tokenizer.json: missing"),
        ("config.json", "/config.json: "),
    ] {
        let before = fs::read(file(name)).unwrap();
        fs::remove_file(file(name)).unwrap();
        check(&line(folder.path()), &[part]);
        fs::write(file(name), before).unwrap();
    }
}

/// The container's own hostile files, as the weights of a sound folder.
#[test]
fn hostile_weights_are_refused() {
    let Some(folder) = folder_of("arch/llama", &|_| {}) else {
        return;
    };
    let malformed = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/malformed");
    let mut tried = 0;
    for entry in fs::read_dir(malformed).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            fs::copy(&path, folder.path().join("model.safetensors")).unwrap();
            line(folder.path());
            tried += 1;
        }
    }
    assert!(tried > 20, "{tried}");
}

#[test]
fn tensors_that_do_not_belong_are_named() {
    let Some(path) = shared("tensors", &micro_file("golden/arch/llama")) else {
        return;
    };
    let gguf = Gguf::open(path).unwrap();
    let edited = |from: &str, to: &str, parts: &[&str]| {
        assert_eq!(from.len(), to.len());
        let folder = tempfile::tempdir().unwrap();
        made::write(&gguf, folder.path(), &How::default());
        let file = folder.path().join("model.safetensors");
        let mut bytes = fs::read(&file).unwrap();
        let at = bytes
            .windows(from.len())
            .position(|w| w == from.as_bytes())
            .unwrap();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        fs::write(&file, bytes).unwrap();
        check(&line(folder.path()), parts);
    };
    edited("layers.1.mlp.up_proj", "layers.1.mlp.XX_proj", &["XX_proj"]);
    edited(
        "layers.1.self_attn.q_proj",
        "layers.0.self_attn.q_proj",
        &["duplicate"],
    );
    edited(
        "model.norm.weight",
        "model.norm.WEIGHT",
        &["model.norm.WEIGHT"],
    );
    edited(
        "\"dtype\":\"F32\",\"shape\":[64,64]",
        "\"dtype\":\"I32\",\"shape\":[64,64]",
        &["type I32", "BF16"],
    );
}
