//! `/v1/responses`: a turn of a conversation as items.
//!
//! Nothing is stored: a conversation goes on with what its client sends ([`input`]). What comes of a turn is
//! collected by [`items`], whole and as events alike, so that an item has one id wherever it is told of.

mod answer;
mod input;
mod items;
mod request;
mod tools;

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use self::answer::Head;
use self::items::Items;
use self::request::ResponsesRequest;
use super::{Usage, new_id};
use crate::server::app::App;
use crate::server::body::Object;
use crate::server::conversation::{Replies, Reply};
use crate::server::error::ApiError;
use crate::server::sse::{self, Gone, Sink};
use crate::times::unix_seconds;

/// A turn of a conversation.
#[utoipa::path(post, path = "/v1/responses", tag = "openai", request_body = ResponsesRequest, responses(
    (status = 200, description = "The reply's items, whole or as events", body = Value),
))]
pub(crate) async fn create(State(app): State<App>, body: Object) -> Result<Response, ApiError> {
    let request: ResponsesRequest = body.rest()?;
    let model = app.models.get(request.model()).await?;
    let tools = request.tools()?;
    if !tools.unknown.is_empty() {
        let ignored = tools.unknown.join(", ");
        tracing::warn!(
            ignored_tools = ignored,
            "tools of kinds that nothing here runs are left out"
        );
    }
    let mut turn = request.turn(&tools)?;
    turn.deadline = app.config.timeout;
    let head = Head {
        id: new_id("resp_"),
        created: unix_seconds(),
        model: Arc::clone(&model),
        echo: request.echo(&tools),
    };
    let replies = turn.start(&model).await?;
    if request.streams() {
        return Ok(sse::events(move |sink| async move {
            stream(&sink, replies, &head).await
        }));
    }
    whole(replies, &head).await.map(IntoResponse::into_response)
}

/// The answer in one piece.
async fn whole(mut replies: Replies, head: &Head) -> Result<Json<Value>, ApiError> {
    let mut usage = Usage::new(replies.prompt_tokens());
    let mut items = Items::new(Arc::clone(&head.model));
    while let Some(next) = replies.next().await {
        match next?.1 {
            Reply::Token(token) => items.token(token),
            Reply::Part(part) => drop(items.part(part)),
            Reply::End(generation) => {
                items.end(answer::is_cut(&generation));
                usage.add(&generation, true);
                return Ok(Json(head.ended(&items, &generation, &usage)));
            }
        }
    }
    Err(ApiError::internal("the reply has no end"))
}

/// Writes events, each with its number.
struct Events<'a> {
    sink: &'a Sink,
    next: u64,
}

impl Events<'_> {
    async fn send(&mut self, kind: &str, mut event: Value) -> Result<(), Gone> {
        event["type"] = json!(kind);
        event["sequence_number"] = json!(self.next);
        self.next += 1;
        self.sink.event(kind, &event).await
    }

    async fn send_all(&mut self, events: Vec<(&'static str, Value)>) -> Result<(), Gone> {
        for (kind, event) in events {
            self.send(kind, event).await?;
        }
        Ok(())
    }
}

/// The answer as events.
async fn stream(sink: &Sink, mut replies: Replies, head: &Head) -> Result<(), Gone> {
    let mut usage = Usage::new(replies.prompt_tokens());
    let mut items = Items::new(Arc::clone(&head.model));
    let mut events = Events { sink, next: 0 };
    for kind in ["response.created", "response.in_progress"] {
        events.send(kind, json!({"response": head.begun()})).await?;
    }
    while let Some(next) = replies.next().await {
        let reply = match next {
            Ok((_, reply)) => reply,
            // Nothing follows: no end that looks like a good one.
            Err(error) => {
                sink.fail();
                let event =
                    json!({"code": error.code, "message": error.message, "param": error.param});
                return events.send("error", event).await;
            }
        };
        match reply {
            Reply::Token(token) => items.token(token),
            Reply::Part(part) => events.send_all(items.part(part)).await?,
            Reply::End(generation) => {
                let is_cut = answer::is_cut(&generation);
                events.send_all(items.end(is_cut)).await?;
                usage.add(&generation, true);
                let kind = if is_cut {
                    "response.incomplete"
                } else {
                    "response.completed"
                };
                let response = head.ended(&items, &generation, &usage);
                events.send(kind, json!({"response": response})).await?;
            }
        }
    }
    Ok(())
}
