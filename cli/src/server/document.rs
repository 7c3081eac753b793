//! The OpenAPI document, generated from the routes and the types that they read.

use axum::Json;
use serde_json::{Map, Value, json};
use utoipa::OpenApi;
use utoipa::openapi::{self, ContentBuilder, Object, ResponseBuilder};

use super::anthropic::messages;
use super::error::ApiError;
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
        embed::create_one,
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

/// Answers that every route may give besides its own: of which, with what status, and when.
const COMMON: &[(Which, &str, &str)] = &[
    (
        Which::All,
        "400",
        "What was asked makes no sense, or does not fit the context",
    ),
    (Which::Keyed, "401", "No key, or a wrong one"),
    (
        Which::All,
        "403",
        "The request names a host that is not the server's",
    ),
    (Which::Posts, "404", "No such model"),
    (
        Which::Posts,
        "408",
        "The request came, or was answered, too slowly",
    ),
    (Which::Posts, "413", "The body is too large"),
    (Which::Posts, "415", "The body is not JSON"),
    (Which::Computes, "429", "Too many requests wait"),
    (
        Which::All,
        "500",
        "Something failed that was asked for rightly",
    ),
    (
        Which::Keyed,
        "503",
        "Loading, shutting down, or the device is lost",
    ),
];

/// Which routes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    All,
    /// Such as need a key where there is one.
    Keyed,
    Posts,
    /// Such as wait for their turn on the device.
    Computes,
}

/// Routes with a body that the device has no part in.
const WITHOUT_DEVICE: &[&str] = &[
    "/api/show",
    "/tokenize",
    "/detokenize",
    "/apply-template",
    "/v1/messages/count_tokens",
];

impl Which {
    /// Whether a route is one of these.
    fn has(self, path: &str, is_post: bool) -> bool {
        match self {
            Which::All => true,
            Which::Keyed => !path.starts_with("/health"),
            Which::Posts => is_post,
            Which::Computes => is_post && !WITHOUT_DEVICE.contains(&path),
        }
    }
}

/// Adds what any route may answer to what each says itself.
fn add_common(document: &mut openapi::OpenApi) {
    for (path, item) in &mut document.paths.paths {
        let of_methods = [
            (&mut item.get, false),
            (&mut item.post, true),
            (&mut item.delete, true),
        ];
        for (operation, is_post) in of_methods {
            let Some(operation) = operation else {
                continue;
            };
            for &(which, status, why) in COMMON {
                let responses = &mut operation.responses.responses;
                if which.has(path, is_post) && !responses.contains_key(status) {
                    let json = ContentBuilder::new().schema(Some(Object::new())).build();
                    let error = ResponseBuilder::new().description(why);
                    let error = error.content("application/json", json).build();
                    responses.insert(status.to_owned(), error.into());
                }
            }
        }
    }
}

/// Names operations by their paths: functions of several routes are called alike.
fn name_operations(document: &mut openapi::OpenApi) {
    for (path, item) in &mut document.paths.paths {
        let words = path.split(|c: char| !c.is_ascii_alphanumeric());
        let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
        for (method, operation) in [("get", &mut item.get), ("post", &mut item.post)] {
            if let Some(operation) = operation {
                operation.operation_id = Some(format!("{method}_{}", words.join("_")));
            }
        }
    }
}

/// Makes bodies that are read in parts one object each: every part allows its own names only, so that no
/// body would be all of them.
fn join_parts(document: &mut Value) {
    let schemas = document.pointer_mut("/components/schemas");
    let Some(schemas) = schemas.and_then(Value::as_object_mut) else {
        return;
    };
    for schema in schemas.values_mut() {
        let Some(parts) = schema.get("allOf").and_then(Value::as_array) else {
            continue;
        };
        let is_object = |part: &Value| part["type"] == "object";
        if !parts.iter().all(is_object) {
            continue;
        }
        let (mut properties, mut required) = (Map::new(), Vec::new());
        for part in parts {
            properties.extend(part["properties"].as_object().cloned().unwrap_or_default());
            required.extend(part["required"].as_array().cloned().unwrap_or_default());
        }
        let description = schema["description"].take();
        *schema = json!({
            "type": "object", "properties": properties, "required": required,
            "additionalProperties": false, "description": description.as_str().unwrap_or_default(),
        });
    }
}

/// What the server offers.
pub(crate) async fn document() -> Result<Json<Value>, ApiError> {
    let mut document = Document::openapi();
    add_common(&mut document);
    name_operations(&mut document);
    let document = serde_json::to_value(document);
    let mut document = document.map_err(|e| ApiError::internal(e.to_string()))?;
    join_parts(&mut document);
    Ok(Json(document))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn operations_have_names_of_their_own() {
        let mut document = Document::openapi();
        name_operations(&mut document);
        let items = document.paths.paths.values();
        let operations = items.flat_map(|item| [item.get.as_ref(), item.post.as_ref()]);
        let names: Vec<&str> = operations
            .flatten()
            .filter_map(|operation| operation.operation_id.as_deref())
            .collect();
        assert!(names.contains(&"post_v1_chat_completions"), "{names:?}");
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    }

    /// What a route says itself is what it alone answers.
    #[test]
    fn no_route_says_what_is_common() {
        let alone = serde_json::to_value(Document::openapi()).unwrap();
        let mut own = Vec::new();
        for (path, methods) in alone["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                for (status, response) in operation["responses"].as_object().unwrap() {
                    let is_same = |&&(which, code, _): &&(Which, &str, &str)| {
                        which.has(path, method == "post") && code == status
                    };
                    let said = response["description"].as_str();
                    let common = COMMON.iter().find(is_same).map(|&(.., why)| why);
                    assert_ne!(said, common, "{method} {path} {status}");
                    own.extend(common.map(|_| (path.as_str(), status.as_str())));
                }
            }
        }
        own.sort_unstable();
        let embed = ["/api/embed", "/api/embeddings", "/v1/embeddings"];
        let expected = embed.map(|path| (path, "400"));
        assert_eq!(own, expected);
        for path in WITHOUT_DEVICE {
            assert!(alone["paths"].get(path).is_some(), "{path}");
        }
    }

    /// Whatever a schema refers to is there.
    #[test]
    fn schemas_are_there() {
        let document = serde_json::to_value(Document::openapi()).unwrap();
        let text = document.to_string();
        let schemas = &document["components"]["schemas"];
        let references = text.split("#/components/schemas/").skip(1);
        let names: BTreeSet<&str> = references
            .filter_map(|rest| rest.split('"').next())
            .collect();
        assert!(names.len() > 10, "{names:?}");
        for name in names {
            assert!(schemas.get(name).is_some(), "{name}");
        }
    }
}
