//! Bodies of requests: JSON objects, read strictly.
//!
//! A parameter that nothing knows, one that comes twice and one of a wrong type are refused by name.

use std::fmt;
use std::time::Duration;

use axum::body::BodyDataStream;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use tokio::time::timeout;
use tokio_stream::StreamExt;

use super::error::ApiError;
use super::json;

/// A JSON object as it comes: names that occur once each.
#[derive(Debug, Default)]
pub(crate) struct Object(Map<String, Value>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Object, A::Error> {
                json::object(entries).map(Object)
            }
        }
        deserializer.deserialize_map(Names)
    }
}

impl Object {
    /// Takes these parameters out and reads them as one struct, which knows no others.
    pub(crate) fn part<T: DeserializeOwned>(&mut self, names: &[&str]) -> Result<T, ApiError> {
        let taken = names.iter().filter_map(|&name| {
            let (name, value) = self.0.shift_remove_entry(name)?;
            Some((name, value))
        });
        read(Value::Object(taken.collect()))
    }

    /// Reads what is left.
    pub(crate) fn rest<T: DeserializeOwned>(self) -> Result<T, ApiError> {
        read(Value::Object(self.0))
    }
}

/// Reads a value, and says where it is wrong.
pub(crate) fn read<T: DeserializeOwned>(value: Value) -> Result<T, ApiError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let why = error.into_inner().to_string();
        let unknown = why.strip_prefix("unknown field `");
        let unknown = unknown.and_then(|rest| Some(rest.split_once('`')?.0.to_owned()));
        let missing = why.strip_prefix("missing field `");
        let missing = missing.and_then(|rest| Some(rest.split_once('`')?.0.to_owned()));
        let inside = |name: &str| match path.as_str() {
            "." => name.to_owned(),
            _ => format!("{path}.{name}"),
        };
        match (unknown, missing) {
            (Some(name), _) => {
                // The path of serde's names the field itself where a struct refuses it.
                let param = match path == name || path.ends_with(&format!(".{name}")) {
                    true => path.clone(),
                    false => inside(&name),
                };
                ApiError::param(
                    &param,
                    format!("{param} is not a parameter that is supported here"),
                )
                .code("unknown_parameter")
            }
            (None, Some(name)) => {
                let param = inside(&name);
                ApiError::param(&param, format!("{param} is missing"))
                    .code("missing_required_parameter")
            }
            (None, None) => match path.as_str() {
                "." => ApiError::invalid(why),
                _ => ApiError::param(&path, format!("{path}: {why}")).code("invalid_type"),
            },
        }
    })
}

/// Reads a value that stands at a place of a body, such as `messages[2].content[0]`.
pub(crate) fn read_at<T: DeserializeOwned>(value: Value, place: &str) -> Result<T, ApiError> {
    read(value).map_err(|error| {
        let Some(inside) = &error.param else {
            let message = format!("{place}: {}", error.message);
            return ApiError { message, ..error }.about(place);
        };
        let whole = match inside.starts_with('[') {
            true => format!("{place}{inside}"),
            false => format!("{place}.{inside}"),
        };
        let message = error.message.replacen(inside, &whole, 1);
        ApiError { message, ..error }.about(whole)
    })
}

/// Whether a body is said to be JSON.
fn is_json(headers: &HeaderMap) -> bool {
    let given = headers.get(header::CONTENT_TYPE);
    let given = given.and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = given.split(';').next().unwrap_or("").trim();
    essence.eq_ignore_ascii_case("application/json")
        || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// How much a body may be, and how slowly it may come. Every request has it among its extensions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BodyLimits {
    /// Bytes.
    pub(crate) most: usize,
    /// From one piece to the next.
    pub(crate) patience: Duration,
}

/// Times the patience that a whole body may take.
const PATIENCES: u32 = 10;

/// The bytes of a body; too many of them are refused, and such as come too slowly.
async fn bytes(request: Request) -> Result<Vec<u8>, ApiError> {
    let limits = request.extensions().get::<BodyLimits>().copied();
    let limits = limits.ok_or_else(|| ApiError::internal("a route without limits"))?;
    if let Some(declared) = content_length(request.headers())
        && declared > limits.most as u64
    {
        return Err(too_large(limits.most));
    }
    let whole = read_all(request.into_body().into_data_stream(), limits);
    let read = timeout(limits.patience * PATIENCES, whole).await;
    read.unwrap_or_else(|_| Err(too_slow()))
}

async fn read_all(mut body: BodyDataStream, limits: BodyLimits) -> Result<Vec<u8>, ApiError> {
    let mut bytes = Vec::new();
    loop {
        let next = timeout(limits.patience, body.next()).await;
        let piece = match next.map_err(|_| too_slow())? {
            None => return Ok(bytes),
            Some(piece) => piece,
        };
        let unreadable = |e| ApiError::invalid(format!("the body could not be read: {e}"));
        let piece = piece.map_err(unreadable)?;
        if bytes.len() + piece.len() > limits.most {
            return Err(too_large(limits.most));
        }
        bytes.extend_from_slice(&piece);
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    let given = headers.get(header::CONTENT_LENGTH)?;
    given.to_str().ok()?.parse().ok()
}

fn too_large(most: usize) -> ApiError {
    let message =
        format!("the body is larger than {most} bytes, which this server takes; see --max-body");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message).code("request_too_large")
}

fn too_slow() -> ApiError {
    let message = "the body came too slowly";
    ApiError::new(StatusCode::REQUEST_TIMEOUT, message).code("timeout")
}

/// Reads bytes as a JSON object.
fn object(bytes: &[u8]) -> Result<Object, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| {
        let what = match error.is_data() {
            true => "the body is not what is expected",
            false => "the body is not JSON",
        };
        ApiError::invalid(format!("{what}: {error}")).code("invalid_json")
    })
}

impl<S: Send + Sync> FromRequest<S> for Object {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Object, ApiError> {
        if !is_json(request.headers()) {
            let message = "the body must be JSON, with Content-Type: application/json";
            let error = ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message);
            return Err(error.code("unsupported_media_type"));
        }
        object(&bytes(request).await?)
    }
}

/// A JSON object from clients that may not say that it is one.
pub(crate) struct Untyped(pub(crate) Object);

impl<S: Send + Sync> FromRequest<S> for Untyped {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Untyped, ApiError> {
        Ok(Untyped(object(&bytes(request).await?)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[expect(dead_code, reason = "read, not used")]
        b: u32,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[expect(dead_code, reason = "read, not used")]
        a: Vec<Inner>,
    }

    #[test]
    fn errors_inside_a_body_name_their_place() {
        let at = |value: Value| read_at::<Outer>(value, "x[1]").unwrap_err();
        let cases = [
            (serde_json::json!({"a": [{"b": "x"}]}), "x[1].a[0].b"),
            (serde_json::json!({"a": [], "c": 1}), "x[1].c"),
            (serde_json::json!({}), "x[1].a"),
            (serde_json::json!(1), "x[1]"),
        ];
        for (value, param) in cases {
            let error = at(value);
            assert_eq!(error.param.as_deref(), Some(param), "{}", error.message);
            assert!(error.message.starts_with(param), "{}", error.message);
        }
    }

    #[test]
    fn errors_name_their_parameter() {
        let cases = [
            (r#"{"a": [{"b": "x"}]}"#, Some("a[0].b")),
            (r#"{"a": [{"b": 1}, {"b": 1, "c": 2}]}"#, Some("a[1].c")),
            (r#"{"a": [], "z": 1}"#, Some("z")),
            (r#"{"a": [{}]}"#, Some("a[0].b")),
            (r#"{}"#, Some("a")),
            (r#"{"a": 1}"#, Some("a")),
        ];
        for (text, param) in cases {
            let error = object(text.as_bytes())
                .unwrap()
                .rest::<Outer>()
                .unwrap_err();
            assert_eq!(error.param.as_deref(), param, "{text}: {}", error.message);
            assert_eq!(error.status, StatusCode::BAD_REQUEST);
        }
        for text in [
            "",
            "{",
            "[]",
            "1",
            r#"{"a": 1, "a": 2}"#,
            r#"{"a": [{"b": 1, "b": 1}]}"#,
            "\u{feff}{}",
        ] {
            let error = object(text.as_bytes()).unwrap_err();
            assert_eq!(error.code, Some("invalid_json"), "{text}");
        }
    }
}
