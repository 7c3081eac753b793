//! What the log says of a request: a span from its head to the end of its answer, and a line when that has come.
//!
//! A record lives as long as somebody works on its request: the handler, and whoever writes a stream behind
//! it. Its id is the client's `x-request-id`, or a new one, and goes back with the answer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use gannet_engine::Generation;
use tracing::{Instrument, Span, error_span, field};

use super::error::Dialect;
use super::openai::new_id;

/// Where the id of a request stands.
const ID: HeaderName = HeaderName::from_static("x-request-id");
/// Where Anthropic's clients look for it.
const ANTHROPIC_ID: HeaderName = HeaderName::from_static("request-id");
/// The longest id that is taken from a client.
const LONGEST_ID: usize = 128;

tokio::task_local! {
    static CURRENT: Arc<Record>;
}

/// What went wrong where nobody waits for an answer any more.
const GONE: &str = "the client has gone";

/// A request, from its head to the end of its answer.
pub(crate) struct Record {
    span: Span,
    begun: Instant,
    /// Whether somebody looks at the server rather than asking it for something.
    is_look: bool,
    /// 0 where no answer was begun.
    status: AtomicU64,
    prompt_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    tokens: AtomicU64,
    error: Mutex<Option<String>>,
}

/// The record of the request that is handled here, if one is.
pub(crate) fn current() -> Option<Arc<Record>> {
    CURRENT.try_with(Arc::clone).ok()
}

/// Runs the handling of a request within its span.
pub(crate) async fn record<F>(request: Request, handle: impl FnOnce(Request) -> F) -> Response
where
    F: Future<Output = Response>,
{
    let id = id_of(request.headers()).unwrap_or_else(|| new_id("req-"));
    let path = request.uri().path().to_owned();
    // Of the highest level, so that whatever is told of a request says which.
    let span = error_span!(
        "request", id, method = %request.method(), path,
        status = field::Empty, prompt_tokens = field::Empty, cached_tokens = field::Empty,
        tokens = field::Empty, ms = field::Empty,
    );
    let record = Arc::new(Record {
        span: span.clone(),
        begun: Instant::now(),
        is_look: path.starts_with("/health") || path == "/metrics",
        status: AtomicU64::new(0),
        prompt_tokens: AtomicU64::new(0),
        cached_tokens: AtomicU64::new(0),
        tokens: AtomicU64::new(0),
        error: Mutex::new(None),
    });
    let handled = CURRENT.scope(Arc::clone(&record), handle(request).instrument(span));
    let mut response = handled.await;
    let status = response.status().as_u16();
    record.status.store(status.into(), Ordering::Relaxed);
    if let Ok(id) = HeaderValue::from_str(&id) {
        if Dialect::of_path(&path) == Dialect::Anthropic {
            response.headers_mut().insert(ANTHROPIC_ID, id.clone());
        }
        response.headers_mut().insert(ID, id);
    }
    response
}

/// The id that a client gave its request, if it is one.
fn id_of(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(ID)?.to_str().ok()?;
    let is_id = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    let fits = (1..=LONGEST_ID).contains(&id.len());
    (fits && id.chars().all(is_id)).then(|| id.to_owned())
}

impl Record {
    /// A choice has come to its end.
    pub(crate) fn generated(&self, generation: &Generation) {
        let add = |to: &AtomicU64, tokens: usize| to.fetch_add(tokens as u64, Ordering::Relaxed);
        add(&self.prompt_tokens, generation.prompt_tokens);
        add(&self.cached_tokens, generation.cached_tokens);
        add(&self.tokens, generation.tokens.len());
    }

    /// Nobody waits for what is left of an answer.
    pub(crate) fn abandoned(&self) {
        self.failed(GONE);
    }

    /// Something went wrong; what was said first counts.
    pub(crate) fn failed(&self, why: &str) {
        let mut error = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        error.get_or_insert_with(|| why.to_owned());
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let status = self.status.load(Ordering::Relaxed);
        let tokens = self.tokens.load(Ordering::Relaxed);
        if status > 0 {
            self.span.record("status", status);
        }
        if self.prompt_tokens.load(Ordering::Relaxed) > 0 {
            for (name, count) in [
                ("prompt_tokens", &self.prompt_tokens),
                ("cached_tokens", &self.cached_tokens),
            ] {
                self.span.record(name, count.load(Ordering::Relaxed));
            }
            self.span.record("tokens", tokens);
        }
        self.span
            .record("ms", self.begun.elapsed().as_millis() as u64);
        let error = self
            .error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        self.span.in_scope(|| match (status, error) {
            (0, _) => tracing::info!("{GONE}"),
            (_, Some(error)) if error == GONE => tracing::info!("{GONE}"),
            (_, error) if self.is_look => tracing::debug!(error, "answered"),
            (500.., error) => tracing::warn!(error, "failed"),
            (_, Some(error)) => tracing::info!(error, "answered with an error"),
            _ => tracing::info!("answered"),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_clients_are_words() {
        let of = |value: &'static str| {
            id_of(&HeaderMap::from_iter([(
                ID,
                HeaderValue::from_static(value),
            )]))
        };
        for good in ["a", "req_1.2:3-4"] {
            assert_eq!(of(good).as_deref(), Some(good));
        }
        for bad in ["", "a b", "a\"b", "a/b"] {
            assert_eq!(of(bad), None, "{bad:?}");
        }
        assert_eq!(of(Box::leak("x".repeat(129).into_boxed_str())), None);
    }
}
