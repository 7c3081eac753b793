//! A conversation in the terminal, or in a pipe, for `gannet chat`.
//!
//! Standard output gets replies and nothing else; figures and answers to orders go to standard error. The
//! engine keeps what it has computed: a message costs its own tokens, not those of all that was said. What
//! does not fit the context is said, never left out.

mod command;
mod controls;
mod kept;
mod lines;
mod reply;
mod screen;

use std::time::Duration;

use gannet_engine::chat::{ChatTemplate, Message, TemplateOptions};
use gannet_engine::tool_calls::{ReplyParser, ToolFormat};
use gannet_engine::{Engine, Error, Finish, Generation, Request};
use serde_json::json;

use self::command::Command;
pub(crate) use self::controls::Controls;
pub(crate) use self::lines::Reader;
use self::lines::Written;
use self::reply::{Reply, Trouble, ask};
pub(crate) use self::screen::Look;
use self::screen::Screen;
use crate::console::{self, Console};
use crate::failure::Failure;
use crate::figures::{self, counted};
use crate::interrupt::Interruptions;
use crate::stream::{finish_name, full};

/// A conversation.
pub(crate) struct Talk<'c> {
    pub(crate) console: &'c mut Console,
    pub(crate) engine: Engine,
    pub(crate) template: ChatTemplate,
    pub(crate) controls: Controls,
    pub(crate) look: Look,
    pub(crate) system: Option<String>,
    pub(crate) interruptions: Interruptions,
    pub(crate) said: Said,
}

/// What was said, and what it took.
#[derive(Default)]
pub(crate) struct Said {
    messages: Vec<Message>,
    /// Replies to the last message that were dropped.
    retries: u64,
    replies: usize,
    tokens: usize,
    seconds: f64,
    /// Positions of the cache behind the last reply.
    used: usize,
}

/// Whether a conversation goes on.
enum Flow {
    GoesOn,
    Ends,
}

impl Talk<'_> {
    /// Talks until nothing more comes. On a terminal an error is said and the conversation goes on.
    pub(crate) fn run(&mut self, reader: &mut Reader) -> Result<(), Failure> {
        loop {
            let done = match reader.next() {
                Ok(written) => self.take(written, reader),
                Err(failure) => Err(failure),
            };
            match done {
                Ok(Flow::GoesOn) => {}
                Ok(Flow::Ends) => return Ok(()),
                // It was said, and somebody is there to go on.
                Err(Failure::Interrupted) if reader.is_terminal() => {}
                Err(Failure::Work(why)) if reader.is_terminal() && !self.is_lost() => {
                    console::complain(&format!("error: {}", crate::failure::one_line(&why)));
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Whether no reply can come any more.
    fn is_lost(&self) -> bool {
        self.engine.counters().is_err()
    }

    fn take(&mut self, written: Written, reader: &mut Reader) -> Result<Flow, Failure> {
        match written {
            Written::End => return Ok(Flow::Ends),
            Written::Message(text) => self.say(&text)?,
            Written::Line(line) => match command::parse(&line) {
                Some(order) => return self.obey(order.map_err(Failure::Work)?, reader),
                None => self.say(command::message(&line))?,
            },
        }
        Ok(Flow::GoesOn)
    }

    fn obey(&mut self, order: Command, reader: &mut Reader) -> Result<Flow, Failure> {
        match order {
            Command::Exit => return Ok(Flow::Ends),
            Command::Help => console::complain(command::HELP),
            Command::Stats => console::complain(&self.stats()),
            Command::Clear => self.said.clear(),
            Command::System(None) => match &self.system {
                Some(system) => console::complain(system),
                None => console::complain("there is no system prompt; /system TEXT sets one"),
            },
            Command::System(Some(text)) => self.system = Some(text).filter(|text| !text.is_empty()),
            Command::Set(None) => console::complain(&self.controls.list()),
            Command::Set(Some((name, value))) => {
                self.controls.set(&name, &value).map_err(Failure::Work)?;
            }
            Command::Save { path, over } => {
                kept::save(&path, &self.all(), over)?;
                let count = counted(self.said.messages.len(), "message");
                console::say(&format!("[{count} in {}]", gannet_gguf::shown_path(&path)));
            }
            Command::Load(path) => self.load(kept::load(&path)?),
            Command::Retry => self.retry()?,
            Command::Edit => self.edit(reader)?,
        }
        Ok(Flow::GoesOn)
    }

    fn load(&mut self, mut messages: Vec<Message>) {
        let has_system = messages.first().is_some_and(|m| m.role == "system");
        self.system = match has_system {
            true => messages.remove(0).content,
            false => None,
        };
        self.said.clear();
        self.said.messages = messages;
        let count = counted(self.said.messages.len(), "message");
        console::say(&format!("[{count}]"));
    }

    /// Drops what was said behind the last message of the user's, if there is one.
    fn back(&mut self, order: &str) -> Result<(), Failure> {
        let messages = &mut self.said.messages;
        let Some(at) = messages.iter().rposition(|m| m.role == "user") else {
            return Err(Failure::Work(format!("{order}: nothing was said yet")));
        };
        messages.truncate(at + 1);
        Ok(())
    }

    fn retry(&mut self) -> Result<(), Failure> {
        self.back("/retry")?;
        if self.controls.options.sampling.temperature <= 0.0 {
            console::say(
                "[the temperature is 0, so the reply is the same; /set temp 0.8 changes that]",
            );
        }
        // Another seed, or the same words come again.
        self.said.retries += 1;
        self.reply()
    }

    fn edit(&mut self, reader: &mut Reader) -> Result<(), Failure> {
        let last = self.said.messages.iter().rfind(|m| m.role == "user");
        let last = last.and_then(|m| m.content.clone()).unwrap_or_default();
        let Some(text) = reader.edit(&last)? else {
            return Ok(());
        };
        if self.back("/edit").is_ok() {
            self.said.messages.pop();
        }
        self.say(command::message(&text))
    }

    fn say(&mut self, text: &str) -> Result<(), Failure> {
        self.said.messages.push(Message::new("user", text));
        self.said.retries = 0;
        self.reply()
    }

    /// All messages, the system prompt in front.
    fn all(&self) -> Vec<Message> {
        let system = self.system.iter().map(|text| Message::new("system", text));
        system.chain(self.said.messages.iter().cloned()).collect()
    }

    /// The reply to what was said. Where none can come, the message that asked for it is taken back.
    fn reply(&mut self) -> Result<(), Failure> {
        let asked = self.request().map_err(Failure::of);
        let (request, parser) = asked.inspect_err(|_| self.take_back())?;
        let mut screen = Screen::new(self.console, self.look);
        let asked = ask(
            &self.engine,
            request,
            parser,
            &self.interruptions,
            &mut screen,
        );
        // A line that was begun ends, whatever came of it.
        let ended = screen.end();
        match asked {
            Ok(reply) => {
                ended?;
                self.hear(reply)
            }
            Err(Trouble::Shown(failure)) => Err(failure),
            Err(Trouble::Engine(error)) => {
                self.take_back();
                Err(self.explained(error))
            }
        }
    }

    fn take_back(&mut self) {
        if self.said.messages.last().is_some_and(|m| m.role == "user") {
            self.said.messages.pop();
        }
    }

    fn request(&self) -> Result<(Request, ReplyParser), gannet_engine::chat::ChatError> {
        let options = TemplateOptions {
            add_generation_prompt: true,
            thinking: self.controls.thinking,
            ..TemplateOptions::default()
        };
        let text = self.template.render(&self.all(), &[], &options)?;
        let tokenizer = self.engine.model().tokenizer();
        let tokens = self.template.prompt_tokens(tokenizer, &text);
        let mut options = self.controls.options.clone();
        options.sampling.seed = options.sampling.seed.wrapping_add(self.said.retries);
        options.max_tokens = options.max_tokens.min(self.engine.context());
        options.shown_tokens = ToolFormat::shown_tokens(None, tokenizer);
        let in_thought = text.trim_end().ends_with("<think>");
        let parser = ReplyParser::new(None, self.template.thinks(), in_thought);
        Ok((Request::new(tokens).with_options(options), parser))
    }

    fn explained(&self, error: Error) -> Failure {
        let trained = self.engine.model().hparams().context_length;
        match error {
            Error::ContextFull { tokens, context } => {
                let more = match context < trained {
                    true => format!(", and --ctx N gives more, up to {trained}"),
                    false => String::new(),
                };
                Failure::Work(format!(
                    "the conversation has {tokens} tokens with this message, and the context is \
                     {context}: /clear begins anew{more}"
                ))
            }
            other => other.into(),
        }
    }

    /// Keeps a reply, and says what is known of it.
    fn hear(&mut self, reply: Reply) -> Result<(), Failure> {
        let generation = &reply.generation;
        let is_empty = reply.text.is_empty() && reply.reasoning.is_empty();
        if generation.finish == Finish::Stopped && is_empty {
            self.take_back();
            console::say("[interrupted before anything came; the message is taken back]");
            return Err(Failure::Interrupted);
        }
        let message = Message {
            reasoning: (!reply.reasoning.is_empty()).then(|| reply.reasoning.clone()),
            ..Message::new("assistant", &reply.text)
        };
        self.said.add(message, generation);
        if self.look == Look::Json {
            let line = self.json(&reply);
            self.console.json(&line)?;
            self.console.flush()?;
        } else {
            console::say(&self.figures(generation, reply.wait));
        }
        if generation.finish == Finish::Context {
            let trained = self.engine.model().hparams().context_length;
            let full = full(self.engine.context(), trained);
            console::complain(&format!("the reply is cut: {full}; /clear begins anew"));
        }
        match generation.finish == Finish::Stopped {
            true => Err(Failure::Interrupted),
            false => Ok(()),
        }
    }

    fn json(&self, reply: &Reply) -> serde_json::Value {
        let g = &reply.generation;
        json!({
            "reply": reply.text,
            "reasoning": reply.reasoning,
            "finish": finish_name(g.finish),
            "prompt_tokens": g.prompt_tokens,
            "cached_tokens": g.cached_tokens,
            "tokens": g.tokens.len(),
            "first_token_seconds": reply.wait.map(|wait| wait.as_secs_f64()),
            "decode_tokens_per_second": g.decode_rate(),
            "context": self.engine.context(),
            "context_used": self.said.used,
        })
    }

    fn figures(&self, g: &Generation, wait: Option<Duration>) -> String {
        let mut parts = vec![counted(g.tokens.len(), "token")];
        if g.tokens.len() > 1 {
            parts[0] += &format!(", {} tok/s", figures::rate(g.decode_rate()));
        }
        let prompt = counted(g.prompt_tokens, "token");
        parts.push(format!("prompt {prompt}, {} known", g.cached_tokens));
        if let Some(wait) = wait {
            parts.push(format!(
                "first token after {}",
                figures::seconds(wait.as_secs_f64())
            ));
        }
        parts.push(format!(
            "context {} of {}",
            self.said.used,
            self.engine.context()
        ));
        match g.finish {
            Finish::Length => parts.push("cut at -n".to_owned()),
            Finish::Stopped => parts.push("interrupted".to_owned()),
            _ => {}
        }
        format!("[{}]", parts.join("; "))
    }

    fn stats(&self) -> String {
        let said = &self.said;
        let rate = match said.seconds > 0.0 {
            true => format!(
                ", {} tok/s",
                figures::rate(said.tokens as f64 / said.seconds)
            ),
            false => String::new(),
        };
        format!(
            "{}, {}; {} generated{rate}; context {} of {}; {}; template {}",
            counted(said.messages.len(), "message"),
            counted(said.replies, "answer"),
            counted(said.tokens, "token"),
            said.used,
            self.engine.context(),
            self.engine.kind(),
            self.template.name(),
        )
    }
}

impl Said {
    fn add(&mut self, message: Message, generation: &Generation) {
        self.messages.push(message);
        self.replies += 1;
        self.tokens += generation.tokens.len();
        self.seconds += generation.decode_time.as_secs_f64();
        self.used = generation.prompt_tokens + generation.tokens.len();
    }

    fn clear(&mut self) {
        self.messages.clear();
        self.retries = 0;
        self.used = 0;
    }
}
