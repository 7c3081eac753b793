//! The tokens that end a generation, from every place where files name them.
//!
//! Single keys, lists of ids, and the texts of well-known tokens: many files name one such token and
//! their model ends its turns with another.

use gannet_gguf::{Metadata, Value};

use super::Tokenizer;
use super::vocab::{TokenKind, Vocab};

/// The middles of `tokenizer.ggml.*_token_id` whose tokens end a generation, besides `eos`.
const END_KEYS: &[&str] = &["eot", "eom", "eog", "fim_pad", "fim_rep", "fim_sep"];

/// Texts of tokens that end a generation whatever the file's ids say.
const END_TEXTS: &[&str] = &[
    "<|eot_id|>",
    "<|eom_id|>",
    "<|eot|>",
    "<|eom|>",
    "<|EOT|>",
    "<|im_end|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|end_of_turn|>",
    "<|endofturn|>",
    "[|endofturn|]",
    "<|END_OF_TURN_TOKEN|>",
    "<|role_end|>",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "<|tool_response>",
    "<turn|>",
    "[e~[",
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<|fim_repo|>",
    "<fim-repo>",
    "<reponame>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
    "<EOT>",
    "_<EOT>",
    "\u{2581}<EOT>",
    "[EOT]",
    "[EOS]",
    "</s>",
    "<eos>",
];

/// Whether a token so written ends a generation if it is a control token.
pub(super) fn is_end(text: &str) -> bool {
    let may_be = text.starts_with(['<', '[', '_', '\u{2581}']);
    may_be && END_TEXTS.contains(&text)
}

/// Whether a text can only be meant as a control token, even when its type says otherwise.
/// (`</s>` is also a tag of HTML, and an ordinary token of several vocabularies.)
pub(super) fn is_unmistakable(text: &str) -> bool {
    let is_barred = text.starts_with("<|") || text.starts_with("<\u{ff5c}");
    is_barred || matches!(text, "<end_of_turn>" | "<turn|>" | "[|endofturn|]")
}

/// The ids that the file's keys give as ends of a generation, in the order of [`END_KEYS`]; what is
/// no id of the vocabulary is warned of and left out.
pub(super) fn named(meta: &Metadata, vocab_size: usize, warnings: &mut Vec<String>) -> Vec<u32> {
    let mut ids = Vec::new();
    for middle in END_KEYS {
        for plural in ["", "s"] {
            let key = format!("tokenizer.ggml.{middle}_token_id{plural}");
            ids.extend(ids_of(meta, &key, vocab_size, warnings));
        }
    }
    ids
}

/// The ids under a key, which may be one or an array; those alone that the vocabulary has.
pub(super) fn ids_of(
    meta: &Metadata,
    key: &str,
    vocab_size: usize,
    warnings: &mut Vec<String>,
) -> Vec<u32> {
    let Some(value) = meta.get(key) else {
        return Vec::new();
    };
    let values: Vec<Value<'_>> = match value.as_array() {
        Some(array) => array.iter().collect(),
        None => vec![value],
    };
    let mut ids = Vec::new();
    for value in values {
        let id = value.as_int().and_then(|id| u32::try_from(id).ok());
        match id {
            Some(id) if (id as usize) < vocab_size => ids.push(id),
            // -1 is how some files say that there is none.
            _ if value.as_int() == Some(-1) => {}
            _ => warnings.push(format!(
                "{key}: {} ignored, the vocabulary has {vocab_size} tokens",
                value.describe()
            )),
        }
    }
    ids
}

impl Tokenizer {
    /// Collects the tokens that end a generation: `named` by keys, and well-known ones.
    pub(super) fn find_ends(&mut self, named: Vec<u32>) {
        let mut ends = named;
        ends.extend(self.eos);
        let special = |text: &&str| control(&self.vocab, self.token_id(text)?);
        let end = special(&"<|end|>");
        ends.extend(END_TEXTS.iter().filter_map(special));
        // Where tools are called by tokens of their own, <|end|> ends a message, of which one turn has
        // several, and </s> nothing.
        let has = |text| special(&text).is_some();
        let ends_message = has("<|call|>") && (has("<|return|>") || has("<|flush|>"))
            || has("<|calls|>") && has("<|flush|>");
        if ends_message && self.eos != end {
            ends.retain(|&id| Some(id) != end);
        }
        let tag = special(&"</s>");
        if has("<|tool_response>") && self.eos != tag {
            ends.retain(|&id| Some(id) != tag);
        }
        ends.sort_unstable();
        ends.dedup();
        self.ends = ends;
    }
}

/// The id, if it is that of a control token.
fn control(vocab: &Vocab, id: u32) -> Option<u32> {
    let is_control = vocab.token_kind(id).is_some_and(TokenKind::is_hidden);
    is_control.then_some(id)
}
