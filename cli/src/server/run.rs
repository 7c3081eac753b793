//! The server's life: bound before anything is loaded, ready when the model is, and gone in good order.
//!
//! SIGTERM or Ctrl-C: not ready from then on, new requests get 503, those under way end, up to a limit. A
//! second signal ends the process at once. A device that is lost makes the server unhealthy, and the process
//! ends with an error once nothing is under way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

use super::app::{App, Config, Shared};
use super::connections;
use super::folder::Source;
use super::metrics::Metrics;
use super::models::{Loading, Models};
use super::router::router;
use crate::failure::Failure;

/// How often is looked whether something is over.
const LOOK: Duration = Duration::from_millis(20);

/// How long answers that are whole may take to go out at the end.
const FLUSH: Duration = Duration::from_secs(5);

/// How long a server says that it is of no use before it ends.
const UNHEALTHY: Duration = Duration::from_secs(1);

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
    runtime.shutdown_timeout(match served {
        Err(Failure::Interrupted) => Duration::ZERO,
        _ => Duration::from_millis(500),
    });
    served
}

async fn run(serving: Serving, bound: impl FnOnce(SocketAddr)) -> Result<(), Failure> {
    let cannot = |e: std::io::Error| {
        let address = serving.address;
        Failure::Work(format!(
            "cannot listen on {address}: {e}; choose another with --host and --port"
        ))
    };
    let mut signals = Signals::new()?;
    let listener = connections::listen(serving.address).map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    let metrics = Arc::new(Metrics::new());
    let models = Models::new(serving.sources, serving.loading, Arc::clone(&metrics));
    let app: App = Arc::new(Shared::new(models, metrics, serving.config));
    let ends = Arc::new(Notify::new());
    let patience = app.config.patience;
    let server = connections::serve(
        listener,
        router(&app, address.ip()),
        patience,
        Arc::clone(&ends),
    );
    let server = tokio::spawn(server);
    bound(address);
    let why = tokio::select! {
        why = watch(&app) => End::Lost(why),
        why = load(&app) => End::NotLoaded(why),
        _ = signals.next() => End::Asked,
        () = serving.stop.notified() => End::Asked,
    };
    let drained = async {
        let left = drain(&app, &why, serving.drain).await;
        ends.notify_one();
        // Answers that are whole go out; readers that do not read are not waited for.
        let _ = tokio::time::timeout(left.min(FLUSH), server).await;
    };
    let result = tokio::select! {
        () = drained => why.result(),
        _ = signals.next() => {
            tracing::warn!("a second signal: ending at once");
            Err(Failure::Interrupted)
        }
    };
    if result.is_err() || app.models.active() > 0 {
        // An engine is waited for where it is dropped, and it may be in the middle of a long step.
        std::mem::forget(app);
    }
    result
}

/// Why a server ends.
enum End {
    /// Somebody asked for it.
    Asked,
    /// The model cannot be loaded.
    NotLoaded(String),
    /// An engine computes nothing any more.
    Lost(String),
}

impl End {
    fn result(self) -> Result<(), Failure> {
        match self {
            End::Asked => Ok(()),
            End::NotLoaded(why) | End::Lost(why) => Err(Failure::Work(why)),
        }
    }
}

/// Loads what is loaded in front of the first request; returns where that is not possible, and why.
async fn load(app: &App) -> String {
    let app = Arc::clone(app);
    match tokio::spawn(async move { app.models.start().await }).await {
        Ok(Ok(())) => std::future::pending().await,
        Ok(Err(why)) => why,
        Err(panicked) => panicked.to_string(),
    }
}

/// Waits for what is under way; returns how much of the time for it is left.
async fn drain(app: &App, why: &End, most: Duration) -> Duration {
    let begun = Instant::now();
    if !matches!(why, End::Lost(_)) {
        app.drain();
    }
    while app.models.active() > 0 && begun.elapsed() < most {
        tokio::time::sleep(LOOK).await;
    }
    if matches!(why, End::Lost(_)) {
        // Who sends requests here learns that there is nothing to be had.
        tokio::time::sleep(UNHEALTHY).await;
    }
    most.saturating_sub(begun.elapsed()).max(LOOK)
}

/// Looks after models: unloads those that nobody uses, and returns once an engine is lost, and why.
async fn watch(app: &App) -> String {
    loop {
        tokio::time::sleep(LOOK * 10).await;
        app.models.unload_idle().await;
        if let Some(why) = app.models.why_lost() {
            tracing::error!("{why}");
            return why;
        }
    }
}

/// SIGTERM and Ctrl-C, none of which is missed once this is made.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Signals, Failure> {
        let listen = |kind| {
            let cannot = |e| Failure::Work(format!("cannot listen for signals: {e}"));
            signal(kind).map_err(cannot)
        };
        Ok(Signals {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// Returns at the next of them.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
