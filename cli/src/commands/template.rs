//! `gannet template`: messages as the text that a model is given.
//!
//! Only the vocabulary and the template are read, so a file without weights serves. The text is printed
//! as it is, without a newline of ours, so that what is seen is what the model sees.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use gannet_engine::chat::{
    ChatError, ChatTemplate, Message, TemplateOptions, parse_messages, parse_tools,
};
use gannet_engine::internals::text::tokenizer::from_metadata;
use gannet_engine::tokenizer::{Tokenizer, TokenizerOptions};
use gannet_gguf::{Gguf, shown_path};

use crate::console::Console;
use crate::failure::Failure;
use crate::flags::{ModelFlag, vocabulary};
use crate::input::{name_of, read_text};

/// Print messages as a model's chat template writes them
#[derive(Args)]
pub(crate) struct Template {
    #[command(flatten)]
    model: ModelFlag,
    /// File with the messages, a JSON array such as [{"role": "user", "content": "Hello"}]; - is
    /// standard input
    #[arg(value_name = "MESSAGES", default_value = "-")]
    messages: PathBuf,
    /// Use a built-in template by its name, or a file's, instead of the model's own
    #[arg(long, value_name = "NAME|FILE")]
    chat_template: Option<String>,
    /// Begin with a system message
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// File with the tools on offer, a JSON array such as [{"type": "function", "function": {...}}]
    #[arg(long, value_name = "FILE")]
    tools: Option<PathBuf>,
    /// End with the last message, not with the beginning of an answer
    #[arg(long)]
    no_generation_prompt: bool,
    /// Let the model think before it answers
    #[arg(long, conflicts_with = "no_thinking")]
    thinking: bool,
    /// Let the model answer at once
    #[arg(long)]
    no_thinking: bool,
    /// Print one JSON object: the template's name, the text and its tokens
    #[arg(long)]
    json: bool,
}

impl Template {
    pub(crate) fn run(self, console: &mut Console) -> Result<(), Failure> {
        let gguf = self.model.open_container()?;
        let tokenizer = from_metadata(gguf.metadata(), &TokenizerOptions::default())
            .map_err(|source| vocabulary(&gguf, source))?;
        for warning in tokenizer.warnings() {
            console.note(format!("warning: {warning}"));
        }
        let template = self.template(&gguf, &tokenizer)?;
        let messages = self.messages()?;
        let tools = match &self.tools {
            Some(file) => {
                let found = parse_tools(&read_text(file)?);
                found.map_err(|e| Failure::Work(format!("{}: {e}", name_of(file))))?
            }
            None => Vec::new(),
        };
        if !tools.is_empty() && !template.takes_tools() {
            let name = template.name();
            let what = format!("--tools: the chat template {name} has no place for tools");
            return Err(Failure::Work(what));
        }
        let text = template.render(&messages, &tools, &self.options()).map_err(said)?;
        if self.json {
            return console.json(&serde_json::json!({
                "template": template.name(),
                "text": text,
                "tokens": template.prompt_tokens(&tokenizer, &text),
            }));
        }
        let mut out = io::stdout().lock();
        let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        written.map_err(|e| Failure::stdout(&e))
    }

    /// The template asked for: a built-in one, a file's, or the model's own; the embedded model, which
    /// was never taught to converse, has the plain one.
    fn template(&self, gguf: &Gguf, tokenizer: &Tokenizer) -> Result<ChatTemplate, Failure> {
        let found = match &self.chat_template {
            Some(name) if ChatTemplate::names().any(|known| known == name) => {
                ChatTemplate::named(name, tokenizer)
            }
            Some(file) if Path::new(file).exists() => {
                let source = read_text(Path::new(file))?;
                ChatTemplate::parse(&shown_path(Path::new(file)), &source, tokenizer)
            }
            Some(name) => ChatTemplate::named(name, tokenizer),
            None if !self.model.is_given() => ChatTemplate::named("plain", tokenizer),
            None => {
                let file = self.model.name();
                ChatTemplate::of_metadata(gguf.metadata(), &file, tokenizer, None)
            }
        };
        found.map_err(said)
    }

    fn messages(&self) -> Result<Vec<Message>, Failure> {
        let read = parse_messages(&read_text(&self.messages)?);
        let mut messages =
            read.map_err(|e| Failure::Work(format!("{}: {e}", name_of(&self.messages))))?;
        if let Some(system) = &self.system {
            messages.insert(0, Message::new("system", system.as_str()));
        }
        Ok(messages)
    }

    fn options(&self) -> TemplateOptions {
        TemplateOptions {
            add_generation_prompt: !self.no_generation_prompt,
            thinking: (self.thinking || self.no_thinking).then_some(self.thinking),
            ..TemplateOptions::default()
        }
    }
}

fn said(error: ChatError) -> Failure {
    Failure::Work(error.to_string())
}
