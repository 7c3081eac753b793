//! Which path is whose.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Router};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, Any, CorsLayer};

use super::anthropic::messages;
use super::app::App;
use super::body::BodyLimits;
use super::hosts::{self, Hosts};
use super::ollama::{chat, embed, generate, listing};
use super::{auth, document, error, health, openai, page, record, tokens};

/// All routes of a server that listens on `bound`.
pub(crate) fn router(app: &App, bound: IpAddr) -> Router {
    let hosts = Hosts::new(bound, &app.config.hosts, &app.config.origins);
    let work = Router::new()
        .route("/v1/models", get(openai::models::list))
        .route("/v1/models/{*model}", get(openai::models::one))
        .route("/v1/completions", post(openai::completions::create))
        .route("/v1/chat/completions", post(openai::chat::create))
        .route("/v1/embeddings", post(openai::embeddings::create))
        .route("/v1/responses", post(openai::responses::create))
        .route("/v1/messages", post(messages::create))
        .route("/v1/messages/count_tokens", post(messages::count_tokens))
        .route("/api/version", get(listing::version))
        .route("/api/tags", get(listing::tags))
        .route("/api/ps", get(listing::ps))
        .route("/api/show", post(listing::show))
        .route("/api/generate", post(generate::create))
        .route("/api/embed", post(embed::create))
        .route("/api/embeddings", post(embed::create_one))
        .route("/api/chat", post(chat::create))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/apply-template", post(tokens::apply_template))
        .layer(from_fn_with_state(app.clone(), auth::refuse_if_draining))
        .route("/metrics", get(health::metrics))
        .layer(from_fn_with_state(app.clone(), auth::check_key));
    let open = Router::new()
        .route("/health", get(health::health))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/openapi.json", get(document::document));
    let routes = work
        .merge(open)
        .merge(page::routes(app.config.page))
        .fallback(error::no_such_path)
        .layer(CatchPanicLayer::custom(error::panicked))
        .layer(Extension(BodyLimits {
            most: app.config.max_body,
            patience: app.config.patience,
        }))
        .layer(from_fn_with_state(Arc::new(hosts), hosts::check_host))
        .layer(from_fn(error::write_errors))
        .layer(from_fn_with_state(app.clone(), count));
    let routes = match cors(&app.config.origins) {
        Some(cors) => routes.layer(cors),
        None => routes,
    };
    routes.with_state(app.clone())
}

/// Counts answers, and says them to who listens.
async fn count(State(app): State<App>, request: Request, next: Next) -> Response {
    let response = record::record(request, |request| next.run(request)).await;
    app.metrics.answered(response.status().as_u16());
    response
}

/// Pages of other origins that may ask, where any may.
fn cors(origins: &[String]) -> Option<CorsLayer> {
    let allowed = match origins {
        [] => return None,
        all if all.iter().any(|origin| origin == "*") => AllowOrigin::from(Any),
        some => {
            let some = some.iter().filter_map(|o| HeaderValue::from_str(o).ok());
            AllowOrigin::list(some)
        }
    };
    let headers = [
        header::CONTENT_TYPE,
        header::AUTHORIZATION,
        HeaderName::from_static("x-api-key"),
        HeaderName::from_static("anthropic-version"),
        HeaderName::from_static("anthropic-beta"),
    ];
    let cors = CorsLayer::new().allow_origin(allowed).allow_methods([
        Method::GET,
        Method::POST,
        Method::DELETE,
    ]);
    Some(cors.allow_headers(headers))
}
