//! The body of `/v1/responses`, read as a turn of a conversation.

use gannet_engine::requests::Grammar;
use gannet_engine::{GenerateOptions, Sampling};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::input::{messages, said};
use super::tools::{Tools, Use, tool_choice, tools};
use crate::sampling::random_seed;
use crate::server::body::read_at;
use crate::server::controls::{MOST_TOP, out_of_range, ranged};
use crate::server::conversation::Turn;
use crate::server::error::ApiError;
use crate::server::openai::asked::salt_of;

/// A request.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResponsesRequest {
    /// The model's name; the only one by default.
    model: Option<String>,
    /// A text, or the conversation so far as items.
    #[schema(value_type = Option<Object>)]
    input: Option<Value>,
    /// What the model is told first.
    instructions: Option<String>,
    /// Functions that the model may call; tools of other kinds are left out.
    tools: Option<Vec<Value>>,
    /// none, auto, required, or a function by name.
    #[schema(value_type = Option<Object>)]
    tool_choice: Option<Value>,
    /// Whether several calls may come at once.
    parallel_tool_calls: Option<bool>,
    /// Tokens to generate at most.
    #[schema(minimum = 1)]
    max_output_tokens: Option<u64>,
    /// 0 takes the most likely token; at most 2. Default: 1.
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f64>,
    /// Choose among the most likely tokens that together reach this probability.
    #[schema(minimum = 0, maximum = 1)]
    top_p: Option<f64>,
    /// What the text of the reply must be.
    text: Option<Text>,
    /// Whether the model is to think, where its template can.
    reasoning: Option<Reasoning>,
    /// How many of the most likely tokens to report; they come with `message.output_text.logprobs`.
    #[schema(minimum = 0, maximum = 20)]
    top_logprobs: Option<u64>,
    /// What is told beside the text.
    include: Option<Vec<String>>,
    /// Send the reply as it comes.
    stream: Option<bool>,
    #[serde(rename = "stream_options")]
    _stream_options: Option<StreamOptions>,
    /// Not supported but false: nothing is stored.
    store: Option<bool>,
    /// Not supported but null: nothing is stored.
    previous_response_id: Option<String>,
    /// Not supported but null: nothing is stored.
    #[schema(value_type = Option<Object>)]
    conversation: Option<Value>,
    /// Not supported but null: nothing is stored.
    #[schema(value_type = Option<Object>)]
    prompt: Option<Value>,
    /// Not supported but false.
    background: Option<bool>,
    /// disabled: a prompt that does not fit is refused.
    truncation: Option<String>,
    /// auto or default.
    service_tier: Option<String>,
    /// Calls of tools that the server runs; there are none.
    #[serde(rename = "max_tool_calls")]
    _max_tool_calls: Option<u64>,
    /// Told again in the answer.
    metadata: Option<Map<String, Value>>,
    /// Kept by nobody.
    #[serde(rename = "client_metadata")]
    _client_metadata: Option<Map<String, Value>>,
    /// Requests of other keys do not share prefixes of prompts with this one.
    prompt_cache_key: Option<String>,
    /// Prefixes are kept as long as there is room.
    #[serde(rename = "prompt_cache_retention")]
    _prompt_cache_retention: Option<String>,
    /// Whoever asks; nothing is done with it.
    #[serde(rename = "safety_identifier")]
    _safety_identifier: Option<String>,
    /// Whoever asks; nothing is done with it.
    #[serde(rename = "user")]
    _user: Option<String>,
}

/// What a stream has besides its text.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ResponsesStreamOptions)]
#[serde(deny_unknown_fields)]
struct StreamOptions {
    /// Padding against observers of lengths; there is none to leave out.
    #[serde(rename = "include_obfuscation")]
    _include_obfuscation: Option<bool>,
}

/// What the text of a reply must be.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = ResponsesText)]
#[serde(deny_unknown_fields)]
struct Text {
    /// text, `json_object` or `json_schema`.
    #[schema(value_type = Option<Object>)]
    format: Option<Value>,
    /// low, medium or high; models that run here have one measure.
    verbosity: Option<String>,
}

/// Whether a model thinks.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = ResponsesReasoning)]
#[serde(deny_unknown_fields)]
struct Reasoning {
    /// none turns thinking off where the model's template can; others leave it on.
    effort: Option<String>,
    /// Thoughts come as they are, not in short.
    summary: Option<String>,
    /// An older name of `summary`.
    generate_summary: Option<String>,
}

/// What can be told beside a text.
const INCLUDES: &[&str] = &[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "message.input_image.image_url",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
];

impl ResponsesRequest {
    /// The name of the model.
    pub(super) fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// Whether the reply is sent as it comes.
    pub(super) fn streams(&self) -> bool {
        self.stream == Some(true)
    }

    /// The tools.
    pub(super) fn tools(&self) -> Result<Tools, ApiError> {
        tools(self.tools.as_deref().unwrap_or_default())
    }

    fn check(&self) -> Result<(), ApiError> {
        let stored = "nothing is stored here; send the whole conversation as input";
        for (name, given, why) in [
            (
                "previous_response_id",
                self.previous_response_id.is_some(),
                stored,
            ),
            ("conversation", self.conversation.is_some(), stored),
            ("prompt", self.prompt.is_some(), stored),
            (
                "store",
                self.store == Some(true),
                "nothing is stored here; leave it out",
            ),
            (
                "background",
                self.background == Some(true),
                "there is no background; leave it out",
            ),
            (
                "truncation",
                !matches!(self.truncation.as_deref(), None | Some("disabled")),
                "conversations are never cut; leave it out",
            ),
            (
                "service_tier",
                !matches!(
                    self.service_tier.as_deref(),
                    None | Some("auto" | "default")
                ),
                "there are auto and default",
            ),
        ] {
            if given {
                return Err(ApiError::unsupported(name, why));
            }
        }
        self.check_words()
    }

    fn check_words(&self) -> Result<(), ApiError> {
        let text = self.text.as_ref();
        let reasoning = self.reasoning.as_ref();
        let summaries: &[&str] = &["auto", "concise", "detailed"];
        for (place, given, known) in [
            (
                "text.verbosity",
                text.and_then(|t| t.verbosity.as_deref()),
                &["low", "medium", "high"][..],
            ),
            (
                "reasoning.effort",
                reasoning.and_then(|r| r.effort.as_deref()),
                &["none", "minimal", "low", "medium", "high", "xhigh", "max"],
            ),
            (
                "reasoning.summary",
                reasoning.and_then(|r| r.summary.as_deref()),
                summaries,
            ),
            (
                "reasoning.generate_summary",
                reasoning.and_then(|r| r.generate_summary.as_deref()),
                summaries,
            ),
        ] {
            if given.is_some_and(|given| !known.contains(&given)) {
                let why = format!("{place}: expected one of {}", known.join(", "));
                return Err(ApiError::param(place, why));
            }
        }
        let mut includes = self.include.iter().flatten().enumerate();
        match includes.find(|(_, name)| !INCLUDES.contains(&name.as_str())) {
            Some((i, name)) => {
                let place = format!("include[{i}]");
                let why = format!(
                    "{place} is {name:?}; expected one of {}",
                    INCLUDES.join(", ")
                );
                Err(ApiError::param(place, why))
            }
            None => Ok(()),
        }
    }

    fn log_probs(&self) -> Result<Option<usize>, ApiError> {
        let wanted = self
            .include
            .iter()
            .flatten()
            .any(|name| name == INCLUDES[0]);
        match self.top_logprobs {
            Some(most) if most > MOST_TOP => Err(out_of_range("top_logprobs", most, "0 to 20")),
            Some(most) if wanted || most > 0 => Ok(Some(most as usize)),
            _ => Ok(wanted.then_some(0)),
        }
    }

    fn format(&self) -> Result<Option<Grammar>, ApiError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Format {
            #[serde(rename = "type")]
            kind: String,
            schema: Option<Map<String, Value>>,
            #[serde(rename = "name")]
            _name: Option<String>,
            #[serde(rename = "description")]
            _description: Option<String>,
            #[serde(rename = "strict")]
            _strict: Option<bool>,
        }
        let given = self.text.as_ref().and_then(|text| text.format.as_ref());
        let Some(given) = given.filter(|format| !format.is_null()) else {
            return Ok(None);
        };
        let format: Format = read_at(given.clone(), "text.format")?;
        match (format.kind.as_str(), format.schema) {
            ("text", None) => Ok(None),
            ("json_object", None) => Ok(Some(Grammar::JsonObject)),
            ("json_schema", Some(schema)) => {
                Ok(Some(Grammar::JsonSchema(Value::Object(schema).to_string())))
            }
            ("json_schema", None) => {
                let missing =
                    ApiError::param("text.format.schema", "text.format.schema is missing");
                Err(missing.code("missing_required_parameter"))
            }
            ("text" | "json_object", Some(_)) => {
                let why = "text.format.schema means nothing without type json_schema";
                Err(ApiError::param("text.format.schema", why))
            }
            (kind, _) => {
                let why = format!(
                    "text.format.type is {kind:?}; expected text, json_object or json_schema"
                );
                Err(ApiError::param("text.format.type", why))
            }
        }
    }

    fn options(&self) -> Result<GenerateOptions, ApiError> {
        let max_tokens = match self.max_output_tokens {
            Some(0) => return Err(out_of_range("max_output_tokens", 0, "at least 1")),
            Some(most) => usize::try_from(most).unwrap_or(usize::MAX),
            None => usize::MAX,
        };
        let top_p = ranged("top_p", self.top_p, 1.0, 0.0..=1.0)?;
        let sampling = Sampling {
            temperature: ranged("temperature", self.temperature, 1.0, 0.0..=2.0)?,
            // No probability at all leaves the most likely token.
            top_k: usize::from(top_p == 0.0),
            top_p: if top_p == 0.0 { 1.0 } else { top_p },
            seed: random_seed(),
            ..Sampling::default()
        };
        Ok(GenerateOptions {
            max_tokens,
            sampling,
            ..GenerateOptions::default()
        })
    }

    /// Reads it all but the time that it may take.
    pub(super) fn turn(&self, tools: &Tools) -> Result<Turn, ApiError> {
        self.check()?;
        let Some(input) = &self.input else {
            let missing = ApiError::param("input", "input is missing");
            return Err(missing.code("missing_required_parameter"));
        };
        let mut messages = messages(input)?;
        if let Some(instructions) = self.instructions.as_ref().filter(|text| !text.is_empty()) {
            messages.insert(0, said("system", instructions.clone()));
        }
        let used = tool_choice(self.tool_choice.as_ref(), &tools.known)?;
        let effort = self.reasoning.as_ref().and_then(|r| r.effort.as_deref());
        Ok(Turn {
            messages,
            tools: match used {
                Use::Never => Vec::new(),
                _ => tools.known.clone(),
            },
            tool_choice: match used {
                Use::Must(choice) => Some(choice),
                Use::Never | Use::AsItLikes => None,
            },
            parallel: self.parallel_tool_calls.unwrap_or(true),
            whole_calls: !self.streams(),
            format: self.format()?,
            format_param: Some("text.format"),
            thinking: effort.map(|effort| effort != "none"),
            options: self.options()?,
            log_probs: self.log_probs()?,
            salt: self.prompt_cache_key.as_deref().map_or(0, salt_of),
            n: 1,
            ..Turn::default()
        })
    }

    /// What the answer tells again.
    pub(super) fn echo(&self, tools: &Tools) -> Map<String, Value> {
        let format = self.text.as_ref().and_then(|text| text.format.clone());
        let effort = self.reasoning.as_ref().and_then(|r| r.effort.clone());
        let echo = json!({
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "metadata": self.metadata.clone().unwrap_or_default(),
            "parallel_tool_calls": self.parallel_tool_calls.unwrap_or(true),
            "previous_response_id": null,
            "reasoning": {"effort": effort, "summary": null},
            "service_tier": "default",
            "store": false,
            "temperature": self.temperature.unwrap_or(1.0),
            "text": {"format": format.unwrap_or_else(|| json!({"type": "text"}))},
            "tool_choice": self.tool_choice.clone().unwrap_or_else(|| json!("auto")),
            "tools": tools.shown,
            "top_logprobs": self.top_logprobs.unwrap_or(0),
            "top_p": self.top_p.unwrap_or(1.0),
            "truncation": "disabled",
        });
        match echo {
            Value::Object(echo) => echo,
            _ => Map::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::body::read;

    fn turn(with: Value) -> Result<Turn, ApiError> {
        let mut body = json!({"input": "x"});
        for (name, value) in with.as_object().unwrap() {
            body[name] = value.clone();
        }
        let request: ResponsesRequest = read(body)?;
        let tools = request.tools()?;
        request.turn(&tools)
    }

    #[test]
    fn parameters_become_a_turn() {
        let read = turn(json!({
            "instructions": "Be brief.", "max_output_tokens": 5, "temperature": 0, "top_logprobs": 2,
            "include": ["reasoning.encrypted_content"], "reasoning": {"effort": "none", "summary": "auto"},
            "text": {"format": {"type": "json_schema", "name": "n", "schema": {}}, "verbosity": "low"},
            "tools": [{"type": "web_search"}, {"type": "function", "name": "look"}], "tool_choice": "required",
            "store": false, "stream": true, "truncation": "disabled", "client_metadata": {"a": 1},
        }))
        .unwrap();
        assert_eq!(
            (
                read.messages.len(),
                read.tools.len(),
                read.options.max_tokens
            ),
            (2, 1, 5)
        );
        assert_eq!((read.thinking, read.log_probs), (Some(false), Some(2)));
        assert!(matches!(read.format, Some(Grammar::JsonSchema(_))));
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        for (given, place) in [
            (json!({"input": null}), "input"),
            (
                json!({"previous_response_id": "resp_1"}),
                "previous_response_id",
            ),
            (json!({"conversation": "conv_1"}), "conversation"),
            (json!({"prompt": {"id": "p"}}), "prompt"),
            (json!({"store": true}), "store"),
            (json!({"background": true}), "background"),
            (json!({"truncation": "auto"}), "truncation"),
            (json!({"service_tier": "flex"}), "service_tier"),
            (json!({"max_output_tokens": 0}), "max_output_tokens"),
            (json!({"temperature": 3}), "temperature"),
            (json!({"top_logprobs": 21}), "top_logprobs"),
            (json!({"include": ["other"]}), "include[0]"),
            (json!({"reasoning": {"effort": "huge"}}), "reasoning.effort"),
            (json!({"text": {"verbosity": "x"}}), "text.verbosity"),
            (
                json!({"text": {"format": {"type": "json_schema"}}}),
                "text.format.schema",
            ),
            (
                json!({"text": {"format": {"type": "xml"}}}),
                "text.format.type",
            ),
            (json!({"stop": "x"}), "stop"),
        ] {
            let error = turn(given.clone()).err().unwrap();
            assert_eq!(
                error.param.as_deref(),
                Some(place),
                "{given}: {}",
                error.message
            );
        }
    }
}
