//! What a caller asks of an engine, and what it hears.

use std::fmt;
use std::time::Duration;

use crate::Error;
use crate::model::Model;
use crate::serve::session::{GenerateOptions, Generation};
use crate::text::grammar::Grammar;

/// The most choices of one prompt.
const MOST_CHOICES: usize = 128;

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
    /// Fewest tokens before one that ends the text, or is one of the options' stop tokens, may be chosen.
    /// Stop strings end it all the same, and so does a grammar of which it is the end.
    pub min_tokens: usize,
    /// What the text must match as a whole; tokens are chosen among those that may come next, after
    /// biases and the hook. Once nothing more may come, the text has ended
    /// ([`Finish::EndOfText`](crate::Finish)).
    pub grammar: Option<Grammar>,
    /// How many texts are to continue the prompt; more than one by
    /// [`Engine::submit_choices`](crate::Engine::submit_choices) only.
    pub n: usize,
    /// The longest that it may take, waiting included.
    pub deadline: Option<Duration>,
}

impl Default for Request {
    fn default() -> Request {
        Request {
            prompt: Prompt::default(),
            options: GenerateOptions::default(),
            priority: 0,
            salt: 0,
            logit_bias: Vec::new(),
            logit_hook: None,
            log_probs: None,
            min_tokens: 0,
            grammar: None,
            n: 1,
            deadline: None,
        }
    }
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

    /// The same with its prompt as tokens.
    pub(super) fn with_tokens(mut self, model: &Model) -> Request {
        self.prompt = Prompt::Tokens(self.tokens(model));
        self
    }

    /// Whether its tokens are chosen on the host.
    pub(super) fn needs_logits(&self) -> bool {
        !self.logit_bias.is_empty()
            || self.logit_hook.is_some()
            || self.log_probs.is_some()
            || self.min_tokens > 0
            || self.grammar.is_some()
    }

    /// The requests of its choices: each draws with the seed behind the one before it.
    ///
    /// # Errors
    /// None is asked for, or too many; a hook cannot be had twice.
    pub(super) fn choices(self) -> Result<Vec<Request>, Error> {
        let n = self.n;
        if n == 0 || n > MOST_CHOICES {
            return Err(Error::Request(format!(
                "n is {n}; ask for 1 to {MOST_CHOICES} choices"
            )));
        }
        if n > 1 && self.logit_hook.is_some() {
            let why = "a logit hook serves one choice; ask for n = 1, or submit each with its own";
            return Err(Error::Request(why.to_owned()));
        }
        let choice = |i: usize| {
            let mut options = self.options.clone();
            options.sampling.seed = options.sampling.seed.wrapping_add(i as u64);
            Request {
                prompt: self.prompt.clone(),
                options,
                priority: self.priority,
                salt: self.salt,
                logit_bias: self.logit_bias.clone(),
                logit_hook: None,
                log_probs: self.log_probs,
                min_tokens: self.min_tokens,
                grammar: self.grammar.clone(),
                n: 1,
                deadline: self.deadline,
            }
        };
        let mut choices: Vec<Request> = (0..n).map(choice).collect();
        choices[0].logit_hook = self.logit_hook;
        Ok(choices)
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("prompt", &self.prompt)
            .field("options", &self.options)
            .field("priority", &self.priority)
            .field("log_probs", &self.log_probs)
            .field("min_tokens", &self.min_tokens)
            .field("grammar", &self.grammar)
            .field("n", &self.n)
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
