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
//! A model family writes a plan; an executor runs it; a [`Session`] feeds it tokens, a [`Batch`]
//! those of many; [`tools`] compare, measure and make models. The crate prints nothing, speaks no
//! HTTP and starts no runtime.

pub mod error;
mod exec;
mod files;
mod kv;
mod lower;
mod model;
mod plan;
mod serve;
mod settings;
mod text;
pub mod tools;

pub use error::Error;
pub use exec::sample::Sampling;
pub use exec::{ExecutorKind, LoadReport, Opening};
pub use model::{Model, ModelOptions};
pub use serve::{Batch, Event, Finish, GenerateOptions, Generation, SeqId, Session};
pub use settings::{Config, DeviceChoice, ExecutorChoice, SamplerOn, SessionOptions};

/// The rooms of the engine behind its root: plans, lowering, executors and what they stand on.
///
/// For tests, tools and the curious: what is here may change with any release.
pub mod internals {
    /// Executors: what runs a plan.
    pub mod exec {
        #[doc(inline)]
        pub use crate::exec::*;
    }
    /// Containers.
    pub mod files {
        #[doc(inline)]
        pub use crate::files::*;
    }
    /// Where keys and values live.
    pub mod kv {
        #[doc(inline)]
        pub use crate::kv::*;
    }
    /// Plan operations to launches.
    pub mod lower {
        #[doc(inline)]
        pub use crate::lower::*;
    }
    /// Model families.
    pub mod model {
        #[doc(inline)]
        pub use crate::model::*;
    }
    /// The forward step as data.
    pub mod plan {
        #[doc(inline)]
        pub use crate::plan::*;
    }
    /// Sequences on executors.
    pub mod serve {
        #[doc(inline)]
        pub use crate::serve::*;
    }
    /// Every setting.
    pub mod settings {
        #[doc(inline)]
        pub use crate::settings::*;
    }
    /// Text and tokens.
    pub mod text {
        #[doc(inline)]
        pub use crate::text::*;
    }
}

/// The examples of the README, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
