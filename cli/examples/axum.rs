//! An engine inside a program that serves other things too: an axum application with a route that streams.
//! `cargo run -p gannet-cli --example axum [PORT]`, then `curl -N localhost:3000/continue/Ownership%20is`

use std::ops::ControlFlow;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::routing::get;
use gannet_engine::{Engine, Model, Request, Settings, Update};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;

const MODEL: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/models/rustdoc-tiny-Q4_K_M.gguf"
);

/// Streams a continuation. Who goes away ends it: the stream is dropped, and with it the request.
async fn go_on(State(engine): State<Arc<Engine>>, Path(prompt): Path<String>) -> Body {
    let (parts, heard) = mpsc::unbounded_channel();
    // Called on the engine's thread with what happens; it must not wait.
    let canceller = engine.submit_with(Request::new(prompt), move |update| {
        let part = match update {
            Update::Token { text, .. } => Ok(text),
            Update::Ended(Err(why)) => Err(why),
            _ => return ControlFlow::Continue(()),
        };
        match parts.send(part) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    });
    Body::from_stream(UnboundedReceiverStream::new(heard).map(move |part| {
        let _until_the_end = &canceller;
        part
    }))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port = std::env::args()
        .nth(1)
        .map_or(Ok(3000), |port| port.parse())?;
    let model = Arc::new(Model::open(MODEL)?);
    let settings = Settings {
        slots: Some(8),
        ..Settings::default()
    };
    let engine = Arc::new(Engine::new(&model, &settings)?);
    let routes = Router::new()
        .route("/", get(|| async { "the rest of the application" }))
        .route("/continue/{prompt}", get(go_on))
        .with_state(engine);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("http://{}", listener.local_addr()?);
    axum::serve(listener, routes).await?;
    Ok(())
}
