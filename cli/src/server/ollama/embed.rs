//! `/api/embed` and `/api/embeddings`: vectors of texts.

use std::sync::Arc;
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
use crate::server::loaded::Loaded;
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
    let begun = Instant::now();
    let asked = Asked {
        name: &request.model,
        keep_alive: request.keep_alive.as_ref(),
        options: request.options.unwrap_or_default(),
    };
    let model = asked.model(&app).await?;
    let load = begun.elapsed();
    let context = model.engine().context();
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
    let tokens = found.tokens;
    Ok(Json(json!({
        "model": request.model,
        "embeddings": found.units(),
        "total_duration": nanoseconds(begun.elapsed()),
        "load_duration": nanoseconds(load),
        "prompt_eval_count": tokens,
    })))
}

/// A request of the older route.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EmbeddingRequest {
    /// The model's name.
    model: String,
    /// The text; without one the model is loaded.
    prompt: Option<String>,
    options: Option<Options>,
    keep_alive: Option<KeepAlive>,
}

/// The vector of one text as the model makes it, of whatever length: the older route.
#[utoipa::path(post, path = "/api/embeddings", tag = "ollama", request_body = EmbeddingRequest, responses(
    (status = 200, description = "The vector; an empty one without a text", body = Value),
    (status = 400, description = "What was asked makes no sense, or the model has no vectors of texts", body = Value),
))]
pub(crate) async fn create_one(
    State(app): State<App>,
    Untyped(body): Untyped,
) -> Result<Json<Value>, ApiError> {
    let request: EmbeddingRequest = body.rest()?;
    let asked = Asked {
        name: &request.model,
        keep_alive: request.keep_alive.as_ref(),
        options: request.options.unwrap_or_default(),
    };
    let model = asked.model(&app).await?;
    let prompt = request.prompt.unwrap_or_default();
    if prompt.is_empty() {
        return Ok(Json(json!({"embedding": []})));
    }
    let found = vectors(&model, vec![tokens_of(&model, &prompt)], "prompt").await?;
    Ok(Json(json!({"embedding": found.vectors.first()})))
}

/// What both routes are asked.
struct Asked<'a> {
    name: &'a str,
    keep_alive: Option<&'a KeepAlive>,
    options: Options,
}

impl Asked<'_> {
    /// The model, loaded, and kept as long as was asked for.
    async fn model(self, app: &App) -> Result<Arc<Loaded>, ApiError> {
        let keep = self.keep_alive.map(KeepAlive::read).transpose()?;
        let model = app.models.get(Some(self.name)).await?;
        if let Some(keep) = keep {
            model.keep_for(keep);
        }
        // Nothing is sampled; what makes no sense is refused all the same.
        self.options.read(model.engine().context())?;
        Ok(model)
    }
}
