//! Prompts to tokens: the synchronous API.
//!
//! A [`Session`] is one sequence on one executor. Everything is plain calls: no threads of its own,
//! no runtime; progress and tokens come through a callback that can stop the generation.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::Error;
use crate::exec::sample::{Sampler, Sampling, argmax};
use crate::exec::{DecodeStart, Executor, LoadReport, Opening, StepRows};
use crate::kv::BlockTable;
use crate::model::Model;
use crate::plan::StepRow;
use crate::serve::output::{OnEvent, Output};
use crate::serve::times::{GenerationTimes, Times};
use crate::settings::{SamplerOn, Settings};
use crate::text::tokenizer::EncodeOptions;
use crate::tools::make_executor_on;

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
    /// belong to it.
    pub stop: Vec<String>,
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
    /// `max_tokens` were generated, or the context is full.
    Length,
    /// The model ended its text.
    EndOfText,
    /// A stop string came.
    StopString,
    /// The callback broke, or the request was cancelled.
    Stopped,
    /// Its time was over.
    Deadline,
}

/// What a generation produced and how long it took.
#[derive(Debug, Clone)]
pub struct Generation {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// The generated tokens, without what ended the text.
    pub tokens: Vec<u32>,
    /// Their text.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
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
pub struct Session {
    model: Arc<Model>,
    executor: Box<dyn Executor>,
    table: BlockTable,
    sampler_on: SamplerOn,
    /// Tokens whose keys and values are in the cache.
    cached: Vec<u32>,
    /// Tokens of the sequence after those: given out, and not fed because nothing followed them.
    unfed: Vec<u32>,
    times: GenerationTimes,
    notice: Option<String>,
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
        let limits = made.executor.limits();
        Ok(Session {
            model: Arc::clone(model),
            table: BlockTable::new(limits.num_slots, limits.context, limits.cache_blocks),
            executor: made.executor,
            sampler_on: settings.sampler_on,
            cached: Vec::new(),
            unfed: Vec::new(),
            times: GenerationTimes::default(),
            notice: made.notice,
        })
    }

    /// What a user should know about the choice of device, such as a fallback to the CPU.
    #[must_use]
    pub fn notice(&self) -> Option<String> {
        self.notice.clone().or_else(|| self.executor.notice())
    }

    /// Where the time went that it took to open the model and to put it on the device.
    #[must_use]
    pub fn load_report(&self) -> LoadReport {
        LoadReport::new(&self.model, self.executor.as_ref())
    }

    /// The executor in use.
    pub fn executor(&mut self) -> &mut dyn Executor {
        self.executor.as_mut()
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Positions of the cache.
    #[must_use]
    pub fn context(&self) -> usize {
        self.executor.limits().context
    }

    /// Where the time of the last generation went.
    #[must_use]
    pub fn times(&self) -> GenerationTimes {
        self.times
    }

    /// Forgets the sequence.
    pub fn clear(&mut self) {
        self.cached.clear();
        self.unfed.clear();
        self.table.release(0);
    }

    /// Continues a text: [`Session::generate_tokens`] of its tokens.
    ///
    /// # Errors
    /// The prompt is empty or does not fit the context, a setting is out of range, or the device
    /// failed.
    pub fn generate(
        &mut self,
        prompt: &str,
        options: &GenerateOptions,
        on_event: impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Generation, Error> {
        let encode = EncodeOptions {
            add_special: true,
            parse_special: options.parse_special,
        };
        let tokens = self.model.tokenizer().encode(prompt, encode);
        self.generate_tokens(&tokens, options, on_event)
    }

    /// Continues the sequence so far (every prompt and every token given out since
    /// [`Session::clear`]) with a prompt, and that with tokens of the model's. Where the callback
    /// broke inside a prompt, the rest of that prompt is not part of the sequence.
    ///
    /// # Errors
    /// As [`Session::generate`].
    pub fn generate_tokens(
        &mut self,
        prompt: &[u32],
        options: &GenerateOptions,
        mut on_event: impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Generation, Error> {
        options.check()?;
        if prompt.is_empty() {
            return Err(Error::Request(
                "the prompt has no tokens; give some text".to_owned(),
            ));
        }
        self.times = GenerationTimes::default();
        let mut output = Output::new(prompt, options);
        let mut stopped = false;
        let start = Instant::now();
        self.feed(prompt, |done, total| {
            let flow = on_event(Event::Prompt { done, total });
            stopped = flow.is_break();
            flow
        })?;
        self.times.prompt = start.elapsed();
        if stopped {
            output.end(Finish::Stopped);
            return Ok(output.into_generation(&mut on_event));
        }
        let before = self.cached.len();
        if options.max_tokens > 0 {
            self.decode(options, &mut output, &mut on_event)?;
        }
        let generation = output.into_generation(&mut on_event);
        // What a later prompt follows is what was given out. Tokens behind that may have been fed,
        // and the last one given out need not have been.
        let given = &generation.tokens;
        self.cached.truncate(before + given.len());
        self.unfed = given[self.cached.len() - before..].to_vec();
        Ok(generation)
    }

    /// Computes tokens into the cache, after those of the sequence that are not there yet; the last
    /// one's logits are then the executor's. Stops early when `progress`, which gets how many of
    /// `tokens` are done and how many there are, breaks.
    ///
    /// # Errors
    /// A token out of range, a full context, or a failing device.
    pub fn feed(
        &mut self,
        tokens: &[u32],
        mut progress: impl FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        self.model.check_tokens(tokens)?;
        let behind = self.unfed.len();
        let all = [&self.unfed, tokens].concat();
        let total = self.cached.len() + all.len();
        if total > self.context() {
            return Err(Error::ContextFull {
                tokens: total,
                context: self.context(),
            });
        }
        self.table.reserve(0, total)?;
        let max_rows = self.executor.limits().max_rows;
        let mut done = 0;
        for chunk in all.chunks(max_rows) {
            let last = done + chunk.len() == all.len();
            let mut rows = StepRows::prompt(chunk, 0, self.cached.len());
            if last {
                rows = rows.with_last_output();
            }
            self.executor.run(&rows.step(&self.table))?;
            self.cached.extend_from_slice(chunk);
            self.unfed.drain(..chunk.len().min(self.unfed.len()));
            done += chunk.len();
            if progress(done.saturating_sub(behind), tokens.len()).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Chooses the token after what was fed, and goes on from there.
    fn decode(
        &mut self,
        options: &GenerateOptions,
        output: &mut Output,
        on_event: &mut OnEvent<'_>,
    ) -> Result<(), Error> {
        let model = Arc::clone(&self.model);
        let tokenizer = model.tokenizer();
        let mut sampler = Sampler::new(options.sampling.clone());
        let start = Instant::now();
        let first = match (options.sampling.is_greedy(), self.sampler_on) {
            (true, SamplerOn::Device) => self.executor.next()?[0],
            (true, SamplerOn::Cpu) => argmax(self.executor.logits()?),
            (false, _) => sampler.sample(self.executor.logits()?, &self.cached),
        };
        self.times.first_choice = start.elapsed();
        let times = &mut self.times;
        let mut push = |output: &mut Output, token| {
            let (start, mut outside) = (Instant::now(), Duration::ZERO);
            let flow = output.push(tokenizer, token, &mut |event| {
                let start = Instant::now();
                let flow = on_event(event);
                outside += start.elapsed();
                flow
            });
            let all = start.elapsed();
            times.callback.add(outside);
            times.text.add(all.saturating_sub(outside));
            flow
        };
        if push(output, first).is_break() {
            return Ok(());
        }
        let context = self.executor.limits().context;
        let steps = output.remaining().min(context - self.cached.len());
        if steps == 0 {
            return Ok(());
        }
        self.table.reserve(0, self.cached.len() + steps)?;
        let history = [&self.cached[..], &[first]].concat();
        let start = DecodeStart {
            row: StepRow::last(&history, 0),
            sampling: &options.sampling,
            history: &history,
            draws: sampler.draws(),
        };
        let (mut fed, mut handled) = (first, Instant::now());
        let (cached, mut wait) = (&mut self.cached, Times::default());
        let take = &mut |_, token| {
            wait.add(handled.elapsed());
            cached.push(fed);
            fed = token;
            let flow = push(output, token);
            handled = Instant::now();
            flow
        };
        let decoded = (self.executor).decode(&[start], steps, &self.table, take);
        self.times.wait = wait;
        decoded
    }
}
