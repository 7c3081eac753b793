//! A model on a device: how it is opened, what is said of it, and who uses it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gannet_engine::chat::ChatTemplate;
use gannet_engine::tool_calls::ToolFormat;
use gannet_engine::{Engine, Error, ExecutorKind, Model, ModelOptions};

use super::admission::{Admitted, Lost, Tally};
use super::error::ApiError;
use super::folder::Source;
use super::metrics::Metrics;
use super::models::Loading;
use crate::embedded;
use crate::times::unix_seconds;

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

    /// Choices that have not ended.
    pub(super) fn active(&self) -> usize {
        self.tally.active()
    }

    pub(super) fn is_idle_since(&self) -> Option<Instant> {
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

/// Opens a model and puts it on its device.
pub(super) fn open(
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
