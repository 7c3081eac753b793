//! Clients of a server, for `gannet bench --clients`: what programs that ask over sockets see.
//!
//! The server is the one that `gannet serve` runs, in this process and on a port of its own; clients are
//! threads that read streams. Three trials: clients that arrive at once, a long prompt that joins others, and
//! one long prefix that all clients share.

mod client;
mod report;
mod trials;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use gannet_engine::settings::Settings;
use tokio::sync::Notify;

use crate::failure::Failure;
use crate::server::folder::Source;
use crate::server::models::Loading;
use crate::server::{Config, Serving, serve};
pub(crate) use report::ClientsReport;
use trials::Sizes;

/// Measures `clients` clients of a model that is served with these settings.
pub(crate) fn measure(
    path: Option<PathBuf>,
    settings: &Settings,
    clients: usize,
    trained: usize,
    vocab_size: usize,
) -> Result<ClientsReport, Failure> {
    let sizes = Sizes::new(clients, trained, vocab_size);
    let settings = Settings {
        context: Some(sizes.context()),
        slots: Some(clients + 1),
        cache_blocks: Some(sizes.blocks()),
        ..settings.clone()
    };
    let stop = Arc::new(Notify::new());
    let serving = Serving {
        address: ([127, 0, 0, 1], 0).into(),
        sources: vec![(
            "model".to_owned(),
            path.map_or(Source::Embedded, Source::File),
        )],
        loading: Loading {
            settings,
            ignore_unknown: false,
            template: None,
            queue: 0,
            idle: None,
            most: 1,
        },
        config: Config {
            max_body: 64 << 20,
            patience: Duration::from_secs(600),
            ..Config::default()
        },
        drain: Duration::from_secs(1),
        stop: Arc::clone(&stop),
    };
    let (bound, address) = channel();
    let server = std::thread::spawn(move || {
        serve(serving, |address| {
            // Whoever asked has given up where nobody hears it.
            let _ = bound.send(address);
        })
    });
    let ended = |server: std::thread::JoinHandle<Result<(), Failure>>| match server.join() {
        Ok(Ok(())) => Failure::Work("the server has ended".to_owned()),
        Ok(Err(why)) => why,
        Err(_) => Failure::Work("the server failed".to_owned()),
    };
    let Ok(address) = address.recv() else {
        return Err(ended(server));
    };
    let measured = trials::run(address, &sizes);
    stop.notify_one();
    match (measured, server.join()) {
        (Ok(report), _) => Ok(report),
        (Err(_), Ok(Err(why))) => Err(why),
        (Err(why), _) => Err(Failure::Work(format!("a client: {why}"))),
    }
}
