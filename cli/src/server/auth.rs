//! Who may ask: keys, compared in constant time, and whether the server takes anything at all.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::{Choice, ConstantTimeEq};

use super::app::App;
use super::error::ApiError;

/// The key that a request gives: a bearer token, or Anthropic's header.
fn given(headers: &HeaderMap) -> Option<&[u8]> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let value = value.as_bytes();
        let (scheme, key) = value.split_at_checked(7)?;
        return scheme
            .eq_ignore_ascii_case(b"bearer ")
            .then(|| key.trim_ascii());
    }
    headers
        .get("x-api-key")
        .map(|value| value.as_bytes().trim_ascii())
}

/// Whether a key is one of these. The time that this takes depends on lengths alone.
fn is_known(key: &[u8], keys: &[String]) -> bool {
    let same = |known: &String| known.as_bytes().ct_eq(key);
    let any = keys.iter().map(same).fold(Choice::from(0), |a, b| a | b);
    any.into()
}

/// Lets those in who have a key, where one is needed.
pub(crate) async fn check_key(State(app): State<App>, request: Request, next: Next) -> Response {
    let keys = &app.config.keys;
    if keys.is_empty() {
        return next.run(request).await;
    }
    let message = match given(request.headers()) {
        Some(key) if is_known(key, keys) => return next.run(request).await,
        Some(_) => "the API key is not one of this server's",
        None => "an API key is needed: Authorization: Bearer KEY",
    };
    let error = ApiError::new(StatusCode::UNAUTHORIZED, message);
    error.code("invalid_api_key").into_response()
}

/// Refuses new work while the server is leaving.
pub(crate) async fn refuse_if_draining(
    State(app): State<App>,
    request: Request,
    next: Next,
) -> Response {
    if app.is_draining() {
        let message = "the server is shutting down; ask another one";
        return ApiError::unavailable("draining", message).into_response();
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_in_two_headers() {
        let mut headers = HeaderMap::new();
        assert_eq!(given(&headers), None);
        headers.insert("x-api-key", "abc".parse().unwrap());
        assert_eq!(given(&headers), Some(b"abc".as_slice()));
        headers.insert(header::AUTHORIZATION, "bearer  xyz".parse().unwrap());
        assert_eq!(given(&headers), Some(b"xyz".as_slice()));
        for wrong in ["Basic abc", "abc", ""] {
            headers.insert(header::AUTHORIZATION, wrong.parse().unwrap());
            assert_eq!(given(&headers), None, "{wrong}");
        }
    }

    #[test]
    fn any_of_several_keys_will_do() {
        let keys = ["one".to_owned(), "two".to_owned()];
        assert!(is_known(b"one", &keys) && is_known(b"two", &keys));
        for wrong in [b"".as_slice(), b"on", b"one ", b"three"] {
            assert!(!is_known(wrong, &keys));
        }
    }
}
