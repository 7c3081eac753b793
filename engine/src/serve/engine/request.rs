//! What a caller asks of an engine, and what it hears.

use std::fmt;
use std::time::Duration;

use crate::model::Model;
use crate::serve::session::{GenerateOptions, Generation};

/// The text to continue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// As text; the token that begins one is added as the model's file says, and is all there is of an
    /// empty text.
    Text(String),
    /// As tokens, which are taken as they are.
    Tokens(Vec<u32>),
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Prompt {
        Prompt::Text(text.to_owned())
    }
}

impl From<String> for Prompt {
    fn from(text: String) -> Prompt {
        Prompt::Text(text)
    }
}

impl From<Vec<u32>> for Prompt {
    fn from(tokens: Vec<u32>) -> Prompt {
        Prompt::Tokens(tokens)
    }
}

/// Changes the logits of a request before its next token is chosen: `-inf` forbids a token.
///
/// It gets the tokens so far, those of the prompt among them, and a logit for each token of the
/// vocabulary. Only requests that have one bring their logits to the host.
pub trait LogitHook: Send {
    /// Changes logits.
    fn change(&mut self, tokens: &[u32], logits: &mut [f32]);
}

impl<F: FnMut(&[u32], &mut [f32]) + Send> LogitHook for F {
    fn change(&mut self, tokens: &[u32], logits: &mut [f32]) {
        self(tokens, logits);
    }
}

/// What is asked of an engine.
#[derive(Default)]
pub struct Request {
    /// What to continue.
    pub prompt: Prompt,
    /// How, and how far.
    pub options: GenerateOptions,
    /// Its class; 0 is the most urgent.
    pub priority: u8,
    /// Prefixes of prompts are shared among requests of equal salts only: callers who must not learn
    /// of each other's prompts by the time that theirs take have different ones.
    pub salt: u64,
    /// Added to the logits of tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// Changes logits before a token is chosen.
    pub logit_hook: Option<Box<dyn LogitHook>>,
    /// How many of the most likely tokens to report with each token, and its own log-probability;
    /// `None` reports none.
    pub log_probs: Option<usize>,
    /// The longest that it may take, waiting included.
    pub deadline: Option<Duration>,
    pub grammar: Option<Grammar>,
}
#[derive(Debug, Clone)]
pub enum Grammar {
    JsonSchema(String),
    JsonObject,
    Regex(String),
    Lark(String),
}

impl Default for Prompt {
    fn default() -> Prompt {
        Prompt::Tokens(Vec::new())
    }
}

impl Request {
    /// Continues a prompt with default options.
    #[must_use]
    pub fn new(prompt: impl Into<Prompt>) -> Request {
        Request {
            prompt: prompt.into(),
            ..Request::default()
        }
    }

    /// The same with other options.
    #[must_use]
    pub fn with_options(self, options: GenerateOptions) -> Request {
        Request { options, ..self }
    }

    /// The tokens of its prompt.
    pub(super) fn tokens(&self, model: &Model) -> Vec<u32> {
        match &self.prompt {
            Prompt::Tokens(tokens) => tokens.clone(),
            Prompt::Text(text) => {
                let parse_special = self.options.parse_special;
                model.tokenizer().encode_prompt(&[], text, parse_special)
            }
        }
    }

    /// Whether its tokens are chosen on the host.
    pub(super) fn needs_logits(&self) -> bool {
        !self.logit_bias.is_empty() || self.logit_hook.is_some() || self.log_probs.is_some()
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("prompt", &self.prompt)
            .field("options", &self.options)
            .field("priority", &self.priority)
            .field("log_probs", &self.log_probs)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

/// How likely tokens were: natural logarithms of their probabilities before any filter or penalty.
#[derive(Debug, Clone, PartialEq)]
pub struct LogProbs {
    /// Of the token that was chosen.
    pub chosen: f32,
    /// The most likely tokens, the most likely first.
    pub top: Vec<(u32, f32)>,
}

/// What a request's caller hears.
#[derive(Debug)]
#[non_exhaustive]
pub enum Update {
    /// Tokens of the prompt that were computed, or were known.
    Prompt {
        /// Computed.
        done: usize,
        /// Of these.
        total: usize,
    },
    /// A token, and the text that it completes; as [`Event::Token`](crate::Event::Token).
    Token {
        /// Its id.
        id: u32,
        /// Text to append.
        text: String,
        /// How likely tokens were, where that was asked for.
        log_probs: Option<LogProbs>,
    },
    /// The end; nothing follows.
    Ended(Result<Generation, crate::Error>),
}
