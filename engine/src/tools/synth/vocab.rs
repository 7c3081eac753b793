//! Vocabularies of made-up models.
//!
//! One is copied from a model file, or made up: byte-level BPE with a token for each byte, a few
//! English words and the chat tokens of its family. Either is padded with unused tokens to the size
//! that the shape wants, as real models are.

use gannet_gguf::{Gguf, Metadata, Value, ValueType, Writer};

use super::Error;
use super::shape::Shape;

const PREFIX: &str = "tokenizer.";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";

/// Values of `tokenizer.ggml.token_type`.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const UNUSED: i32 = 5;

/// The score of a SentencePiece token that nothing is merged into.
const WORST_SCORE: f32 = -1e6;

/// How many tokens a file's vocabulary has.
pub(super) fn len(source: &Gguf) -> Result<usize, Error> {
    Ok(source.metadata().strings(TOKENS)?.len())
}

/// Copies a file's vocabulary, padded with `<|extra_N|>` to `vocab_size`, which is at least its own.
pub(super) fn copy(source: &Metadata, vocab_size: usize, writer: &mut Writer) -> Result<(), Error> {
    for (key, value) in source.iter().filter(|(key, _)| key.starts_with(PREFIX)) {
        writer.set(key, value)?;
    }
    let tokens = source.strings(TOKENS)?;
    let missing = vocab_size.saturating_sub(tokens.len());
    if missing == 0 {
        return Ok(());
    }
    let extra: Vec<String> = (0..missing).map(|i| format!("<|extra_{i}|>")).collect();
    let mut texts: Vec<&str> = tokens.iter().collect();
    texts.extend(extra.iter().map(String::as_str));
    writer.set_array(TOKENS, &texts)?;
    let has = |key| matches!(source.get(key), Some(Value::Array(a)) if a.ty() != ValueType::String);
    if has(TOKEN_TYPE) {
        let mut types = source.i32s(TOKEN_TYPE)?;
        types.resize(vocab_size, UNUSED);
        writer.set_array(TOKEN_TYPE, &types)?;
    }
    if has(SCORES) {
        let mut scores = source.f32s(SCORES)?;
        scores.resize(vocab_size, WORST_SCORE);
        writer.set_array(SCORES, &scores)?;
    }
    Ok(())
}

/// Words whose beginnings become tokens, the most common first.
const WORDS: &[&str] = &[
    " the", " of", " and", " to", " in", " is", " that", " it", " for", " was", " on", " are",
    " as", " with", " his", " they", " at", " be", " this", " have", " from", " or", " one",
    " had", " by", " word", " but", " not", " what", " all", " were", " we", " when", " your",
    " can", " said", " there", " use", " each", " which", " she", " do", " how", " their", " if",
    " will", " up", " other", " about", " out", " many", " then", " them", " these", " so",
    " some", " her", " would", " make", " like", " him", " into", " time", " has", " look", " two",
    " more", " write", " go", " see", " number", " no", " way", " could", " people", " my",
    " than", " first", " water", " been", " call", " who", " oil", " its", " now", " find", "\n\n",
    "ing", "ed", "er",
];

/// Most tokens that merging gives.
const MAX_MERGES: usize = 240;

/// Control tokens of a family: their texts, and which begin and end a sequence.
struct Controls {
    texts: &'static [&'static str],
    bos: &'static str,
    eos: &'static str,
    add_bos: bool,
}

const LLAMA3: Controls = Controls {
    texts: &[
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eom_id|>",
        "<|eot_id|>",
    ],
    bos: "<|begin_of_text|>",
    eos: "<|eot_id|>",
    add_bos: true,
};

const QWEN2: Controls = Controls {
    texts: &["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    bos: "<|endoftext|>",
    eos: "<|im_end|>",
    add_bos: false,
};

/// Makes a vocabulary up: bytes, merged words, control tokens, and `<|pad_N|>` for the rest.
pub(super) fn make(shape: &Shape, writer: &mut Writer) -> Result<(), Error> {
    let controls = if shape.pre == "qwen2" { QWEN2 } else { LLAMA3 };
    let mut tokens: Vec<String> = (0..=255).map(|byte| letter(byte).to_string()).collect();
    let merges = merge_words(&mut tokens, MAX_MERGES);
    let mut types = vec![NORMAL; tokens.len()];
    let id = |text: &str, first: usize| {
        let place = controls.texts.iter().position(|&t| t == text);
        (first + place.unwrap_or(0)) as u32
    };
    let (bos, eos) = (
        id(controls.bos, tokens.len()),
        id(controls.eos, tokens.len()),
    );
    tokens.extend(controls.texts.iter().map(|&text| text.to_owned()));
    types.resize(tokens.len(), CONTROL);
    let padding = shape.vocab_size.saturating_sub(tokens.len());
    tokens.extend((0..padding).map(|i| format!("<|pad_{i}|>")));
    types.resize(tokens.len(), UNUSED);

    writer.set("tokenizer.ggml.model", "gpt2")?;
    writer.set("tokenizer.ggml.pre", shape.pre)?;
    writer.set_array(TOKENS, &tokens)?;
    writer.set_array(TOKEN_TYPE, &types)?;
    writer.set_array("tokenizer.ggml.merges", &merges)?;
    writer.set("tokenizer.ggml.bos_token_id", bos)?;
    writer.set("tokenizer.ggml.eos_token_id", eos)?;
    writer.set("tokenizer.ggml.add_bos_token", controls.add_bos)?;
    Ok(())
}

/// Adds the beginnings of the words to the tokens; returns the merges that give them, by rank.
fn merge_words(tokens: &mut Vec<String>, max: usize) -> Vec<String> {
    let mut merges = Vec::new();
    for word in WORDS {
        let mut letters = word.bytes().map(letter);
        let mut start = String::from_iter(letters.next());
        for next in letters {
            let longer = format!("{start}{next}");
            if !tokens.contains(&longer) {
                if merges.len() == max {
                    return merges;
                }
                merges.push(format!("{start} {next}"));
                tokens.push(longer.clone());
            }
            start = longer;
        }
    }
    merges
}

/// The printable character by which GPT-2's vocabularies write a byte: itself where that is
/// printable Latin-1, else the next free one from U+0100.
fn letter(byte: u8) -> char {
    let is_printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if is_printable(byte) {
        return char::from(byte);
    }
    let shifted = (0..byte).filter(|&b| !is_printable(b)).count() as u32;
    // At most 68 bytes are not printable, and U+0100 to U+0143 are characters.
    char::from_u32(0x100 + shifted).unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::tokenizer::{DecodeOptions, EncodeOptions, TokenizerOptions, from_metadata};
    use crate::tools::synth::ShapeName;
    use std::collections::HashSet;
    use std::time::{Duration, Instant};

    /// A file of metadata alone.
    fn file(fill: impl FnOnce(&mut Writer) -> Result<(), Error>) -> Gguf {
        let mut writer = Writer::new();
        fill(&mut writer).unwrap();
        let bytes = writer.start(Vec::new()).unwrap().finish().unwrap();
        Gguf::from_vec("vocab.gguf", bytes).unwrap()
    }

    fn strings(gguf: &Gguf, key: &str) -> Vec<String> {
        gguf.metadata()
            .strings(key)
            .unwrap()
            .iter()
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn every_text_survives_a_made_up_vocabulary() {
        for &name in ShapeName::ALL {
            let shape = name.shape();
            let gguf = file(|writer| make(&shape, writer));
            let start = Instant::now();
            let tokenizer = from_metadata(gguf.metadata(), &TokenizerOptions::default()).unwrap();
            let elapsed = start.elapsed();
            eprintln!("{name}: {} tokens in {elapsed:?}", tokenizer.vocab_size());
            assert!(elapsed < Duration::from_secs(1), "{name}: {elapsed:?}");
            assert_eq!(tokenizer.vocab_size(), shape.vocab_size);
            assert!(
                tokenizer.warnings().is_empty(),
                "{name}: {:?}",
                tokenizer.warnings()
            );
            let text = "Which of the words is that?\n\n  \u{e9}\u{4f60}\u{1f980}\0 <|pad_3|> 1234";
            let ids = tokenizer.encode(text, EncodeOptions::default());
            assert!(ids.len() < text.len(), "words are merged");
            assert_eq!(tokenizer.decode(&ids, DecodeOptions::default()), text);
            let end = if shape.arch == "qwen2" {
                "<|im_end|>"
            } else {
                "<|eot_id|>"
            };
            let parse = EncodeOptions {
                parse_special: true,
                ..EncodeOptions::default()
            };
            let ids = tokenizer.encode(end, parse);
            assert!(
                ids.len() == 1 && tokenizer.is_eog(ids[0]),
                "{name}: {ids:?}"
            );
        }
    }

    #[test]
    fn a_copied_vocabulary_is_padded() {
        let source = file(|writer| {
            writer.set("tokenizer.ggml.model", "llama")?;
            writer.set_array(TOKENS, &["<unk>", "a"])?;
            writer.set_array(TOKEN_TYPE, &[2i32, 1])?;
            writer.set_array(SCORES, &[0f32, -1.0])?;
            Ok(writer.set("general.name", "not copied")?)
        });
        assert_eq!(len(&source).unwrap(), 2);
        let same = file(|writer| copy(source.metadata(), 2, writer));
        assert_eq!(strings(&same, TOKENS), ["<unk>", "a"]);
        assert_eq!(same.metadata().len(), 4);
        let padded = file(|writer| copy(source.metadata(), 4, writer));
        assert_eq!(
            strings(&padded, TOKENS),
            ["<unk>", "a", "<|extra_0|>", "<|extra_1|>"]
        );
        assert_eq!(
            padded.metadata().i32s(TOKEN_TYPE).unwrap(),
            [2, 1, UNUSED, UNUSED]
        );
        let scores = padded.metadata().f32s(SCORES).unwrap();
        assert_eq!(scores, [0.0, -1.0, WORST_SCORE, WORST_SCORE]);
        assert_eq!(
            padded.metadata().str("tokenizer.ggml.model").unwrap(),
            "llama"
        );
    }

    #[test]
    fn letters_are_distinct_and_gpt2s() {
        let letters: HashSet<char> = (0..=255).map(letter).collect();
        assert_eq!(letters.len(), 256);
        assert_eq!(
            [letter(b' '), letter(b'\n'), letter(0xad)],
            ['\u{120}', '\u{10a}', '\u{143}']
        );
    }

    #[test]
    fn merges_build_on_tokens_before_them() {
        let mut tokens: Vec<String> = (0..=255).map(|byte| letter(byte).to_string()).collect();
        let merges = merge_words(&mut tokens, MAX_MERGES);
        assert_eq!(tokens.len(), 256 + merges.len());
        assert!(merges.len() > 190, "{}", merges.len());
        assert_eq!(tokens.iter().collect::<HashSet<_>>().len(), tokens.len());
        for (i, merge) in merges.iter().enumerate() {
            let (left, right) = merge.split_once(' ').unwrap();
            assert!(tokens[..256 + i].iter().any(|t| t == left), "{merge}");
            assert!(tokens[..256].iter().any(|t| t == right), "{merge}");
        }
    }
}
