//! `gannet serve`: models for programs that ask over HTTP.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use gannet_engine::chat::ChatTemplate;
use gannet_engine::settings::Given;
use gannet_gguf::shown_path;

use crate::console::{self, Console};
use crate::failure::Failure;
use crate::flags::{self, DeviceFlags, ModelFlag};
use crate::input;
use crate::logging::LogFormat;
use crate::server::folder::{Source, name_of, of_folder};
use crate::server::hosts;
use crate::server::loaded::TemplateChoice;
use crate::server::models::Loading;
use crate::server::planted::{self, Planted};
use crate::server::{Config, Serving, serve};

/// Serve models over HTTP, as OpenAI, Anthropic and Ollama do
#[derive(Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    model: ModelFlag,
    /// Folder of models, loaded when they are asked for and named after their files
    #[arg(long, value_name = "DIR", conflicts_with = "model")]
    models: Option<PathBuf>,
    /// Name of the model [default: that of its file]
    #[arg(long, value_name = "NAME", conflicts_with = "models")]
    alias: Option<String>,
    /// Address to listen at
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port to listen at; 0: any that is free
    #[arg(short, long, value_name = "PORT", default_value = "8080")]
    port: u16,
    #[command(flatten)]
    device: DeviceFlags,
    /// Positions of the cache of each sequence [default: the model's, at most 4096]
    #[arg(short, long, value_name = "N", alias = "ctx-size")]
    ctx: Option<usize>,
    /// Sequences at once [default: 8]
    #[arg(long, value_name = "N", default_value = "8",
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    slots: u16,
    /// Blocks of the cache, of 32 positions each, that all sequences share [default: a whole context each]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    cache_blocks: Option<u32>,
    /// Answers that may wait for a slot; more are refused
    #[arg(long, value_name = "N", default_value = "256")]
    queue: u32,
    /// Tokens of prompts in a step while others get their next tokens: fewer keep those coming, more get
    /// prompts done sooner [default: what a batch of 64 leaves on a GPU, 32 on the CPU]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    prompt_budget: Option<u32>,
    /// Chat template: a name, or a file [default: the model's]
    #[arg(long, value_name = "NAME|FILE")]
    chat_template: Option<String>,
    /// Key that requests must give; may be given several times; best by --api-key-file, since others see arguments
    #[arg(long, value_name = "KEY")]
    api_key: Vec<String>,
    /// File of keys, one a line
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Origin whose pages may ask, such as <https://example.org>, or * for all; may be given several times
    #[arg(long, value_name = "ORIGIN")]
    cors_origin: Vec<String>,
    /// Host that requests may name besides this machine, or * for all: a server that listens on this machine
    /// alone refuses others, and so does one that is given any; may be given several times
    #[arg(long, value_name = "HOST", value_parser = hosts::parse)]
    allow_host: Vec<String>,
    /// Seconds that a request may take [default: no limit]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u32>,
    /// Seconds that requests under way have to end after SIGTERM
    #[arg(long, value_name = "SECONDS", default_value = "30")]
    drain: u32,
    /// Seconds that a connection may stand still, with half a request or an answer that is not read
    #[arg(long, value_name = "SECONDS", default_value = "30",
          value_parser = clap::value_parser!(u32).range(1..=86_400))]
    patience: u32,
    /// Bytes of a request's body at most
    #[arg(long, value_name = "BYTES", default_value = "33554432")]
    max_body: usize,
    /// Models of --models that may be loaded at once
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u16).range(1..))]
    max_models: u16,
    /// Seconds without use after which a model of --models is unloaded
    #[arg(long, value_name = "SECONDS", default_value = "300")]
    keep_alive: u32,
    /// How lines of the log are written; which ones, RUST_LOG says [default there: warn,gannet=info]
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text")]
    log_format: LogFormat,
    /// A fault to plant, for tests of what must bear it; see `server/planted.rs`
    #[arg(long, value_name = "KIND=N", hide = true, value_parser = planted::parse)]
    fault: Vec<Planted>,
    /// Do not serve the page
    #[arg(long)]
    no_page: bool,
}

impl Serve {
    pub(crate) fn run(self, _console: &mut Console) -> Result<(), Failure> {
        flags::check_context("--ctx", self.ctx)?;
        let mut settings = flags::resolve(&Given {
            context: self.ctx,
            slots: Some(self.slots.into()),
            ..self.device.given()
        })?;
        settings.prompt_budget = self.prompt_budget.map(|tokens| tokens as usize);
        settings.cache_blocks = self.cache_blocks.map(|blocks| blocks as usize);
        for fault in &self.fault {
            fault.plant(&mut settings.faults);
        }
        let serving = Serving {
            address: SocketAddr::new(self.host, self.port),
            sources: self.sources()?,
            loading: Loading {
                settings,
                ignore_unknown: self.model.ignores_unknown(),
                template: template_choice(self.chat_template.as_deref())?,
                queue: self.queue as usize,
                idle: (self.models.is_some()).then(|| Duration::from_secs(self.keep_alive.into())),
                most: self.max_models.into(),
            },
            config: Config {
                keys: self.keys()?,
                origins: self.cors_origin.clone(),
                hosts: self.allow_host.clone(),
                max_body: self.max_body,
                timeout: self.timeout.map(|seconds| Duration::from_secs(seconds.into())),
                patience: Duration::from_secs(self.patience.into()),
                page: !self.no_page,
            },
            drain: Duration::from_secs(self.drain.into()),
            stop: Arc::default(),
        };
        serve(serving, |address| {
            console::say(&format!("listening on http://{address}"));
        })
    }

    fn sources(&self) -> Result<Vec<(String, Source)>, Failure> {
        let Some(folder) = &self.models else {
            let (name, source) = match self.model.path() {
                Some(path) => {
                    flags::refuse_no_file(path)?;
                    (name_of(path), Source::File(path.to_owned()))
                }
                None => (crate::embedded::ID.to_owned(), Source::Embedded),
            };
            return Ok(vec![(self.alias.clone().unwrap_or(name), source)]);
        };
        let found = of_folder(folder).map_err(|e| Failure::file(folder, "read", &e))?;
        match found.is_empty() {
            true => Err(Failure::Work(format!(
                "{}: no models; expected files that end in .gguf, or folders with a config.json",
                shown_path(folder)
            ))),
            false => Ok(found),
        }
    }

    fn keys(&self) -> Result<Vec<String>, Failure> {
        let mut keys = self.api_key.clone();
        if let Some(path) = &self.api_key_file {
            let text = input::text(input::bytes_of(path)?, &shown_path(path))?;
            keys.extend(text.lines().map(|line| line.trim().to_owned()));
            keys.retain(|key| !key.is_empty());
            if keys.is_empty() {
                return Err(Failure::Work(format!("{}: no key in it", shown_path(path))));
            }
        }
        if keys.iter().any(|key| key.trim().is_empty()) {
            return Err(Failure::Usage("--api-key is empty; give a key or leave it out".to_owned()));
        }
        Ok(keys)
    }
}

/// The template that `--chat-template` names.
pub(crate) fn template_choice(given: Option<&str>) -> Result<Option<TemplateChoice>, Failure> {
        let Some(given) = given else {
            return Ok(None);
        };
        if ChatTemplate::names().any(|name| name == given) {
            return Ok(Some(TemplateChoice::Named(given.to_owned())));
        }
        let path = PathBuf::from(given);
        if !path.is_file() {
            let names: Vec<&str> = ChatTemplate::names().collect();
            let why = format!(
                "--chat-template {given}: no such file, and no name of a template; there are {}",
                names.join(", ")
            );
            return Err(Failure::Usage(why));
        }
        let text = input::text(input::bytes_of(&path)?, &shown_path(&path))?;
        Ok(Some(TemplateChoice::Source {
            name: name_of(&path),
            text,
        }))
    }

