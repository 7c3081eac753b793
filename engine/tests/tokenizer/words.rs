//! WordPiece against the published library: the reference data's vocabulary, and made-up ones with and
//! without capitals and accents. Ids are equal, and decoding gives what the published decoder gives.

use gannet_engine::internals::text::tokenizer::{Tokenizer, TokenizerOptions, from_metadata};
use gannet_engine::tokenizer::{Algorithm, DecodeOptions, EncodeOptions, StreamDecoder};
use gannet_gguf::{Gguf, Writer};
use serde_json::{Value, json};

use crate::made::{CONTROL, Made, NORMAL, UNKNOWN, USER};
use crate::published::{asked, has, texts, tokens};
use crate::{Random, load, shared};

const PLAIN: EncodeOptions = EncodeOptions {
    add_special: false,
    parse_special: false,
};
const PARSED: EncodeOptions = EncodeOptions {
    add_special: false,
    parse_special: true,
};
const ADDED: EncodeOptions = EncodeOptions {
    add_special: true,
    parse_special: true,
};

/// What a vocabulary is rid of.
#[derive(Clone, Copy)]
struct Folding {
    lowercase: bool,
    strip_accents: Option<bool>,
}

const UNCASED: Folding = Folding {
    lowercase: true,
    strip_accents: None,
};

/// A token as the published vocabulary has it.
fn published(text: &str, ty: i32) -> String {
    let is_whole = ty != NORMAL || (text.starts_with('[') && text.ends_with(']'));
    match text
        .strip_prefix('\u{2581}')
        .filter(|word| !word.is_empty())
    {
        Some(word) => word.to_owned(),
        None if is_whole => text.to_owned(),
        None => format!("##{text}"),
    }
}

/// The file's vocabulary for `tokenizers`, which finds its special tokens where they are `parsed`.
fn words_json(file: &Gguf, folding: Folding, parsed: bool) -> String {
    let tokens = tokens(file);
    let all = || (0u32..).zip(&tokens);
    let vocab: serde_json::Map<String, Value> = all()
        .map(|(id, (text, ty, _))| (published(text, *ty), json!(id)))
        .collect();
    let added: Vec<Value> = all()
        .filter(|(_, t)| t.1 == USER || (parsed && t.1 != NORMAL))
        .map(|(id, (text, ty, _))| {
            json!({"id": id, "content": published(text, *ty), "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false, "special": *ty != USER})
        })
        .collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": folding.strip_accents, "lowercase": folding.lowercase},
        "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": null,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab},
    })
    .to_string()
}

/// Ids and decoded texts are the published ones.
fn compare(name: &str, file: &Gguf, ours: &Tokenizer, folding: Folding, texts: &[String]) {
    for parsed in [false, true] {
        let options = EncodeOptions {
            add_special: false,
            parse_special: parsed,
        };
        let json = words_json(file, folding, parsed);
        let theirs: Vec<Vec<u32>> = asked(&json!({"tokenizers": json, "texts": texts}));
        for (text, want) in texts.iter().zip(&theirs) {
            let got = ours.encode(text, options);
            assert_eq!(&got, want, "{name}: {text:?}");
        }
        let json = words_json(file, folding, true);
        for special in [false, true] {
            let request = json!({"tokenizers": json, "ids": theirs, "special": special});
            let texts: Vec<String> = asked(&request);
            for (ids, want) in theirs.iter().zip(&texts) {
                let got = ours.decode(ids, DecodeOptions { special });
                assert_eq!(&got, want, "{name}: {ids:?}");
            }
        }
    }
}

/// Texts of words that the vocabulary has, besides those of any kind.
fn wordy(file: &Gguf, seed: u64) -> Vec<String> {
    let random = &mut Random(seed);
    let tokens = tokens(file);
    let mut of_tokens = |text: String| {
        let mut text = text;
        for _ in 0..random.below(8) {
            let (token, _, _) = &tokens[random.below(tokens.len() as u64) as usize];
            let token = token.replace('\u{2581}', " ");
            text += &match random.below(4) {
                0 => token.to_uppercase(),
                1 => token + &random.text(1),
                _ => token,
            };
        }
        text
    };
    texts(file, seed).into_iter().map(&mut of_tokens).collect()
}

/// The library as it is built for tests, where no Python has it.
#[test]
fn words_agree_with_the_library() {
    let Some(path) = shared("vocab/ggml-vocab-bert-bge.gguf") else {
        return;
    };
    let file = Gguf::open(path).expect("opens");
    let ours = load(&file).expect("loads");
    let json = words_json(&file, UNCASED, true);
    let theirs = tokenizers::Tokenizer::from_bytes(json).expect("a tokenizer");
    let (mut known, mut all) = (0, 0);
    for text in &wordy(&file, 0x11b)[..600] {
        let got = ours.encode(text, PARSED);
        let want = theirs.encode_fast(text.as_str(), false).expect("encodes");
        assert_eq!(got, want.get_ids(), "{text:?}");
        let back = theirs.decode(&got, false).expect("decodes");
        let shown = DecodeOptions { special: true };
        assert_eq!(ours.decode(&got, shown), back, "{got:?}");
        known += got.iter().filter(|&&id| id > 103).count();
        all += got.len();
    }
    assert!(known * 2 > all, "{known} words of {all}");
}

#[test]
fn words_equal_the_published_tokenizer() {
    if !has("tokenizers") {
        return;
    }
    let Some(path) = shared("vocab/ggml-vocab-bert-bge.gguf") else {
        return;
    };
    let file = Gguf::open(path).expect("opens");
    let ours = load(&file).expect("loads");
    assert_eq!(ours.kind(), Algorithm::WordPiece);
    assert_eq!(ours.warnings(), [] as [&str; 0]);
    let texts = wordy(&file, 0xbe27);
    assert_eq!(texts.len(), 5000);
    compare("bert-bge", &file, &ours, UNCASED, &texts);
    // Any ids, and not only those of a text.
    let random = &mut Random(0x1d5);
    let mut ids = || -> Vec<u32> { (0..12).map(|_| random.below(30_522) as u32).collect() };
    let ids: Vec<Vec<u32>> = (0..1000).map(|_| ids()).collect();
    let json = words_json(&file, UNCASED, true);
    let theirs: Vec<String> = asked(&json!({"tokenizers": json, "ids": ids, "special": true}));
    for (ids, want) in ids.iter().zip(&theirs) {
        let got = ours.decode(ids, DecodeOptions { special: true });
        assert_eq!(&got, want, "{ids:?}");
    }
}

/// A vocabulary of random words and what goes on with them, and how its texts are folded.
fn random_words(random: &mut Random, round: u64) -> (Made, Folding) {
    let mut made = Made::words();
    let folding = Folding {
        lowercase: !round.is_multiple_of(3),
        strip_accents: [None, Some(false), Some(true)][round as usize % 4 % 3],
    };
    let letters = [
        'a', 'b', 'c', 'e', '\u{e9}', 'i', '\u{301}', 'A', 'B', '\u{c9}', '\u{4e2d}', '.', '\'',
        '#', '\u{df}', '\u{130}', '\u{3c3}', '\u{2581}',
    ];
    for _ in 0..80 {
        let word: String = (0..=random.below(3)).map(|_| random.of(&letters)).collect();
        let text = match random.below(2) {
            0 => format!("\u{2581}{word}"),
            _ if word.starts_with('\u{2581}') => continue,
            _ => word,
        };
        if !made.texts.contains(&text) {
            made.add(&text, NORMAL);
        }
    }
    if round.is_multiple_of(2) {
        made.add("\u{2581}<x>", USER);
        made.add("<y>", USER);
    }
    (made, folding)
}

#[test]
fn made_up_words_equal_the_published_tokenizer() {
    if !has("tokenizers") {
        return;
    }
    let random = &mut Random(0x30d5);
    for round in 0..12 {
        let (made, folding) = random_words(random, round);
        let file = made.file(None, |writer| {
            let key = "tokenizer.ggml.normalizer.";
            let lowercase = folding.lowercase;
            writer.set(&format!("{key}lowercase"), lowercase).unwrap();
            if let Some(strips) = folding.strip_accents {
                writer.set(&format!("{key}strip_accents"), strips).unwrap();
            }
        });
        let ours = load(&file).expect("loads");
        let texts = &wordy(&file, 77 + round)[..500];
        compare(&format!("round {round}"), &file, &ours, folding, texts);
    }
}

fn some_words() -> Made {
    let mut made = Made::words();
    for text in [
        "\u{2581}the",
        "\u{2581}word",
        "s",
        "\u{2581}.",
        "\u{2581}a",
        "\u{2581}[",
        "\u{2581}]",
    ] {
        made.add(text, NORMAL);
    }
    made
}

fn key(name: &str) -> String {
    format!("tokenizer.ggml.{name}")
}

#[test]
fn texts_stand_between_their_control_tokens() {
    let made = some_words();
    let [unknown, cls, sep] = [1, 2, 3];
    let (the, word, s, stop) = (5, 6, 7, 8);
    let plain = made.tokenizer(None, |_| {});
    assert_eq!((plain.bos(), plain.eos()), (Some(cls), Some(sep)));
    assert_eq!(
        plain.encode("The words.", ADDED),
        [cls, the, word, s, stop, sep]
    );
    assert_eq!(plain.encode("", ADDED), [cls, sep]);
    assert_eq!(
        plain.encode("[CLS] the[SEP]", ADDED),
        [cls, the, sep],
        "none is there twice"
    );
    assert_eq!(plain.encode("zzz the", PLAIN), [unknown, the]);
    assert_eq!(plain.encode("[CLS]", PLAIN), [10, unknown, 11]);
    // A file may say otherwise, under either spelling of the key.
    for name in ["seperator_token_id", "separator_token_id", "eos_token_id"] {
        let other = made.tokenizer(None, |writer| {
            writer.set(&key(name), 4u32).unwrap();
            writer.set(&key("cls_token_id"), 0u32).unwrap();
        });
        assert_eq!(other.encode("the", ADDED), [0, the, 4], "{name}");
    }
    let bare = made.tokenizer(None, |writer| {
        writer.set(&key("add_bos_token"), false).unwrap();
        writer.set(&key("add_sep_token"), false).unwrap();
    });
    assert_eq!(bare.encode("the", ADDED), [the]);
}

#[test]
fn streams_write_what_decoding_writes() {
    let tokenizer = some_words().tokenizer(None, |_| {});
    let shown = DecodeOptions { special: true };
    let ids = [2, 5, 6, 7, 8, 3];
    assert_eq!(tokenizer.decode(&ids, shown), "[CLS] the words. [SEP]");
    assert_eq!(
        tokenizer.decode(&ids, DecodeOptions::default()),
        "the words."
    );
    assert_eq!(tokenizer.decode(&[7, 5], shown), "##s the");
    let mut stream = StreamDecoder::new(&tokenizer);
    let parts: Vec<String> = ids.iter().map(|&id| stream.push(id)).collect();
    assert_eq!(parts, ["", "the", " word", "s", ".", ""]);
    // What goes on after a text begins no text.
    let mut more = StreamDecoder::continuing(&tokenizer, shown);
    assert_eq!(
        (more.push(7), more.push(5)),
        ("s".to_owned(), " the".to_owned())
    );
}

#[test]
fn tokens_of_words_have_texts_and_ids() {
    let mut made = some_words();
    made.add("[unused0]", NORMAL);
    made.add("\u{2581}<x>", USER);
    made.add("<y>", USER);
    let tokenizer = made.tokenizer(None, |_| {});
    for (id, text) in (0..).zip(&made.texts) {
        assert_eq!(tokenizer.token_text(id).as_deref(), Some(text.as_str()));
        assert_eq!(tokenizer.token_id(text), Some(id), "{text}");
    }
    assert_eq!(tokenizer.token_id("##s"), None);
    let [x, y] = [13, 14];
    assert_eq!(tokenizer.encode("the<x><y> a", PLAIN), [5, x, y, 9]);
}

/// Without keys the vocabulary says how texts are folded.
#[test]
fn capitals_and_accents_are_those_of_the_vocabulary() {
    let with = |words: &[&str], text: &str| {
        let mut made = some_words();
        let first = made.texts.len() as u32;
        for word in words {
            made.add(&format!("\u{2581}{word}"), NORMAL);
        }
        let tokenizer = made.tokenizer(None, |_| {});
        let ids = tokenizer.encode(text, PLAIN);
        let said = tokenizer.warnings().join("\n");
        (
            ids.iter()
                .map(|id| id.wrapping_sub(first))
                .collect::<Vec<_>>(),
            said,
        )
    };
    let (ids, said) = with(&["apfel", "\u{4e2d}"], "\u{c4}pfel\u{4e2d} APFEL");
    assert_eq!((ids, said.as_str()), (vec![0, 1, 0], ""));
    let (ids, said) = with(&["\u{e4}pfel", "apfel"], "\u{c4}pfel");
    assert_eq!((ids, said.as_str()), (vec![0], ""));
    let (ids, said) = with(&["Apfel", "apfel"], "Apfel apfel");
    assert_eq!(ids, [0, 1]);
    assert!(said.contains("normalizer.lowercase is missing"), "{said}");
}

#[test]
fn vocabularies_that_are_none_of_words_are_refused() {
    let refused = |made: &Made, more: &dyn Fn(&mut Writer)| {
        let file = made.file(None, more);
        let error = from_metadata(file.metadata(), &TokenizerOptions::default());
        error.expect_err("refused").to_string()
    };
    // Words written as in the published vocabularies, which GGUF files are not.
    let mut made = Made::words();
    made.add("the", NORMAL);
    made.add("##s", NORMAL);
    let line = refused(&made, &|_| {});
    assert!(
        line.starts_with("tokenizer.ggml.tokens: ") && line.contains("U+2581"),
        "{line}"
    );
    let mut made = some_words();
    made.texts[1] = "[unk]".to_owned();
    let line = refused(&made, &|_| {});
    assert!(
        line.starts_with("tokenizer.ggml.unknown_token_id: "),
        "{line}"
    );
    let line = refused(&some_words(), &|w| {
        w.set(&key("unknown_token_id"), -1i32).unwrap()
    });
    assert!(
        line.starts_with("tokenizer.ggml.unknown_token_id: "),
        "{line}"
    );
    // A type that says so is not needed.
    made.types[1] = UNKNOWN;
    let named = made.tokenizer(None, |w| w.set(&key("unknown_token_id"), 1u32).unwrap());
    assert_eq!(named.encode("zzz", PLAIN), [1]);
    made.types[1] = CONTROL;
    let named = made.tokenizer(None, |w| w.set(&key("unknown_token_id"), 1u32).unwrap());
    assert_eq!(named.decode(&[5, 1], DecodeOptions::default()), "the");
}

/// Whatever a vocabulary holds: ids are of it, and a stream writes what decoding writes.
#[test]
fn odd_vocabularies_hold_what_always_holds() {
    let random = &mut Random(0x0dd);
    let odd = [
        "",
        "\u{2581}",
        "\u{2581}\u{2581}",
        " ",
        "\u{2581} a",
        "##",
        "##a",
        "[",
        "[]",
        "\u{2581}[",
        "]",
        "\u{301}",
        "\u{2581}\u{301}",
        "A",
        "\u{2581}\u{e9}",
        "\0",
        ".",
        "\u{2581}'s",
        "\u{2581}.x",
        "a b",
    ];
    for round in 0..40 {
        let mut made = Made::words();
        made.add("\u{2581}a", NORMAL);
        for _ in 0..12 {
            let ty =
                [NORMAL, NORMAL, NORMAL, USER, CONTROL, UNKNOWN, 5, 6][random.below(8) as usize];
            let text = random.of(&odd);
            made.add(text, ty);
        }
        let file = made.file(None, |_| {});
        let ours = load(&file).expect("loads");
        for text in &texts(&file, 0xfade + round)[..40] {
            let ids = ours.encode(text, ADDED);
            assert!(
                ids.iter().all(|&id| (id as usize) < ours.vocab_size()),
                "{text:?}"
            );
            let mut stream = StreamDecoder::new(&ours);
            let mut parts: String = ids.iter().map(|&id| stream.push(id)).collect();
            parts += &stream.finish();
            assert_eq!(
                parts,
                ours.decode(&ids, DecodeOptions::default()),
                "{text:?}"
            );
        }
    }
}
