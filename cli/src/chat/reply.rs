//! A reply on its way: from the engine to the screen, until it ends or somebody ends it.

use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use gannet_engine::requests::Canceller;
use gannet_engine::tool_calls::{ReplyParser, ReplyPart};
use gannet_engine::{Engine, Error, Generation, Request, Update};

use super::screen::Screen;
use crate::failure::Failure;
use crate::interrupt::Interruptions;
use crate::progress::Progress;

/// How often is looked whether somebody wants an end.
const LOOK: Duration = Duration::from_millis(40);

/// How long an end may take before another Ctrl-C ends the process.
const PATIENCE: Duration = Duration::from_secs(2);

/// A reply that has ended.
pub(crate) struct Reply {
    pub(crate) text: String,
    pub(crate) reasoning: String,
    pub(crate) generation: Generation,
    /// From the question to the first token.
    pub(crate) wait: Option<Duration>,
}

/// What keeps a reply from coming.
pub(crate) enum Trouble {
    /// The engine's word.
    Engine(Error),
    /// It could not be shown.
    Shown(Failure),
}

/// Asks for a reply and shows it as it comes.
pub(crate) fn ask(
    engine: &Engine,
    request: Request,
    parser: ReplyParser,
    interruptions: &Interruptions,
    screen: &mut Screen<'_>,
) -> Result<Reply, Trouble> {
    let (sender, updates) = channel();
    let hear = move |update| match sender.send(update) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    };
    let begun = Instant::now();
    let _working = interruptions.begin();
    let coming = Coming {
        canceller: engine.submit_with(request, hear),
        updates,
        interruptions,
        parser,
        progress: Some(Progress::spinner("reading the prompt")),
        reply: (String::new(), String::new()),
        wait: None,
        begun,
    };
    coming.follow(screen)
}

/// A reply that has not ended.
struct Coming<'a> {
    canceller: Canceller,
    updates: Receiver<Update>,
    interruptions: &'a Interruptions,
    parser: ReplyParser,
    progress: Option<Progress>,
    /// Text and thoughts.
    reply: (String, String),
    wait: Option<Duration>,
    begun: Instant,
}

impl Coming<'_> {
    fn follow(mut self, screen: &mut Screen<'_>) -> Result<Reply, Trouble> {
        loop {
            match self.next() {
                Update::Token { text, .. } => {
                    self.progress = None;
                    self.wait.get_or_insert_with(|| self.begun.elapsed());
                    let parts = self.parser.push(&text);
                    self.add(parts, screen).map_err(Trouble::Shown)?;
                }
                Update::Ended(result) => {
                    self.progress = None;
                    let generation = result.map_err(Trouble::Engine)?;
                    let parts = self.parser.finish();
                    self.add(parts, screen).map_err(Trouble::Shown)?;
                    let (text, reasoning) = self.reply;
                    return Ok(Reply {
                        text,
                        reasoning,
                        generation,
                        wait: self.wait,
                    });
                }
                // How far the prompt is, and whatever else there will be, is no part of a reply.
                _ => {}
            }
        }
    }

    /// Waits for what happens next. Ctrl-C asks for the end, which comes as an update.
    fn next(&self) -> Update {
        let mut asked: Option<Instant> = None;
        loop {
            match self.updates.recv_timeout(LOOK) {
                Ok(update) => return update,
                Err(RecvTimeoutError::Disconnected) => {
                    let why = "the engine has ended".to_owned();
                    return Update::Ended(Err(Error::Lost(why)));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if !self.interruptions.came() {
                continue;
            }
            match asked {
                None => self.canceller.cancel(),
                Some(at) if at.elapsed() > PATIENCE => self.interruptions.end(),
                Some(_) => {}
            }
            asked.get_or_insert_with(Instant::now);
        }
    }

    fn add(&mut self, parts: Vec<ReplyPart>, screen: &mut Screen<'_>) -> Result<(), Failure> {
        // Tokens may come faster than anybody looks.
        if self.interruptions.came() {
            self.canceller.cancel();
        }
        for part in parts {
            match part {
                ReplyPart::Text(text) => {
                    screen.text(&text)?;
                    self.reply.0.push_str(&text);
                }
                ReplyPart::Reasoning(text) => {
                    screen.thought(&text)?;
                    self.reply.1.push_str(&text);
                }
                // No tools are offered, so none is called.
                _ => {}
            }
        }
        Ok(())
    }
}
