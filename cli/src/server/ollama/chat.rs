//! `/api/chat`: a turn of a conversation.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use gannet_engine::chat::parse_tools;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::answer::Route;
use super::keep::KeepAlive;
use super::messages::messages;
use super::options::{Options, format, think};
use super::shown::{Asked, log_probs};
use crate::server::app::App;
use crate::server::body::Untyped;
use crate::server::conversation::Turn;
use crate::server::error::ApiError;

/// A request.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChatRequest {
    /// The model's name.
    model: String,
    /// The conversation so far; without any the model is loaded, or with `keep_alive` 0 unloaded.
    messages: Option<Vec<Value>>,
    /// Functions that the model may call.
    tools: Option<Vec<Value>>,
    /// Send the reply as it comes. Default: true.
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
    /// Not supported but false: conversations are never cut.
    truncate: Option<bool>,
    /// Not supported but false: contexts never move on.
    shift: Option<bool>,
}

impl ChatRequest {
    fn turn(self, messages: Vec<Value>) -> Result<Turn, ApiError> {
        for (name, given) in [("truncate", self.truncate), ("shift", self.shift)] {
            if given == Some(true) {
                return Err(ApiError::unsupported(
                    name,
                    "conversations are never cut; leave it out",
                ));
            }
        }
        let messages = self::messages(messages)?;
        let continues = messages.last().is_some_and(|last| last.role == "assistant");
        let tools = Value::Array(self.tools.unwrap_or_default());
        Ok(Turn {
            messages,
            tools: parse_tools(&tools.to_string())?,
            parallel: true,
            whole_calls: true,
            format: format(self.format.as_ref())?,
            format_param: Some("format"),
            thinking: think(self.think.as_ref())?,
            log_probs: log_probs(self.logprobs, self.top_logprobs)?,
            continues,
            n: 1,
            ..Turn::default()
        })
    }
}

/// A turn of a conversation, in Ollama's words.
#[utoipa::path(post, path = "/api/chat", tag = "ollama",
               request_body(content = inline(ChatRequest)), responses(
    (status = 200, description = "The reply, as lines of JSON or whole", body = Value),
))]
pub(crate) async fn create(
    State(app): State<App>,
    Untyped(body): Untyped,
) -> Result<Response, ApiError> {
    let mut request: ChatRequest = body.rest()?;
    let keep_alive = request.keep_alive.take();
    let name = std::mem::take(&mut request.model);
    let asked = Asked {
        name: &name,
        keep_alive: keep_alive.as_ref(),
        route: Route::Chat,
    };
    let given = request.messages.take().unwrap_or_default();
    if given.is_empty() {
        return Ok(Json(asked.nothing(&app).await?).into_response());
    }
    let head = asked.head(&app).await?;
    let streams = request.stream != Some(false);
    let options = request.options.take().unwrap_or_default();
    let mut turn = request.turn(given)?;
    turn.options = options.read(head.model.engine().context())?;
    turn.deadline = app.config.timeout;
    let replies = turn.start(&head.model).await?;
    head.answer(replies, streams).await
}
