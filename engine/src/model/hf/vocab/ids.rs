//! Which tokens begin, end and fill texts.
//!
//! A folder says it in up to four files. `tokenizer_config.json` names tokens by their text and is the
//! first to count; then `config.json` and `generation_config.json` by ids. All that end a generation count.
//! Whether a text gets the first one is what encoding with the published library does: a flag of
//! `tokenizer_config.json`, else the template of `tokenizer.json`'s post-processor.

use serde_json::Value;

use super::json::{GenerationConfig, Named, TokenizerConfig, TokenizerFile};
use super::{UNKNOWN, Vocab, shown};
use crate::Error;
use crate::model::hf::config::{Config, ids_of};
use crate::model::hf::head::Head;

/// The tokens around a text.
#[derive(Default)]
struct Template {
    first: Option<String>,
    last: Option<String>,
}

pub(super) fn write(
    file: &TokenizerFile<'_>,
    vocab: &Vocab<'_>,
    config: &Config,
    says: &TokenizerConfig,
    generation: &GenerationConfig,
    head: &mut Head,
) -> Result<(), Error> {
    let by_text = vocab.by_text();
    let len = vocab.texts.len();
    let mut warnings = Vec::new();
    let mut named = |what: &str, token: Option<&str>| {
        let text = token?;
        let id = by_text.get(text).copied();
        if id.is_none() {
            let text = shown(text);
            warnings.push(format!(
                "{what}: {text} is no token of the vocabulary: left out"
            ));
        }
        id
    };
    let template = template(file.post_processor.as_ref(), 0);
    let text = |named: &Option<Named>| named.as_ref().map(|n| n.text().to_owned());
    let of_config = "tokenizer_config.json";
    let mut one = |key: &str, token: &Option<Named>| {
        let text = text(token);
        named(&format!("{of_config}: {key}"), text.as_deref())
    };
    let (bos, eos) = (
        one("bos_token", &says.bos_token),
        one("eos_token", &says.eos_token),
    );
    let (unknown, padding) = (
        one("unk_token", &says.unk_token),
        one("pad_token", &says.pad_token),
    );
    let first = named("tokenizer.json: post_processor", template.first.as_deref());
    let last = named("tokenizer.json: post_processor", template.last.as_deref());

    let mut given = |file: &str, key: &str, ids: Vec<u32>| -> Vec<u32> {
        let (known, unknown): (Vec<u32>, Vec<u32>) =
            ids.into_iter().partition(|&id| (id as usize) < len);
        for id in unknown {
            warnings.push(format!(
                "{file}: {key} {id} left out, the vocabulary has {len} tokens"
            ));
        }
        known
    };
    let listed = |value: &Option<Value>| value.as_ref().and_then(ids_of).unwrap_or_default();
    let generation_file = "generation_config.json";
    let mut bos_ids = given("config.json", "bos_token_id", config.ids("bos_token_id")?);
    bos_ids.extend(given(
        generation_file,
        "bos_token_id",
        listed(&generation.bos_token_id),
    ));
    let mut ends: Vec<u32> = eos.into_iter().collect();
    ends.extend(given(
        "config.json",
        "eos_token_id",
        config.ids("eos_token_id")?,
    ));
    ends.extend(given(
        generation_file,
        "eos_token_id",
        listed(&generation.eos_token_id),
    ));
    let mut pads: Vec<u32> = padding.into_iter().collect();
    pads.extend(given(
        generation_file,
        "pad_token_id",
        listed(&generation.pad_token_id),
    ));
    keep_first(&mut ends);
    warnings.dedup();
    head.warnings.append(&mut warnings);

    let bos = first.or(bos).or(bos_ids.first().copied());
    let unknown = unknown.or_else(|| {
        vocab
            .types
            .iter()
            .position(|&ty| ty == UNKNOWN)
            .map(|id| id as u32)
    });
    let writer = &mut head.writer;
    // SentencePiece's defaults are ids of their own: -1 is none.
    let is_pieces = file.model.byte_fallback;
    for (key, id) in [
        ("tokenizer.ggml.bos_token_id", bos),
        ("tokenizer.ggml.eos_token_id", ends.first().copied()),
        ("tokenizer.ggml.unknown_token_id", unknown),
        ("tokenizer.ggml.padding_token_id", pads.first().copied()),
    ] {
        match id {
            Some(id) => writer.set(key, id)?,
            None if is_pieces && !key.contains("padding") => writer.set(key, -1i32)?,
            None => {}
        }
    }
    if ends.len() > 1 {
        writer.set_array("tokenizer.ggml.eos_token_ids", &ends)?;
    }
    let adds_bos = says.add_bos_token.unwrap_or(first.is_some());
    let adds_eos = says.add_eos_token.unwrap_or(last.is_some());
    writer.set("tokenizer.ggml.add_bos_token", adds_bos && bos.is_some())?;
    writer.set("tokenizer.ggml.add_eos_token", adds_eos && !ends.is_empty())?;
    Ok(())
}

/// Leaves the first of each.
fn keep_first(ids: &mut Vec<u32>) {
    let mut seen = Vec::new();
    ids.retain(|id| {
        let is_new = !seen.contains(id);
        seen.push(*id);
        is_new
    });
}

/// What a post-processor puts around a single text.
fn template(value: Option<&Value>, depth: usize) -> Template {
    let Some(value) = value else {
        return Template::default();
    };
    match value["type"].as_str() {
        Some("Sequence") if depth < 4 => {
            let inner = value["processors"].as_array();
            let mut all = inner
                .into_iter()
                .flatten()
                .map(|p| template(Some(p), depth + 1));
            all.find(|t| t.first.is_some() || t.last.is_some())
                .unwrap_or_default()
        }
        Some("TemplateProcessing") => {
            let single = value["single"].as_array().map_or(&[][..], |list| list);
            let special = |part: Option<&Value>| {
                let id = &part?["SpecialToken"]["id"];
                id.as_str().map(str::to_owned)
            };
            Template {
                first: special(single.first()),
                last: special(single.last()),
            }
        }
        _ => Template::default(),
    }
}
