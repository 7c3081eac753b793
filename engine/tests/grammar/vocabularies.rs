//! Texts of every kind of vocabulary, tokens drawn evenly among those that may come.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gannet_engine::internals::text::grammar::{Grammar, Grammars};
use gannet_engine::internals::text::tokenizer::{TokenizerOptions, from_metadata};
use gannet_engine::tokenizer::{DecodeOptions, StreamDecoder, Tokenizer};
use gannet_gguf::Gguf;
use serde_json::Value;

use super::generator::{Random, schema};

fn vocabulary(name: &str) -> Option<Arc<Tokenizer>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shared = std::env::var_os("GANNET_SHARED");
    let root = shared.map_or_else(|| here.join("../../shared"), PathBuf::from);
    let path = root.join(format!("vocab/ggml-vocab-{name}.gguf"));
    if !path.exists() {
        eprintln!("skipped: grammars with the vocabulary of {name}: it is not there");
        return None;
    }
    let file = Gguf::open(&path).unwrap();
    let tokenizer = from_metadata(file.metadata(), &TokenizerOptions::default());
    Some(Arc::new(tokenizer.unwrap()))
}

/// A text of a grammar, and whether it is complete.
fn drawn(
    grammars: &Grammars,
    tokenizer: &Tokenizer,
    grammar: &Grammar,
    seed: u64,
) -> (String, bool) {
    let mut matcher = grammars.compile(grammar).unwrap();
    let random = &mut Random::new(seed);
    let mut stream = StreamDecoder::continuing(tokenizer, DecodeOptions::default());
    let mut text = String::new();
    for _ in 0..400 {
        let Some(allowed) = matcher.allowed().unwrap() else {
            return (text + &stream.finish(), true);
        };
        let ids = 0..tokenizer.vocab_size() as u32;
        let tokens: Vec<u32> = ids.filter(|&id| allowed.contains(id)).collect();
        let token = match tokens.iter().find(|&&id| tokenizer.is_eog(id)) {
            Some(_) => return (text + &stream.finish(), true),
            None => tokens[random.below(tokens.len())],
        };
        matcher.accept(token).unwrap();
        text.push_str(&stream.push(token));
    }
    (text, false)
}

#[test]
fn every_vocabulary_writes_what_a_schema_accepts() {
    for name in ["gpt-2", "qwen2", "phi-3", "falcon", "mpt"] {
        let Some(tokenizer) = vocabulary(name) else {
            continue;
        };
        let tokenizer = &tokenizer;
        let grammars = Grammars::new(tokenizer);
        let mut complete = 0;
        for seed in 0..12 {
            let schema = schema(&mut Random::new(seed));
            let grammar = Grammar::JsonSchema(schema.to_string());
            let (text, is_complete) = drawn(&grammars, tokenizer, &grammar, seed);
            if !is_complete {
                continue;
            }
            complete += 1;
            let value: Value = serde_json::from_str(&text).unwrap();
            let options = jsonschema::options().should_validate_formats(true);
            let validator = options.build(&schema).unwrap();
            assert!(validator.is_valid(&value), "{name}: {schema}: {text}");
        }
        assert!(complete > 6, "{name}: {complete}");
        // What needs the bytes of a character.
        let exact = "né \u{1f980} «ß»\t";
        let grammar = Grammar::Lark(format!("start: {}", Value::from(exact)));
        assert_eq!(
            drawn(&grammars, tokenizer, &grammar, 1),
            (exact.to_owned(), true),
            "{name}"
        );
    }
}

#[test]
fn wordpiece_is_refused() {
    let Some(tokenizer) = vocabulary("bert-bge") else {
        return;
    };
    let error = Grammars::new(&tokenizer)
        .compile(&Grammar::JsonObject)
        .map(|_| ())
        .unwrap_err();
    assert!(error.to_string().contains("WordPiece"), "{error}");
}
