//! The routes that clients of OpenAI's API ask.

pub(crate) mod asked;
pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod embeddings;
pub(crate) mod log_probs;
pub(crate) mod models;
pub(crate) mod responses;

use std::sync::atomic::{AtomicU64, Ordering};

use gannet_engine::{Finish, Generation};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::sampling::random_seed;

/// What a stream has besides its text.
#[derive(Debug, Default, Clone, Copy, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StreamOptions {
    /// A last chunk with the tokens used.
    pub(crate) include_usage: Option<bool>,
    /// Padding against observers of lengths; there is none to leave out.
    #[expect(dead_code, reason = "nothing is done with it")]
    pub(crate) include_obfuscation: Option<bool>,
}

/// An id that no other answer has.
pub(crate) fn new_id(prefix: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}{:016x}{number:08x}", random_seed())
}

/// Why a text ended, in OpenAI's words.
pub(crate) fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Length | Finish::Context => "length",
        Finish::EndOfText | Finish::StopString | Finish::Stopped | Finish::Deadline => "stop",
    }
}

/// Tokens that a request used.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) prompt: usize,
    pub(crate) cached: usize,
    pub(crate) completion: usize,
}

impl Usage {
    /// Of an answer to prompts of so many tokens together.
    pub(crate) fn new(prompt: usize) -> Usage {
        Usage {
            prompt,
            ..Usage::default()
        }
    }

    /// Adds a choice; choices of one prompt count its tokens once.
    pub(crate) fn add(&mut self, generation: &Generation, is_first: bool) {
        self.completion += generation.tokens.len();
        if is_first {
            self.cached += generation.cached_tokens;
        }
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        })
    }
}
