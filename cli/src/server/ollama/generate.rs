//! `/api/generate`: a prompt, alone or as the only message of a conversation.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use gannet_engine::chat::Message;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::answer::Route;
use super::keep::KeepAlive;
use super::options::{Options, format, think};
use super::shown::{Asked, log_probs};
use crate::server::app::App;
use crate::server::body::Untyped;
use crate::server::conversation::Turn;
use crate::server::error::ApiError;

/// A request.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct GenerateRequest {
    /// The model's name.
    model: String,
    /// The prompt; without one the model is loaded, or with `keep_alive` 0 unloaded.
    prompt: Option<String>,
    /// What the model is told first.
    system: Option<String>,
    /// Take the prompt as it is, without the model's template.
    raw: Option<bool>,
    /// Send the text as it comes. Default: true.
    stream: Option<bool>,
    /// Whether the model is to think, where it can.
    #[schema(value_type = Option<Object>)]
    think: Option<Value>,
    /// json, or a schema that the text is to match.
    #[schema(value_type = Option<Object>)]
    format: Option<Value>,
    options: Option<Options>,
    keep_alive: Option<KeepAlive>,
    /// Report log-probabilities of tokens.
    logprobs: Option<bool>,
    /// How many of the most likely tokens to report with each token.
    #[schema(minimum = 0, maximum = 20)]
    top_logprobs: Option<u64>,
    /// Not supported but empty: models here have no infilling.
    suffix: Option<String>,
    /// Not supported but empty.
    images: Option<Vec<Value>>,
    /// Not supported but empty: the server has the template.
    template: Option<String>,
    /// Not supported but empty: send the text of earlier replies.
    context: Option<Vec<u64>>,
    /// Not supported but false: prompts are never cut.
    truncate: Option<bool>,
    /// Not supported but false: contexts never move on.
    shift: Option<bool>,
}

impl GenerateRequest {
    fn check(&self) -> Result<(), ApiError> {
        let some = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        for (name, given, why) in [
            (
                "suffix",
                some(&self.suffix),
                "there is no infilling here; leave it out",
            ),
            (
                "template",
                some(&self.template),
                "start the server with --chat-template, or use raw",
            ),
            (
                "images",
                self.images.iter().flatten().next().is_some(),
                "only text is supported",
            ),
            (
                "context",
                self.context.iter().flatten().next().is_some(),
                "send earlier texts by /api/chat",
            ),
            (
                "truncate",
                self.truncate == Some(true),
                "prompts are never cut; leave it out",
            ),
            (
                "shift",
                self.shift == Some(true),
                "contexts never move on; leave it out",
            ),
            (
                "system",
                some(&self.system) && self.raw == Some(true),
                "a raw prompt has none; leave it out",
            ),
        ] {
            if given {
                return Err(ApiError::unsupported(name, why));
            }
        }
        Ok(())
    }

    /// The turn, but for what it is made of.
    fn turn(&self) -> Result<Turn, ApiError> {
        let message = |role: &str, content: &str| Message {
            role: role.to_owned(),
            content: Some(content.to_owned()),
            ..Message::default()
        };
        let system = self.system.as_deref().filter(|system| !system.is_empty());
        let mut messages: Vec<Message> =
            system.iter().map(|text| message("system", text)).collect();
        messages.push(message("user", self.prompt.as_deref().unwrap_or_default()));
        Ok(Turn {
            messages,
            format: format(self.format.as_ref())?,
            format_param: Some("format"),
            thinking: think(self.think.as_ref())?,
            log_probs: log_probs(self.logprobs, self.top_logprobs)?,
            n: 1,
            ..Turn::default()
        })
    }
}

/// A text that goes on from a prompt.
#[utoipa::path(post, path = "/api/generate", tag = "ollama", request_body = GenerateRequest, responses(
    (status = 200, description = "The text, as lines of JSON or whole", body = Value),
))]
pub(crate) async fn create(
    State(app): State<App>,
    Untyped(body): Untyped,
) -> Result<Response, ApiError> {
    let request: GenerateRequest = body.rest()?;
    request.check()?;
    let is_empty = request.prompt.as_deref().unwrap_or_default().is_empty();
    let asked = Asked {
        name: &request.model,
        keep_alive: request.keep_alive.as_ref(),
        route: Route::Generate,
    };
    let head = match is_empty {
        true => return Ok(Json(asked.nothing(&app).await?).into_response()),
        false => asked.head(&app).await?,
    };
    let model = &head.model;
    let mut turn = request.turn()?;
    let options = request.options.unwrap_or_default();
    turn.options = options.read(model.engine().context())?;
    turn.deadline = app.config.timeout;
    // What no template says how to write is gone on with as it is.
    let bare = request.raw == Some(true) || (turn.messages.len() == 1 && model.template().is_err());
    let replies = match bare {
        true => {
            turn.start_bare(&request.prompt.unwrap_or_default(), model)
                .await?
        }
        false => turn.start(model).await?,
    };
    head.answer(replies, request.stream != Some(false)).await
}
