//! The models that a server has: one that was named, or all of a folder, loaded when they are asked for.
//!
//! A model is loaded by whoever asks first; others wait for the same load. One that nobody has used for a
//! while gives its memory back, and so does the one that was used longest ago where another does not fit
//! beside it. Whoever uses a model holds an [`Active`](super::loaded::Active), and a model in use is never unloaded.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use gannet_engine::Error;
use gannet_engine::settings::Settings;
use tokio::sync::Mutex as AsyncMutex;

use super::admission::{Lost, lock};
use super::error::{ApiError, ENGINE_LOST};
use super::folder::Source;
use super::loaded::{Loaded, TemplateChoice, open};
use super::metrics::Metrics;

/// What a model's place in the server holds.
enum State {
    /// Nothing yet, or nothing any more.
    Away,
    Ready(Arc<Loaded>),
    /// It cannot be loaded; nobody tries again.
    Broken(String),
}

struct Entry {
    id: String,
    source: Source,
    state: AsyncMutex<State>,
    /// Whether it is being loaded since before anybody asked.
    starting: AtomicBool,
}

/// How models are loaded.
#[derive(Debug, Clone)]
pub(crate) struct Loading {
    pub(crate) settings: Settings,
    pub(crate) ignore_unknown: bool,
    /// The name or the source of the template, where one was given.
    pub(crate) template: Option<TemplateChoice>,
    /// Choices that may wait for a slot.
    pub(crate) queue: usize,
    /// How long a model of a folder stays without use.
    pub(crate) idle: Option<Duration>,
    /// How many models may be there at once.
    pub(crate) most: usize,
}

/// All models of a server.
pub(crate) struct Models {
    entries: Vec<Entry>,
    loading: Loading,
    metrics: Arc<Metrics>,
    lost: Lost,
    loads: AtomicU64,
}

/// A model as lists show it.
pub(crate) struct Listed<'a> {
    pub(crate) id: &'a str,
    pub(crate) source: &'a Source,
    pub(crate) loaded: Option<Arc<Loaded>>,
}

impl Models {
    /// The models of these sources, none of which is loaded.
    pub(crate) fn new(
        sources: Vec<(String, Source)>,
        loading: Loading,
        metrics: Arc<Metrics>,
    ) -> Models {
        let entry = |(id, source)| Entry {
            id,
            source,
            state: AsyncMutex::new(State::Away),
            starting: AtomicBool::new(false),
        };
        Models {
            entries: sources.into_iter().map(entry).collect(),
            loading,
            metrics,
            lost: Lost::default(),
            loads: AtomicU64::new(0),
        }
    }

    /// Whether every model is there from the start and stays.
    fn stays(&self) -> bool {
        self.loading.idle.is_none()
    }

    /// Loads the only model before anybody asks for it; until then requests hear that it is loading.
    pub(crate) async fn start(&self) -> Result<(), String> {
        let Some(entry) = self.entries.first().filter(|_| self.stays()) else {
            return Ok(());
        };
        entry.starting.store(true, Ordering::Release);
        let mut state = entry.state.lock().await;
        let loaded = self.load(entry, &mut state).await;
        entry.starting.store(false, Ordering::Release);
        loaded.map(|_| ()).map_err(|error| error.message)
    }

    /// Whether requests would be served.
    pub(crate) fn is_ready(&self) -> Result<(), ApiError> {
        if let Some(why) = lock(&self.lost).clone() {
            return Err(ApiError::unavailable(ENGINE_LOST, why));
        }
        let starting = |entry: &Entry| entry.starting.load(Ordering::Acquire);
        let waits = self.stays() && self.loads.load(Ordering::Acquire) == 0;
        match waits || self.entries.iter().any(starting) {
            true => Err(loading()),
            false => Ok(()),
        }
    }

    /// Why nothing is served any more, if so.
    pub(crate) fn why_lost(&self) -> Option<String> {
        lock(&self.lost).clone()
    }

    /// The model of a name; without one, the only model or the first.
    pub(crate) async fn get(&self, name: Option<&str>) -> Result<Arc<Loaded>, ApiError> {
        if let Some(why) = self.why_lost() {
            return Err(ApiError::unavailable(ENGINE_LOST, why));
        }
        let entry = self.entry(name)?;
        if entry.starting.load(Ordering::Acquire) {
            return Err(loading());
        }
        let mut state = entry.state.lock().await;
        match &*state {
            State::Ready(loaded) => Ok(Arc::clone(loaded)),
            State::Broken(why) => Err(ApiError::unavailable("model_broken", why.clone())),
            State::Away => self.load(entry, &mut state).await,
        }
    }

    fn entry(&self, name: Option<&str>) -> Result<&Entry, ApiError> {
        let Some(name) = name else {
            let none = || ApiError::new(StatusCode::NOT_FOUND, "there is no model here");
            return self.entries.first().ok_or_else(none);
        };
        // Ollama's clients say a tag.
        let bare = name.strip_suffix(":latest").unwrap_or(name);
        let found = self.entries.iter().find(|e| e.id == name || e.id == bare);
        found.ok_or_else(|| {
            let mut ids: Vec<&str> = self.entries.iter().map(|e| e.id.as_str()).collect();
            ids.truncate(20);
            let message = format!(
                "there is no model {name:?} here; there are: {}",
                ids.join(", ")
            );
            ApiError::new(StatusCode::NOT_FOUND, message)
                .code("model_not_found")
                .about("model")
        })
    }

    async fn load(&self, entry: &Entry, state: &mut State) -> Result<Arc<Loaded>, ApiError> {
        self.make_room(entry).await;
        let mut made = self.try_load(entry).await;
        while let Err(Error::DoesNotFit(_) | Error::Memory { .. }) = &made {
            if !self.unload_oldest(entry).await {
                break;
            }
            made = self.try_load(entry).await;
        }
        match made {
            Ok(loaded) => {
                self.loads.fetch_add(1, Ordering::AcqRel);
                *state = State::Ready(Arc::clone(&loaded));
                Ok(loaded)
            }
            Err(error) => {
                let why = error.to_string();
                let fits_later = matches!(error, Error::DoesNotFit(_) | Error::Memory { .. });
                if !fits_later {
                    *state = State::Broken(why.clone());
                }
                Err(ApiError::unavailable("model_broken", why))
            }
        }
    }

    async fn try_load(&self, entry: &Entry) -> Result<Arc<Loaded>, Error> {
        let (id, source) = (entry.id.clone(), entry.source.clone());
        let loading = self.loading.clone();
        let (metrics, lost) = (Arc::clone(&self.metrics), Arc::clone(&self.lost));
        let load = move || open(id, source, &loading, metrics, lost).map(Arc::new);
        let made = tokio::task::spawn_blocking(load).await;
        made.unwrap_or_else(|e| Err(Error::Request(format!("loading failed: {e}"))))
    }

    /// Unloads models until one more may be loaded.
    async fn make_room(&self, wanted: &Entry) {
        while self.loaded(wanted).len() >= self.loading.most && self.unload_oldest(wanted).await {}
    }

    /// The models that are there, other than one that is being loaded.
    fn loaded(&self, except: &Entry) -> Vec<(&Entry, Arc<Loaded>)> {
        let others = self.entries.iter().filter(|e| e.id != except.id);
        let ready = |entry| Some((entry, ready_of(entry)?));
        others.filter_map(ready).collect()
    }

    /// Unloads the model that was used longest ago, if there is one that nobody uses.
    async fn unload_oldest(&self, except: &Entry) -> bool {
        let mut idle: Vec<_> = (self.loaded(except).into_iter())
            .filter_map(|(entry, loaded)| Some((loaded.is_idle_since()?, entry)))
            .collect();
        idle.sort_by_key(|(since, _)| *since);
        let Some(&(_, entry)) = idle.first() else {
            return false;
        };
        unload(entry).await
    }

    /// Unloads what has been idle for too long.
    pub(crate) async fn unload_idle(&self) {
        let Some(idle) = self.loading.idle else {
            return;
        };
        for entry in &self.entries {
            let goes = |loaded: Arc<Loaded>| {
                loaded.is_idle_since().is_some() && loaded.goes_in(idle).is_zero()
            };
            if ready_of(entry).is_some_and(goes) {
                unload(entry).await;
            }
        }
    }

    /// How long models stay without use; `None`: for ever.
    pub(crate) fn idle(&self) -> Option<Duration> {
        self.loading.idle
    }

    /// Unloads a model now, if nobody uses it.
    pub(crate) async fn unload(&self, name: &str) -> Result<bool, ApiError> {
        let entry = self.entry(Some(name))?;
        Ok(unload(entry).await)
    }

    /// All models, in order.
    pub(crate) fn list(&self) -> impl Iterator<Item = Listed<'_>> {
        self.entries.iter().map(|entry| Listed {
            id: &entry.id,
            source: &entry.source,
            loaded: ready_of(entry),
        })
    }

    /// A model as lists show it.
    pub(crate) fn find(&self, name: &str) -> Result<Listed<'_>, ApiError> {
        let entry = self.entry(Some(name))?;
        Ok(Listed {
            id: &entry.id,
            source: &entry.source,
            loaded: ready_of(entry),
        })
    }

    /// Choices that have not ended, of all models.
    pub(crate) fn active(&self) -> usize {
        let active = |listed: Listed<'_>| Some(listed.loaded?.active());
        self.list().filter_map(active).sum()
    }
}

fn loading() -> ApiError {
    ApiError::unavailable(
        "model_loading",
        "the model is loading; come again in a moment",
    )
}

/// A model that is there and not being loaded or unloaded.
fn ready_of(entry: &Entry) -> Option<Arc<Loaded>> {
    let state = entry.state.try_lock().ok()?;
    match &*state {
        State::Ready(loaded) => Some(Arc::clone(loaded)),
        State::Away | State::Broken(_) => None,
    }
}

/// Takes a model away and waits until its memory is free; false where somebody uses it.
async fn unload(entry: &Entry) -> bool {
    let mut state = entry.state.lock().await;
    let State::Ready(loaded) = &*state else {
        return false;
    };
    if loaded.is_idle_since().is_none() {
        return false;
    }
    let State::Ready(loaded) = std::mem::replace(&mut *state, State::Away) else {
        return false;
    };
    // Whoever looked at it just now drops it in a moment; its thread is waited for elsewhere.
    let _ = tokio::task::spawn_blocking(move || drop(loaded)).await;
    true
}
