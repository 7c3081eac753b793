//! `/v1/embeddings`: vectors of texts.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::completions::Prompts;
use crate::server::app::App;
use crate::server::body::Object;
use crate::server::error::ApiError;
use crate::server::vectors::{base64, tokens_of, vectors};

/// A request.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EmbeddingsRequest {
    /// The model's name; the only one by default.
    model: Option<String>,
    /// One text or several, as text or tokens.
    input: Prompts,
    /// float, or base64: of little-endian f32. Default: float.
    encoding_format: Option<Encoding>,
    /// Not supported: vectors are as long as the model makes them.
    dimensions: Option<u64>,
    /// Whoever asks; nothing is done with it.
    #[serde(rename = "user")]
    _user: Option<String>,
}

/// How vectors are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Encoding {
    /// Numbers.
    Float,
    /// The bytes of little-endian f32.
    Base64,
}

fn written(vector: &[f32], encoding: Encoding) -> Value {
    match encoding {
        Encoding::Float => json!(vector),
        Encoding::Base64 => {
            let bytes: Vec<u8> = vector.iter().flat_map(|v| v.to_le_bytes()).collect();
            json!(base64(&bytes))
        }
    }
}

/// Vectors of texts, each of length 1.
#[utoipa::path(post, path = "/v1/embeddings", tag = "openai", request_body = EmbeddingsRequest, responses(
    (status = 200, description = "A vector for each text", body = Value),
    (status = 400, description = "What was asked makes no sense, or the model has no vectors of texts", body = Value),
))]
pub(crate) async fn create(State(app): State<App>, body: Object) -> Result<Json<Value>, ApiError> {
    let request: EmbeddingsRequest = body.rest()?;
    if request.dimensions.is_some() {
        let why = "vectors are as long as the model makes them; leave it out";
        return Err(ApiError::unsupported("dimensions", why));
    }
    let model = app.models.get(request.model.as_deref()).await?;
    let texts = match request.input {
        Prompts::Text(text) => vec![tokens_of(&model, &text)],
        Prompts::Texts(texts) => texts.iter().map(|text| tokens_of(&model, text)).collect(),
        Prompts::Tokens(tokens) => vec![tokens],
        Prompts::ManyTokens(all) => all,
    };
    let found = vectors(&model, texts, "input").await?;
    let encoding = request.encoding_format.unwrap_or(Encoding::Float);
    let tokens = found.tokens;
    let data: Vec<Value> = (found.units().iter().enumerate())
        .map(|(i, vector)| {
            json!({"object": "embedding", "index": i, "embedding": written(vector, encoding)})
        })
        .collect();
    Ok(Json(json!({
        "object": "list", "data": data, "model": model.id(),
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    })))
}
