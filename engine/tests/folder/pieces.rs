//! Vocabularies of SentencePiece written as merges, against the published library.

use std::collections::BTreeMap;

use gannet_engine::Model;
use gannet_engine::internals::files::Source;
use gannet_engine::internals::model::hf::HfFolder;
use gannet_engine::tokenizer::EncodeOptions;
use serde_json::{Map, Value, json};

use crate::common::{micro_file, shared};
use crate::made::{self, How};

/// Pieces, the best first.
const PIECES: &[&str] = &[
    "\u{2581}t",
    "he",
    "in",
    "\u{2581}a",
    "\u{2581}the",
    "\u{2581}\u{2581}",
    "er",
    "on",
    "\u{2581}in",
    "re",
    "ing",
    "\u{2581}w",
    "\u{2581}\u{2581}\u{2581}\u{2581}",
    "ther",
    "her",
];

/// `tokenizer.json` of a vocabulary whose pieces merge in every way.
fn tokenizer(normalizer: Value, pre_tokenizer: Value) -> Value {
    let mut texts: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).into();
    texts.extend((0..=255u8).map(|byte| format!("<0x{byte:02X}>")));
    texts.extend(PIECES.iter().map(|&p| p.to_owned()));
    let letters = "\u{2581}abcdefghinorstw".chars().map(String::from);
    texts.extend(letters);
    let vocab: BTreeMap<&str, usize> = texts.iter().map(String::as_str).zip(0..).collect();
    let mut merges = Vec::new();
    for piece in PIECES {
        for (at, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(at);
            if vocab.contains_key(left) && vocab.contains_key(right) {
                merges.push(json!([left, right]));
            }
        }
    }
    let added: Vec<Value> = (0..3)
        .map(|id| {
            json!({"id": id, "content": texts[id], "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    let vocab: Map<String, Value> = texts
        .iter()
        .zip(0..)
        .map(|(t, id)| (t.clone(), json!(id)))
        .collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>",
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
            "byte_fallback": true, "ignore_merges": false, "vocab": vocab, "merges": merges},
    })
}

const TEXTS: &[&str] = &[
    "the other thing in there",
    "  in the   rain",
    "a",
    "",
    "ther her ing",
    "h\u{e9}\u{1f980} on\nthe \u{4e2d}",
    "\u{2581}the the",
    "where    are here",
];

fn prepended() -> Value {
    json!({"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "\u{2581}"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}]})
}

#[test]
fn pieces_are_those_of_the_published_library() {
    let Some(path) = shared("pieces", &micro_file("golden/arch/llama")) else {
        return;
    };
    let gguf = gannet_gguf::Gguf::open(path).unwrap();
    let replaced = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
    let metaspace = |scheme: &str| json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": false});
    let ways = [
        (prepended(), Value::Null, true),
        (
            replaced,
            json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious",
            "invert": false}),
            false,
        ),
        (Value::Null, metaspace("first"), true),
        (Value::Null, metaspace("never"), false),
    ];
    for (normalizer, pre, prefix) in ways {
        let json = tokenizer(normalizer, pre);
        let folder = tempfile::tempdir().unwrap();
        let how = How {
            config: &|c| {
                c["bos_token_id"] = json!(1);
                c["eos_token_id"] = json!(2);
            },
            tokenizer: &|t| *t = json.clone(),
            ..How::default()
        };
        made::write(&gguf, folder.path(), &how);
        let opened = HfFolder::open(folder.path(), false).unwrap();
        assert_eq!(
            opened
                .metadata()
                .bool("tokenizer.ggml.add_space_prefix")
                .unwrap(),
            prefix
        );
        assert_eq!(opened.warnings(), [""; 0]);
        let model = Model::open(folder.path()).unwrap();
        let theirs = tokenizers::Tokenizer::from_bytes(json.to_string()).unwrap();
        for text in TEXTS {
            let options = EncodeOptions {
                add_special: true,
                ..EncodeOptions::default()
            };
            let (ours, right) = (
                model.tokenizer().encode(text, options),
                theirs.encode(*text, true).unwrap(),
            );
            // Metaspace puts no second space in front, SentencePiece itself does.
            let is_metaspace = json["pre_tokenizer"]["type"] == "Metaspace";
            let begins = prefix && is_metaspace && text.starts_with([' ', '\u{2581}']);
            let right = right.get_ids();
            assert!(
                begins || ours == right,
                "{}: {text:?}: {ours:?}, not {right:?}",
                json["pre_tokenizer"]
            );
        }
    }
}

/// A list that was learned itself, with one way for each token, is refused: pieces would merge otherwise.
#[test]
fn merges_of_another_kind_are_refused() {
    let Some(path) = shared("pieces", &micro_file("golden/arch/llama")) else {
        return;
    };
    let gguf = gannet_gguf::Gguf::open(path).unwrap();
    let mut json = tokenizer(prepended(), Value::Null);
    let merges = json["model"]["merges"].as_array_mut().unwrap();
    let before = merges.len();
    merges.retain(|m| m != &json!(["t", "her"]) && m != &json!(["\u{2581}t", "he"]));
    assert!(merges.len() < before);
    let folder = tempfile::tempdir().unwrap();
    let how = How {
        tokenizer: &|t| *t = json.clone(),
        ..How::default()
    };
    made::write(&gguf, folder.path(), &how);
    let line = Model::open(folder.path()).err().unwrap().to_string();
    assert!(
        line.contains("model.merges") && line.contains("SentencePiece"),
        "{line}"
    );
}
