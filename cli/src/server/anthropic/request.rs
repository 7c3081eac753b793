//! The body of `/v1/messages`, read as a turn of a conversation.

use std::time::Duration;

use gannet_engine::requests::Grammar;
use gannet_engine::{GenerateOptions, Sampling};
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{content, tools};
use crate::sampling::random_seed;
use crate::server::body::read_at;
use crate::server::controls::{MOST_STOPS, out_of_range, ranged};
use crate::server::conversation::Turn;
use crate::server::error::ApiError;

/// A request.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MessagesRequest {
    /// The model's name; the only one by default.
    model: Option<String>,
    /// The conversation so far; an assistant's last message is the beginning of the reply.
    messages: Vec<Value>,
    /// What the model is told first: text or blocks of text.
    #[schema(value_type = Option<Object>)]
    system: Option<Value>,
    /// Tokens to generate at most.
    #[schema(minimum = 1)]
    max_tokens: Option<u64>,
    /// Send the reply as it comes.
    stream: Option<bool>,
    /// Texts that end the reply where they begin.
    stop_sequences: Option<Vec<String>>,
    /// 0 takes the most likely token; at most 1. Default: 1.
    #[schema(minimum = 0, maximum = 1)]
    temperature: Option<f64>,
    /// Choose among the most likely tokens that together reach this probability.
    #[schema(minimum = 0, maximum = 1)]
    top_p: Option<f64>,
    /// Choose among so many of the most likely tokens; 0: all.
    top_k: Option<u64>,
    /// Tools that the client runs.
    tools: Option<Vec<Value>>,
    /// auto, any, tool with a name, or none.
    #[schema(value_type = Option<Object>)]
    tool_choice: Option<Value>,
    /// Whether the model is to think, where its template can; without it the model does as it likes.
    thinking: Option<Thinking>,
    /// A schema that the text of the reply is to match.
    output_config: Option<OutputConfig>,
    /// As `output_config.format`.
    #[schema(value_type = Option<Object>)]
    output_format: Option<Value>,
    /// Whoever asks; nothing is done with it.
    #[serde(rename = "metadata")]
    _metadata: Option<Metadata>,
    /// auto or `standard_only`.
    service_tier: Option<String>,
    /// standard: there is one speed.
    speed: Option<String>,
    /// Nothing is diagnosed.
    #[schema(value_type = Option<Object>)]
    #[serde(rename = "diagnostics")]
    _diagnostics: Option<Value>,
    /// Prefixes are always shared.
    #[schema(value_type = Option<Object>)]
    #[serde(rename = "cache_control")]
    _cache_control: Option<Value>,
    /// Nothing, or to keep all thoughts: what else it can ask for is not done here.
    #[schema(value_type = Option<Object>)]
    context_management: Option<Value>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Metadata {
    #[serde(rename = "user_id")]
    _user_id: Option<String>,
}

/// Whether and how a model thinks.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Thinking {
    /// enabled, adaptive, `between_tools` or disabled.
    #[serde(rename = "type")]
    kind: String,
    /// What thoughts should take. A model that runs here is told of no budget; `max_tokens` is the limit.
    budget_tokens: Option<u64>,
    /// omitted leaves thoughts out of the answer.
    display: Option<String>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct OutputConfig {
    /// How much effort to put into a reply; models that run here have one measure.
    effort: Option<String>,
    #[schema(value_type = Option<Object>)]
    format: Option<Value>,
}

/// Efforts that there are.
const EFFORTS: &[&str] = &["low", "medium", "high", "xhigh", "max"];

impl MessagesRequest {
    /// The name of the model.
    pub(super) fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// Whether the reply is sent as it comes.
    pub(super) fn streams(&self) -> bool {
        self.stream == Some(true)
    }

    /// Whether thoughts are left out of the answer.
    pub(super) fn hides_thoughts(&self) -> bool {
        let display = self.thinking.as_ref().and_then(|t| t.display.as_deref());
        display == Some("omitted")
    }

    fn check(&self) -> Result<(), ApiError> {
        if !matches!(
            self.service_tier.as_deref(),
            None | Some("auto" | "standard_only")
        ) {
            return Err(ApiError::unsupported(
                "service_tier",
                "there are auto and standard_only",
            ));
        }
        if !matches!(self.speed.as_deref(), None | Some("standard")) {
            return Err(ApiError::unsupported("speed", "there is one; leave it out"));
        }
        let effort = self
            .output_config
            .as_ref()
            .and_then(|c| c.effort.as_deref());
        if effort.is_some_and(|effort| !EFFORTS.contains(&effort)) {
            let why = format!(
                "output_config.effort: expected one of {}",
                EFFORTS.join(", ")
            );
            return Err(ApiError::param("output_config.effort", why));
        }
        check_context_management(self.context_management.as_ref())
    }

    /// Whether the model is to think.
    fn thinks(&self) -> Result<Option<bool>, ApiError> {
        let Some(thinking) = &self.thinking else {
            return Ok(None);
        };
        let wanted = match thinking.kind.as_str() {
            "enabled" | "adaptive" | "between_tools" => true,
            "disabled" => false,
            kind => {
                let why = format!(
                    "thinking.type is {kind:?}; expected enabled, adaptive, between_tools or disabled"
                );
                return Err(ApiError::param("thinking.type", why));
            }
        };
        if !matches!(
            thinking.display.as_deref(),
            None | Some("summarized" | "omitted")
        ) {
            let why = "thinking.display: expected summarized or omitted";
            return Err(ApiError::param("thinking.display", why));
        }
        if thinking.budget_tokens == Some(0) {
            return Err(out_of_range("thinking.budget_tokens", 0, "at least 1"));
        }
        Ok(Some(wanted))
    }

    fn format(&self) -> Result<Option<Grammar>, ApiError> {
        let of_config = self
            .output_config
            .as_ref()
            .and_then(|config| config.format.as_ref());
        let given = match (of_config, &self.output_format) {
            (Some(_), Some(_)) => {
                let why = "output_format says what output_config.format says; leave it out";
                return Err(ApiError::param("output_format", why));
            }
            (Some(format), None) => (format, "output_config.format"),
            (None, Some(format)) => (format, "output_format"),
            (None, None) => return Ok(None),
        };
        json_schema(given.0, given.1)
    }

    fn options(&self) -> Result<GenerateOptions, ApiError> {
        let max_tokens = match self.max_tokens {
            Some(0) => return Err(out_of_range("max_tokens", 0, "at least 1")),
            Some(most) => usize::try_from(most).unwrap_or(usize::MAX),
            None => {
                let missing = ApiError::param("max_tokens", "max_tokens is missing");
                return Err(missing.code("missing_required_parameter"));
            }
        };
        let stop = self.stop_sequences.clone().unwrap_or_default();
        if stop.len() > MOST_STOPS {
            return Err(out_of_range(
                "stop_sequences",
                stop.len(),
                "at most 16 texts",
            ));
        }
        if stop.iter().any(String::is_empty) {
            let why = "stop_sequences: a text to stop at is empty";
            return Err(ApiError::param("stop_sequences", why));
        }
        Ok(GenerateOptions {
            max_tokens,
            sampling: self.sampling()?,
            stop,
            ..GenerateOptions::default()
        })
    }

    fn sampling(&self) -> Result<Sampling, ApiError> {
        let top_p = ranged("top_p", self.top_p, 1.0, 0.0..=1.0)?;
        let top_k = usize::try_from(self.top_k.unwrap_or(0)).unwrap_or(usize::MAX);
        Ok(Sampling {
            temperature: ranged("temperature", self.temperature, 1.0, 0.0..=1.0)?,
            // No probability at all leaves the most likely token.
            top_k: if top_p == 0.0 { 1 } else { top_k },
            top_p: if top_p == 0.0 { 1.0 } else { top_p },
            seed: random_seed(),
            ..Sampling::default()
        })
    }

    /// Reads what makes the prompt.
    pub(super) fn prompt(&self) -> Result<Turn, ApiError> {
        self.check()?;
        let mut messages = content::messages(&self.messages)?;
        let last = messages.last();
        let continues = last.is_some_and(|last| last.role == "assistant");
        if last.is_some_and(|last| continues && !last.tool_calls.is_empty()) {
            let why = "messages ends with calls of tools; give their results";
            return Err(ApiError::param("messages", why));
        }
        if let Some(system) = content::system(self.system.as_ref().unwrap_or(&Value::Null))? {
            messages.insert(0, system);
        }
        let tools = tools::tools(self.tools.as_deref().unwrap_or_default())?;
        let used = tools::tool_choice(self.tool_choice.clone(), &tools)?;
        Ok(Turn {
            messages,
            tools: if used.never { Vec::new() } else { tools },
            tool_choice: used.choice,
            parallel: used.parallel,
            format_param: match self.output_format {
                Some(_) => Some("output_format"),
                None => Some("output_config.format"),
            },
            format: self.format()?,
            thinking: self.thinks()?,
            continues,
            whole_calls: !self.streams(),
            n: 1,
            ..Turn::default()
        })
    }

    /// Reads it all.
    pub(super) fn turn(&self, deadline: Option<Duration>) -> Result<Turn, ApiError> {
        let options = self.options()?;
        Ok(Turn {
            options,
            deadline,
            ..self.prompt()?
        })
    }
}

/// A format of replies: a schema.
fn json_schema(format: &Value, place: &str) -> Result<Option<Grammar>, ApiError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Format {
        #[serde(rename = "type")]
        kind: String,
        schema: Map<String, Value>,
    }
    if format.is_null() {
        return Ok(None);
    }
    let format: Format = read_at(format.clone(), place)?;
    if format.kind != "json_schema" {
        let place = format!("{place}.type");
        let why = format!("{place} is {:?}; expected json_schema", format.kind);
        return Err(ApiError::param(place, why));
    }
    Ok(Some(Grammar::JsonSchema(
        Value::Object(format.schema).to_string(),
    )))
}

/// Refuses edits of the context but those that change nothing.
fn check_context_management(given: Option<&Value>) -> Result<(), ApiError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Management {
        #[serde(default)]
        edits: Vec<Value>,
    }
    let Some(given) = given.filter(|given| !given.is_null()) else {
        return Ok(());
    };
    let management: Management = read_at(given.clone(), "context_management")?;
    for (i, edit) in management.edits.iter().enumerate() {
        let kind = edit.get("type").and_then(Value::as_str).unwrap_or_default();
        let keeps_all = edit.get("keep").and_then(Value::as_str) == Some("all");
        if !(kind.starts_with("clear_thinking_") && keeps_all) {
            let place = format!("context_management.edits[{i}]");
            let why = format!("{place}: contexts are not edited here; leave it out");
            return Err(ApiError::param(place, why).code("unsupported_parameter"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::server::body::read;

    fn body(with: Value) -> MessagesRequest {
        let mut body = json!({"max_tokens": 8, "messages": [{"role": "user", "content": "x"}]});
        for (name, value) in with.as_object().unwrap() {
            body[name] = value.clone();
        }
        read(body).unwrap()
    }

    #[test]
    fn parameters_become_options() {
        let turn = body(json!({
            "system": "S", "temperature": 0.5, "top_p": 0.9, "top_k": 7, "stop_sequences": ["a"],
            "metadata": {"user_id": "u"}, "service_tier": "auto", "cache_control": {"type": "ephemeral"},
            "thinking": {"type": "enabled", "budget_tokens": 1024},
            "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
            "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        }))
        .turn(None)
        .unwrap();
        let sampling = &turn.options.sampling;
        assert_eq!(
            (sampling.temperature, sampling.top_p, sampling.top_k),
            (0.5, 0.9, 7)
        );
        assert_eq!(
            (turn.options.max_tokens, turn.options.stop.as_slice()),
            (8, ["a".to_owned()].as_slice())
        );
        assert_eq!(
            (turn.thinking, turn.continues, turn.messages.len()),
            (Some(true), false, 2)
        );
        assert!(matches!(turn.format, Some(Grammar::JsonSchema(_))));
    }

    #[test]
    fn an_assistants_last_message_begins_the_reply() {
        let messages =
            json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": "{"}]);
        assert!(
            body(json!({"messages": messages}))
                .turn(None)
                .unwrap()
                .continues
        );
        let called = json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": [
            {"type": "tool_use", "id": "t", "name": "n", "input": {}}]}]);
        let error = body(json!({"messages": called})).turn(None).err().unwrap();
        assert_eq!(error.param.as_deref(), Some("messages"));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (given, place) in [
            (json!({"max_tokens": null}), "max_tokens"),
            (json!({"max_tokens": 0}), "max_tokens"),
            (json!({"temperature": 1.5}), "temperature"),
            (json!({"top_p": -1}), "top_p"),
            (json!({"stop_sequences": [""]}), "stop_sequences"),
            (json!({"stop_sequences": vec!["x"; 17]}), "stop_sequences"),
            (json!({"thinking": {"type": "always"}}), "thinking.type"),
            (
                json!({"thinking": {"type": "enabled", "budget_tokens": 0}}),
                "thinking.budget_tokens",
            ),
            (
                json!({"thinking": {"type": "enabled", "display": "no"}}),
                "thinking.display",
            ),
            (
                json!({"output_config": {"effort": "huge"}}),
                "output_config.effort",
            ),
            (
                json!({"output_config": {"format": {"type": "xml", "schema": {}}}}),
                "output_config.format.type",
            ),
            (
                json!({"output_format": {"type": "json_schema"}}),
                "output_format.schema",
            ),
            (json!({"service_tier": "priority"}), "service_tier"),
            (json!({"speed": "fast"}), "speed"),
            (json!({"system": 1}), "system"),
            (
                json!({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}),
                "context_management.edits[0]",
            ),
        ] {
            let error = body(given.clone()).turn(None).err().unwrap();
            assert_eq!(
                error.param.as_deref(),
                Some(place),
                "{given}: {}",
                error.message
            );
        }
        for name in ["container", "mcp_servers", "inference_geo", "n", "seed"] {
            let error = read::<MessagesRequest>(json!({"messages": [], name: 1})).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(name));
        }
    }
}
