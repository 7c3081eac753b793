//! Many sequences on one executor.
//!
//! A [`Batch`] owns an executor, the block table of its cache and the sequences. A sequence waits,
//! joins when a slot and blocks are free, reads its prompt in chunks, and then decodes together with
//! all others that have; it leaves the moment it ends, and its slot is another's in the next step.
//! Everything is plain calls: [`Batch::step`] does a bounded piece of work and comes back.
//!
//! Always holds: a sequence's tokens do not depend on what else is in the batch, as far as the
//! executor's arithmetic does not depend on the rows of a step (on the CPU it does not at all). Each
//! has its own seed and draws its own numbers.
//!
//! The cache is shared where prompts are. Of a prompt that begins like an earlier one, the whole
//! blocks in common are neither computed nor held twice; a prompt that a sequence in the batch has
//! too is not computed at all: the two share every block until one of them writes. Where blocks run
//! out, the sequence that came last gives its own back and computes them again later: its text is
//! the same.

mod schedule;
mod sequence;

use std::collections::VecDeque;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use sequence::{Live, Next, Sequence};

use crate::Error;
use crate::exec::sample::Sampling;
use crate::exec::{DecodeStart, Executor, Limits, LoadReport, Opening, StepRows};
use crate::kv::{BLOCK_TOKENS, BlockTable};
use crate::model::Model;
use crate::serve::session::{Event, Finish, GenerateOptions, Generation};
use crate::settings::{SamplerOn, Settings};
use crate::text::tokenizer::EncodeOptions;
use crate::tools::make_executor_on;

/// Names a sequence of a [`Batch`]; never used again for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeqId(u64);

impl fmt::Display for SeqId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A sequence that ended, and what it gave.
pub type Finished = (SeqId, Generation);

/// Gets the events of all sequences; breaking ends the one that the event is of.
type OnEvent<'a> = dyn FnMut(SeqId, Event<'_>) -> ControlFlow<()> + 'a;

/// Counters since a batch was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BatchStats {
    /// Tokens computed on the way to a sequence's first token, or to its next after it had to give
    /// its blocks back.
    pub computed: u64,
    /// Tokens whose keys and values were there already.
    pub shared: u64,
    /// Blocks copied because several sequences had them and one was to write.
    pub copied_blocks: u64,
    /// Times that a sequence gave its blocks back to others.
    pub preempted: u64,
    /// Calls of [`Executor::decode`].
    pub decodes: u64,
    /// Rows of logits that came to the host for a sequence's next token.
    pub logits: u64,
}

/// Many sequences on one executor.
pub struct Batch {
    model: Arc<Model>,
    executor: Box<dyn Executor>,
    table: BlockTable,
    limits: Limits,
    /// Not in a slot yet, or not any more, in the order they are to join.
    waiting: VecDeque<Sequence>,
    /// The one whose prompt is being computed.
    filling: Option<Live>,
    /// Those that decode.
    live: Vec<Live>,
    free_slots: Vec<usize>,
    next_id: u64,
    sampler_on: SamplerOn,
    notice: Option<String>,
    stats: BatchStats,
}

impl Batch {
    /// Puts a model on a device, with room for `settings.slots` sequences at once (`None`: one), which
    /// together have `settings.cache_blocks` blocks of the cache (`None`: a whole context each).
    ///
    /// # Errors
    /// The device was asked for by name and cannot be used, or the model does not fit on it.
    pub fn new(model: &Arc<Model>, settings: &Settings) -> Result<Batch, Error> {
        Batch::on(model, settings, &Opening::default())
    }

    /// As [`Batch::new`], on a device that has been opening meanwhile.
    ///
    /// # Errors
    /// As [`Batch::new`].
    pub fn on(model: &Arc<Model>, settings: &Settings, opening: &Opening) -> Result<Batch, Error> {
        let made = make_executor_on(model, settings, opening)?;
        let limits = made.executor.limits();
        Ok(Batch {
            model: Arc::clone(model),
            executor: made.executor,
            table: BlockTable::new(limits.num_slots, limits.context, limits.cache_blocks),
            limits,
            waiting: VecDeque::new(),
            filling: None,
            live: Vec::new(),
            free_slots: (0..limits.num_slots).rev().collect(),
            next_id: 0,
            sampler_on: settings.sampler_on,
            notice: made.notice,
            stats: BatchStats::default(),
        })
    }

    /// Adds a text to continue; see [`Batch::add`].
    ///
    /// # Errors
    /// As [`Batch::add`].
    pub fn add_text(&mut self, prompt: &str, options: GenerateOptions) -> Result<SeqId, Error> {
        let encode = EncodeOptions {
            add_special: true,
            parse_special: options.parse_special,
        };
        let tokens = self.model.tokenizer().encode(prompt, encode);
        self.add(&tokens, options)
    }

    /// Adds a prompt to continue. It joins in a later [`Batch::step`], when a slot is free; those
    /// added before it go first. The wait counts as time for the prompt.
    ///
    /// # Errors
    /// The prompt is empty, has tokens outside the vocabulary or does not fit the cache, or a setting
    /// is out of range.
    pub fn add(&mut self, prompt: &[u32], options: GenerateOptions) -> Result<SeqId, Error> {
        options.check()?;
        if prompt.is_empty() {
            let why = "the prompt has no tokens; give some text";
            return Err(Error::Request(why.to_owned()));
        }
        self.model.check_tokens(prompt)?;
        if prompt.len() > self.context() {
            return Err(Error::ContextFull {
                tokens: prompt.len(),
                context: self.context(),
            });
        }
        let id = SeqId(self.next_id);
        self.next_id += 1;
        self.waiting.push_back(Sequence::new(id, prompt, options));
        Ok(id)
    }

    /// Ends a sequence now and returns what it gave so far; `None` if it is over already.
    pub fn remove(&mut self, id: SeqId) -> Option<Generation> {
        let sequence = if let Some(i) = self.waiting.iter().position(|s| s.id == id) {
            self.waiting.remove(i)?
        } else if let Some(filling) = self.filling.take_if(|l| l.sequence.id == id) {
            self.leave(filling)
        } else {
            let i = self.live.iter().position(|l| l.sequence.id == id)?;
            let live = self.live.remove(i);
            self.leave(live)
        };
        let mut output = sequence.output;
        output.end(Finish::Stopped);
        Some(output.into_generation(&mut |_| ControlFlow::Continue(())))
    }

    /// Does a piece of work: lets sequences join and computes their prompts, at most a chunk of them
    /// while others decode, then decodes a number of tokens of all that can. Returns the sequences
    /// that ended.
    ///
    /// # Errors
    /// The device failed. Sequences that are under way are then where they were.
    pub fn step(
        &mut self,
        mut on_event: impl FnMut(SeqId, Event<'_>) -> ControlFlow<()>,
    ) -> Result<Vec<Finished>, Error> {
        let mut finished = Vec::new();
        self.join(&mut finished, &mut on_event)?;
        self.decode(&mut finished, &mut on_event)?;
        Ok(finished)
    }

    /// Steps until every sequence has ended; returns them in the order they did.
    ///
    /// # Errors
    /// As [`Batch::step`].
    pub fn run_to_end(
        &mut self,
        mut on_event: impl FnMut(SeqId, Event<'_>) -> ControlFlow<()>,
    ) -> Result<Vec<Finished>, Error> {
        let mut finished = Vec::new();
        while !self.is_idle() {
            finished.extend(self.step(&mut on_event)?);
        }
        Ok(finished)
    }

    /// Whether no sequence waits or is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.filling.is_none() && self.live.is_empty()
    }

    /// Sequences that have a slot.
    #[must_use]
    pub fn running(&self) -> usize {
        self.live.len() + usize::from(self.filling.is_some())
    }

    /// Sequences that wait for one.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Positions that a sequence can have: those of the context, or all of the cache if that is
    /// smaller.
    #[must_use]
    pub fn context(&self) -> usize {
        let cache = self.limits.cache_blocks * BLOCK_TOKENS;
        self.limits.context.min(cache)
    }

    /// Who has which blocks of the cache.
    #[must_use]
    pub fn table(&self) -> &BlockTable {
        &self.table
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

    /// What a user should know about the choice of device, such as a fallback to the CPU.
    #[must_use]
    pub fn notice(&self) -> Option<String> {
        self.notice.clone().or_else(|| self.executor.notice())
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> BatchStats {
        self.stats
    }

    /// Decodes all live sequences together for some steps.
    fn decode(
        &mut self,
        finished: &mut Vec<Finished>,
        on_event: &mut OnEvent<'_>,
    ) -> Result<(), Error> {
        let steps = self.make_room();
        if self.live.is_empty() {
            return Ok(());
        }
        self.make_writable(steps)?;
        // Copies, since the sequences grow while the executor reads where they started.
        let starts: Vec<(Sampling, Vec<u32>)> = self.live.iter().map(Live::choice).collect();
        let context = self.context();
        let starts: Vec<DecodeStart<'_>> = (self.live.iter().zip(&starts))
            .map(|(live, (sampling, recent))| live.start(context, sampling, recent))
            .collect();
        let (live, tokenizer) = (&mut self.live, self.model.tokenizer());
        let take = &mut |i: usize, token| {
            let Live {
                sequence, cached, ..
            } = &mut live[i];
            *cached += 1;
            let id = sequence.id;
            (sequence.output).push(tokenizer, token, &mut |event| on_event(id, event))
        };
        self.stats.decodes += 1;
        self.executor.decode(&starts, steps, &self.table, take)?;
        let mut i = 0;
        while i < self.live.len() {
            let live = &mut self.live[i];
            if live.cached == context {
                live.sequence.output.end(Finish::Length);
            }
            if live.sequence.output.finished().is_some() {
                let live = self.live.remove(i);
                finished.push(self.finish(live, on_event));
            } else {
                i += 1;
            }
        }
        Ok(())
    }

    /// Lets a sequence go whose output is over.
    fn finish(&mut self, live: Live, on_event: &mut OnEvent<'_>) -> Finished {
        let Sequence { id, output, .. } = self.leave(live);
        (id, output.into_generation(&mut |event| on_event(id, event)))
    }

    /// Computes the next chunk of a sequence's tokens; after the last one, gives what follows. Logits
    /// come to the host only where somebody is to choose from them.
    fn run_chunk(&mut self, live: &mut Live) -> Result<Option<Next>, Error> {
        let tokens = &live.sequence.output.history()[live.cached..];
        let rows = tokens.len().min(self.limits.max_rows);
        let last = rows == tokens.len();
        let mut inputs = StepRows::prompt(&tokens[..rows], live.slot, live.cached);
        if last {
            inputs = inputs.with_last_output();
        }
        self.executor.run(&inputs.step(&self.table))?;
        live.cached += rows;
        self.stats.computed += rows as u64;
        if !last {
            return Ok(None);
        }
        if self.sampler_on == SamplerOn::Device && !self.wants_logits(&live.sequence) {
            return Ok(Some(Next::Token(self.executor.next()?[0])));
        }
        self.stats.logits += 1;
        Ok(Some(Next::Logits(self.executor.logits()?.into())))
    }

    /// Whether a sequence, or one that waits and has the same prompt, chooses from logits.
    fn wants_logits(&self, sequence: &Sequence) -> bool {
        let draws = |s: &Sequence| !s.sampling.is_greedy();
        let twin = |s: &Sequence| s.output.history() == sequence.output.history();
        draws(sequence) || self.waiting.iter().any(|s| draws(s) && twin(s))
    }
}
