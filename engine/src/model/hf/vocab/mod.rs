//! The vocabulary of a folder, in the keys of GGUF files.
//!
//! `tokenizer.json` holds one of two kinds here: byte-level BPE, whose words are cut by a known
//! pre-tokenizer ([`split`]), and BPE of characters with bytes to fall back on, which is SentencePiece's
//! ([`pieces`]). Others are refused by name. `tokenizer_config.json` and `generation_config.json` say which
//! tokens begin and end texts ([`ids`]), and may be missing.

mod ids;
mod json;
mod pieces;
mod split;
mod template;

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use self::json::{GenerationConfig, TokenizerConfig, TokenizerFile};
use super::config::Config;
use super::family::Shape;
use super::head::Head;
use super::weights::Weights;
use super::{bad_file, bytes_of, parse};
use crate::Error;

/// The longest `tokenizer.json`; Gemma 3's, one of the largest, has 33 MB.
const MAX_TOKENIZER_BYTES: u64 = 256 << 20;
/// The longest of the other files, which may hold templates and lists of added tokens.
const MAX_OTHER_BYTES: u64 = 16 << 20;
/// The most tokens of a vocabulary.
const MAX_TOKENS: u64 = 1 << 22;

/// The values of `tokenizer.ggml.token_type`.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// The entries of the vocabulary: rows of the embedding, as the configuration says.
pub(super) fn size(config: &Config, shape: &Shape, weights: &Weights) -> Result<u32, Error> {
    let rows = weights.vocab_size();
    let found = shape.vocab_size.or(rows);
    let found = found.ok_or_else(|| missing_embedding(config))?;
    if let Some(rows) = rows.filter(|&rows| rows != found) {
        let expected = format!("must equal the {rows} rows of the embedding");
        return Err(config.bad("vocab_size", &json!(found), &expected));
    }
    match u32::try_from(found) {
        Ok(size) if (1..=MAX_TOKENS).contains(&found) => Ok(size),
        _ => {
            let expected = format!("must be from 1 to {MAX_TOKENS}");
            Err(config.bad("vocab_size", &json!(found), &expected))
        }
    }
}

fn missing_embedding(config: &Config) -> Error {
    Error::Tensor {
        file: config.file().parent().unwrap_or(Path::new("")).to_owned(),
        tensor: "model.embed_tokens.weight".to_owned(),
        problem: "missing; every family has an embedding".to_owned(),
    }
}

/// Writes the vocabulary and the template; gives back the files that were read.
pub(super) fn write(
    folder: &Path,
    config: &Config,
    vocab_size: u32,
    head: &mut Head,
) -> Result<Vec<PathBuf>, Error> {
    let path = folder.join("tokenizer.json");
    if !path.exists() {
        let why = match folder.join("tokenizer.model").exists() {
            true => {
                "missing; tokenizer.model alone is not read: save the tokenizer as tokenizer.json"
            }
            false => "missing; a folder needs it",
        };
        return Err(bad_file(&path, why.to_owned()));
    }
    let bytes = bytes_of(&path, MAX_TOKENIZER_BYTES)?;
    let file: TokenizerFile<'_> = parse(&path, &bytes)?;
    let mut files = vec![path.clone()];
    let says: TokenizerConfig = optional(folder, "tokenizer_config.json", &mut files)?;
    let generation: GenerationConfig = optional(folder, "generation_config.json", &mut files)?;

    let refuse = |problem: String| bad_file(&path, problem);
    check_model(&file).map_err(refuse)?;
    let mut vocab = Vocab::new(&file, vocab_size).map_err(refuse)?;
    head.warnings.append(&mut vocab.warnings);
    let is_pieces = file.model.byte_fallback;
    if is_pieces {
        pieces::write(&file, &mut vocab, head).map_err(refuse)??;
    } else {
        write_byte_level(&file, head).map_err(refuse)??;
    }
    let writer = &mut head.writer;
    writer.set(
        "tokenizer.ggml.model",
        if is_pieces { "llama" } else { "gpt2" },
    )?;
    let texts: Vec<&str> = vocab.texts.iter().map(AsRef::as_ref).collect();
    writer.set_array("tokenizer.ggml.tokens", &texts)?;
    writer.set_array("tokenizer.ggml.token_type", &vocab.types)?;
    warn_of_flags(&file, head)?;
    ids::write(&file, &vocab, config, &says, &generation, head)?;
    template::write(folder, says.chat_template, head, &mut files)?;
    Ok(files)
}

/// A file that may be missing.
fn optional<T: serde::de::DeserializeOwned + Default>(
    folder: &Path,
    name: &str,
    files: &mut Vec<PathBuf>,
) -> Result<T, Error> {
    let path = folder.join(name);
    if !path.exists() {
        return Ok(T::default());
    }
    let found = parse(&path, &bytes_of(&path, MAX_OTHER_BYTES)?)?;
    files.push(path);
    Ok(found)
}

/// Refuses what is no BPE, and what of one nothing here does.
fn check_model(file: &TokenizerFile<'_>) -> Result<(), String> {
    let model = &file.model;
    let kind = model.kind.as_deref().unwrap_or("BPE");
    if kind != "BPE" {
        let kind: String = kind.chars().take(40).flat_map(char::escape_debug).collect();
        return Err(format!(
            "model.type {kind:?} is not read here; supported: BPE"
        ));
    }
    if model.dropout.is_some_and(|share| share != 0.0) {
        return Err("model.dropout: merges are left out at random; expected none".to_owned());
    }
    for (key, found) in [
        (
            "continuing_subword_prefix",
            &model.continuing_subword_prefix,
        ),
        ("end_of_word_suffix", &model.end_of_word_suffix),
    ] {
        if found.as_deref().is_some_and(|text| !text.is_empty()) {
            return Err(format!("model.{key} is not read here; expected none"));
        }
    }
    Ok(())
}

/// The tokens by id.
struct Vocab<'a> {
    texts: Vec<Cow<'a, str>>,
    types: Vec<i32>,
    warnings: Vec<String>,
}

impl<'a> Vocab<'a> {
    /// Tokens of the model, and those added to them; what has none is a place for later ones.
    fn new(file: &TokenizerFile<'a>, size: u32) -> Result<Vocab<'a>, String> {
        let mut vocab = Vocab {
            texts: vec![Cow::Borrowed(""); size as usize],
            types: vec![UNUSED; size as usize],
            warnings: Vec::new(),
        };
        for (text, id) in &file.model.vocab.0 {
            let at = *id as usize;
            if *id >= size {
                let text = shown(text);
                return Err(format!(
                    "model.vocab: token {text} has id {id}; the model has {size} tokens"
                ));
            }
            if vocab.types[at] != UNUSED {
                let (first, second) = (shown(&vocab.texts[at]), shown(text));
                return Err(format!(
                    "model.vocab: {first} and {second} have the same id {id}"
                ));
            }
            let is_byte = file.model.byte_fallback && byte_of(text).is_some();
            vocab.types[at] = if is_byte { BYTE } else { NORMAL };
            vocab.texts[at] = text.clone();
        }
        let mut beyond = Vec::new();
        for added in &file.added_tokens {
            let at = added.id as usize;
            if added.id >= size {
                beyond.push(shown(&added.content));
                continue;
            }
            let is_unknown = file.model.unk_token.as_deref() == Some(&*added.content);
            vocab.texts[at] = added.content.clone();
            vocab.types[at] = match (is_unknown && file.model.byte_fallback, added.special) {
                (true, _) => UNKNOWN,
                (_, true) => CONTROL,
                (_, false) => USER_DEFINED,
            };
        }
        if let Some(first) = beyond.first() {
            vocab.warnings.push(format!(
                "tokenizer.json: added_tokens: {} left out, such as {first}: the model has {size} tokens",
                beyond.len()
            ));
        }
        for (id, (text, ty)) in vocab.texts.iter_mut().zip(&vocab.types).enumerate() {
            if *ty == UNUSED {
                *text = Cow::Owned(format!("[PAD{id}]"));
            }
        }
        Ok(vocab)
    }

    /// Ids by text, of what is no place for later ones.
    fn by_text(&self) -> HashMap<&str, u32> {
        let used = self.texts.iter().zip(&self.types).enumerate();
        used.filter(|(_, (_, ty))| **ty != UNUSED)
            .map(|(id, (text, _))| (text.as_ref(), id as u32))
            .collect()
    }
}

/// The byte of `<0x0A>`.
fn byte_of(text: &str) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    (hex.len() == 2)
        .then(|| u8::from_str_radix(hex, 16).ok())
        .flatten()
}

/// Text of a file as a message may show it.
fn shown(text: &str) -> String {
    let cut: String = text.chars().take(40).collect();
    format!("{cut:?}")
}

/// The keys of byte-level BPE.
fn write_byte_level(
    file: &TokenizerFile<'_>,
    head: &mut Head,
) -> Result<Result<(), Error>, String> {
    let composes = match file.normalizer.as_ref() {
        None => false,
        Some(normalizer) => match is_nfc(normalizer) {
            Some(composes) => composes,
            None => {
                let kind = shown(normalizer["type"].as_str().unwrap_or("?"));
                return Err(format!(
                    "normalizer {kind} is not read here; expected NFC or none"
                ));
            }
        },
    };
    let pre = split::recognise(
        file.pre_tokenizer.as_ref(),
        composes,
        file.model.ignore_merges,
    );
    let pre = pre.map_err(|why| format!("pre_tokenizer: {why}"))?;
    let mut merges = Vec::with_capacity(file.model.merges.0.len());
    for (left, right) in &file.model.merges.0 {
        if left.contains(' ') || right.contains(' ') {
            let (left, right) = (shown(left), shown(right));
            return Err(format!(
                "model.merges: {left} and {right} have a space, which no byte is written as"
            ));
        }
        merges.push(format!("{left} {right}"));
    }
    Ok(set_byte_level(pre, &merges, head))
}

fn set_byte_level(pre: &str, merges: &[String], head: &mut Head) -> Result<(), Error> {
    head.writer.set("tokenizer.ggml.pre", pre)?;
    head.writer.set_array("tokenizer.ggml.merges", merges)?;
    Ok(())
}

/// Whether a normalizer composes texts, or does nothing; none for others.
fn is_nfc(normalizer: &Value) -> Option<bool> {
    match normalizer["type"].as_str() {
        Some("NFC") => Some(true),
        Some("Sequence") => {
            let inner = normalizer["normalizers"].as_array()?;
            match &inner[..] {
                [] => Some(false),
                [one] if one["type"].as_str() == Some("NFC") => Some(true),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Tells of flags of added tokens that GGUF files have no place for.
fn warn_of_flags(file: &TokenizerFile<'_>, head: &mut Head) -> Result<(), Error> {
    let count = |flag: fn(&self::json::Added<'_>) -> bool| {
        let mut with = file.added_tokens.iter().filter(|added| flag(added));
        let first = with.next().map(|added| shown(&added.content));
        first.map(|first| (first, 1 + with.count()))
    };
    // The tokenizer knows by the name that tokens of Phi 3 swallow the white space after them.
    let mut flags = vec![
        ("lstrip", count(|a| a.lstrip)),
        ("single_word", count(|a| a.single_word)),
    ];
    match (head.arch, count(|a| a.rstrip)) {
        ("phi3", Some(_)) if file.model.byte_fallback => {
            head.writer.set("general.name", "Phi-3")?;
        }
        (_, found) => flags.push(("rstrip", found)),
    }
    for (flag, found) in flags {
        if let Some((first, count)) = found {
            head.warnings.push(format!(
                "tokenizer.json: added_tokens: {flag} is not read, of {count} such as {first}: white \
                 space around them counts"
            ));
        }
    }
    Ok(())
}
