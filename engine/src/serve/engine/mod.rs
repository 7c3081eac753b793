//! Many callers, one model on one device.
//!
//! An [`Engine`] owns a thread; any number of others submit [`Request`]s to it and hear of them through
//! a [`Handle`] each: blocking, or by looking. Dropping a handle cancels what it stands for.
//!
//! Prompts of several requests and the next tokens of all others share steps; steps are queued ahead on
//! the device, and mail is read between them. Whatever steps need is compiled and built before the first
//! request ([`Phase::WarmUp`](crate::times::Phase)). What a request gives does not depend on what else runs,
//! as far as the executor's arithmetic does not depend on the rows of a step: never on the CPU, and on a GPU
//! with [`batch_invariant`](crate::settings::Settings::batch_invariant). Where no tokens are asked for, the
//! prompt is computed and known to those that begin like it.

mod callers;
pub mod core;
mod counters;
mod embed;
#[cfg(test)]
pub(in crate::serve) mod failing;
mod handle;
mod live;
mod request;
mod results;
mod spoilt;
mod submitted;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use self::callers::{Callers, Hear};
use self::core::{Core, Submitted};
use self::embed::Embedding;
use crate::Error;
use crate::exec::{ExecutorKind, LoadReport, Opening};
use crate::model::{Model, Pooling};
use crate::settings::Settings;
use crate::tools::make_executor_on;

pub use callers::Listener;
pub use counters::{EngineCounters, Histogram};
pub use handle::{Canceller, Handle};
pub use request::{LogProbs, LogitHook, Prompt, Request, Update};

/// How long a turn waits for a result before mail is read again.
const PATIENCE: Duration = Duration::from_micros(200);

/// What comes to the thread.
enum Mail {
    Submit(Box<Submitted>, Hear),
    Cancel(u64),
    Embed(Embedding),
    Counters(Sender<EngineCounters>),
    TimeSteps(bool),
    Stop,
}

/// A model on a device, for any number of callers.
///
/// ```
/// use std::sync::Arc;
/// use gannet_engine::{DeviceChoice, Engine, Model, Request, Settings};
///
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../cli/models/rustdoc-tiny-Q4_K_M.gguf");
/// let model = Arc::new(Model::open(path)?);
/// let settings = Settings { device: DeviceChoice::Cpu, slots: Some(4), ..Settings::default() };
/// let engine = Engine::new(&model, &settings)?;
/// std::thread::scope(|threads| {
///     for prompt in ["Ownership is", "A trait", "fn main() {", "The borrow checker"] {
///         let engine = &engine;
///         threads.spawn(move || {
///             let handle = engine.submit(Request::new(prompt));
///             if prompt == "A trait" {
///                 return handle.cancel();
///             }
///             let generation = handle.wait().expect("the CPU computes");
///             assert_eq!(generation.tokens.len(), 128);
///         });
///     }
/// });
/// # Ok::<(), gannet_engine::Error>(())
/// ```
pub struct Engine {
    mail: Sender<Mail>,
    thread: Option<JoinHandle<()>>,
    next_key: AtomicU64,
    model: Arc<Model>,
    kind: ExecutorKind,
    context: usize,
    notice: Option<String>,
    load: LoadReport,
}

impl Engine {
    /// Puts a model on a device, with room for `settings.slots` sequences at once (`None`: one), which
    /// together have `settings.cache_blocks` blocks of the cache (`None`: a whole context each).
    ///
    /// # Errors
    /// The device was asked for by name and cannot be used, or the model does not fit on it.
    pub fn new(model: &Arc<Model>, settings: &Settings) -> Result<Engine, Error> {
        Engine::on(model, settings, &Opening::default())
    }

    /// As [`Engine::new`], on a device that has been opening meanwhile.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn on(model: &Arc<Model>, settings: &Settings, opening: &Opening) -> Result<Engine, Error> {
        let made = make_executor_on(model, settings, opening)?;
        let mut core = Core::new(model, made.executor);
        core.set_prompt_budget(settings.prompt_budget);
        Engine::of(core, made.notice)
    }

    /// An engine of a core, on a thread of its own.
    fn of(mut core: Core, notice: Option<String>) -> Result<Engine, Error> {
        let (mail, inbox) = channel();
        core.warm_up()?;
        let model = Arc::clone(core.model());
        let executor = core.executor();
        let mut engine = Engine {
            mail,
            thread: None,
            next_key: AtomicU64::new(0),
            kind: executor.kind(),
            context: executor.limits().context,
            notice: notice.or_else(|| executor.notice()),
            load: LoadReport::new(&model, executor),
            model,
        };
        engine.load.tell();
        let thread = std::thread::Builder::new().name("gannet-engine".to_owned());
        let thread = thread.spawn(move || run(core, &inbox));
        let thread =
            thread.map_err(|e| Error::internal(format!("no thread for an engine: {e}")))?;
        engine.thread = Some(thread);
        Ok(engine)
    }

    /// Hands a request over. Whatever becomes of it, refusal included, comes through the handle. A grammar
    /// is compiled first, which takes milliseconds, of large ones more.
    pub fn submit(&self, request: Request) -> Handle {
        let (updates, heard) = channel();
        let canceller = self.submit_with(request, callers::into_channel(updates));
        Handle::new(canceller, heard)
    }

    /// As [`Engine::submit`] for callers that wait in ways of their own, such as tasks of an asynchronous
    /// runtime: `hear` is called on the engine's thread with every update as it happens, must not wait, and
    /// ends the request by breaking.
    pub fn submit_with(
        &self,
        request: Request,
        hear: impl FnMut(Update) -> ControlFlow<()> + Send + 'static,
    ) -> Canceller {
        let submitted = self.submitted(request).compiled(&self.model);
        self.send(submitted, Box::new(hear))
    }

    /// Hands a request over whose prompt is to be continued [`Request::n`] times, with a handle for each
    /// choice: choice `i` is what the request gives alone with the seed `i` higher. The prompt is computed
    /// once.
    ///
    /// # Errors
    /// No choices are asked for, or more than 128, or several with a [`LogitHook`]. All else comes through
    /// the handles.
    pub fn submit_choices(&self, request: Request) -> Result<Vec<Handle>, Error> {
        let mut heard = Vec::new();
        let cancellers = self.submit_choices_with(request, |_| {
            let (updates, receiver) = channel();
            heard.push(receiver);
            callers::into_channel(updates)
        })?;
        let both = cancellers.into_iter().zip(heard);
        Ok(both.map(|(c, heard)| Handle::new(c, heard)).collect())
    }

    /// As [`Engine::submit_choices`] for callers that wait in ways of their own, as
    /// [`Engine::submit_with`]: `hear` makes what hears of each choice.
    ///
    /// # Errors
    /// As [`Engine::submit_choices`].
    pub fn submit_choices_with<H>(
        &self,
        request: Request,
        mut hear: impl FnMut(usize) -> H,
    ) -> Result<Vec<Canceller>, Error>
    where
        H: FnMut(Update) -> ControlFlow<()> + Send + 'static,
    {
        let request = request.with_tokens(&self.model);
        let mut choices = request.choices()?.into_iter();
        let first = choices
            .next()
            .map(|r| self.submitted(r).compiled(&self.model));
        let matcher = first.as_ref().and_then(|first| first.matcher.as_ref());
        let forks: Vec<_> = choices
            .map(|choice| Submitted {
                matcher: match matcher {
                    Some(Ok(matcher)) => Some(Ok(matcher.fork())),
                    Some(Err(error)) => Some(Err(Error::Request(error.to_string()))),
                    None => None,
                },
                ..self.submitted(choice)
            })
            .collect();
        let all = first.into_iter().chain(forks).enumerate();
        Ok(all
            .map(|(i, submitted)| self.send(submitted, Box::new(hear(i))))
            .collect())
    }

    fn submitted(&self, request: Request) -> Submitted {
        let key = self.next_key.fetch_add(1, Ordering::Relaxed);
        // Here, so that the engine's thread has nothing to do with text that comes.
        Submitted::now(key, request.with_tokens(&self.model))
    }

    fn send(&self, submitted: Submitted, hear: Hear) -> Canceller {
        let key = submitted.key;
        // The thread lives as long as this; if it panicked, `hear` is dropped, by which its caller knows.
        let _ = self.mail.send(Mail::Submit(Box::new(submitted), hear));
        Canceller::new(key, self.mail.clone())
    }

    /// The vector of a text: what stands in front of the model's head, pooled and not scaled to any length.
    /// It does not depend on what else runs. [`HyperParams::pooling`](crate::internals::model::HyperParams)
    /// is what the model's file asks for.
    ///
    /// # Errors
    /// No tokens, more than the context holds, ids that are none, a pooling that gives no vector, numbers
    /// that are not finite, or the device failed.
    pub fn embed(&self, tokens: Vec<u32>, pooling: Pooling) -> Result<Vec<f32>, Error> {
        let (answer, heard) = channel();
        self.embed_with(tokens, pooling, move |vector| {
            // Whoever asked may be gone.
            let _ = answer.send(vector);
        });
        heard.recv().map_err(|_| gone())?
    }

    /// As [`Engine::embed`] for callers that wait in ways of their own: `hear` is called on the engine's
    /// thread and must not wait; where that is gone it is dropped.
    pub fn embed_with(
        &self,
        tokens: Vec<u32>,
        pooling: Pooling,
        hear: impl FnOnce(Result<Vec<f32>, Error>) + Send + 'static,
    ) {
        let hear = Box::new(hear);
        let _ = self.mail.send(Mail::Embed(Embedding {
            tokens,
            pooling,
            hear,
        }));
    }

    /// How it is doing.
    ///
    /// # Errors
    /// The engine's thread is gone.
    pub fn counters(&self) -> Result<EngineCounters, Error> {
        let (answer, heard) = channel();
        let _ = self.mail.send(Mail::Counters(answer));
        heard.recv().map_err(|_| gone())
    }

    /// Times steps on the device from now on, or does not: [`EngineCounters::executor`] has the sums, of
    /// which the idle time is that between steps while requests were under way.
    pub fn time_steps(&self, on: bool) {
        // An engine that is gone has no steps.
        let _ = self.mail.send(Mail::TimeSteps(on));
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// What runs it.
    #[must_use]
    pub fn kind(&self) -> ExecutorKind {
        self.kind
    }

    /// Positions of a sequence.
    #[must_use]
    pub fn context(&self) -> usize {
        self.context
    }

    /// What a user should know about the choice of device, such as a fallback to the CPU.
    #[must_use]
    pub fn notice(&self) -> Option<&str> {
        self.notice.as_deref()
    }

    /// Where the time went that it took to open the model and to put it on the device.
    #[must_use]
    pub fn load_report(&self) -> &LoadReport {
        &self.load
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.mail.send(Mail::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was said when it happened.
            let _ = thread.join();
        }
    }
}

/// The error of an engine whose thread is gone.
fn gone() -> Error {
    Error::Lost("the engine has ended".to_owned())
}

/// The thread: reads what mail there is, then does a turn of work; waits for mail while there is none.
fn run(mut core: Core, inbox: &Receiver<Mail>) {
    let mut callers = Callers::default();
    loop {
        let mail = match core.is_idle() {
            true => {
                core.pause();
                inbox.recv().map_err(|_| TryRecvError::Disconnected)
            }
            false => inbox.try_recv(),
        };
        match mail {
            Ok(Mail::Submit(submitted, hear)) => {
                let key = submitted.key;
                callers.add(key, hear);
                if let Err(why) = core.submit(*submitted) {
                    callers.end(key, Err(why));
                }
            }
            Ok(Mail::Embed(embedding)) => core.submit_embedding(embedding),
            Ok(Mail::Cancel(key)) => core.cancel(key, &mut callers),
            Ok(Mail::Counters(answer)) => {
                // Whoever asked may be gone.
                let _ = answer.send(core.counters());
            }
            Ok(Mail::TimeSteps(on)) => core.time_steps(on),
            Ok(Mail::Stop) | Err(TryRecvError::Disconnected) => return,
            Err(TryRecvError::Empty) => core.turn(PATIENCE, &mut callers),
        }
    }
}
