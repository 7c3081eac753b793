//! The work of an engine without its thread: requests in, steps queued, results handed out.
//!
//! [`Core::turn`] does what can be done and comes back; whoever drives it reads mail in between, or is a
//! caller itself. What becomes of requests goes to the [`Listener`] of the call in which it does.
//!
//! # When a step fails
//!
//! It ends the requests that have rows in it, and nobody else: their error is the step's. A step that
//! could not be queued fails alone; steps in front of it are taken first, and none is queued behind it
//! until it is told to the scheduler. Where the results of steps that are queued cannot be had any more,
//! all of these steps fail. Where the logits of a row are no numbers, its request alone ends with an error
//! that says what made them so. An executor that cannot even be emptied is lost: every request ends with its
//! error, and so does every later one.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::callers::Listener;
use super::counters::EngineCounters;
use super::embed::Embedding;
use super::live::Live;
pub use super::submitted::Submitted;
use crate::Error;
use crate::exec::{Executor, SlotChoice, StepRows};
use crate::kv::{BlockTable, PrefixKey};
use crate::model::Model;
use crate::plan::StepRow;
use crate::serve::scheduler::{
    BatchBudget, ChosenBy, Entry, PromptBudget, Refusal, RequestId, Scheduler, SchedulerConfig,
    Ticket, TokenSource, Work, WorkRow,
};
use crate::serve::session::Finish;

/// Steps queued ahead on a device: enough to hide the host.
const STEPS_AHEAD: usize = 4;

/// How prompts and decoding share the steps of a GPU: products of batches have kernels of up to 64 rows. An
/// 8B model on an H200 takes 7.6 ms for 64 rows and 37 ms for 96.
const BATCH: BatchBudget = BatchBudget {
    rows: 64,
    least: 16,
    short: 32,
    many: 8,
};

/// Rows of prompts in a step while sequences decode, on the host, where every row costs.
const PROMPT_BUDGET_HOST: usize = 32;

/// Requests submitted later that may join before one, for each class that it is less urgent.
const OVERTAKES: u64 = 32;

/// A step that was handed to the executor.
pub(super) struct Flight {
    pub(super) ticket: Ticket,
    /// Positions of each of its requests that are done with it.
    pub(super) done: Vec<(RequestId, usize)>,
    /// Whether a row of it is chosen on the host.
    pub(super) has_host_rows: bool,
    /// Its wanted rows, in order.
    pub(super) wanted: Vec<WorkRow>,
    /// Its logits, where they were fetched before its turn.
    pub(super) logits: Option<Vec<f32>>,
    /// Why it was not queued.
    pub(super) failed: Option<Error>,
}

/// Requests on an executor.
pub struct Core {
    pub(super) model: Arc<Model>,
    pub(super) executor: Box<dyn Executor>,
    pub(super) scheduler: Scheduler,
    pub(super) live: HashMap<RequestId, Live>,
    pub(super) by_key: HashMap<u64, RequestId>,
    pub(super) in_flight: VecDeque<Flight>,
    pub(super) counters: EngineCounters,
    /// Whether all that steps need has been made.
    is_warm: bool,
    /// Why the executor is lost.
    pub(super) lost: Option<String>,
    /// Texts whose vectors are wanted.
    pub(super) embeddings: VecDeque<Embedding>,
}

impl Core {
    /// Requests of a model on an executor of it; there are none yet.
    #[must_use]
    pub fn new(model: &Arc<Model>, executor: Box<dyn Executor>) -> Core {
        let limits = executor.limits();
        let steps_ahead = match executor.kind().is_gpu() {
            true => STEPS_AHEAD,
            // It computes while it queues: more would only wait.
            false => 1,
        };
        let scheduler = Scheduler::new(&SchedulerConfig {
            limits,
            rows: limits.max_rows,
            steps_ahead,
            overtakes: OVERTAKES,
        });
        Core {
            model: Arc::clone(model),
            executor,
            scheduler,
            live: HashMap::new(),
            by_key: HashMap::new(),
            in_flight: VecDeque::new(),
            counters: EngineCounters::default(),
            is_warm: false,
            lost: None,
            embeddings: VecDeque::new(),
        }
    }

    /// Says how many rows of prompts steps may have while sequences decode; without a number, as many as
    /// cost the device little.
    pub fn set_prompt_budget(&mut self, rows: Option<usize>) {
        let budget = match rows {
            Some(rows) => PromptBudget::Rows(rows),
            None if self.executor.kind().is_gpu() => PromptBudget::Batch(BATCH),
            None => PromptBudget::Rows(PROMPT_BUDGET_HOST),
        };
        self.scheduler.set_prompt_budget(budget);
    }

    /// Makes whatever steps need, so that nothing is compiled or built while they run.
    ///
    /// # Errors
    /// As [`Executor::warm_up`].
    pub fn warm_up(&mut self) -> Result<(), Error> {
        self.executor.warm_up()?;
        self.is_warm = true;
        Ok(())
    }

    /// Takes a request.
    ///
    /// # Errors
    /// It makes no sense, or could not run if it were alone. Nobody hears of it then.
    pub fn submit(&mut self, submitted: Submitted) -> Result<(), Error> {
        let taken = self.take(submitted);
        match taken {
            Ok(()) => self.counters.requests += 1,
            Err(_) => self.counters.refused += 1,
        }
        taken
    }

    fn take(&mut self, submitted: Submitted) -> Result<(), Error> {
        let submitted = match submitted.matcher {
            Some(_) => submitted,
            None => submitted.compiled(&self.model),
        };
        let Submitted {
            key,
            request,
            at,
            matcher,
        } = submitted;
        if let Some(why) = &self.lost {
            return Err(Error::Lost(why.clone()));
        }
        if request.n != 1 {
            return Err(Error::Request(format!(
                "n is {}; one handle hears of one choice: use Engine::submit_choices",
                request.n
            )));
        }
        request.options.check()?;
        let prompt = request.tokens(&self.model);
        self.model.check_tokens(&prompt)?;
        let biased: Vec<u32> = request.logit_bias.iter().map(|b| b.0).collect();
        self.model.check_tokens(&biased)?;
        self.model.check_tokens(&request.options.stop_tokens)?;
        let entry = Entry {
            // Where none are asked for, the prompt is computed, and what follows it is dropped.
            max_tokens: request.options.max_tokens.max(1),
            priority: request.priority,
            key: PrefixKey {
                salt: request.salt,
                ..PrefixKey::default()
            },
            chosen_by: match request.needs_logits() {
                true => ChosenBy::Host,
                false => ChosenBy::Device,
            },
            prompt: prompt.clone(),
        };
        let matcher = matcher.transpose()?;
        let tokenizer = self.model.tokenizer();
        let live = Live::new(tokenizer, key, &prompt, request, at).with(tokenizer, matcher);
        let id = self.scheduler.submit(entry).map_err(|why| match why {
            Refusal::TooLong { tokens, context } => Error::ContextFull { tokens, context },
            Refusal::EmptyPrompt | Refusal::NoTokens => Error::Request(why.to_string()),
        })?;
        self.by_key.insert(key, id);
        self.live.insert(id, live);
        tracing::debug!(key, prompt_tokens = prompt.len(), "taken");
        Ok(())
    }

    /// Ends a request, if it has not ended.
    pub fn cancel(&mut self, key: u64, listener: &mut dyn Listener) {
        if let Some(&id) = self.by_key.get(&key) {
            self.scheduler.cancel(id);
            self.end(id, Finish::Stopped, listener);
        }
    }

    /// How it is doing.
    pub fn counters(&self) -> EngineCounters {
        let grammars = self.model.grammar_counts();
        EngineCounters {
            grammar_hits: grammars.hits,
            grammar_misses: grammars.misses,
            scheduler: self.scheduler.counters(),
            executor: self.executor.stats(),
            ..self.counters
        }
    }

    /// Times steps on the device from now on, or does not.
    pub(super) fn time_steps(&mut self, on: bool) {
        self.executor.time_steps(on);
    }

    /// Says that nothing comes until there is mail.
    pub(super) fn pause(&mut self) {
        self.executor.pause();
    }

    /// Positions that a sequence can have.
    pub fn context(&self) -> usize {
        self.scheduler.context()
    }

    /// Who has which blocks of the cache.
    pub fn table(&self) -> &BlockTable {
        self.scheduler.table()
    }

    /// The executor.
    pub fn executor(&self) -> &dyn Executor {
        self.executor.as_ref()
    }

    /// The executor; whoever steps it does so while there is nothing to do.
    pub fn executor_mut(&mut self) -> &mut dyn Executor {
        self.executor.as_mut()
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.live.is_empty() && self.embeddings.is_empty()
    }

    /// Queues the steps that can be, and hands out the results of the oldest, if they come within
    /// `patience`.
    pub fn turn(&mut self, patience: Duration, listener: &mut dyn Listener) {
        self.end_late(listener);
        self.embed_next(listener);
        self.queue_steps();
        self.prepare_choices();
        let Some(flight) = self.in_flight.front_mut() else {
            return;
        };
        if let Some(error) = flight.failed.take() {
            self.fail_oldest(&|| Error::Step(error.to_string()), listener);
            return;
        }
        match self.executor.take(patience) {
            Ok(None) => {}
            Ok(Some(tokens)) => {
                if let Err(error) = self.complete_oldest(&tokens, listener) {
                    self.fail_all(&error, listener);
                }
            }
            Err(error) => self.fail_all(&error, listener),
        }
    }

    /// Ends requests whose time is over.
    fn end_late(&mut self, listener: &mut dyn Listener) {
        let now = Instant::now();
        let late = |live: &Live| live.deadline.is_some_and(|deadline| deadline <= now);
        let late: Vec<RequestId> = (self.live.iter())
            .filter(|(_, live)| late(live))
            .map(|(&id, _)| id)
            .collect();
        for id in late {
            self.counters.late += 1;
            self.scheduler.cancel(id);
            self.end(id, Finish::Deadline, listener);
        }
    }

    fn queue_steps(&mut self) {
        loop {
            // Behind a step whose logits come to the host there is none, and none behind one that
            // failed.
            let holds_back = |f: &Flight| f.has_host_rows || f.failed.is_some();
            if self.lost.is_some() || self.in_flight.back().is_some_and(holds_back) {
                return;
            }
            // The very first token does not wait for what is made once for those behind it.
            let is_first = !self.is_warm && self.counters.tokens == 0;
            if is_first && self.in_flight.back().is_some_and(|f| !f.wanted.is_empty()) {
                return;
            }
            let Some(work) = self.scheduler.next() else {
                return;
            };
            let queued = self.queue(&work);
            let host = |id| self.live.get(id).is_some_and(Live::is_chosen_by_host);
            let of_one = |a: &WorkRow, b: &WorkRow| a.request == b.request;
            let last = (work.rows.chunk_by(of_one)).filter_map(<[WorkRow]>::last);
            self.in_flight.push_back(Flight {
                ticket: work.ticket,
                wanted: work.rows.iter().filter(|row| row.wanted).copied().collect(),
                has_host_rows: last.clone().any(|row| row.wanted && host(&row.request)),
                done: last.map(|row| (row.request, row.position + 1)).collect(),
                failed: queued.err(),
                logits: None,
            });
        }
    }

    /// Hands a step to the executor.
    fn queue(&mut self, work: &Work) -> Result<(), Error> {
        // In front of what may fail, since others' blocks are overwritten from here on. Who could not be
        // saved is computed again.
        if !work.saves.is_empty() && self.executor.save_blocks(&work.saves).is_err() {
            self.scheduler.lose_saved(work.ticket);
        }
        for id in &work.joined {
            let row = work.rows.iter().find(|row| row.request == *id);
            let (Some(live), Some(row), Some(tokens)) =
                (self.live.get_mut(id), row, self.scheduler.tokens(*id))
            else {
                continue;
            };
            live.join(row.position);
            self.executor.set_slot(&SlotChoice {
                slot: row.slot as u32,
                sampling: &live.sampling,
                history: tokens,
                draws: live.draws(tokens.len()),
            })?;
        }
        if !work.copies.is_empty() {
            self.executor.copy_blocks(&work.copies)?;
        }
        if !work.restores.is_empty() {
            self.executor.restore_blocks(&work.restores)?;
        }
        let rows = work.rows.iter().map(|row| {
            let token = match row.source {
                TokenSource::Known(token) => token,
                TokenSource::Chosen => StepRow::CHOSEN,
            };
            StepRow::new(token, row.position as u32 + 1, row.slot as u32)
        });
        // Kernels are there for rows of powers of two; without kernels a spare row is only work.
        let pads = self.executor.kind().runs_kernels();
        let rows = match work.rows.iter().all(|row| row.wanted) {
            true if pads => StepRows::padded_batch(rows),
            true => StepRows::batch(rows),
            false => {
                let wanted = (0..).zip(&work.rows).filter(|(_, row)| row.wanted);
                StepRows::new(rows).with_outputs(wanted.map(|(i, _)| i))
            }
        };
        self.executor.queue(&rows.step(self.scheduler.table()))
    }
}
