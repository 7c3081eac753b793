//! BPE of characters with bytes to fall back on: SentencePiece's, written as merges.
//!
//! SentencePiece has a score for each token and merges any two neighbours whose text together is one.
//! Folders have a list of pairs, made from those scores: the rank of the first pair that gives a token is
//! as good as its score. That holds only where every way of cutting a token into two is a pair of the list,
//! which is checked; a list that was learned itself merges otherwise.
//!
//! Texts that begin with a space get another in front, as SentencePiece does and GGUF files say;
//! the `Metaspace` of folders, made after it, leaves that out.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::json::TokenizerFile;
use super::{NORMAL, Vocab, shown};
use crate::Error;
use crate::model::hf::head::Head;

/// One way of cutting in so many may be missing from the list: converters have left out a few.
const FEW: usize = 1000;

/// Writes scores, and whether texts get a space in front.
pub(super) fn write(
    file: &TokenizerFile<'_>,
    vocab: &mut Vocab<'_>,
    head: &mut Head,
) -> Result<Result<(), Error>, String> {
    let prefix = space_in_front(file)?;
    let (scores, missing) = scores(file, vocab)?;
    if let Some(line) = missing {
        head.warnings.push(line);
    }
    Ok(set(prefix, &scores, head))
}

fn set(prefix: bool, scores: &[f32], head: &mut Head) -> Result<(), Error> {
    head.writer.set("tokenizer.ggml.pre", "default")?;
    head.writer.set("tokenizer.ggml.add_space_prefix", prefix)?;
    head.writer.set_array("tokenizer.ggml.scores", scores)?;
    Ok(())
}

/// What becomes of spaces.
#[derive(Default)]
struct Spaces {
    /// They become U+2581.
    visible: bool,
    /// Texts get one in front.
    prefix: bool,
}

/// Whether texts get a space in front, which merging reads as U+2581.
fn space_in_front(file: &TokenizerFile<'_>) -> Result<bool, String> {
    let mut spaces = Spaces::default();
    if let Some(normalizer) = &file.normalizer {
        normalize(normalizer, 0, &mut spaces)?;
    }
    if let Some(pre) = &file.pre_tokenizer {
        cut(pre, &mut spaces)?;
    }
    if !spaces.visible {
        return Err(
            "normalizer and pre_tokenizer leave spaces as they are; expected them to become U+2581"
                .to_owned(),
        );
    }
    let ends = file
        .decoder
        .as_ref()
        .is_some_and(|d| d.to_string().contains("\"ByteFallback\""));
    if !ends {
        return Err(
            "decoder: expected one with ByteFallback, as model.byte_fallback has".to_owned(),
        );
    }
    Ok(spaces.prefix)
}

fn normalize(value: &Value, depth: usize, spaces: &mut Spaces) -> Result<(), String> {
    let text = |key: &str| value[key].as_str();
    match text("type") {
        Some("Sequence") if depth < 4 => {
            let inner = value["normalizers"].as_array();
            inner
                .into_iter()
                .flatten()
                .try_for_each(|n| normalize(n, depth + 1, spaces))
        }
        Some("Prepend") if text("prepend") == Some("\u{2581}") => {
            spaces.prefix = true;
            Ok(())
        }
        Some("Replace")
            if value["pattern"]["String"].as_str() == Some(" ")
                && text("content") == Some("\u{2581}") =>
        {
            spaces.visible = true;
            Ok(())
        }
        found => Err(format!(
            "normalizer {} is not read here; expected spaces that become U+2581",
            shown(found.unwrap_or("?"))
        )),
    }
}

/// A pre-tokenizer that cuts nothing, or at spaces where nothing merges anyway.
fn cut(value: &Value, spaces: &mut Spaces) -> Result<(), String> {
    let is_flag = |key: &str| value[key].as_bool();
    match value["type"].as_str() {
        Some("Metaspace") if value["replacement"].as_str() == Some("\u{2581}") => {
            spaces.visible = true;
            spaces.prefix |= match value["prepend_scheme"].as_str() {
                Some("never") => false,
                Some(_) => true,
                None => is_flag("add_prefix_space").unwrap_or(true),
            };
            // Older files have no word for it, and cut.
            Ok(())
        }
        // Gemma's, whose spaces are no spaces any more by then.
        Some("Split")
            if value["pattern"]["String"].as_str() == Some(" ")
                && value["behavior"].as_str() == Some("MergedWithPrevious") =>
        {
            Ok(())
        }
        found => Err(format!(
            "pre_tokenizer {} is not read here beside byte_fallback; expected Metaspace or none",
            shown(found.unwrap_or("?"))
        )),
    }
}

/// A score for each token, and a line about pairs that merge here and not there, if there are any.
fn scores(
    file: &TokenizerFile<'_>,
    vocab: &mut Vocab<'_>,
) -> Result<(Vec<f32>, Option<String>), String> {
    let by_text = vocab.by_text();
    let (mut ranks, mut pairs) = (HashMap::new(), HashSet::new());
    for (left, right) in &file.model.merges.0 {
        let whole = format!("{left}{right}");
        let ids = (
            by_text.get(&**left),
            by_text.get(&**right),
            by_text.get(&*whole),
        );
        let (Some(&left_id), Some(&right_id), Some(&id)) = ids else {
            let (left, right) = (shown(left), shown(right));
            return Err(format!(
                "model.merges: {left} and {right} are not two tokens that give a third"
            ));
        };
        let next = ranks.len();
        ranks.entry(id).or_insert(next);
        pairs.insert((left_id, right_id));
    }
    // Merging never looks for tokens of other kinds.
    let is_normal = |id: u32| vocab.types[id as usize] == NORMAL;
    let (mut missing, mut example) = (0, None);
    for (id, text) in (0..).zip(&vocab.texts) {
        if !is_normal(id) {
            continue;
        }
        for (at, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(at);
            let halves = (by_text.get(left), by_text.get(right));
            if let (Some(&left_id), Some(&right_id)) = halves
                && is_normal(left_id)
                && is_normal(right_id)
                && !pairs.contains(&(left_id, right_id))
            {
                missing += 1;
                example.get_or_insert((left, right));
            }
        }
    }
    let line = match example {
        None => None,
        Some((left, right)) => {
            let line = format!(
                "model.merges: {missing} pairs of tokens that give a token are not on the list of {}, \
                 such as {} and {}",
                pairs.len(),
                shown(left),
                shown(right)
            );
            if missing * FEW > pairs.len() {
                return Err(format!(
                    "{line}: words would be merged otherwise here than by that list, which is none of \
                     SentencePiece's"
                ));
            }
            Some(format!("tokenizer.json: {line}: they merge here"))
        }
    };
    let last = ranks.len() as f32;
    let score = |id: u32| ranks.get(&id).map_or(-last, |&rank| -(rank as f32));
    Ok(((0..vocab.texts.len() as u32).map(score).collect(), line))
}
