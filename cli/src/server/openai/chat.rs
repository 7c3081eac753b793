//! `/v1/chat/completions`: a turn of a conversation.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use gannet_engine::chat::parse_messages;
use gannet_engine::requests::Grammar;
use gannet_engine::tool_calls::ReplyPart;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::asked::{response_format, salt_of, tools};
use super::{StreamOptions, Usage, finish_reason, log_probs, new_id};
use crate::server::app::App;
use crate::server::body::Object;
use crate::server::controls::{Controls, MOST_TOP, out_of_range};
use crate::server::conversation::{Call, Replies, Reply, Turn, Whole};
use crate::server::error::{ApiError, Dialect};
use crate::server::generation::Token;
use crate::server::loaded::Loaded;
use crate::server::sse::{self, Gone, Sink};
use crate::times::unix_seconds;

/// A request; it also has the parameters of `Controls`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChatRequest {
    /// The model's name; the only one by default.
    model: Option<String>,
    /// The conversation so far: roles and texts, calls of tools and their results.
    messages: Vec<Value>,
    /// Send the reply as it comes.
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    /// Report log-probabilities of tokens.
    #[serde(default)]
    logprobs: Option<bool>,
    /// How many of the most likely tokens to report with each token.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 20)]
    top_logprobs: Option<u64>,
    /// What the text of the reply must be: text, any JSON object, or JSON of a schema.
    #[serde(default)]
    response_format: Option<Value>,
    /// A regular expression that the whole reply must match.
    #[serde(default)]
    guided_regex: Option<String>,
    /// A grammar in Lark's notation that the whole reply must match.
    #[serde(default)]
    guided_grammar: Option<String>,
    /// Functions that the model may call.
    #[serde(default)]
    tools: Option<Vec<Value>>,
    /// none, auto, required, or a function by name.
    #[serde(default)]
    tool_choice: Option<Value>,
    /// Whether several calls may come at once.
    #[serde(default)]
    parallel_tool_calls: Option<bool>,
    /// Variables of the chat template.
    #[serde(default)]
    chat_template_kwargs: Option<Map<String, Value>>,
    /// none turns thinking off where the model's template can; others leave it on.
    #[serde(default)]
    reasoning_effort: Option<ReasoningEffort>,
    /// Only text.
    #[serde(default)]
    modalities: Option<Vec<String>>,
    /// Nothing is stored.
    #[serde(default)]
    store: Option<bool>,
    /// Kept by nobody.
    #[serde(default)]
    #[expect(dead_code, reason = "nothing is done with it")]
    metadata: Option<Map<String, Value>>,
    /// auto or default.
    #[serde(default)]
    service_tier: Option<String>,
    /// Requests of other keys do not share prefixes of prompts with this one.
    #[serde(default)]
    prompt_cache_key: Option<String>,
    /// Whoever asks; nothing is done with it.
    #[serde(default)]
    #[expect(dead_code, reason = "nothing is done with it")]
    safety_identifier: Option<String>,
}

/// How much a model is to think.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ReasoningEffort {
    /// Not at all.
    None,
    /// As little as it can.
    Minimal,
    /// Little.
    Low,
    /// As it likes.
    Medium,
    /// Much.
    High,
}

impl ChatRequest {
    fn check(&self) -> Result<(), ApiError> {
        if self.messages.is_empty() {
            return Err(ApiError::param(
                "messages",
                "messages is empty; give at least one",
            ));
        }
        if self.store == Some(true) {
            return Err(ApiError::unsupported(
                "store",
                "nothing is stored here; leave it out",
            ));
        }
        if self.modalities.iter().flatten().any(|m| m != "text") {
            return Err(ApiError::unsupported(
                "modalities",
                "replies are text; leave it out",
            ));
        }
        let tiers = [None, Some("auto"), Some("default")];
        if !tiers.contains(&self.service_tier.as_deref()) {
            return Err(ApiError::unsupported(
                "service_tier",
                "there are auto and default",
            ));
        }
        if self.stream_options.is_some() && self.stream != Some(true) {
            let why = "stream_options means nothing without stream";
            return Err(ApiError::param("stream_options", why));
        }
        Ok(())
    }

    fn log_probs(&self) -> Result<Option<usize>, ApiError> {
        match (self.logprobs.unwrap_or(false), self.top_logprobs) {
            (_, Some(most)) if most > MOST_TOP => {
                Err(out_of_range("top_logprobs", most, "0 to 20"))
            }
            (false, Some(most)) if most > 0 => {
                let why = "top_logprobs needs logprobs: true";
                Err(ApiError::param("top_logprobs", why))
            }
            (false, _) => Ok(None),
            (true, most) => Ok(Some(most.unwrap_or(0) as usize)),
        }
    }

    fn format(&self) -> Result<Option<Grammar>, ApiError> {
        let format = match &self.response_format {
            Some(format) if !format.is_null() => response_format(format)?,
            _ => None,
        };
        let regex = self.guided_regex.clone().map(Grammar::Regex);
        let lark = self.guided_grammar.clone().map(Grammar::Lark);
        let mut given = [format, regex, lark].into_iter().flatten();
        match (given.next(), given.next()) {
            (_, Some(_)) => {
                let why = "a reply can match one of response_format, guided_regex and guided_grammar; \
                           leave the others out";
                Err(ApiError::param("response_format", why))
            }
            (one, None) => Ok(one),
        }
    }

    /// Reads it all.
    fn turn(self, controls: &Controls, model: &Loaded) -> Result<Turn, ApiError> {
        self.check()?;
        let messages = Value::Array(self.messages.clone()).to_string();
        let messages = parse_messages(&messages).map_err(ApiError::from)?;
        let (tools, tool_choice) = tools(self.tools.as_deref(), self.tool_choice.as_ref())?;
        if self.guided_regex.is_some() && !tools.is_empty() {
            let why =
                "a reply that may call tools cannot match one expression; leave one of them out";
            return Err(ApiError::param("guided_regex", why));
        }
        let variables = self.chat_template_kwargs.iter().flatten();
        Ok(Turn {
            messages,
            tools,
            tool_choice,
            parallel: self.parallel_tool_calls.unwrap_or(true),
            format_param: match (&self.guided_regex, &self.guided_grammar) {
                (Some(_), _) => Some("guided_regex"),
                (None, Some(_)) => Some("guided_grammar"),
                (None, None) => Some("response_format"),
            },
            format: self.format()?,
            thinking: self
                .reasoning_effort
                .map(|effort| effort != ReasoningEffort::None),
            continues: false,
            whole_calls: self.stream != Some(true),
            variables: variables
                .map(|(name, value)| (name.clone(), value.to_string()))
                .collect(),
            options: controls.options(usize::MAX)?,
            n: controls.choices()?,
            logit_bias: controls.logit_bias(model.model())?,
            log_probs: self.log_probs()?,
            min_tokens: controls.min_tokens(),
            priority: controls.priority(),
            salt: self.prompt_cache_key.as_deref().map_or(0, salt_of),
            deadline: None,
        })
    }
}

/// What every chunk and the whole answer begin with.
struct Head {
    id: String,
    created: u64,
    model: Arc<Loaded>,
    log_probs: bool,
}

impl Head {
    fn json(&self, object: &str, choices: Value) -> Value {
        json!({
            "id": self.id, "object": object, "created": self.created,
            "model": self.model.id(), "choices": choices,
        })
    }

    fn chunk(&self, index: usize, delta: Value, log_probs: Value, finish: Option<&str>) -> Value {
        self.json(
            "chat.completion.chunk",
            json!([{
                "index": index, "delta": delta, "logprobs": log_probs, "finish_reason": finish,
            }]),
        )
    }

    fn log_probs(&self, tokens: &[Token]) -> Value {
        if !self.log_probs {
            return Value::Null;
        }
        let tokenizer = self.model.model().tokenizer();
        let content: Vec<Value> = (tokens.iter())
            .filter_map(|token| log_probs::of_chat(tokenizer, token))
            .collect();
        json!({"content": content, "refusal": null})
    }
}

/// A turn of a conversation.
#[utoipa::path(post, path = "/v1/chat/completions", tag = "openai", request_body = ChatBody, responses(
    (status = 200, description = "The reply, whole or as events", body = Value),
))]
pub(crate) async fn create(State(app): State<App>, mut body: Object) -> Result<Response, ApiError> {
    let controls: Controls = body.part(Controls::NAMES)?;
    let request: ChatRequest = body.rest()?;
    let model = app.models.get(request.model.as_deref()).await?;
    let streams = request.stream == Some(true);
    let with_usage = request.stream_options.and_then(|o| o.include_usage) == Some(true);
    let mut turn = request.turn(&controls, &model)?;
    turn.deadline = app.config.timeout;
    let head = Head {
        id: new_id("chatcmpl-"),
        created: unix_seconds(),
        log_probs: turn.log_probs.is_some(),
        model: Arc::clone(&model),
    };
    let replies = turn.start(&model).await?;
    let usage = Usage::new(replies.prompt_tokens());
    if streams {
        return Ok(sse::events(move |sink| async move {
            stream(&sink, replies, &head, usage, with_usage).await
        }));
    }
    let wholes = replies.collect().await?;
    Ok(Json(whole(&head, wholes, usage)).into_response())
}

fn call_json(call: &Call) -> Value {
    json!({
        "id": call.id, "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    })
}

/// The answer in one piece.
fn whole(head: &Head, wholes: Vec<Whole>, mut usage: Usage) -> Value {
    let mut choices = Vec::new();
    for (i, whole) in wholes.into_iter().enumerate() {
        let Some(generation) = &whole.generation else {
            continue;
        };
        usage.add(generation, i == 0);
        let mut message = json!({"role": "assistant", "content": whole.text, "refusal": null});
        if !whole.reasoning.is_empty() {
            message["reasoning_content"] = json!(whole.reasoning);
        }
        let mut finish = finish_reason(generation.finish);
        if !whole.calls.is_empty() {
            finish = "tool_calls";
            message["tool_calls"] = whole.calls.iter().map(call_json).collect();
            if whole.text.is_empty() {
                message["content"] = Value::Null;
            }
        }
        choices.push(json!({
            "index": i, "message": message, "logprobs": head.log_probs(&whole.tokens),
            "finish_reason": finish,
        }));
    }
    let mut answer = head.json("chat.completion", Value::Array(choices));
    answer["usage"] = usage.json();
    answer
}

/// What a part adds to a message.
fn delta(part: &ReplyPart) -> Option<Value> {
    Some(match part {
        ReplyPart::Text(text) => json!({"content": text}),
        ReplyPart::Reasoning(text) => json!({"reasoning_content": text}),
        ReplyPart::CallStart { index, id, name } => json!({"tool_calls": [{
            "index": index, "id": id, "type": "function",
            "function": {"name": name, "arguments": ""},
        }]}),
        ReplyPart::CallArguments { index, delta } => json!({"tool_calls": [{
            "index": index, "function": {"arguments": delta},
        }]}),
        _ => return None,
    })
}

/// The answer piece by piece.
async fn stream(
    sink: &Sink,
    mut replies: Replies,
    head: &Head,
    mut usage: Usage,
    with_usage: bool,
) -> Result<(), Gone> {
    let choices = replies.count();
    let mut calls = vec![false; choices];
    // Such as no chunk has told of.
    let mut tokens: Vec<Vec<Token>> = Vec::new();
    tokens.resize_with(choices, Vec::new);
    for index in 0..choices {
        let role = json!({"role": "assistant", "content": ""});
        sink.data(&head.chunk(index, role, Value::Null, None))
            .await?;
    }
    while let Some(next) = replies.next().await {
        let (index, reply) = match next {
            Ok(next) => next,
            // Nothing follows: no end that looks like a good one.
            Err(error) => {
                sink.fail();
                return sink.data(&error.body(Dialect::OpenAi)).await;
            }
        };
        let chunk = match reply {
            Reply::Token(token) => {
                tokens[index].push(token);
                continue;
            }
            Reply::Part(part) => {
                calls[index] |= matches!(part, ReplyPart::CallStart { .. });
                let Some(delta) = delta(&part) else {
                    continue;
                };
                let log_probs = head.log_probs(&std::mem::take(&mut tokens[index]));
                head.chunk(index, delta, log_probs, None)
            }
            Reply::End(generation) => {
                let left = std::mem::take(&mut tokens[index]);
                if !left.is_empty() {
                    let chunk = head.chunk(index, json!({}), head.log_probs(&left), None);
                    sink.data(&chunk).await?;
                }
                usage.add(&generation, index == 0);
                let finish = match calls[index] {
                    true => "tool_calls",
                    false => finish_reason(generation.finish),
                };
                head.chunk(index, json!({}), Value::Null, Some(finish))
            }
        };
        sink.data(&chunk).await?;
    }
    if with_usage {
        let mut last = head.json("chat.completion.chunk", json!([]));
        last["usage"] = usage.json();
        sink.data(&last).await?;
    }
    sink.done().await
}

/// The whole body of a request, for the document.
#[derive(ToSchema)]
#[expect(dead_code, reason = "read in two parts")]
pub(crate) struct ChatBody {
    #[schema(inline)]
    #[serde(flatten)]
    request: ChatRequest,
    #[schema(inline)]
    #[serde(flatten)]
    controls: Controls,
}
