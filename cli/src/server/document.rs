//! The OpenAPI document, generated from the routes and the types that they read.

use axum::Json;
use utoipa::OpenApi;
use utoipa::openapi;

use super::anthropic::messages;
use super::ollama::{chat, embed, generate, listing};
use super::{health, openai as o, tokens};

#[derive(OpenApi)]
#[openapi(
    info(title = "gannet", description = "Language models on this machine"),
    paths(
        o::models::list,
        o::models::one,
        o::completions::create,
        o::chat::create,
        o::responses::create,
        o::embeddings::create,
        messages::create,
        messages::count_tokens,
        listing::version,
        listing::tags,
        listing::ps,
        listing::show,
        generate::create,
        embed::create,
        chat::create,
        tokens::tokenize,
        tokens::detokenize,
        tokens::apply_template,
        health::live,
        health::ready,
        health::health,
        health::metrics,
    )
)]
struct Document;

/// What the server offers.
pub(crate) async fn document() -> Json<openapi::OpenApi> {
    Json(Document::openapi())
}
