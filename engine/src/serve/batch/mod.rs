//! Many sequences on one executor, by plain calls.
//!
//! A [`Batch`] drives the core of an engine itself, without a thread: [`Batch::step`] lets steps run
//! until a sequence has something to tell, and tells it. Which sequences share a step, who waits and who
//! gives way is the scheduler's to decide: sequences join when a slot and blocks are free, their prompts
//! share steps with the next tokens of all others, and each leaves the moment it ends.
//!
//! Always holds on the CPU, fast and exact, and on a GPU with
//! [`batch_invariant`](crate::settings::Settings::batch_invariant): a sequence's tokens and their logits
//! are the same bits whatever else is in the batch, and those of a session alone. Without it a GPU chooses
//! kernels by the rows of a step: logits then differ by the rounding of sums, and a sequence's text may
//! part from that alone where two tokens are nearly as likely (with 8-bit activations where they are
//! somewhat so). Each sequence has its own seed and draws its own numbers.
//!
//! The cache is shared where prompts are: of a prompt that begins like an earlier one, the whole blocks
//! in common are neither computed nor held twice. Where all of a prompt is known, its last token is
//! computed for what follows it, in a block of its own. Where blocks run out, the sequence that came last
//! gives its own back and computes them again later: its text is the same.
//!
//! # When a step fails
//!
//! The sequences that have rows in it end with its error, and [`Batch::step`] returns them among those
//! that ended. All others are where they were, and the next step goes on with them. Only where the
//! executor is lost do all sequences end so, and [`Batch::add`] says why it takes no more.

#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use crate::Error;
use crate::exec::{Executor, LoadReport, Opening};
use crate::kv::BlockTable;
use crate::model::Model;
use crate::serve::engine::core::{Core, Submitted};
use crate::serve::engine::{Listener, LogProbs, Prompt, Request};
use crate::serve::session::{Event, GenerateOptions, Generation};
use crate::settings::Settings;
use crate::tools::make_executor_on;

/// How long a turn waits for a result. Nobody else is to be heard meanwhile.
const PATIENCE: Duration = Duration::from_secs(1);

/// Names a sequence of a [`Batch`]; never used again for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeqId(u64);

impl fmt::Display for SeqId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A sequence that ended, and what it gave; or the error of the step that it ended with.
pub type Finished = (SeqId, Result<Generation, Error>);

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
    /// Steps of the executor.
    pub steps: u64,
}

/// Many sequences on one executor.
pub struct Batch {
    core: Core,
    next_id: u64,
    notice: Option<String>,
}

/// Hands events on and keeps what ended.
struct Heard<'a> {
    on_event: &'a mut OnEvent<'a>,
    finished: Vec<Finished>,
    /// Whether there was anything.
    anything: bool,
}

impl Listener for Heard<'_> {
    fn hear(&mut self, key: u64, event: Event<'_>, _: Option<LogProbs>) -> ControlFlow<()> {
        self.anything = true;
        (self.on_event)(SeqId(key), event)
    }

    fn end(&mut self, key: u64, result: Result<Generation, Error>) {
        self.anything = true;
        self.finished.push((SeqId(key), result));
    }
}

impl<'a> Heard<'a> {
    fn by(on_event: &'a mut OnEvent<'a>) -> Heard<'a> {
        Heard {
            on_event,
            finished: Vec::new(),
            anything: false,
        }
    }
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
        Ok(Batch::of(model, made.executor, made.notice))
    }

    /// A batch on an executor of its own.
    fn of(model: &Arc<Model>, executor: Box<dyn Executor>, notice: Option<String>) -> Batch {
        Batch {
            core: Core::new(model, executor),
            next_id: 0,
            notice,
        }
    }

    /// Adds a text to continue; see [`Batch::add`].
    ///
    /// # Errors
    /// As [`Batch::add`].
    pub fn add_text(&mut self, prompt: &str, options: GenerateOptions) -> Result<SeqId, Error> {
        self.submit(prompt.into(), options)
    }

    /// Adds a prompt to continue. It joins in a later [`Batch::step`], when a slot is free; those
    /// added before it go first, unless they wait for a prefix that another is computing. The wait
    /// counts as time for the prompt. Where no tokens are asked for, the prompt is computed, and known
    /// to those that begin like it.
    ///
    /// # Errors
    /// The prompt is empty, has tokens outside the vocabulary or does not fit the cache, a setting is
    /// out of range, or the executor is lost.
    pub fn add(&mut self, prompt: &[u32], options: GenerateOptions) -> Result<SeqId, Error> {
        self.submit(prompt.to_vec().into(), options)
    }

    fn submit(&mut self, prompt: Prompt, options: GenerateOptions) -> Result<SeqId, Error> {
        let key = self.next_id;
        let request = Request::new(prompt).with_options(options);
        self.core.submit(Submitted::now(key, request))?;
        self.next_id += 1;
        Ok(SeqId(key))
    }

    /// Ends a sequence now and returns what it gave so far; `None` if it is over already.
    pub fn remove(&mut self, id: SeqId) -> Option<Generation> {
        let mut ignore = |_: SeqId, _: Event<'_>| ControlFlow::Continue(());
        let mut heard = Heard::by(&mut ignore);
        self.core.cancel(id.0, &mut heard);
        heard.finished.pop()?.1.ok()
    }

    /// Runs steps until there is something to tell of a sequence, and tells all that the last of them
    /// gave: how far a prompt is, a token, an end. Returns the sequences that ended, those among them
    /// that ended with the error of a step; the others go on with the next call. On a GPU later steps
    /// run meanwhile.
    pub fn step(
        &mut self,
        mut on_event: impl FnMut(SeqId, Event<'_>) -> ControlFlow<()>,
    ) -> Vec<Finished> {
        let mut heard = Heard::by(&mut on_event);
        while !heard.anything && !self.core.is_idle() {
            self.core.turn(PATIENCE, &mut heard);
        }
        heard.finished
    }

    /// Steps until every sequence has ended; returns them in the order they did.
    pub fn run_to_end(
        &mut self,
        mut on_event: impl FnMut(SeqId, Event<'_>) -> ControlFlow<()>,
    ) -> Vec<Finished> {
        let mut finished = Vec::new();
        while !self.is_idle() {
            finished.extend(self.step(&mut on_event));
        }
        finished
    }

    /// Whether no sequence waits or is under way, and no step.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.core.is_idle()
    }

    /// Sequences that have a slot.
    #[must_use]
    pub fn running(&self) -> usize {
        self.core.counters().scheduler.running
    }

    /// Sequences that wait for one.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.core.counters().scheduler.waiting
    }

    /// Positions that a sequence can have: those of the context, or all of the cache if that is
    /// smaller.
    #[must_use]
    pub fn context(&self) -> usize {
        self.core.context()
    }

    /// Who has which blocks of the cache.
    #[must_use]
    pub fn table(&self) -> &BlockTable {
        self.core.table()
    }

    /// Where the time went that it took to open the model and to put it on the device.
    #[must_use]
    pub fn load_report(&self) -> LoadReport {
        LoadReport::new(self.model(), self.core.executor())
    }

    /// The executor in use. While sequences are under way it is the batch's alone to step.
    pub fn executor(&mut self) -> &mut dyn Executor {
        self.core.executor_mut()
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Arc<Model> {
        self.core.model()
    }

    /// What a user should know about the choice of device, such as a fallback to the CPU.
    #[must_use]
    pub fn notice(&self) -> Option<String> {
        let notice = self.notice.clone();
        notice.or_else(|| self.core.executor().notice())
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> BatchStats {
        let counters = self.core.counters();
        BatchStats {
            computed: counters.scheduler.prompt_rows,
            shared: counters.scheduler.prefix_hits,
            copied_blocks: counters.scheduler.copied_blocks,
            preempted: counters.scheduler.preemptions,
            steps: counters.executor.steps,
        }
    }
}
