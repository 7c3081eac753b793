//! The reference library as the oracle: the same vocabulary, the rules as the regular expressions
//! that models publish, and the same ids for every text.

use gannet_engine::tokenizer::EncodeOptions;
use gannet_gguf::Gguf;
use serde_json::{Value, json};

use crate::{Random, embedded, load, load_as, shared, writable};

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const MINICPM5: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const UFAKZEKA: &str =
    r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const SEED_CODER: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
const BAILING: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

/// Families, and the expressions of models that use them, one after another.
const RULES: &[(&str, &[&str])] = &[
    ("gpt-2", &[GPT2]),
    ("llama-bpe", &[LLAMA3]),
    ("dbrx", &[LLAMA3]),
    ("qwen2", &[QWEN2]),
    ("qwen35", &[QWEN35]),
    ("minicpm5", &[r"\p{N}{1,3}", MINICPM5]),
    ("ufakzeka", &[UFAKZEKA]),
    ("seed-coder", &[SEED_CODER]),
    ("bailingmoe", &[BAILING]),
    ("laguna", &[r"[^\n]+|[\n]+", QWEN2]),
    ("gpt-4o", &[GPT4O]),
    ("tekken", &[TEKKEN]),
    ("starcoder", &[r"\p{N}", GPT2]),
    (
        "falcon",
        &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"],
    ),
    (
        "default",
        &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
    ),
    (
        "deepseek-v3",
        &[r"\p{N}{1,3}", "[一-龥\u{3040}-ゟ゠-ヿ]+", DEEPSEEK3],
    ),
    (
        "deepseek-coder",
        &[
            "[\r\n]",
            r"\s?\p{L}+",
            r"\s?\p{P}+",
            "[一-龥\u{800}-一가-\u{d7ff}]+",
            r"\p{N}",
        ],
    ),
    ("command-r", &[r"\p{N}", GPT2]),
    ("deepseek-r1-qwen", &[QWEN2]),
    ("bloom", &[r" ?[^(\s|.,!?…。，、।۔،)]+"]),
    ("viking", &[r" ?[^(\s|.,!?…。，、।۔،)]+", r"\p{N}"]),
];

/// Families whose published tokenizers compose texts before they cut them.
const COMPOSING: &[&str] = &["qwen2", "qwen35", "command-r"];

/// The reference library with the vocabulary and merges of a file.
fn reference(
    model: &Gguf,
    rules: &[&str],
    ignore_merges: bool,
    composes: bool,
) -> tokenizers::Tokenizer {
    let meta = model.metadata();
    let texts = meta.strings("tokenizer.ggml.tokens").expect("tokens");
    let types = meta.i32s("tokenizer.ggml.token_type").expect("types");
    // Special tokens are not matched here: out of the vocabulary with them.
    let vocab: serde_json::Map<String, Value> = texts
        .iter()
        .zip(&types)
        .enumerate()
        .filter(|(_, (_, ty))| **ty == 1)
        .map(|(id, (text, _))| (text.to_owned(), json!(id)))
        .collect();
    let merges = meta.strings("tokenizer.ggml.merges").expect("merges");
    let merges: Vec<&str> = merges.iter().collect();
    let split = |rule: &&str| json!({"type": "Split", "pattern": {"Regex": rule}, "behavior": "Isolated", "invert": false});
    let bytes = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
        // With one rule that is GPT-2's, the library's own expression is the oracle.
        "use_regex": rules == [GPT2],
    });
    let mut steps: Vec<Value> = if rules == [GPT2] {
        Vec::new()
    } else {
        rules.iter().map(split).collect()
    };
    steps.push(bytes);
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": composes.then(|| json!({"type": "NFC"})),
        "post_processor": null, "decoder": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": ignore_merges, "vocab": vocab, "merges": merges,
        },
    });
    tokenizers::Tokenizer::from_bytes(json.to_string()).expect("a tokenizer")
}

/// Texts in which the rules differ.
fn texts() -> Vec<String> {
    let mut texts: Vec<String> = [
        include_str!("oracle.rs"),
        include_str!("../../src/text/tokenizer/pre.rs"),
        "I'll, we'VE, they'Re; it'\u{17f}. ''s '' 's's",
        "  x\n\n \n\t y  \r\n\r\n z \u{a0}\u{3000} ",
        "HTTPServerError2024XMLHttpRequest \u{c4}pfelBAUM\u{1c5}x \u{4e2d}ABCdef \u{915}\u{94d}\u{937}",
        "1234567890 12 3\u{bd}\u{663}\u{664} v1.2.3 $1,000.00 -- //\n/\n",
        "\u{43d}\u{435}\u{449}\u{43e} \u{43d}\u{430} \u{411}\u{44a}\u{43b}\u{433}\u{430}\u{440}\u{441}\u{43a}\u{438}, \u{6211}\u{60f3}\u{5728}apple\u{5de5}\u{4f5c}1314151\u{5929}\u{ff5e}",
        "\u{1f680} (normal) \u{1f636}\u{200d}\u{1f32b}\u{fe0f} \u{2705} e\u{301}e\u{301} \u{301}x !\u{301}\u{301}",
    ]
    .map(str::to_owned)
    .into();
    let mut random = Random(7);
    texts.extend((0..300).map(|_| random.text(40)));
    texts
}

fn compare(model: &Gguf, pre: &str, rules: &[&str]) {
    let ours = load_as(model, pre);
    let ignore_merges = matches!(pre, "llama-bpe" | "tekken" | "minicpm5");
    let theirs = reference(model, rules, ignore_merges, COMPOSING.contains(&pre));
    for text in texts() {
        let text = writable(&ours, &text);
        let got = ours.encode(&text, EncodeOptions::default());
        let want = theirs.encode_fast(text.as_str(), false).expect("encodes");
        if got != want.get_ids() {
            let spell = |ids: &[u32]| -> Vec<String> {
                ids.iter()
                    .filter_map(|&id| ours.token_text(id))
                    .map(|t| t.into_owned())
                    .collect()
            };
            let (got, want) = (spell(&got), spell(want.get_ids()));
            let at = got.iter().zip(&want).take_while(|(a, b)| a == b).count();
            let around =
                |all: &[String]| all[at.saturating_sub(3)..all.len().min(at + 5)].join(" ");
            panic!(
                "{pre}: {:?}, not {:?}, in {text:?}",
                around(&got),
                around(&want)
            );
        }
    }
}

#[test]
fn families_agree_with_their_expressions() {
    let model = embedded();
    for (pre, rules) in RULES {
        compare(&model, pre, rules);
    }
}

#[test]
fn real_vocabularies_agree() {
    for (name, pre) in [("gpt-2", "gpt-2"), ("qwen2", "qwen2"), ("falcon", "falcon")] {
        let Some(path) = shared(&format!("vocab/ggml-vocab-{name}.gguf")) else {
            continue;
        };
        let (_, rules) = RULES.iter().find(|(rule, _)| *rule == pre).expect("a rule");
        compare(&Gguf::open(path).expect("opens"), pre, rules);
    }
}

/// The reference library with a SentencePiece vocabulary. It knows merges only, so that each way
/// of cutting a token into two becomes one, ranked by the token's score.
fn sentencepiece_reference(model: &Gguf) -> tokenizers::Tokenizer {
    let meta = model.metadata();
    let texts: Vec<&str> = meta
        .strings("tokenizer.ggml.tokens")
        .expect("tokens")
        .iter()
        .collect();
    let types = meta.i32s("tokenizer.ggml.token_type").expect("types");
    let scores = meta.f32s("tokenizer.ggml.scores").expect("scores");
    let is_text = |id: &usize| matches!(types[*id], 1 | 6);
    let ids = || (0..texts.len()).filter(is_text);
    let vocab: serde_json::Map<String, Value> =
        ids().map(|id| (texts[id].to_owned(), json!(id))).collect();
    let mut by_score: Vec<usize> = ids().filter(|&id| types[id] == 1).collect();
    by_score.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let mut merges = Vec::new();
    for id in by_score {
        for (at, _) in texts[id].char_indices().skip(1) {
            let (left, right) = texts[id].split_at(at);
            if vocab.contains_key(left) && vocab.contains_key(right) {
                merges.push(json!([left, right]));
            }
        }
    }
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u{2581}"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"},
        ]},
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true,
            "ignore_merges": false, "vocab": vocab, "merges": merges,
        },
    });
    tokenizers::Tokenizer::from_bytes(json.to_string()).expect("a tokenizer")
}

#[test]
fn sentencepiece_agrees() {
    let Some(path) = shared("vocab/ggml-vocab-phi-3.gguf") else {
        return;
    };
    let model = Gguf::open(path).expect("opens");
    let ours = load(&model).expect("loads");
    let theirs = sentencepiece_reference(&model);
    for text in texts() {
        let got = ours.encode(&text, EncodeOptions::default());
        let want = theirs.encode_fast(text.as_str(), false).expect("encodes");
        assert_eq!(got, want.get_ids(), "{text:?}");
    }
}
