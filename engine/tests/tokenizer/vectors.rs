//! The published test vectors of real vocabularies: no special tokens added or parsed.

use gannet_engine::tokenizer::{Algorithm, DecodeOptions, EncodeOptions, Tokenizer};
use gannet_gguf::{Gguf, Writer};

use crate::linear::now;
use crate::{data, embedded, load, shared};

/// The number of texts that came out as published, or `None` without the data. WordPiece's decoding is
/// read again instead of compared: it loses more than the ids do.
fn check(name: &str) -> Option<usize> {
    let path = shared(&format!("vocab/ggml-vocab-{name}.gguf"))?;
    let read = |end: &str| {
        let mut path = path.clone().into_os_string();
        path.push(end);
        std::fs::read_to_string(path).expect("texts lie beside the vocabulary")
    };
    let tokenizer = load(&Gguf::open(&path).expect("opens")).expect("loads");
    let (texts, ids) = (read(".inp"), read(".out"));
    let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
    let ids: Vec<Vec<u32>> = ids
        .lines()
        .map(|line| {
            line.split_whitespace()
                .map(|id| id.parse().expect("an id"))
                .collect()
        })
        .collect();
    // The file of texts ends with a separator on some platforms: then the last text is empty.
    assert!(
        ids.len() == texts.len() || ids.len() + 1 == texts.len(),
        "{name}"
    );
    for (text, want) in texts.iter().zip(&ids) {
        assert_eq!(
            &tokenizer.encode(text, EncodeOptions::default()),
            want,
            "{name}: {text:?}"
        );
        let back = tokenizer.decode(want, DecodeOptions::default());
        if tokenizer.kind() != Algorithm::WordPiece {
            assert_eq!(&back, text, "{name}");
        } else if !want.contains(&tokenizer.token_id("[UNK]").expect("a token")) {
            let again = tokenizer.encode(&back, EncodeOptions::default());
            assert_eq!(&again, want, "{name}: {text:?}: {back:?}");
        }
    }
    Some(ids.len())
}

#[test]
fn published_vectors() {
    for name in ["gpt-2", "qwen2", "phi-3", "falcon", "mpt", "bert-bge"] {
        if let Some(texts) = check(name) {
            assert!(texts > 40, "{name}: only {texts}");
        }
    }
}

#[test]
fn other_tokenizers_are_refused_by_name() {
    for model in ["t5", "rwkv", "plamo2", "no\nname"] {
        let mut writer = Writer::new();
        writer.set("tokenizer.ggml.model", model).unwrap();
        let bytes = writer.start(Vec::new()).unwrap().finish().unwrap();
        let file = Gguf::from_vec("made.gguf", bytes).unwrap();
        let error = load(&file).expect_err("not supported").to_string();
        let name = model.escape_debug().to_string();
        assert!(
            error.contains(&format!("'{name}'")) && error.contains("gpt2, llama, bert"),
            "{error}"
        );
        assert!(!error.contains('\n'));
    }
}

#[test]
fn large_vocabularies_load_quickly() {
    let Some(path) = shared("vocab/ggml-vocab-qwen2.gguf") else {
        return;
    };
    let model = Gguf::open(&path).expect("opens");
    let start = now();
    let tokenizer = load(&model).expect("loads");
    let took = now() - start;
    eprintln!("{} tokens in {took:?}", tokenizer.vocab_size());
    assert!(took.as_millis() < 300, "{took:?}");
}

#[test]
fn phi3_strips_white_space_after_its_special_tokens() {
    let Some(path) = shared("vocab/ggml-vocab-phi-3.gguf") else {
        return;
    };
    let tokenizer = load(&Gguf::open(&path).expect("opens")).expect("loads");
    assert_eq!(tokenizer.kind(), Algorithm::SentencePiece);
    let options = EncodeOptions {
        add_special: true,
        parse_special: true,
    };
    let ids = tokenizer.encode("<|user|>\nHi<|end|>\n<|assistant|>\n", options);
    let hi = tokenizer.token_id("\u{2581}Hi").expect("a token");
    assert_eq!(ids, [1, 32010, hi, 32007, 32001]);
    assert!(tokenizer.is_eog(32007) && tokenizer.is_eog(32000) && !tokenizer.is_eog(32010));
    // Text from strangers holds no control tokens.
    let ids = tokenizer.encode("<|end|></s>", EncodeOptions::default());
    assert!(ids.iter().all(|&id| !tokenizer.is_eog(id)), "{ids:?}");
}

#[test]
fn embedded_model_reads_its_training_text() {
    let folder = data("token_ids");
    let tokenizer = load(&embedded()).expect("loads");
    assert_eq!(tokenizer.warnings(), [] as [&str; 0]);
    let read = |name: &str| -> serde_json::Value {
        let text = std::fs::read_to_string(folder.join(name)).expect("a file");
        serde_json::from_str(&text).expect("JSON")
    };
    let index = read("index.json");
    let sequences = index["sequences"].as_object().expect("an object");
    assert_eq!(sequences.len(), 6);
    for (name, sequence) in sequences {
        let ids = read(sequence["tokens"].as_str().expect("a file name"));
        let ids: Vec<u32> = ids
            .as_array()
            .expect("a list")
            .iter()
            .map(|id| id.as_u64().expect("an id") as u32)
            .collect();
        let text = sequence["text"].as_str().expect("a text");
        check_sequence(&tokenizer, name, text, &ids);
    }
}

fn check_sequence(tokenizer: &Tokenizer, name: &str, text: &str, ids: &[u32]) {
    let add_special = ids.first() == Some(&tokenizer.bos().expect("a BOS"));
    let options = EncodeOptions {
        add_special,
        parse_special: false,
    };
    assert_eq!(tokenizer.encode(text, options), ids, "{name}");
    assert_eq!(
        tokenizer.decode(ids, DecodeOptions::default()),
        text,
        "{name}"
    );
}
