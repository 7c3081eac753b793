//! Server-sent events, and other bodies that come line by line.
//!
//! A body is a channel: whoever writes waits while a reader is behind, and stops when he is gone.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tracing::Instrument;

use super::connections::Closer;

/// Chunks that wait for the connection.
const CHUNKS: usize = 8;

/// Where a stream's writer puts what it has.
pub(crate) struct Sink {
    chunks: mpsc::Sender<Bytes>,
    closer: Closer,
}

/// The reader has gone.
#[derive(Debug)]
pub(crate) struct Gone;

impl Sink {
    async fn send(&self, text: String) -> Result<(), Gone> {
        self.chunks.send(Bytes::from(text)).await.map_err(|_| Gone)
    }

    /// An event of data alone.
    pub(crate) async fn data(&self, data: &Value) -> Result<(), Gone> {
        self.send(format!("data: {data}\n\n")).await
    }

    /// An event of a name.
    pub(crate) async fn event(&self, name: &str, data: &Value) -> Result<(), Gone> {
        self.send(format!("event: {name}\ndata: {data}\n\n")).await
    }

    /// The last event of OpenAI's streams.
    pub(crate) async fn done(&self) -> Result<(), Gone> {
        self.send("data: [DONE]\n\n".to_owned()).await
    }

    /// A line of JSON.
    pub(crate) async fn line(&self, data: &Value) -> Result<(), Gone> {
        self.send(format!("{data}\n")).await
    }

    /// Says that the stream has failed: what its client hears next is the last of this connection.
    pub(crate) fn fail(&self) {
        self.closer.close();
    }
}

/// An answer that `write` writes in a task of its own. Where the reader goes, the task is dropped at its next
/// wait, and with it whatever it holds.
fn stream<F>(content_type: &'static str, write: impl FnOnce(Sink) -> F) -> Response
where
    F: Future<Output = Result<(), Gone>> + Send + 'static,
{
    let (sender, chunks) = mpsc::channel(CHUNKS);
    let watch = sender.clone();
    let sink = Sink {
        chunks: sender,
        closer: Closer::of_request(),
    };
    let writing = write(sink);
    let written = async move {
        tokio::select! {
            // It ends where it likes; who is gone hears nothing of it.
            _ = writing => {}
            () = watch.closed() => {}
        }
    };
    tokio::spawn(written.in_current_span());
    let body = ReceiverStream::new(chunks).map(Ok::<_, Infallible>);
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (
            HeaderName::from_static("x-accel-buffering"),
            HeaderValue::from_static("no"),
        ),
    ];
    (headers, Body::from_stream(body)).into_response()
}

/// Server-sent events.
pub(crate) fn events<F>(write: impl FnOnce(Sink) -> F) -> Response
where
    F: Future<Output = Result<(), Gone>> + Send + 'static,
{
    stream("text/event-stream", write)
}

/// Lines of JSON.
pub(crate) fn lines<F>(write: impl FnOnce(Sink) -> F) -> Response
where
    F: Future<Output = Result<(), Gone>> + Send + 'static,
{
    stream("application/x-ndjson", write)
}
