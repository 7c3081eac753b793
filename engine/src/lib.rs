//! Gannet's engine: GGUF models to tokens, through one plan and many executors.
//!
//! ```
//! use std::ops::ControlFlow;
//! use std::sync::Arc;
//! use gannet_engine::{DeviceChoice, Event, GenerateOptions, Model, Session, Settings};
//!
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../cli/models/rustdoc-tiny-Q4_K_M.gguf");
//! let model = Arc::new(Model::open(path)?);
//! let settings = Settings { device: DeviceChoice::Cpu, ..Settings::default() };
//! let mut session = Session::new(&model, &settings)?;
//! let options = GenerateOptions { max_tokens: 12, ..GenerateOptions::default() };
//! let generation = session.generate("Ownership is", &options, |event| {
//!     if let Event::Token { text, .. } = event {
//!         print!("{text}");
//!     }
//!     ControlFlow::Continue(())
//! })?;
//! # assert_eq!(generation.tokens.len(), 12);
//! # Ok::<(), gannet_engine::Error>(())
//! ```
//!
//! A model family writes a plan; an executor runs it; a [`Session`] feeds it tokens, a [`Batch`]
//! those of many, an [`Engine`] those of many callers; [`tools`] compare, measure and make models. The crate prints nothing, speaks no
//! HTTP and starts no runtime.
//!
//! What is listed here needs no import from another crate; [`internals`] is for the curious.

pub mod error;
mod exec;
mod files;
mod kv;
mod lower;
mod model;
mod plan;
mod serve;
pub mod settings;
mod text;
pub mod tools;

pub use error::Error;
pub use exec::sample::Sampling;
pub use exec::{ExecutorKind, Opening};
pub use model::{Model, ModelOptions};
pub use serve::{
    Batch, Engine, Event, Finish, GenerateOptions, Generation, Handle, Request, Session, Update,
};
pub use settings::{DeviceChoice, ExecutorChoice, SamplerOn, Settings};

/// Text to tokens and back, by the vocabulary of a model.
pub mod tokenizer {
    pub use crate::text::tokenizer::{
        Algorithm, DecodeOptions, EncodeOptions, StreamDecoder, Tokenizer, TokenizerOptions,
        pre_tokenizers,
    };
}

/// Conversations as the text that a model was trained on.
pub mod chat {
    pub use crate::text::chat::{
        ChatError, ChatTemplate, Message, TemplateOptions, Tool, ToolCall, parse_messages,
        parse_tools,
    };
}

/// What a [`Batch`] gives.
pub mod batch {
    pub use crate::serve::{BatchStats, Finished, SeqId};
}

/// What requests to an [`Engine`] are made of, and what it counts.
pub mod requests {
    pub use crate::model::Pooling;
    pub use crate::serve::scheduler::SchedulerCounters;
    pub use crate::serve::{Canceller, EngineCounters, Histogram, LogProbs, LogitHook, Prompt};
    pub use crate::text::grammar::Grammar;
}

/// Replies that call tools: read as they come, and forced by a [`Grammar`](crate::requests::Grammar).
pub mod tool_calls {
    pub use crate::text::tools::{
        ReplyParser, ReplyPart, ToolChoice, ToolFormat, Turn, tool_grammar,
    };
}

/// Where the time went: of a load, of a generation.
pub mod times {
    pub use crate::exec::load_report::{LoadReport, PhaseTime};
    pub use crate::model::Phase;
    pub use crate::serve::{GenerationTimes, Times};
}

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
    /// What is found out about a device, and what that is valid for.
    pub mod machine {
        #[doc(inline)]
        pub use crate::settings::machine::{Machine, build, driver_release};
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

#[cfg(test)]
mod tests {
    /// The most that the root lists.
    const MOST: usize = 30;

    /// What the text of a root lists: the public items outside of its modules, and the names that it
    /// re-exports.
    fn items(root: &str) -> Vec<String> {
        let mut items = Vec::new();
        let (shown, _tests) = root.split_once("\n#[cfg(test)]").unwrap_or((root, ""));
        let mut rest = shown;
        while let Some((_, after)) = rest.split_once("\npub ") {
            let (kind, item) = after.split_once(' ').unwrap_or((after, ""));
            rest = item;
            if kind != "use" {
                let name = item
                    .split(|c: char| !c.is_alphanumeric() && c != '_')
                    .next();
                items.extend(name.map(str::to_owned));
                continue;
            }
            let (path, after) = item.split_once(';').unwrap_or((item, ""));
            rest = after;
            let names = path.split_once('{').map_or(path, |(_, names)| names);
            let names = names.trim_end_matches('}').split(',').map(str::trim);
            items.extend(names.filter(|name| !name.is_empty()).map(str::to_owned));
        }
        items
    }

    #[test]
    fn items_are_counted() {
        let root = "//! Docs.\n\npub mod a;\nmod b;\npub use b::{\n    C, D,\n};\npub use b::e::F;\n\
                    pub fn g() {}\npub mod h {\n    pub use crate::b::I;\n}\n";
        assert_eq!(items(root), ["a", "C", "D", "b::e::F", "g", "h"]);
    }

    #[test]
    fn the_root_lists_few_items_and_none_of_another_crate() {
        let root = include_str!("lib.rs");
        let items = items(root);
        for expected in ["Model", "Session", "tools", "internals"] {
            let listed = |item: &String| item.ends_with(expected);
            assert!(items.iter().any(listed), "{expected} is not in {items:?}");
        }
        assert!(items.len() <= MOST, "{} items: {items:?}", items.len());
        assert!(!items.iter().any(|item| item.contains('*')), "{items:?}");
        assert!(!root.contains("\npub use gannet_"));
    }
}
