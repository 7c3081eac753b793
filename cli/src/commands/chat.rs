//! `gannet chat`: a conversation with a model.
//!
//! On a terminal lines are edited and kept in a history; in a pipe each line is a message. Standard output
//! gets the replies.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use gannet_engine::settings::Given;
use gannet_engine::{Engine, GenerateOptions, Model, Opening};

use crate::chat::{Controls, Look, Reader, Talk};
use crate::commands::run::most_tokens;
use crate::commands::serve::template_choice;
use crate::console::{self, Console};
use crate::embedded;
use crate::failure::Failure;
use crate::flags::{self, DeviceFlags, ModelFlag};
use crate::interrupt::Interruptions;
use crate::progress::Progress;
use crate::sampling::{DEFAULTS, SamplingFlags};
use crate::server::folder::Source;
use crate::server::loaded::template_of;

/// Tokens of a reply of the demonstration model, whose texts have no end of their own.
const DEMONSTRATION_TOKENS: usize = 128;

/// Talk with a model: replies to standard output, figures to standard error
#[derive(Args)]
#[command(after_help = DEFAULTS)]
pub(crate) struct Chat {
    /// The model to talk with, as of -m
    #[arg(value_name = "MODEL", conflicts_with = "model")]
    file: Option<PathBuf>,
    #[command(flatten)]
    model: ModelFlag,
    /// What the model is to be and to do
    #[arg(long, value_name = "TEXT", aliases = ["system-prompt", "sys"])]
    system: Option<String>,
    /// Chat template: a name, or a file [default: the model's]
    #[arg(long, value_name = "NAME|FILE")]
    chat_template: Option<String>,
    /// Most tokens of a reply; -1: until it ends or the context is full [default: -1, 128 of the embedded
    /// demonstration model]
    #[arg(short = 'n', long, value_name = "N", value_parser = most_tokens,
          aliases = ["n-predict", "num-predict", "predict"])]
    max_tokens: Option<usize>,
    #[command(flatten)]
    sampling: SamplingFlags,
    #[command(flatten)]
    device: DeviceFlags,
    /// Positions of the cache, for the whole conversation [default: the model's, at most 4096]
    #[arg(short, long, value_name = "N", alias = "ctx-size")]
    ctx: Option<usize>,
    /// End a reply where TEXT begins, which is not printed; may be given several times
    #[arg(long, value_name = "TEXT", aliases = ["reverse-prompt"])]
    stop: Vec<String>,
    /// Ask the model not to think first, where its template can
    #[arg(long)]
    no_thinking: bool,
    /// Mark thoughts by a word instead of a shade, for terminals that have none
    #[arg(long, conflicts_with = "json")]
    plain: bool,
    /// Print a JSON object for each reply instead of text as it comes
    #[arg(long)]
    json: bool,
}

impl Chat {
    pub(crate) fn run(mut self, console: &mut Console) -> Result<(), Failure> {
        if let Some(file) = self.file.take() {
            self.model.set(file);
        }
        let controls = self.controls()?;
        flags::check_context("--ctx", self.ctx)?;
        let settings = flags::resolve(&Given {
            context: self.ctx,
            slots: Some(1),
            ..self.device.given()
        })?;
        let choice = template_choice(self.chat_template.as_deref())?;
        let opening = Opening::start(&settings);
        let model = self.model.open(console)?;
        // Before the device: a model that nobody can talk with is not worth its load.
        let template = template_of(&model, &self.source(), choice.as_ref()).map_err(Failure::Work)?;
        let engine = {
            let _progress = Progress::spinner(format!("loading {}", self.model.name()));
            Engine::on(&model, &settings, &opening)?
        };
        self.introduce(console, &model, &engine, template.name());
        let mut reader = Reader::open(settings.disk_cache.folder.as_deref())?;
        if reader.is_terminal() {
            console::say("/help lists orders, Ctrl-C ends a reply, Ctrl-D the conversation");
        }
        let mut talk = Talk {
            console,
            engine,
            template,
            controls,
            look: Look::of_output(self.json, self.plain),
            system: self.system.filter(|text| !text.is_empty()),
            interruptions: Interruptions::watch(),
            said: Default::default(),
        };
        talk.run(&mut reader)
    }

    fn controls(&self) -> Result<Controls, Failure> {
        let is_demonstration = !self.model.is_given();
        let most = match is_demonstration {
            true => DEMONSTRATION_TOKENS,
            false => usize::MAX,
        };
        let options = GenerateOptions {
            max_tokens: self.max_tokens.unwrap_or(most),
            sampling: self.sampling.sampling(is_demonstration)?,
            stop: self.stop.clone(),
            ..GenerateOptions::default()
        };
        options.check().map_err(|e| Failure::Usage(e.to_string()))?;
        Ok(Controls {
            options,
            thinking: self.no_thinking.then_some(false),
        })
    }

    fn source(&self) -> Source {
        match self.model.path() {
            Some(path) => Source::File(path.to_owned()),
            None => Source::Embedded,
        }
    }

    /// Says what somebody is about to talk with.
    fn introduce(&self, console: &mut Console, model: &Arc<Model>, engine: &Engine, template: &str) {
        let about = match self.model.is_given() {
            true => self.model.name(),
            false => format!("{}, {}", embedded::FILE, embedded::ABOUT),
        };
        let context = engine.context();
        console.note(format!("[model: {about}; template {template}; context {context}]"));
        if let Some(notice) = engine.notice() {
            console.note(notice);
        }
        let trained = model.hparams().context_length;
        if context > trained {
            console.note(format!("warning: the model was trained for {trained} positions, not {context}"));
        }
        console.show_notes();
    }
}
