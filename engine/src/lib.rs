//! Gannet's engine: GGUF models to tokens, through one plan and many executors.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use std::sync::Arc;
//! use gannet_engine::{Event, GenerateOptions, Model, Session, SessionOptions};
//!
//! # fn main() -> Result<(), gannet_engine::Error> {
//! let model = Arc::new(Model::open("model.gguf")?);
//! let mut session = Session::new(&model, &SessionOptions::default())?;
//! session.generate("Ownership is", &GenerateOptions::default(), |event| {
//!     if let Event::Token { text, .. } = event {
//!         print!("{text}");
//!     }
//!     ControlFlow::Continue(())
//! })?;
//! # Ok(())
//! # }
//! ```
//!
//! A model family ([`model`]) writes a [`plan`]; an executor ([`exec`]) runs it; a [`Session`]
//! feeds it tokens; [`parity`] compares two executors of it. The crate prints nothing, speaks no
//! HTTP and starts no runtime.

pub mod batch;
pub mod bench;
pub mod config;
pub mod device;
mod error;
pub mod eval;
pub mod exec;
pub mod gate;
pub mod identity;
pub mod kv;
pub mod load;
pub mod lower;
pub mod model;
mod output;
pub mod parity;
pub mod plan;
pub mod profile;
pub mod rope;
pub mod safetensors;
pub mod sample;
pub mod session;
pub mod stop;
pub mod synth;
pub mod times;
pub mod tokenizer;
pub mod tune;

pub use batch::{Batch, SeqId};
pub use config::Config;
pub use device::{DeviceChoice, ExecutorChoice, SamplerOn, SessionOptions};
pub use error::Error;
pub use load::LoadReport;
pub use model::{Model, ModelOptions};
pub use sample::Sampling;
pub use session::{Event, Finish, GenerateOptions, Generation, Session};

/// The examples of the README, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
