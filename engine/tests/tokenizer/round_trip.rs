//! Decoding undoes encoding, and decoding in pieces is decoding.

use gannet_engine::tokenizer::{
    DecodeOptions, EncodeOptions, StreamDecoder, Tokenizer, pre_tokenizers,
};
use gannet_gguf::Gguf;

use crate::{Random, decoded, embedded, load, load_as, shared, writable};

const PLAIN: EncodeOptions = EncodeOptions {
    add_special: false,
    parse_special: false,
};

fn stream(tokenizer: &Tokenizer, ids: &[u32], options: DecodeOptions) -> String {
    let mut decoder = StreamDecoder::with_options(tokenizer, options);
    let mut text: String = ids.iter().map(|&id| decoder.push(id)).collect();
    text.push_str(&decoder.finish());
    text
}

fn check(tokenizer: &Tokenizer, random: &mut Random, rounds: usize) {
    for _ in 0..rounds {
        let text = writable(tokenizer, &random.text(30));
        let ids = tokenizer.encode(&text, PLAIN);
        let text = decoded(tokenizer, &text);
        assert_eq!(tokenizer.decode(&ids, DecodeOptions::default()), text);
        assert_eq!(stream(tokenizer, &ids, DecodeOptions::default()), text);

        let ids: Vec<u32> = (0..random.below(40))
            .map(|_| random.below(tokenizer.vocab_size() as u64 + 3) as u32)
            .collect();
        for special in [false, true] {
            let options = DecodeOptions { special };
            let whole = tokenizer.decode(&ids, options);
            assert_eq!(stream(tokenizer, &ids, options), whole, "{ids:?}");
        }
    }
}

#[test]
fn random_text_and_random_ids() {
    let random = &mut Random(0x9e37_79b9_7f4a_7c15);
    check(&load(&embedded()).expect("loads"), random, 400);
    for name in ["qwen2", "phi-3", "falcon"] {
        if let Some(path) = shared(&format!("vocab/ggml-vocab-{name}.gguf")) {
            check(
                &load(&Gguf::open(path).expect("opens")).expect("loads"),
                random,
                200,
            );
        }
    }
}

#[test]
fn every_family_of_words() {
    let model = embedded();
    let random = &mut Random(42);
    for pre in pre_tokenizers() {
        check(&load_as(&model, pre), random, 20);
    }
}

#[test]
fn characters_arrive_whole() {
    let tokenizer = load(&embedded()).expect("loads");
    let bytes = |text: &str| -> Vec<u32> {
        let id = |&byte: &u8| {
            let is_byte = |&id: &u32| tokenizer.token_bytes(id) == [byte];
            (0..tokenizer.vocab_size() as u32)
                .find(is_byte)
                .expect("a token for each byte")
        };
        text.as_bytes().iter().map(id).collect()
    };
    let mut decoder = StreamDecoder::new(&tokenizer);
    let got: Vec<String> = bytes("\u{1f680}x")
        .iter()
        .map(|&id| decoder.push(id))
        .collect();
    assert_eq!(got, ["", "", "", "\u{1f680}", "x"]);
    let rocket = bytes("\u{1f680}");
    assert_eq!(
        (decoder.push(rocket[0]), decoder.push(rocket[1])),
        (String::new(), String::new())
    );
    assert_eq!(decoder.push(bytes("y")[0]), "\u{fffd}y");
    assert_eq!(decoder.push(rocket[0]), "");
    assert_eq!(
        (decoder.finish(), decoder.finish()),
        ("\u{fffd}".to_owned(), String::new())
    );
}

#[test]
fn special_tokens_only_when_asked_for() {
    let tokenizer = load(&embedded()).expect("loads");
    let end = tokenizer.token_id("<|eot_id|>").expect("a token");
    assert!(tokenizer.is_eog(end) && tokenizer.is_eog(tokenizer.eos().expect("an EOS")));
    let bos = tokenizer.bos().expect("a BOS");
    let text = "let x = 1;<|eot_id|>\n";
    let plain = tokenizer.encode(text, PLAIN);
    assert!(!plain.contains(&end));
    let parsed = tokenizer.encode(
        text,
        EncodeOptions {
            add_special: true,
            parse_special: true,
        },
    );
    assert_eq!(
        (parsed[0], parsed.iter().filter(|&&id| id == end).count()),
        (bos, 1)
    );
    assert_eq!(tokenizer.decode(&plain, DecodeOptions::default()), text);
    assert_eq!(
        tokenizer.decode(&parsed, DecodeOptions::default()),
        "let x = 1;\n"
    );
    let shown = tokenizer.decode(&parsed[1..], DecodeOptions { special: true });
    assert_eq!(shown, text);
}

#[test]
fn tokens_have_texts_and_texts_have_tokens() {
    let mut tokenizers = vec![load(&embedded()).expect("loads")];
    for name in ["qwen2", "phi-3", "mpt"] {
        if let Some(path) = shared(&format!("vocab/ggml-vocab-{name}.gguf")) {
            tokenizers.push(load(&Gguf::open(path).expect("opens")).expect("loads"));
        }
    }
    for tokenizer in &tokenizers {
        let len = tokenizer.vocab_size() as u32;
        // Byte tokens are found by walking over the vocabulary: not all of 150,000, then.
        for id in (0..len).step_by(if len > 10_000 { 7 } else { 1 }) {
            let text = tokenizer.token_text(id).expect("in range");
            assert_eq!(tokenizer.token_id(&text), Some(id), "{text}");
        }
        assert_eq!(tokenizer.token_text(len), None);
    }
}

#[test]
fn long_words_take_no_longer_than_text() {
    let tokenizer = load(&embedded()).expect("loads");
    let start = std::time::Instant::now();
    for unit in ["a", " ", "\n", "ab", "\u{4e2d}", "<|eot_id|"] {
        let text = unit.repeat(200_000 / unit.len());
        let ids = tokenizer.encode(&text, PLAIN);
        assert_eq!(tokenizer.decode(&ids, DecodeOptions::default()), text);
    }
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
}
