//! Log-probabilities as OpenAI's routes spell them.

use gannet_engine::tokenizer::{DecodeOptions, Tokenizer};
use serde_json::{Map, Value, json};

use crate::server::generation::Token;

/// What stands for a probability of zero, which JSON has no logarithm of.
const LEAST: f32 = -9999.0;

/// A logarithm that JSON can hold.
fn finite(log_prob: f32) -> f32 {
    if log_prob.is_finite() {
        log_prob
    } else {
        LEAST
    }
}

/// The text of one token alone; bytes that are no text come as what stands for them.
fn text_of(tokenizer: &Tokenizer, id: u32) -> (String, Vec<u8>) {
    let options = DecodeOptions { special: true };
    let mut bytes = Vec::new();
    tokenizer.append_bytes(id, &mut bytes);
    if bytes.is_empty() {
        bytes = tokenizer.decode_bytes(&[id], options);
    }
    (String::from_utf8_lossy(&bytes).into_owned(), bytes)
}

fn entry(tokenizer: &Tokenizer, id: u32, log_prob: f32) -> Map<String, Value> {
    let (token, bytes) = text_of(tokenizer, id);
    let mut entry = Map::new();
    entry.insert("token".to_owned(), json!(token));
    entry.insert("logprob".to_owned(), json!(finite(log_prob)));
    entry.insert("bytes".to_owned(), json!(bytes));
    entry
}

/// A token of a chat's answer.
pub(crate) fn of_chat(tokenizer: &Tokenizer, token: &Token) -> Option<Value> {
    let log_probs = token.log_probs.as_ref()?;
    let mut of_token = entry(tokenizer, token.id, log_probs.chosen);
    let top = log_probs.top.iter();
    let top: Vec<Value> = top
        .map(|&(id, log_prob)| Value::Object(entry(tokenizer, id, log_prob)))
        .collect();
    of_token.insert("top_logprobs".to_owned(), Value::Array(top));
    Some(Value::Object(of_token))
}

/// Tokens of a completion; `offset` is where their text begins, in characters.
pub(crate) fn of_completion(tokenizer: &Tokenizer, tokens: &[Token], mut offset: usize) -> Value {
    let (mut texts, mut chosen, mut top, mut offsets) = (vec![], vec![], vec![], vec![]);
    for token in tokens {
        let Some(log_probs) = &token.log_probs else {
            continue;
        };
        texts.push(text_of(tokenizer, token.id).0);
        chosen.push(finite(log_probs.chosen));
        let pairs = log_probs.top.iter();
        let pairs = pairs.map(|&(id, p)| (text_of(tokenizer, id).0, json!(finite(p))));
        top.push(Value::Object(pairs.collect()));
        offsets.push(offset);
        offset += token.text.chars().count();
    }
    json!({
        "tokens": texts, "token_logprobs": chosen, "top_logprobs": top, "text_offset": offsets,
    })
}
