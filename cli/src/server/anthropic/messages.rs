//! `/v1/messages`: a turn of a conversation, and the tokens that its prompt would take.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::request::MessagesRequest;
use super::{answer, stream};
use crate::server::app::App;
use crate::server::body::Object;
use crate::server::error::ApiError;
use crate::server::openai::new_id;
use crate::server::sse;

/// The first version of the interface.
const FIRST_VERSION: &str = "2023-01-01";

/// Whether a text is a day: `2023-06-01`.
fn is_day(text: &str) -> bool {
    let fits = |(i, c): (usize, char)| match i {
        4 | 7 => c == '-',
        _ => c.is_ascii_digit(),
    };
    text.len() == FIRST_VERSION.len() && text.char_indices().all(fits)
}

/// Refuses what is no version. Later ones differ in what clients can ask, not in what is answered here; without
/// one it is the newest.
fn check_version(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(version) = headers.get("anthropic-version") else {
        return Ok(());
    };
    let version = version.to_str().unwrap_or_default();
    match is_day(version) && version >= FIRST_VERSION {
        true => Ok(()),
        false => {
            let why =
                format!("anthropic-version is {version:?}; expected a version such as 2023-06-01");
            Err(ApiError::param("anthropic-version", why))
        }
    }
}

/// A turn of a conversation, in Anthropic's words.
#[utoipa::path(post, path = "/v1/messages", tag = "anthropic", request_body = MessagesRequest, responses(
    (status = 200, description = "The reply, whole or as events", body = Value),
))]
pub(crate) async fn create(
    State(app): State<App>,
    headers: HeaderMap,
    body: Object,
) -> Result<Response, ApiError> {
    check_version(&headers)?;
    let request: MessagesRequest = body.rest()?;
    let model = app.models.get(request.model()).await?;
    let turn = request.turn(app.config.timeout)?;
    let hide_thoughts = request.hides_thoughts();
    let id = new_id("msg_");
    let replies = turn.start(&model).await?;
    if request.streams() {
        let model = Arc::clone(&model);
        return Ok(sse::events(move |sink| async move {
            stream::stream(&sink, replies, &id, model.id(), hide_thoughts).await
        }));
    }
    let prompt = replies.prompt_tokens();
    let wholes = replies.collect().await?;
    let whole = wholes
        .first()
        .ok_or_else(|| ApiError::internal("no reply came"))?;
    Ok(Json(answer::whole(&id, model.id(), whole, prompt, hide_thoughts)).into_response())
}

/// Tokens that the prompt of a turn would have.
#[utoipa::path(post, path = "/v1/messages/count_tokens", tag = "anthropic", request_body = MessagesRequest, responses(
    (status = 200, description = "The number of tokens", body = Value),
))]
pub(crate) async fn count_tokens(
    State(app): State<App>,
    headers: HeaderMap,
    body: Object,
) -> Result<Json<Value>, ApiError> {
    check_version(&headers)?;
    let request: MessagesRequest = body.rest()?;
    let model = app.models.get(request.model()).await?;
    let prompt = request.prompt()?.prompt(&model)?;
    Ok(Json(json!({"input_tokens": prompt.tokens.len()})))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_days() {
        let check = |version: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("anthropic-version", version.parse().unwrap());
            check_version(&headers).is_ok()
        };
        assert!(check("2023-01-01") && check("2023-06-01") && check("2026-10-21"));
        for wrong in [
            "",
            "1999-01-01",
            "2023-6-1",
            "2023-06-01 ",
            "latest",
            "20230601xx",
        ] {
            assert!(!check(wrong), "{wrong}");
        }
        assert!(check_version(&HeaderMap::new()).is_ok());
    }
}
