//! The server's life: bound before anything is loaded, ready when the model is, and gone in good order.
//!
//! SIGTERM or Ctrl-C: not ready from then on, new requests get 503, those under way end, up to a limit. A
//! second signal ends the process at once. A device that is lost makes the server unhealthy, and the process
//! ends with an error once nothing is under way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::app::{App, Config, Shared};
use super::metrics::Metrics;
use super::models::{Loading, Models, Source};
use super::router::router;
use crate::failure::Failure;

/// How often is looked whether something is over.
const LOOK: Duration = Duration::from_millis(20);

/// What is served, where and how.
pub(crate) struct Serving {
    pub(crate) address: SocketAddr,
    pub(crate) sources: Vec<(String, Source)>,
    pub(crate) loading: Loading,
    pub(crate) config: Config,
    /// How long requests under way may take to end.
    pub(crate) drain: Duration,
    /// Asks it to stop, as a signal does.
    pub(crate) stop: Arc<Notify>,
}

/// Serves until it is asked to stop. `bound` hears of the address.
pub(crate) fn serve(serving: Serving, bound: impl FnOnce(SocketAddr)) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|e| Failure::Work(format!("no threads for a server: {e}")))?;
    let served = runtime.block_on(run(serving, bound));
    // What still waits for a reader is left behind.
    runtime.shutdown_timeout(Duration::from_millis(500));
    served
}

async fn run(serving: Serving, bound: impl FnOnce(SocketAddr)) -> Result<(), Failure> {
    let cannot = |e: std::io::Error| {
        let address = serving.address;
        Failure::Work(format!(
            "cannot listen on {address}: {e}; choose another with --host and --port"
        ))
    };
    let listener = TcpListener::bind(serving.address).await.map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    let metrics = Arc::new(Metrics::new());
    let models = Models::new(serving.sources, serving.loading, Arc::clone(&metrics));
    let app: App = Arc::new(Shared::new(models, metrics, serving.config));
    bound(address);
    let ends = Arc::new(Notify::new());
    let server = axum::serve(listener, router(&app)).with_graceful_shutdown({
        let ends = Arc::clone(&ends);
        async move { ends.notified().await }
    });
    let server = tokio::spawn(server.into_future());
    let mut loading = tokio::spawn({
        let app = Arc::clone(&app);
        async move { app.models.start().await }
    });
    let mut loaded = false;
    let result = tokio::select! {
        result = watch(&app) => result,
        result = async {
            let started = (&mut loading).await;
            match started {
                Ok(Ok(())) => std::future::pending().await,
                Ok(Err(why)) => Err(Failure::Work(why)),
                Err(panicked) => Err(Failure::Work(panicked.to_string())),
            }
        } => { loaded = true; result }
        () = asked_to_stop() => Ok(()),
        () = serving.stop.notified() => Ok(()),
    };
    app.drain();
    let drained = async {
        let begun = Instant::now();
        while !loaded && app.models.active() > 0 && begun.elapsed() < serving.drain {
            tokio::time::sleep(LOOK).await;
        }
        ends.notify_one();
        // Answers that are whole go out; readers that do not read are not waited for.
        let left = serving.drain.saturating_sub(begun.elapsed()).max(LOOK);
        let _ = tokio::time::timeout(left.min(Duration::from_secs(5)), server).await;
    };
    tokio::select! {
        () = drained => {}
        () = asked_to_stop() => tracing::warn!("a second signal: ending at once"),
    }
    result
}

/// Looks after models: unloads those that nobody uses, and ends once an engine is lost and nothing of it is
/// under way.
async fn watch(app: &App) -> Result<(), Failure> {
    loop {
        tokio::time::sleep(LOOK * 10).await;
        app.models.unload_idle().await;
        if let Some(why) = app.models.why_lost() {
            tracing::error!("{why}");
            return Err(Failure::Work(why));
        }
    }
}

/// Returns at the next SIGTERM or Ctrl-C.
async fn asked_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let both = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    );
    let (Ok(mut terminate), Ok(mut interrupt)) = both else {
        // Without handlers signals do what they always do.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
