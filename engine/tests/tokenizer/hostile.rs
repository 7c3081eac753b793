//! Vocabularies that are wrong: refused in one line that names the key, or read with a warning.

use gannet_engine::internals::text::tokenizer::{
    DecodeOptions, EncodeOptions, Tokenizer, TokenizerOptions, from_metadata,
};
use gannet_gguf::Gguf;

use crate::{data, embedded, load};

/// What came of each vocabulary of the collection.
fn outcomes() -> Vec<(serde_json::Value, Result<Tokenizer, String>)> {
    let folder = data("vocab");
    let manifest = std::fs::read_to_string(folder.join("manifest.json")).expect("a manifest");
    let manifest: serde_json::Value = serde_json::from_str(&manifest).expect("JSON");
    let outcome = |entry: &serde_json::Value| {
        let path = folder.join(entry["file"].as_str().expect("a name"));
        let outcome = match Gguf::open(path) {
            Ok(model) => load(&model).map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        };
        (entry.clone(), outcome)
    };
    manifest
        .as_array()
        .expect("a list")
        .iter()
        .map(outcome)
        .collect()
}

#[test]
fn malformed_vocabularies() {
    let outcomes = outcomes();
    assert_eq!(outcomes.len(), 19);
    for (entry, outcome) in outcomes {
        let file = entry["file"].as_str().expect("a name");
        let word = entry["error_should_mention"].as_str().expect("a word");
        let said = match (&outcome, entry["expect"].as_str()) {
            (Ok(_), Some("reject")) => panic!("{file} was accepted"),
            (Err(error), Some("accept")) => panic!("{file}: {error}"),
            (Ok(tokenizer), _) => tokenizer.warnings().join("; "),
            (Err(error), _) => error.clone(),
        };
        assert!(!said.contains('\n'), "{file}: {said:?}");
        eprintln!("{file}: {said}");
        if !word.is_empty() && word != "warning" {
            assert!(
                said.to_lowercase().contains(word),
                "{file}: {said:?} lacks {word:?}"
            );
        }
        if let Ok(tokenizer) = outcome {
            // Whatever is missing, nothing panics and ids are in range.
            let options = EncodeOptions {
                add_special: true,
                parse_special: true,
            };
            let ids = tokenizer.encode("ab a\u{1f680} <s>b\n", options);
            assert!(
                ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()),
                "{file}"
            );
            tokenizer.decode(&ids, DecodeOptions { special: true });
        }
    }
}

#[test]
fn unknown_families_are_named_and_can_be_overridden() {
    let model = embedded();
    let with = |pre: &str| {
        let options = TokenizerOptions {
            pre_override: Some(pre.to_owned()),
        };
        from_metadata(model.metadata(), &options)
    };
    let error = with("no\nsuch").expect_err("unknown").to_string();
    assert!(
        error.contains("'no\\nsuch'") && error.contains("override"),
        "{error}"
    );
    assert_eq!(with("qwen2").expect("known").pre(), "qwen2");
}
