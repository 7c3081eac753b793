//! Text to tokens and back, and the text of a conversation's prompt.

use axum::Json;
use axum::extract::State;
use gannet_engine::chat::{parse_messages, parse_tools};
use gannet_engine::tokenizer::{DecodeOptions, EncodeOptions};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::app::App;
use super::body::Object;
use super::conversation::Turn;
use super::error::ApiError;

/// Text to be cut into tokens.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenizeRequest {
    /// The model's name; the only one by default.
    model: Option<String>,
    /// The text.
    content: String,
    /// Whether the token that begins a text is added, where the model's file says so.
    #[serde(default)]
    add_special: Option<bool>,
    /// Whether special tokens are read in the text. Default: true.
    #[serde(default)]
    parse_special: Option<bool>,
}

/// Tokens of a text.
#[utoipa::path(post, path = "/tokenize", tag = "text", request_body = TokenizeRequest, responses(
    (status = 200, description = "Their ids", body = Value),
))]
pub(crate) async fn tokenize(
    State(app): State<App>,
    body: Object,
) -> Result<Json<Value>, ApiError> {
    let request: TokenizeRequest = body.rest()?;
    let model = app.models.get(request.model.as_deref()).await?;
    let options = EncodeOptions {
        add_special: request.add_special.unwrap_or(false),
        parse_special: request.parse_special.unwrap_or(true),
    };
    let tokens = model.model().tokenizer().encode(&request.content, options);
    Ok(Json(json!({"tokens": tokens, "count": tokens.len()})))
}

/// Tokens to be made text.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DetokenizeRequest {
    /// The model's name; the only one by default.
    model: Option<String>,
    /// The tokens.
    tokens: Vec<u32>,
    /// Whether control tokens are written.
    #[serde(default)]
    special: Option<bool>,
}

/// Text of tokens.
#[utoipa::path(post, path = "/detokenize", tag = "text", request_body = DetokenizeRequest, responses(
    (status = 200, description = "The text", body = Value),
))]
pub(crate) async fn detokenize(
    State(app): State<App>,
    body: Object,
) -> Result<Json<Value>, ApiError> {
    let request: DetokenizeRequest = body.rest()?;
    let model = app.models.get(request.model.as_deref()).await?;
    let checked = model.model().check_tokens(&request.tokens);
    checked.map_err(|e| ApiError::param("tokens", e.to_string()))?;
    let options = DecodeOptions {
        special: request.special.unwrap_or(true),
    };
    let content = model.model().tokenizer().decode(&request.tokens, options);
    Ok(Json(json!({"content": content})))
}

/// A conversation to be written as a prompt.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApplyTemplateRequest {
    /// The model's name; the only one by default.
    model: Option<String>,
    /// The conversation so far.
    messages: Vec<Value>,
    /// Functions that the model may call.
    #[serde(default)]
    tools: Option<Vec<Value>>,
    /// Variables of the template.
    #[serde(default)]
    chat_template_kwargs: Option<Map<String, Value>>,
}

/// The prompt of a conversation.
#[utoipa::path(post, path = "/apply-template", tag = "text", request_body = ApplyTemplateRequest, responses(
    (status = 200, description = "The prompt and its tokens", body = Value),
))]
pub(crate) async fn apply_template(
    State(app): State<App>,
    body: Object,
) -> Result<Json<Value>, ApiError> {
    let request: ApplyTemplateRequest = body.rest()?;
    let model = app.models.get(request.model.as_deref()).await?;
    let tools = Value::Array(request.tools.unwrap_or_default());
    let variables = request.chat_template_kwargs.unwrap_or_default();
    let turn = Turn {
        messages: parse_messages(&Value::Array(request.messages).to_string())?,
        tools: parse_tools(&tools.to_string())?,
        variables: variables
            .into_iter()
            .map(|(name, value)| (name, value.to_string()))
            .collect(),
        ..Turn::default()
    };
    let prompt = turn.prompt(&model)?;
    Ok(Json(json!({
        "prompt": prompt.text, "tokens": prompt.tokens, "count": prompt.tokens.len(),
    })))
}
