//! The models that a server has: one that was named, or all of a folder, loaded when they are asked for.
//!
//! A model is loaded by whoever asks first; others wait for the same load. One that nobody has used for a
//! while gives its memory back, and so does the one that was used longest ago where another does not fit
//! beside it. Whoever uses a model holds an [`Active`], and a model in use is never unloaded.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use gannet_engine::chat::ChatTemplate;
use gannet_engine::settings::Settings;
use gannet_engine::tool_calls::ToolFormat;
use gannet_engine::{Engine, Error, ExecutorKind, Model, ModelOptions};
use tokio::sync::Mutex as AsyncMutex;

use super::admission::{Admitted, Lost, Tally, lock};
use super::error::{ApiError, ENGINE_LOST};
use super::metrics::Metrics;
use crate::embedded;

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    Embedded,
    File(PathBuf),
}

/// A model on a device.
pub(crate) struct Loaded {
    id: String,
    source: Source,
    engine: Engine,
    /// How conversations are written, or why none can be.
    template: Result<ChatTemplate, String>,
    created: u64,
    tally: Arc<Tally>,
    metrics: Arc<Metrics>,
}

impl Loaded {
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(crate) fn model(&self) -> &Model {
        self.engine.model()
    }

    pub(crate) fn is_demonstration(&self) -> bool {
        self.source == Source::Embedded
    }

    /// Whether it runs on a GPU.
    pub(crate) fn on_gpu(&self) -> bool {
        matches!(
            self.engine.kind(),
            ExecutorKind::CudaEager | ExecutorKind::CudaGraph | ExecutorKind::CudaCapture
        )
    }

    pub(crate) fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// How its conversations are written.
    pub(crate) fn template(&self) -> Result<&ChatTemplate, ApiError> {
        let why = |why: &String| ApiError::param("messages", why.clone()).code("no_chat_template");
        self.template.as_ref().map_err(why)
    }

    /// How its template writes calls of tools, if it does.
    pub(crate) fn tool_format(&self) -> Option<ToolFormat> {
        let template = self.template.as_ref().ok()?;
        ToolFormat::of_template(template.source())
    }

    /// What a user should know before a conversation.
    pub(crate) fn describe_chat(&self) -> String {
        match &self.template {
            Ok(template) if self.is_demonstration() => format!(
                "a base model of Rust documentation, which continues text and follows no instructions; \
                 its template is {}",
                template.name()
            ),
            Ok(template) => format!("template: {}", template.name()),
            Err(why) => why.clone(),
        }
    }

    /// When it was loaded, in seconds since 1970.
    pub(crate) fn created(&self) -> u64 {
        self.created
    }

    /// Counts choices in, if there is room for them.
    pub(crate) fn admit(self: &Arc<Self>, choices: usize) -> Result<Active, ApiError> {
        Ok(Active {
            choices: Arc::new(self.tally.admit(choices)?),
            _model: Arc::clone(self),
        })
    }

    /// Lets it stay so long without use, if it is one that goes at all.
    pub(crate) fn keep_for(&self, time: Duration) {
        self.tally.keep_for(time);
    }

    /// When it goes if nobody uses it, counted from now, where it is one that is kept so long otherwise.
    pub(crate) fn goes_in(&self, idle: Duration) -> Duration {
        self.tally.goes_in(idle)
    }

    fn is_idle_since(&self) -> Option<Instant> {
        self.tally.is_idle_since()
    }
}

/// Choices under way, and the model that is not unloaded meanwhile. What has not ended is given up with it.
pub(crate) struct Active {
    choices: Arc<Admitted>,
    _model: Arc<Loaded>,
}

impl Active {
    /// The choices.
    pub(crate) fn choices(&self) -> &Arc<Admitted> {
        &self.choices
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.choices.give_up();
    }
}

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
        let active = |listed: Listed<'_>| Some(listed.loaded?.tally.active());
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

/// Opens a model and puts it on its device.
fn open(
    id: String,
    source: Source,
    loading: &Loading,
    metrics: Arc<Metrics>,
    lost: Lost,
) -> Result<Loaded, Error> {
    let mut options = ModelOptions::default();
    options.ignore_unknown = loading.ignore_unknown;
    let model = match &source {
        Source::Embedded => embedded::open(&options)?,
        Source::File(path) => Model::open_with(path, &options)?,
    };
    for warning in model.warnings() {
        tracing::warn!(model = id, "{warning}");
    }
    let engine = Engine::new(&Arc::new(model), &loading.settings)?;
    if let Some(notice) = engine.notice() {
        tracing::warn!(model = id, "{notice}");
    }
    let slots = loading.settings.slots.unwrap_or(1);
    let template = template_of(engine.model(), &source, loading.template.as_ref());
    tracing::info!(model = id, executor = %engine.kind(), context = engine.context(), slots, "loaded");
    Ok(Loaded {
        id,
        source,
        engine,
        template,
        created: unix_seconds(),
        tally: Arc::new(Tally::new(slots, loading.queue, Arc::clone(&metrics), lost)),
        metrics,
    })
}

/// A template that was given.
#[derive(Debug, Clone)]
pub(crate) enum TemplateChoice {
    /// One of those that the engine has.
    Named(String),
    /// The text of a file.
    Source { name: String, text: String },
}

/// How conversations with a model are written, or why none can be.
pub(crate) fn template_of(
    model: &Model,
    source: &Source,
    choice: Option<&TemplateChoice>,
) -> Result<ChatTemplate, String> {
    let tokenizer = model.tokenizer();
    let template = match choice {
        Some(TemplateChoice::Named(name)) => ChatTemplate::named(name, tokenizer),
        Some(TemplateChoice::Source { name, text }) => ChatTemplate::parse(name, text, tokenizer),
        None if *source == Source::Embedded => ChatTemplate::named("plain", tokenizer),
        None => ChatTemplate::of(model),
    };
    template.map_err(|error| error.to_string())
}

/// The names and files of a folder's models, by name.
pub(crate) fn of_folder(folder: &Path) -> std::io::Result<Vec<(String, Source)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let is_model = match path.is_dir() {
            true => path.join("config.json").is_file(),
            false => path
                .extension()
                .is_some_and(|e| e.eq_ignore_ascii_case("gguf")),
        };
        if is_model && !is_later_shard(&path) {
            found.push((name_of(&path), Source::File(path)));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// Whether a file is a shard other than the first: `name-00002-of-00003.gguf`.
fn is_later_shard(path: &Path) -> bool {
    let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned());
    let stem = stem.unwrap_or_default();
    let Some((before, of)) = stem.rsplit_once("-of-") else {
        return false;
    };
    let number = before.rsplit('-').next().unwrap_or("");
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    is_number(of) && is_number(number) && number != "00001"
}

/// What a model of a file is called: its name without the extension.
pub(crate) fn name_of(path: &Path) -> String {
    let name = match path.is_dir() {
        true => path.file_name(),
        false => path.file_stem(),
    };
    let name = name.map(|name| name.to_string_lossy().into_owned());
    let name = name.unwrap_or_else(|| "model".to_owned());
    match name.rsplit_once("-00001-of-") {
        Some((before, of)) if of.len() == 5 => before.to_owned(),
        _ => name,
    }
}

fn unix_seconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_named_after_their_files() {
        for (file, name) in [
            ("/m/a.gguf", "a"),
            ("b-Q4_K_M.gguf", "b-Q4_K_M"),
            ("c-00001-of-00003.gguf", "c"),
            ("d-1-of-3.gguf", "d-1-of-3"),
        ] {
            assert_eq!(name_of(Path::new(file)), name);
        }
    }

    #[test]
    fn later_shards_are_no_models() {
        assert!(is_later_shard(Path::new("c-00002-of-00003.gguf")));
        for file in ["c-00001-of-00003.gguf", "c.gguf", "one-of-two.gguf"] {
            assert!(!is_later_shard(Path::new(file)), "{file}");
        }
    }
}
