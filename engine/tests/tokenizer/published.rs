//! The published libraries as oracles: `tokenizers` and `sentencepiece` of a Python that has them
//! (`python3` on the path), with each vocabulary of the reference data and the pipeline that its model
//! published, on thousands of random texts. Without them a test says *skipped*.

use std::io::Write;
use std::process::{Command, Stdio};

use gannet_engine::tokenizer::{DecodeOptions, EncodeOptions, Tokenizer};
use gannet_gguf::Gguf;
use serde_json::{Value, json};

use crate::made::{CONTROL, Made, NORMAL, UNUSED, USER};
use crate::{Random, Writable, decoded, load, load_as, shared};

const TEXTS: usize = 5000;

/// The words of Qwen 2.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Whether Python has a library.
pub(crate) fn has(library: &str) -> bool {
    let mut command = Command::new("python3");
    command.args(["-c", &format!("import {library}")]);
    let command = command.stdout(Stdio::null()).stderr(Stdio::null());
    let has = command.status().is_ok_and(|status| status.success());
    if !has {
        eprintln!("skipped: python3 has no {library}");
    }
    has
}

/// What the script answers: lists of ids, or texts.
pub(crate) fn asked<T: serde::de::DeserializeOwned>(request: &Value) -> Vec<T> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tokenizer/published.py");
    let mut child = Command::new("python3")
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 was there");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin
        .write_all(request.to_string().as_bytes())
        .expect("reads");
    drop(stdin);
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).expect("a list")
}

/// The tokens of a file: text, type and score of each.
pub(crate) fn tokens(file: &Gguf) -> Vec<(String, i32, f32)> {
    let meta = file.metadata();
    let texts = meta.strings("tokenizer.ggml.tokens").expect("tokens");
    let types = meta.i32s("tokenizer.ggml.token_type").expect("types");
    let scores = meta.opt_f32s("tokenizer.ggml.scores").expect("scores");
    let scores = scores.unwrap_or_else(|| vec![0.0; types.len()]);
    let all = texts.iter().zip(types).zip(scores);
    all.map(|((text, ty), score)| (text.to_owned(), ty, score))
        .collect()
}

/// How a model published its pipeline.
#[derive(Clone)]
struct Pipeline {
    composes: bool,
    steps: Vec<Value>,
}

fn split(rule: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": rule}, "behavior": "Isolated", "invert": false})
}

fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
        "use_regex": use_regex})
}

fn pipeline(name: &str) -> Pipeline {
    let (composes, steps) = match name {
        "qwen2" => (true, vec![split(QWEN2), byte_level(false)]),
        "deepseek-r1-qwen" => (false, vec![split(QWEN2), byte_level(false)]),
        "mpt" => (true, vec![byte_level(true)]),
        "falcon" => (
            false,
            vec![
                json!({"type": "Punctuation", "behavior": "Contiguous"}),
                byte_level(true),
                json!({"type": "Digits", "individual_digits": false}),
                split("[0-9][0-9][0-9]"),
            ],
        ),
        _ => (false, vec![byte_level(true)]),
    };
    Pipeline { composes, steps }
}

/// The file's vocabulary for `tokenizers`, which finds its special tokens where they are `parsed`.
fn byte_level_json(file: &Gguf, pipeline: &Pipeline, parsed: bool) -> String {
    let found = |ty| ty == USER || (parsed && matches!(ty, CONTROL | 2));
    let tokens = tokens(file);
    let ids = || {
        (0..)
            .zip(&tokens)
            .filter(|(_, t)| t.1 == NORMAL || found(t.1))
    };
    let vocab: serde_json::Map<String, Value> = ids()
        .map(|(id, t): (u32, _)| (t.0.clone(), json!(id)))
        .collect();
    let added: Vec<Value> = ids()
        .filter(|(_, t)| found(t.1))
        .map(|(id, t)| {
            json!({"id": id, "content": t.0, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": t.1 != USER})
        })
        .collect();
    let merges = file.metadata().strings("tokenizer.ggml.merges");
    let merges: Vec<&str> = merges.expect("merges").iter().collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": pipeline.composes.then(|| json!({"type": "NFC"})),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pipeline.steps},
        "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
            "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": merges},
    })
    .to_string()
}

/// Texts of all kinds of characters, and of the special tokens of a vocabulary.
pub(crate) fn texts(file: &Gguf, seed: u64) -> Vec<String> {
    let random = &mut Random(seed);
    let special: Vec<String> = tokens(file)
        .into_iter()
        .filter(|t| matches!(t.1, USER | CONTROL))
        .map(|t| t.0)
        .collect();
    let mut text = || {
        let mut text = random.text(12);
        for _ in 0..random.below(6) {
            match random.below(6) {
                0 => text += &" ".repeat(random.below(30) as usize),
                1 => text += &"\n".repeat(random.below(4) as usize),
                2 => text += ["\u{2581}", "\u{2581}\u{2581}", "\u{feff}"][random.below(3) as usize],
                3 => {
                    text += [
                        "Cafe\u{301}",
                        "\u{1100}\u{1161}",
                        "\u{212b}",
                        "A\u{30a}\u{323}",
                    ][random.below(4) as usize]
                }
                _ if special.is_empty() => {}
                _ => text += &special[random.below(special.len() as u64) as usize],
            }
            text += &random.text(3);
        }
        text
    };
    (0..TEXTS).map(|_| text()).collect()
}

fn compare(name: &str, ours: &Tokenizer, texts: &[String], theirs: &[Vec<u32>], parsed: bool) {
    assert_eq!(theirs.len(), texts.len());
    let options = EncodeOptions {
        parse_special: parsed,
        ..EncodeOptions::default()
    };
    let shown = DecodeOptions { special: parsed };
    let writable = Writable::of(ours);
    for (text, want) in texts.iter().zip(theirs) {
        let got = ours.encode(text, options);
        let spell = |ids: &[u32]| -> Vec<String> {
            let texts = ids.iter().filter_map(|&id| ours.token_text(id));
            texts.map(|text| text.into_owned()).collect()
        };
        assert_eq!(
            &got,
            want,
            "{name}: {text:?}: {:?}, not {:?}",
            spell(&got),
            spell(want)
        );
        if &writable.part(text) == text {
            let back = ours.decode(&got, shown);
            assert_eq!(back, decoded(ours, text), "{name}: {text:?}");
        }
    }
}

#[test]
fn byte_level_vocabularies_equal_the_published_tokenizers() {
    if !has("tokenizers") {
        return;
    }
    for (at, name) in ["gpt-2", "qwen2", "falcon", "mpt", "deepseek-r1-qwen"]
        .iter()
        .enumerate()
    {
        let of = if *name == "deepseek-r1-qwen" {
            "qwen2"
        } else {
            name
        };
        let Some(path) = shared(&format!("vocab/ggml-vocab-{of}.gguf")) else {
            continue;
        };
        let file = Gguf::open(path).expect("opens");
        let ours = load_as(&file, name);
        let texts = texts(&file, 0x5eed + at as u64);
        for parsed in [false, true] {
            let json = byte_level_json(&file, &pipeline(name), parsed);
            let theirs = asked(&json!({"tokenizers": json, "texts": texts}));
            compare(name, &ours, &texts, &theirs, parsed);
        }
    }
}

/// What sentencepiece says of a vocabulary; it wants one unknown piece.
fn sentencepiece(file: &Gguf, prefix: bool, texts: &[String]) -> Vec<Vec<u32>> {
    let kind = |id: usize, ty: i32| match (id, ty) {
        (0, _) => 2,
        (_, 2) => CONTROL,
        (_, ty) => ty,
    };
    let pieces: Vec<Value> = tokens(file)
        .iter()
        .enumerate()
        .map(|(id, (text, ty, score))| {
            // Files write a space of a user's either way.
            json!([text.replace(' ', "\u{2581}"), score, kind(id, *ty)])
        })
        .collect();
    asked(&json!({"pieces": pieces, "prefix": prefix, "texts": texts}))
}

#[test]
fn pieces_equal_the_published_tokenizer() {
    if !has("sentencepiece") {
        return;
    }
    let files = [
        "vocab/ggml-vocab-phi-3.gguf",
        "cases/turn2/spm-user-defined-inside-text.gguf",
    ];
    for (seed, part) in (0x91ece5..).zip(files) {
        let Some(path) = shared(part) else {
            continue;
        };
        let file = Gguf::open(path).expect("opens");
        let ours = load(&file).expect("loads");
        let texts = texts(&file, seed);
        let theirs = sentencepiece(&file, true, &texts);
        compare(part, &ours, &texts, &theirs, false);
    }
}

/// Vocabularies of random pieces: ordinary, unused, of users, with spaces anywhere, with and without
/// byte tokens.
#[test]
fn pieces_of_made_up_vocabularies_equal_the_published_tokenizer() {
    if !has("sentencepiece") {
        return;
    }
    let random = &mut Random(0x0dd5);
    for round in 0..16 {
        let mut made = match round % 3 {
            2 => Made::default(),
            _ => Made::pieces(),
        };
        if made.texts.is_empty() {
            for (text, ty) in [("<unk>", 2), ("<s>", CONTROL), ("</s>", CONTROL)] {
                made.add(text, ty);
            }
        }
        let mut piece = |most: u64| -> String {
            let letters = ['a', 'b', 'c', '\u{2581}', '\u{2581}', '\u{e9}'];
            (0..=random.below(most))
                .map(|_| letters[random.below(6) as usize])
                .collect()
        };
        // Every vocabulary has a space; what stands for it in one that has none is nobody's text.
        made.scored(
            "\u{2581}",
            if round % 4 == 3 { USER } else { NORMAL },
            -40.0,
        );
        let pieces: Vec<String> = (0..60).map(|_| piece(4)).collect();
        for (rank, text) in pieces.iter().enumerate() {
            let ty = match rank % 10 {
                7 if round > 5 => UNUSED,
                8 | 9 if text.chars().count() > 1 || round > 8 => USER,
                _ => NORMAL,
            };
            if !made.texts.contains(text) {
                made.scored(text, ty, -((rank / 2) as f32));
            }
        }
        let prefix = round % 2 == 0;
        let file = made.file(None, |writer| {
            writer
                .set("tokenizer.ggml.add_space_prefix", prefix)
                .unwrap();
        });
        let texts: Vec<String> = (0..500).map(|_| piece(20)).collect();
        let theirs = sentencepiece(&file, prefix, &texts);
        let ours = load(&file).expect("loads");
        for (text, want) in texts.iter().zip(&theirs) {
            let got = ours.encode(text, EncodeOptions::default());
            let pieces = &made.texts[made.texts.len() - 40..];
            assert_eq!(&got, want, "round {round}: {text:?}: {pieces:?}");
        }
    }
}
