//! Sequences: one on an executor of its own ([`Session`]), or many on one, by plain calls ([`Batch`]) or
//! on a thread for any number of callers ([`Engine`]).
//!
//! Of many, [`scheduler`] decides what they compute next, without an executor; `engine::core` does it, and
//! batches and engines drive that.

mod batch;
mod engine;
mod output;
pub mod scheduler;
mod session;
mod stop;
mod times;

pub use batch::{Batch, BatchStats, Finished, SeqId};
pub use engine::core;
pub use engine::{
    Canceller, Engine, EngineCounters, Handle, Histogram, Listener, LogProbs, LogitHook, Prompt,
    Request, Update,
};
pub use session::{Event, Finish, GenerateOptions, Generation, Session};
pub use times::{GenerationTimes, Times};
