//! Sequences: one on an executor of its own ([`Session`]), or many on one ([`Batch`]).
//!
//! [`scheduler`] decides what many requests compute next, without an executor.

mod batch;
mod engine;
mod output;
pub mod scheduler;
mod session;
mod stop;
mod times;

pub use batch::{Batch, BatchStats, Finished, SeqId};
pub use engine::{
    Engine, EngineCounters, Handle, Histogram, LogProbs, LogitHook, Prompt, Request, Update,
};
pub use session::{Event, Finish, GenerateOptions, Generation, Session};
pub use times::{GenerationTimes, Times};
