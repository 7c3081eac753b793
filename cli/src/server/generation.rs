//! Requests of the engine as streams of an asynchronous program.
//!
//! A [`Job`] is what a route asks for, in no dialect. Submitting it gives a [`Running`] that yields parts as
//! they come. Dropping that ends everything: slots and cache are free with the engine's next turn, whether
//! the job waited, was reading its prompt or had half answered.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gannet_engine::requests::{Canceller, Grammar, LogProbs};
use gannet_engine::{Finish, GenerateOptions, Generation, Request, Update};
use tokio::sync::mpsc;

use super::admission::Admitted;
use super::error::{ApiError, ENGINE_LOST};
use super::loaded::{Active, Loaded};
use super::metrics::Metrics;

/// Parts that wait for a reader before he is too slow. A reader that lags this far behind on top of what the
/// sockets hold is not reading.
const PARTS: usize = 256;

/// What is asked for.
#[derive(Default)]
pub(crate) struct Job {
    /// Prompts as tokens; each is continued `n` times.
    pub(crate) prompts: Vec<Vec<u32>>,
    pub(crate) n: usize,
    pub(crate) options: GenerateOptions,
    pub(crate) logit_bias: Vec<(u32, f32)>,
    pub(crate) log_probs: Option<usize>,
    pub(crate) priority: u8,
    pub(crate) salt: u64,
    pub(crate) deadline: Option<Duration>,
    /// Fewest tokens before the model may end its text.
    pub(crate) min_tokens: usize,
    /// What each continuation must match.
    pub(crate) grammar: Option<Grammar>,
}

/// What happens to a job.
#[derive(Debug)]
pub(crate) enum Part {
    /// A prompt is being read.
    Prompt,
    /// A token of a choice.
    Token { choice: usize, token: Token },
    /// The end of a choice.
    Ended {
        choice: usize,
        result: Result<Generation, ApiError>,
    },
}

/// A job under way.
pub(crate) struct Running {
    parts: mpsc::Receiver<Part>,
    cancellers: Vec<Canceller>,
    /// Choices that have not ended.
    left: usize,
    too_slow: Arc<AtomicBool>,
    /// The first part, where it was looked at already.
    first: Option<Part>,
    active: Active,
    prompt_tokens: usize,
    begun: Instant,
}

impl Job {
    /// Checks what can be checked before anything runs.
    fn check(&self, model: &Loaded) -> Result<(), ApiError> {
        let context = model.engine().context();
        for prompt in &self.prompts {
            if prompt.is_empty() {
                return Err(ApiError::invalid("the prompt has no tokens"));
            }
            if prompt.len() > context {
                return Err(ApiError::too_long(prompt.len(), context));
            }
            model.model().check_tokens(prompt)?;
        }
        self.options.check()?;
        Ok(())
    }

    /// The request for the choices of a prompt.
    fn request(&self, prompt: &[u32]) -> Request {
        let mut request = Request::new(prompt.to_vec()).with_options(self.options.clone());
        request.n = self.n;
        request.priority = self.priority;
        request.salt = self.salt;
        request.logit_bias.clone_from(&self.logit_bias);
        request.log_probs = self.log_probs;
        request.min_tokens = self.min_tokens;
        request.deadline = self.deadline;
        request.grammar.clone_from(&self.grammar);
        request
    }

    /// Hands all of it to the engine. A grammar is compiled here, which takes a moment.
    fn submit(&self, model: &Loaded, hearer: Hearer) -> Result<Vec<Canceller>, ApiError> {
        let mut cancellers = Vec::new();
        for (i, prompt) in self.prompts.iter().enumerate() {
            let hear = |k| {
                let to = Hearer {
                    choice: i * self.n + k,
                    ..hearer.clone()
                };
                move |update| to.hear(update)
            };
            let engine = model.engine();
            cancellers.extend(engine.submit_choices_with(self.request(prompt), hear)?);
        }
        Ok(cancellers)
    }

    /// Starts it, if there is room for it, and waits until it is known not to be refused.
    pub(crate) async fn start(self, model: &Arc<Loaded>) -> Result<Running, ApiError> {
        self.check(model)?;
        let choices = self.prompts.len() * self.n;
        let active = model.admit(choices)?;
        let (sender, parts) = mpsc::channel(PARTS * choices.max(1));
        let too_slow = Arc::new(AtomicBool::new(false));
        let prompt_tokens = self.prompts.iter().map(Vec::len).sum();
        let hearer = Hearer {
            choice: 0,
            sender,
            too_slow: Arc::clone(&too_slow),
            choices: Arc::clone(active.choices()),
            metrics: model.metrics(),
        };
        let cancellers = match self.grammar {
            None => self.submit(model, hearer)?,
            Some(_) => {
                let model = Arc::clone(model);
                let submit = move || self.submit(&model, hearer);
                let submitted = tokio::task::spawn_blocking(submit).await;
                submitted.map_err(|e| ApiError::internal(e.to_string()))??
            }
        };
        let mut running = Running {
            parts,
            cancellers,
            left: choices,
            too_slow,
            first: None,
            active,
            prompt_tokens,
            begun: Instant::now(),
        };
        // Nothing has been sent to the client yet: what is refused has a status of its own.
        match running.next().await {
            Some(Part::Ended {
                result: Err(error), ..
            }) => Err(error),
            first => {
                running.first = first;
                Ok(running)
            }
        }
    }
}

/// What the engine's thread calls: it never waits.
#[derive(Clone)]
struct Hearer {
    choice: usize,
    sender: mpsc::Sender<Part>,
    too_slow: Arc<AtomicBool>,
    choices: Arc<Admitted>,
    metrics: Arc<Metrics>,
}

impl Hearer {
    fn hear(&self, update: Update) -> ControlFlow<()> {
        let choice = self.choice;
        let part = match update {
            Update::Prompt { .. } => Part::Prompt,
            Update::Token {
                id,
                text,
                log_probs,
            } => {
                self.metrics.token();
                let token = Token {
                    id,
                    text,
                    log_probs,
                };
                Part::Token { choice, token }
            }
            Update::Ended(result) => Part::Ended {
                choice,
                result: result.map_err(ApiError::from),
            },
            // Whatever else there will be is no part of an answer.
            _ => return ControlFlow::Continue(()),
        };
        match self.sender.try_send(part) {
            Ok(()) => ControlFlow::Continue(()),
            Err(mpsc::error::TrySendError::Full(_)) => {
                if !self.too_slow.swap(true, Ordering::Relaxed) {
                    self.metrics.slow_reader();
                    // Its writer waits for the reader and gives nothing back.
                    self.choices.give_up();
                }
                ControlFlow::Break(())
            }
            Err(mpsc::error::TrySendError::Closed(_)) => ControlFlow::Break(()),
        }
    }
}

impl Running {
    /// What happens next; `None` after the end of every choice.
    pub(crate) async fn next(&mut self) -> Option<Part> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        if self.left == 0 {
            return None;
        }
        let part = match self.parts.recv().await {
            Some(part) if !self.too_slow.load(Ordering::Relaxed) => part,
            // What the engine could not hand over is lost: nothing behind it is worth reading.
            _ => {
                self.left = 0;
                self.cancellers.clear();
                let result = Err(self.why_lost());
                self.active.choices().ended(&result, self.begun);
                return Some(Part::Ended { choice: 0, result });
            }
        };
        if let Part::Ended { result, .. } = &part {
            self.left -= 1;
            self.active.choices().ended(result, self.begun);
        }
        Some(part)
    }

    fn why_lost(&self) -> ApiError {
        match self.too_slow.load(Ordering::Relaxed) {
            true => ApiError::new(
                axum::http::StatusCode::REQUEST_TIMEOUT,
                "the answer was read too slowly and was ended",
            )
            .code("slow_reader"),
            false => ApiError::unavailable(ENGINE_LOST, "the engine has ended"),
        }
    }

    /// Tokens of all prompts.
    pub(crate) fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    /// Waits for the end of every choice: text, generation and log-probabilities of each.
    pub(crate) async fn collect(mut self) -> Result<Vec<Choice>, ApiError> {
        let mut choices: Vec<Choice> = Vec::new();
        choices.resize_with(self.cancellers.len(), Choice::default);
        while let Some(part) = self.next().await {
            match part {
                Part::Prompt => {}
                Part::Token { choice, token } => choices[choice].tokens.push(token),
                Part::Ended { choice, result } => {
                    choices[choice].generation = Some(finished(result?)?);
                }
            }
        }
        Ok(choices)
    }
}

/// A generation that came to its end by itself.
pub(crate) fn finished(generation: Generation) -> Result<Generation, ApiError> {
    match generation.finish {
        Finish::Stopped => Err(ApiError::unavailable(
            "cancelled",
            "the request was ended by the server",
        )),
        Finish::Deadline => Err(ApiError::new(
            axum::http::StatusCode::REQUEST_TIMEOUT,
            "the request took longer than it may; see --timeout",
        )
        .code("timeout")),
        Finish::Length | Finish::Context | Finish::EndOfText | Finish::StopString => Ok(generation),
    }
}

/// A token of a choice.
#[derive(Debug)]
pub(crate) struct Token {
    pub(crate) id: u32,
    pub(crate) text: String,
    pub(crate) log_probs: Option<LogProbs>,
}

/// A choice that has ended.
#[derive(Debug, Default)]
pub(crate) struct Choice {
    pub(crate) tokens: Vec<Token>,
    pub(crate) generation: Option<Generation>,
}

impl Choice {
    /// Its text.
    pub(crate) fn text(&self) -> String {
        self.tokens
            .iter()
            .map(|token| token.text.as_str())
            .collect()
    }
}
