//! Whether the server lives and serves, and what it counts. Open to everybody.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use gannet_engine::requests::EngineCounters;
use serde_json::{Value, json};

use super::app::App;
use super::error::ApiError;

fn check(app: &App) -> Result<(), ApiError> {
    if app.is_draining() {
        return Err(ApiError::unavailable(
            "draining",
            "the server is shutting down",
        ));
    }
    app.models.is_ready()
}

/// The process answers.
#[utoipa::path(get, path = "/health/live", tag = "health", responses(
    (status = 200, description = "It does", body = Value),
))]
pub(crate) async fn live() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// Requests would be served.
#[utoipa::path(get, path = "/health/ready", tag = "health", responses(
    (status = 200, description = "They would", body = Value),
    (status = 503, description = "Loading, shutting down, or the device is lost", body = Value),
))]
pub(crate) async fn ready(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    check(&app).map(|()| Json(json!({"status": "ok"})))
}

/// As ready.
#[utoipa::path(get, path = "/health", tag = "health", responses(
    (status = 200, description = "Requests are served", body = Value),
    (status = 503, description = "Loading, shutting down, or the device is lost", body = Value),
))]
pub(crate) async fn health(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    check(&app).map(|()| Json(json!({"status": "ok"})))
}

/// Counters in the text format of Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "health", responses(
    (status = 200, description = "The counters", body = String, content_type = "application/openmetrics-text"),
))]
pub(crate) async fn metrics(State(app): State<App>) -> Result<Response, ApiError> {
    let engines = tokio::task::spawn_blocking({
        let app = app.clone();
        move || -> Vec<(String, EngineCounters)> {
            let loaded = app.models.list().filter_map(|listed| listed.loaded);
            let counters = |loaded: std::sync::Arc<super::loaded::Loaded>| {
                Some((loaded.id().to_owned(), loaded.engine().counters().ok()?))
            };
            loaded.filter_map(counters).collect()
        }
    })
    .await;
    let engines = engines.map_err(|e| ApiError::internal(e.to_string()))?;
    let text = app
        .metrics
        .text(engines)
        .map_err(|e| ApiError::internal(e.to_string()))?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}
