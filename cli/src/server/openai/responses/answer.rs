//! The object of a response, begun and ended.

use std::sync::Arc;

use gannet_engine::tokenizer::EncodeOptions;
use gannet_engine::{Finish, Generation};
use serde_json::{Map, Value, json};

use super::items::Items;
use crate::server::loaded::Loaded;
use crate::server::openai::Usage;
use crate::times::unix_seconds;

/// What a response begins with.
pub(super) struct Head {
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) model: Arc<Loaded>,
    /// What it tells of its request.
    pub(super) echo: Map<String, Value>,
}

/// Whether a reply ended before it was over.
pub(super) fn is_cut(generation: &Generation) -> bool {
    matches!(generation.finish, Finish::Length | Finish::Context)
}

impl Head {
    fn json(&self, status: &str, output: Vec<Value>) -> Value {
        let mut response = Value::Object(self.echo.clone());
        for (name, value) in [
            ("id", json!(self.id)),
            ("object", json!("response")),
            ("created_at", json!(self.created)),
            ("status", json!(status)),
            ("background", json!(false)),
            ("error", Value::Null),
            ("incomplete_details", Value::Null),
            ("model", json!(self.model.id())),
            ("output", Value::Array(output)),
            ("usage", Value::Null),
        ] {
            response[name] = value;
        }
        response
    }

    /// A response that has begun.
    pub(super) fn begun(&self) -> Value {
        self.json("in_progress", Vec::new())
    }

    /// A response that has ended. Tokens of thoughts are counted by their text.
    pub(super) fn ended(&self, items: &Items, generation: &Generation, usage: &Usage) -> Value {
        let status = if is_cut(generation) {
            "incomplete"
        } else {
            "completed"
        };
        let mut response = self.json(status, items.output());
        match is_cut(generation) {
            true => response["incomplete_details"] = json!({"reason": "max_output_tokens"}),
            false => response["completed_at"] = json!(unix_seconds()),
        }
        let tokenizer = self.model.model().tokenizer();
        let thoughts = tokenizer
            .encode(items.reasoning(), EncodeOptions::default())
            .len();
        response["usage"] = json!({
            "input_tokens": usage.prompt,
            "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
            "output_tokens": usage.completion,
            "output_tokens_details": {"reasoning_tokens": thoughts.min(usage.completion)},
            "total_tokens": usage.prompt + usage.completion,
        });
        response
    }
}
