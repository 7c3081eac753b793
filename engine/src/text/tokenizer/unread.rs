//! Keys of a vocabulary that nothing here reads: each is said, since texts may be meant to be read
//! otherwise.

use gannet_gguf::{Metadata, Value};

use super::Algorithm;

const PREFIX: &str = "tokenizer.ggml.";

/// Keys that are read, or that change nothing of texts without padding and of models that only go on.
const KNOWN: &[&str] = &[
    "model",
    "pre",
    "tokens",
    "token_type",
    "token_type_count",
    "scores",
    "merges",
    "added_tokens",
    "add_bos_token",
    "add_eos_token",
    "add_sep_token",
    "add_padding_token",
    "add_mask_token",
    "add_unknown_token",
    "add_space_prefix",
    "remove_extra_whitespaces",
];

/// Keys that WordPiece reads besides.
const OF_WORDS: &[&str] = &["normalizer.lowercase", "normalizer.strip_accents"];

/// A line for each key that asks for something nothing here does.
pub(super) fn warnings(meta: &Metadata, kind: Algorithm) -> Vec<String> {
    let is_known = |name: &str| {
        let names_tokens = name.ends_with("_token_id") || name.ends_with("_token_ids");
        let is_read = kind == Algorithm::WordPiece && OF_WORDS.contains(&name);
        names_tokens || is_read || KNOWN.contains(&name)
    };
    let mut lines = Vec::new();
    for (key, value) in meta.iter() {
        let name = key.strip_prefix(PREFIX).filter(|name| !is_known(name));
        if name.is_some() && asks(value) {
            let key: String = key.chars().take(80).flat_map(char::escape_debug).collect();
            lines.push(format!(
                "{key}: not read, texts are split and continued without it"
            ));
        }
    }
    lines
}

/// Whether a value says more than that there is nothing to do.
fn asks(value: Value<'_>) -> bool {
    let is_empty = value.as_array().is_some_and(|array| array.is_empty())
        || value.as_str().is_some_and(str::is_empty);
    !is_empty && value.as_bool() != Some(false)
}
