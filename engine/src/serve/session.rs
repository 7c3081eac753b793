//! Prompts to tokens: the synchronous API.
//!
//! A [`Session`] is one sequence on one executor. Everything is plain calls: no threads of its own,
//! no runtime; progress and tokens come through a callback that can stop the generation.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::Error;
use crate::exec::sample::Sampling;
use crate::exec::{Executor, LoadReport, Opening};
use crate::model::Model;
use crate::serve::engine::core::{Core, Submitted};
use crate::serve::engine::{Listener, LogProbs, Request};
use crate::serve::output::OnEvent;
use crate::serve::times::GenerationTimes;
use crate::settings::Settings;
use crate::tools::make_executor_on;

/// How long a turn waits for a result. Nobody else is to be heard meanwhile.
const PATIENCE: Duration = Duration::from_secs(1);

/// What to generate.
#[derive(Debug, Clone)]
pub struct GenerateOptions {
    /// Most tokens to generate.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Go on after a token that ends the text.
    pub ignore_eog: bool,
    /// Read special tokens in the prompt's text.
    pub parse_special: bool,
    /// Strings that end the text where they begin. No part of one is given out, nor are tokens that
    /// belong to it. One that is written like a control token stops at the token, though its text is
    /// not shown; a longer one may hold such tokens.
    pub stop: Vec<String>,
    /// Tokens that end the text and are not part of it, control tokens among them.
    pub stop_tokens: Vec<u32>,
    /// Control tokens whose text is given out as any other's is, such as those that begin calls of tools.
    pub shown_tokens: Vec<u32>,
}

impl GenerateOptions {
    /// Checks that every setting makes sense.
    ///
    /// # Errors
    /// What does not, and what would.
    pub fn check(&self) -> Result<(), Error> {
        self.sampling.check().map_err(Error::Request)?;
        if self.stop.iter().any(String::is_empty) {
            let why = "a stop string is empty; give some text that ends the generation";
            return Err(Error::Request(why.to_owned()));
        }
        Ok(())
    }
}

impl Default for GenerateOptions {
    fn default() -> Self {
        GenerateOptions {
            max_tokens: 128,
            sampling: Sampling::default(),
            ignore_eog: false,
            parse_special: true,
            stop: Vec::new(),
            stop_tokens: Vec::new(),
            shown_tokens: Vec::new(),
        }
    }
}

/// What happens while a prompt is read and continued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Tokens of the prompt computed so far.
    Prompt {
        /// Computed.
        done: usize,
        /// Of these.
        total: usize,
    },
    /// A token, and the text that it completes (which may be empty: text is never cut inside a
    /// character). Tokens whose text might become a stop string come once it is known that it does
    /// not.
    Token {
        /// Its id.
        id: u32,
        /// Text to append.
        text: &'a str,
    },
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// `max_tokens` were generated.
    Length,
    /// The context is full: nothing more fits behind what was generated.
    Context,
    /// The model ended its text.
    EndOfText,
    /// A stop string or a stop token came.
    StopString,
    /// The callback broke, or the request was cancelled.
    Stopped,
    /// Its time was over.
    Deadline,
}

/// What a generation produced and how long it took.
#[derive(Debug, Clone)]
pub struct Generation {
    /// Tokens of the prompt; where a session's callback broke inside it, those that were computed.
    pub prompt_tokens: usize,
    /// Of these, such as were known already when it began: those of a prefix that another prompt shares.
    pub cached_tokens: usize,
    /// The generated tokens, without what ended the text.
    pub tokens: Vec<u32>,
    /// Their text.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// The stop string that ended it, where one did.
    pub stop: Option<String>,
    /// Time for the prompt, including the first token.
    pub prompt_time: Duration,
    /// Time for the tokens after the first.
    pub decode_time: Duration,
}

impl Generation {
    /// Prompt tokens a second.
    #[must_use]
    pub fn prompt_rate(&self) -> f64 {
        self.prompt_tokens as f64 / self.prompt_time.as_secs_f64().max(1e-9)
    }

    /// Generated tokens a second, the first not counted.
    #[must_use]
    pub fn decode_rate(&self) -> f64 {
        let after_first = self.tokens.len().saturating_sub(1);
        after_first as f64 / self.decode_time.as_secs_f64().max(1e-9)
    }
}

/// One sequence on one executor.
///
/// It drives the core of an engine itself, with itself as the only caller.
pub struct Session {
    core: Core,
    /// Every prompt, and every token given out.
    sequence: Vec<u32>,
    times: GenerationTimes,
    notice: Option<String>,
    next_key: u64,
    /// Of the sequence: what is known of one is of no use to the next, so that equal calls compute equal
    /// steps.
    salt: u64,
}

impl Session {
    /// Puts a model on a device.
    ///
    /// # Errors
    /// The device was asked for by name and cannot be used, or the model does not fit on it.
    pub fn new(model: &Arc<Model>, settings: &Settings) -> Result<Session, Error> {
        Session::on(model, settings, &Opening::default())
    }

    /// As [`Session::new`], on a device that has been opening meanwhile.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn on(
        model: &Arc<Model>,
        settings: &Settings,
        opening: &Opening,
    ) -> Result<Session, Error> {
        let made = make_executor_on(model, settings, opening)?;
        Ok(Session {
            core: Core::new(model, made.executor),
            sequence: Vec::new(),
            times: GenerationTimes::default(),
            notice: made.notice,
            next_key: 0,
            salt: 0,
        })
    }

    /// What a user should know about the choice of device, such as a fallback to the CPU.
    #[must_use]
    pub fn notice(&self) -> Option<String> {
        let notice = self.notice.clone();
        notice.or_else(|| self.core.executor().notice())
    }

    /// Where the time went that it took to open the model and to put it on the device.
    #[must_use]
    pub fn load_report(&self) -> LoadReport {
        LoadReport::new(self.model(), self.core.executor())
    }

    /// The executor in use.
    pub fn executor(&mut self) -> &mut dyn Executor {
        self.core.executor_mut()
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Arc<Model> {
        self.core.model()
    }

    /// Positions of the cache.
    #[must_use]
    pub fn context(&self) -> usize {
        self.core.context()
    }

    /// Where the time of the last generation went.
    #[must_use]
    pub fn times(&self) -> GenerationTimes {
        self.times
    }

    /// Forgets the sequence.
    pub fn clear(&mut self) {
        self.sequence.clear();
        self.salt += 1;
    }

    /// Continues a text: [`Session::generate_tokens`] of its tokens. The first one since
    /// [`Session::clear`] begins a text, with the token for that where the model wants one; a later one
    /// goes on where the sequence ends, with nothing between. An empty text at the start is that token
    /// alone.
    ///
    /// # Errors
    /// The prompt has no tokens (it is empty and no token begins a text here) or does not fit the
    /// context, a setting is out of range, or the device failed.
    pub fn generate(
        &mut self,
        prompt: &str,
        options: &GenerateOptions,
        on_event: impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Generation, Error> {
        let tokenizer = self.model().tokenizer();
        let tokens = tokenizer.encode_prompt(&self.sequence, prompt, options.parse_special);
        self.generate_tokens(&tokens, options, on_event)
    }

    /// Continues the sequence so far (every prompt and every token given out since
    /// [`Session::clear`]) with a prompt, and that with tokens of the model's. What of the sequence fills
    /// no whole block of the cache is computed again. Where the callback broke inside a prompt, what was
    /// not computed of that prompt is not part of the sequence.
    ///
    /// # Errors
    /// As [`Session::generate`].
    pub fn generate_tokens(
        &mut self,
        prompt: &[u32],
        options: &GenerateOptions,
        mut on_event: impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Generation, Error> {
        if prompt.is_empty() {
            return Err(Error::Request(
                "the prompt has no tokens; give some text".to_owned(),
            ));
        }
        let before = self.sequence.len();
        let all = [&self.sequence[..], prompt].concat();
        let key = self.next_key;
        self.next_key += 1;
        let mut request = Request::new(all.clone()).with_options(options.clone());
        request.salt = self.salt;
        self.core.submit(Submitted::now(key, request))?;
        let taken = Instant::now();
        let mut heard = Heard {
            on_event: &mut on_event,
            before,
            done: 0,
            ended: None,
            times: GenerationTimes::default(),
            handled: taken,
            results: taken,
        };
        // Steps that are still queued when the end comes are of nobody.
        while !self.core.is_idle() {
            self.core.turn(PATIENCE, &mut heard);
        }
        let Heard {
            done, ended, times, ..
        } = heard;
        self.times = times;
        let mut generation = match ended {
            Some(result) => result?,
            None => return Err(Error::internal("a request ended without a word")),
        };
        // A prompt that was broken off is part of the sequence as far as it goes.
        let is_whole = done == prompt.len() || !generation.tokens.is_empty();
        let kept = if is_whole { prompt.len() } else { done };
        generation.prompt_tokens = kept;
        self.sequence = all;
        self.sequence.truncate(before + kept);
        self.sequence.extend_from_slice(&generation.tokens);
        Ok(generation)
    }

    /// Computes tokens into the cache, after those of the sequence; the last one's logits are then the
    /// executor's. Stops early when `progress`, which gets how many of `tokens` are done and how many
    /// there are, breaks.
    ///
    /// # Errors
    /// A token out of range, a full context, or a failing device.
    pub fn feed(
        &mut self,
        tokens: &[u32],
        mut progress: impl FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let options = GenerateOptions {
            max_tokens: 0,
            ..GenerateOptions::default()
        };
        let fed = self.generate_tokens(tokens, &options, |event| match event {
            Event::Prompt { done, total } => progress(done, total),
            Event::Token { .. } => ControlFlow::Continue(()),
        });
        fed.map(drop)
    }
}

/// Hands the events of the one request on, and takes their times.
struct Heard<'a> {
    on_event: &'a mut OnEvent<'a>,
    /// Tokens of the sequence in front of the prompt.
    before: usize,
    /// Tokens of the prompt that are done.
    done: usize,
    ended: Option<Result<Generation, Error>>,
    times: GenerationTimes,
    /// When the latest event was handled.
    handled: Instant,
    /// When the latest results were there.
    results: Instant,
}

impl Listener for Heard<'_> {
    fn results(&mut self, at: Instant) {
        self.results = at;
    }

    fn hear(&mut self, _: u64, event: Event<'_>, _: Option<LogProbs>) -> ControlFlow<()> {
        let now = Instant::now();
        let event = match event {
            Event::Prompt { done, total } => {
                let (done, total) = (done.saturating_sub(self.before), total - self.before);
                if done == 0 {
                    return ControlFlow::Continue(());
                }
                self.done = done;
                self.times.prompt += now.saturating_duration_since(self.handled);
                Event::Prompt { done, total }
            }
            Event::Token { id, text } => {
                // Of several tokens that one lets go the first was waited for.
                let since = self.results.max(self.handled);
                let waited = since.saturating_duration_since(self.handled);
                match self.times.callback.count {
                    0 => self.times.first_choice = waited,
                    _ => self.times.wait.add(waited),
                }
                self.times.text.add(now.saturating_duration_since(since));
                Event::Token { id, text }
            }
        };
        let is_token = matches!(event, Event::Token { .. });
        let flow = (self.on_event)(event);
        self.handled = Instant::now();
        if is_token {
            self.times.callback.add(self.handled - now);
        }
        flow
    }

    fn end(&mut self, _: u64, result: Result<Generation, Error>) {
        self.ended = Some(result);
    }
}
