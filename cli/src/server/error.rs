//! What the server answers when it cannot do what it was asked.
//!
//! One error type for every route. It carries no body: the outermost layer ([`write_errors`]) writes the
//! shape that clients of the path expect, so that a refusal of the router itself (a path or a method that
//! there is not) looks like any other.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use gannet_engine::Error;
use serde_json::{Value, json};

/// Seconds after which a client may come again where the server is busy or not ready.
const RETRY_SECONDS: u32 = 1;

/// Bytes of an error's text that is not the server's own.
const FOREIGN_BYTES: usize = 4096;

/// The code of an engine that computes nothing any more.
pub(crate) const ENGINE_LOST: &str = "engine_lost";

/// An answer that is an error.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    /// One line: what is wrong and what would be right.
    pub(crate) message: String,
    /// The parameter that it is about, as a path into the request's body.
    pub(crate) param: Option<String>,
    /// What programs tell errors apart by.
    pub(crate) code: Option<&'static str>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> ApiError {
        ApiError {
            status,
            message: message.into(),
            param: None,
            code: None,
        }
    }

    /// A request that makes no sense.
    pub(crate) fn invalid(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, message)
    }

    /// A parameter that makes no sense.
    pub(crate) fn param(param: impl Into<String>, message: impl Into<String>) -> ApiError {
        ApiError::invalid(message).about(param)
    }

    /// The same about a parameter.
    pub(crate) fn about(self, param: impl Into<String>) -> ApiError {
        ApiError {
            param: Some(param.into()),
            ..self
        }
    }

    /// The same with a code.
    pub(crate) fn code(self, code: &'static str) -> ApiError {
        ApiError {
            code: Some(code),
            ..self
        }
    }

    /// A parameter that is understood and not supported.
    pub(crate) fn unsupported(param: &str, why: &str) -> ApiError {
        ApiError::param(param, format!("{param}: {why}")).code("unsupported_parameter")
    }

    /// A prompt that is longer than the context.
    pub(crate) fn too_long(tokens: usize, context: usize) -> ApiError {
        let message = format!(
            "the prompt has {tokens} tokens, and the context of this model is {context} tokens; shorten the \
             prompt, or start the server with a larger --ctx"
        );
        ApiError::invalid(message).code("context_length_exceeded")
    }

    /// Everything is in use.
    pub(crate) fn busy(queued: usize) -> ApiError {
        let message = format!("{queued} requests are waiting already; come again later");
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, message).code("rate_limit_exceeded")
    }

    /// Not now, maybe later.
    pub(crate) fn unavailable(code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message).code(code)
    }

    /// Something failed that was asked for rightly.
    pub(crate) fn internal(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message).code("internal_error")
    }

    /// What kind of error it is, in OpenAI's words.
    fn kind(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            429 => "rate_limit_error",
            503 => "service_unavailable_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// What kind of error it is, in Anthropic's words.
    fn anthropic_kind(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 => "overloaded_error",
            500.. => "api_error",
            _ => "invalid_request_error",
        }
    }

    /// The body for clients of a dialect.
    pub(crate) fn body(&self, dialect: Dialect) -> Value {
        let ApiError {
            message,
            param,
            code,
            ..
        } = self;
        match dialect {
            Dialect::OpenAi => json!({"error": {
                "message": message, "type": self.kind(), "param": param, "code": code,
            }}),
            Dialect::Anthropic => json!({"type": "error", "error": {
                "type": self.anthropic_kind(), "message": message, "param": param, "code": code,
            }}),
            Dialect::Ollama => json!({"error": message}),
        }
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> ApiError {
        match error {
            Error::ContextFull { tokens, context } => ApiError::too_long(tokens, context),
            Error::Request(why) => ApiError::invalid(why),
            Error::Grammar(why) => ApiError::invalid(why.to_string()).code("invalid_grammar"),
            error @ Error::TokenOutOfRange { .. } => ApiError::invalid(error.to_string()),
            Error::Lost(why) => ApiError::unavailable(ENGINE_LOST, why),
            other => ApiError::internal(other.to_string()),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Whose clients a path is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    OpenAi,
    Anthropic,
    Ollama,
}

impl Dialect {
    pub(crate) fn of_path(path: &str) -> Dialect {
        match path {
            _ if path.starts_with("/v1/messages") => Dialect::Anthropic,
            _ if path.starts_with("/api/") => Dialect::Ollama,
            _ => Dialect::OpenAi,
        }
    }
}

/// Writes the bodies of errors, those of the router included.
pub(crate) async fn write_errors(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    let mut response = next.run(request).await;
    let error = match response.extensions_mut().remove::<ApiError>() {
        Some(error) => error,
        None if response.status() == StatusCode::METHOD_NOT_ALLOWED => ApiError::new(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("{method} is no method of {path}"),
        )
        .code("method_not_allowed"),
        None if is_error(response.status()) => foreign(&mut response).await,
        None => return response,
    };
    if let Some(record) = super::record::current() {
        record.failed(&error.message);
    }
    let dialect = Dialect::of_path(&path);
    let body = error.body(dialect).to_string();
    let json = HeaderValue::from_static("application/json");
    *response.body_mut() = Body::from(body);
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, json);
    if matches!(error.status.as_u16(), 429 | 503) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_SECONDS));
    }
    if error.status == StatusCode::UNAUTHORIZED {
        let bearer = HeaderValue::from_static("Bearer");
        headers.insert(header::WWW_AUTHENTICATE, bearer);
    }
    response
}

fn is_error(status: StatusCode) -> bool {
    status.is_client_error() || status.is_server_error()
}

/// An error of what stands below the routes, such as a path that is no text.
async fn foreign(response: &mut Response) -> ApiError {
    let body = std::mem::take(response.body_mut());
    let text = axum::body::to_bytes(body, FOREIGN_BYTES).await;
    let text = String::from_utf8_lossy(&text.unwrap_or_default()).into_owned();
    let status = response.status();
    let message = match text.is_empty() {
        true => status.canonical_reason().unwrap_or("an error").to_owned(),
        false => text,
    };
    ApiError::new(status, message)
}

/// A path that there is not.
pub(crate) async fn no_such_path(request: Request) -> ApiError {
    let path = request.uri().path();
    let message = format!("there is no {path} here; /openapi.json lists what there is");
    ApiError::new(StatusCode::NOT_FOUND, message).code("not_found")
}

/// What a request gets whose handling panicked: a fault of the server, which goes on.
pub(crate) fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    let message = "the server failed at this request; its log says where";
    ApiError::internal(message).into_response()
}

impl From<gannet_engine::chat::ChatError> for ApiError {
    fn from(error: gannet_engine::chat::ChatError) -> ApiError {
        let invalid = ApiError::invalid(error.to_string());
        match error.param() {
            Some(param) => invalid.about(param),
            None => invalid,
        }
    }
}
