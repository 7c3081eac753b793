//! `/api/embed`: vectors of texts.

use std::time::Instant;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::answer::nanoseconds;
use super::keep::KeepAlive;
use super::options::Options;
use crate::server::app::App;
use crate::server::body::Untyped;
use crate::server::controls::OneOrMany;
use crate::server::error::ApiError;
use crate::server::vectors::{tokens_of, vectors};

/// A request.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EmbedRequest {
    /// The model's name.
    model: String,
    /// One text or several.
    input: OneOrMany<String>,
    /// Cut texts that do not fit the context; without it they are refused.
    truncate: Option<bool>,
    /// Not supported: vectors are as long as the model makes them.
    dimensions: Option<u64>,
    options: Option<Options>,
    keep_alive: Option<KeepAlive>,
}

/// Vectors of texts, each of length 1.
#[utoipa::path(post, path = "/api/embed", tag = "ollama", request_body = EmbedRequest, responses(
    (status = 200, description = "A vector for each text", body = Value),
    (status = 400, description = "What was asked makes no sense, or the model has no vectors of texts", body = Value),
))]
pub(crate) async fn create(
    State(app): State<App>,
    Untyped(body): Untyped,
) -> Result<Json<Value>, ApiError> {
    let request: EmbedRequest = body.rest()?;
    if request.dimensions.is_some() {
        let why = "vectors are as long as the model makes them; leave it out";
        return Err(ApiError::unsupported("dimensions", why));
    }
    let keep = request
        .keep_alive
        .as_ref()
        .map(KeepAlive::read)
        .transpose()?;
    let begun = Instant::now();
    let model = app.models.get(Some(&request.model)).await?;
    let load = begun.elapsed();
    if let Some(keep) = keep {
        model.keep_for(keep);
    }
    let context = model.engine().context();
    // Nothing is sampled; what makes no sense is refused all the same.
    request.options.unwrap_or_default().read(context)?;
    let mut texts: Vec<Vec<u32>> = request
        .input
        .into_vec()
        .iter()
        .map(|text| tokens_of(&model, text))
        .collect();
    if request.truncate == Some(true) {
        texts.iter_mut().for_each(|text| text.truncate(context));
    }
    let found = vectors(&model, texts, "input").await?;
    Ok(Json(json!({
        "model": request.model,
        "embeddings": found.vectors,
        "total_duration": nanoseconds(begun.elapsed()),
        "load_duration": nanoseconds(load),
        "prompt_eval_count": found.tokens,
    })))
}
