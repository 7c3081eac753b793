//! `/v1/models`: what there is to ask.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use crate::server::app::App;
use crate::server::error::ApiError;
use crate::server::folder::Source;
use crate::server::models::Listed;

/// What is said of a model.
fn shown(listed: &Listed<'_>) -> Value {
    let mut shown = json!({
        "id": listed.id,
        "object": "model",
        "created": listed.loaded.as_ref().map_or(0, |loaded| loaded.created()),
        "owned_by": "gannet",
        "loaded": listed.loaded.is_some(),
    });
    if let Some(loaded) = &listed.loaded {
        shown["max_model_len"] = json!(loaded.engine().context());
        shown["chat"] = json!(loaded.describe_chat());
    }
    if *listed.source == Source::Embedded {
        shown["description"] = json!(crate::embedded::ABOUT);
    }
    shown
}

/// All models.
#[utoipa::path(get, path = "/v1/models", tag = "openai", responses(
    (status = 200, description = "The models, loaded or not", body = Value),
))]
pub(crate) async fn list(State(app): State<App>) -> Json<Value> {
    let all: Vec<Value> = app.models.list().map(|listed| shown(&listed)).collect();
    Json(json!({"object": "list", "data": all}))
}

/// One model.
#[utoipa::path(get, path = "/v1/models/{model}", tag = "openai", params(("model" = String, Path)), responses(
    (status = 200, description = "The model", body = Value),
    (status = 404, description = "There is none of this name", body = Value),
))]
pub(crate) async fn one(
    State(app): State<App>,
    Path(model): Path<String>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(shown(&app.models.find(&model)?)))
}
