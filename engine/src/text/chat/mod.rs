//! Conversations as the text that a model was trained on: chat templates.
//!
//! A template is a program in Jinja that a model file carries. Rendering here gives what Python's jinja2
//! gives with the settings and globals of `transformers`, which templates are written for: bytes of
//! messages are never changed, and a template's own refusal (`raise_exception`) comes out as the error.
//! `translated` (in `source.rs`) says what is said differently to the interpreter, `environment.rs` what
//! templates find, `needs.rs` in which form a template wants contents and arguments.
//!
//! What always holds: a template, whoever wrote it, ends within bounded time and memory and cannot panic;
//! errors are one line with the template's name and line; nothing of the messages is changed or cut.
//!
//! ```
//! use gannet_engine::Model;
//! use gannet_engine::chat::{ChatTemplate, TemplateOptions, parse_messages};
//!
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../cli/models/rustdoc-tiny-Q4_K_M.gguf");
//! let model = Model::open(path)?;
//! let template = ChatTemplate::named("chatml", model.tokenizer())?;
//! let messages = parse_messages(r#"[{"role": "user", "content": "Hello"}]"#)?;
//! let text = template.render(&messages, &[], &TemplateOptions::default())?;
//! assert_eq!(text, "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n");
//! let tokens = template.prompt_tokens(model.tokenizer(), &text);
//! # assert!(!tokens.is_empty());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod context;
mod environment;
mod error;
mod filters;
mod globals;
mod guard;
mod json;
mod message;
mod methods;
mod named;
mod needs;
mod parse;
mod python;
mod source;
mod time;

use std::sync::Arc;

use gannet_gguf::Metadata;
use minijinja::value::Value;
use minijinja::{Environment, ErrorKind};

pub use error::ChatError;
pub use message::{Message, Tool, ToolCall};
pub use parse::{parse_messages, parse_tools};

use super::tokenizer::Tokenizer;
use environment::Raised;
use needs::Needs;

/// The name that the template has in its environment.
const NAME: &str = "template";

/// The most bytes of a template's source.
const MOST_SOURCE: usize = 256 << 10;

/// Steps that a rendering may take, whatever the messages are.
const FUEL: u64 = 200_000;

/// Steps that a byte of the messages adds.
const FUEL_A_BYTE: u64 = 4;

/// The stack of a rendering: untouched pages of it cost nothing.
const STACK_BYTES: usize = 256 << 20;

/// How to write a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct TemplateOptions {
    /// End with the beginning of an assistant's message, for the model to go on with.
    pub add_generation_prompt: bool,
    /// End within the last message, for the model to go on with it; the opposite of the above.
    pub continue_final_message: bool,
    /// Whether the model is to think first: the variables `enable_thinking` and `thinking`, where given.
    pub thinking: Option<bool>,
    /// Further variables (`chat_template_kwargs`): their names, and JSON text of their values.
    pub variables: Vec<(String, String)>,
    /// What time `strftime_now` says it is, in seconds since the epoch; the clock's, if none is given.
    pub now: Option<i64>,
}

impl Default for TemplateOptions {
    fn default() -> TemplateOptions {
        TemplateOptions {
            add_generation_prompt: true,
            continue_final_message: false,
            thinking: None,
            variables: Vec::new(),
            now: None,
        }
    }
}

/// The special tokens that templates write.
#[derive(Clone, Debug, Default)]
struct SpecialTokens {
    /// Variable and text.
    all: Vec<(&'static str, String)>,
}

impl SpecialTokens {
    fn of(tokenizer: &Tokenizer) -> SpecialTokens {
        let text = |id: Option<u32>| {
            let bytes = id.map_or(&[][..], |id| tokenizer.token_bytes(id));
            String::from_utf8_lossy(bytes).into_owned()
        };
        let all = vec![
            ("bos_token", text(tokenizer.bos())),
            ("eos_token", text(tokenizer.eos())),
        ];
        SpecialTokens { all }
    }

    /// Adds those that only metadata names.
    fn add(&mut self, meta: &Metadata, tokenizer: &Tokenizer) {
        let keys = [
            ("unk_token", "tokenizer.ggml.unknown_token_id"),
            ("pad_token", "tokenizer.ggml.padding_token_id"),
            ("sep_token", "tokenizer.ggml.seperator_token_id"),
            ("cls_token", "tokenizer.ggml.cls_token_id"),
            ("mask_token", "tokenizer.ggml.mask_token_id"),
        ];
        for (name, key) in keys {
            let id = meta.opt_u32(key).ok().flatten();
            let text = id.map(|id| String::from_utf8_lossy(tokenizer.token_bytes(id)).into_owned());
            self.all.extend(text.map(|text| (name, text)));
        }
    }
}

/// A chat template: what turns messages into a model's prompt.
///
/// Clones share what was compiled.
#[derive(Clone)]
pub struct ChatTemplate {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    source: String,
    env: Environment<'static>,
    tokens: SpecialTokens,
    needs: Needs,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate")
            .field("name", &self.inner.name)
            .finish_non_exhaustive()
    }
}

impl ChatTemplate {
    /// A built-in template, one of [`names`](Self::names).
    ///
    /// # Errors
    /// No template has that name; the message lists those that exist.
    pub fn named(name: &str, tokenizer: &Tokenizer) -> Result<ChatTemplate, ChatError> {
        let source = named::source(name).ok_or_else(|| ChatError::Unknown {
            name: name.to_owned(),
            names: ChatTemplate::names().collect::<Vec<_>>().join(", "),
        })?;
        ChatTemplate::parse(name, source, tokenizer)
    }

    /// The names of the built-in templates.
    pub fn names() -> impl Iterator<Item = &'static str> {
        named::names()
    }

    /// A template from its source; the name is what messages call it.
    ///
    /// # Errors
    /// The source is no template: its name, the line, what is wrong.
    pub fn parse(
        name: &str,
        source: &str,
        tokenizer: &Tokenizer,
    ) -> Result<ChatTemplate, ChatError> {
        ChatTemplate::compile(name, source, SpecialTokens::of(tokenizer))
    }

    /// The template of a model file's metadata; `file` is what messages call the file.
    ///
    /// # Errors
    /// As [`ChatTemplate::of`](crate::chat::ChatTemplate::of).
    pub fn of_metadata(
        meta: &Metadata,
        file: &str,
        tokenizer: &Tokenizer,
        variant: Option<&str>,
    ) -> Result<ChatTemplate, ChatError> {
        let missing = |problem: String| ChatError::Missing {
            file: file.to_owned(),
            problem,
        };
        let base = "tokenizer.chat_template";
        let key = variant.map_or(base.to_owned(), |variant| format!("{base}.{variant}"));
        let found = meta.opt_str(&key).map_err(|e| missing(e.to_string()))?;
        let Some(source) = found else {
            let instead = match variant {
                None => {
                    "name one with --chat-template NAME|FILE, such as chatml; plain suits base models"
                }
                Some(_) => "leave the variant out",
            };
            return Err(missing(format!("has no chat template ({key}); {instead}")));
        };
        let mut tokens = SpecialTokens::of(tokenizer);
        tokens.add(meta, tokenizer);
        ChatTemplate::compile(&key, source, tokens)
    }

    fn compile(name: &str, source: &str, tokens: SpecialTokens) -> Result<ChatTemplate, ChatError> {
        if source.len() > MOST_SOURCE {
            return Err(ChatError::Template {
                template: name.to_owned(),
                line: None,
                problem: format!("has {} bytes; at most {MOST_SOURCE}", source.len()),
            });
        }
        let too_long = |line| ChatError::Template {
            template: name.to_owned(),
            line: Some(line),
            problem: "a tag is longer than any should be".to_owned(),
        };
        let translated = apart(name, || Ok(source::translated(source)))?.map_err(too_long)?;
        let compile = || {
            let mut env = environment::environment()?;
            env.add_template_owned(NAME, translated)?;
            Ok(env)
        };
        let env = apart(name, compile)?;
        let mut inner = Inner {
            name: name.to_owned(),
            source: source.to_owned(),
            env,
            tokens,
            needs: Needs::default(),
        };
        inner.needs = Needs::of(&inner);
        Ok(ChatTemplate {
            inner: Arc::new(inner),
        })
    }

    /// What messages call the template.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Its source, as it was given.
    pub fn source(&self) -> &str {
        &self.inner.source
    }

    /// Whether the template speaks of thinking: the model may think before it answers.
    pub fn thinks(&self) -> bool {
        let marks = ["<think", "thinking", "reasoning", "[THINK]", "analysis"];
        marks.iter().any(|mark| self.inner.source.contains(mark))
    }

    /// Whether the template has a place for tools; one that has none ignores those it is given.
    pub fn takes_tools(&self) -> bool {
        self.inner.source.contains("tools")
    }

    /// The text of a conversation.
    ///
    /// # Errors
    /// One line: the template refuses the messages, fails, or exceeds its limits; an option's JSON is
    /// none, or its name is one of the template's own.
    pub fn render(
        &self,
        messages: &[Message],
        tools: &[Tool],
        options: &TemplateOptions,
    ) -> Result<String, ChatError> {
        context::render(&self.inner, messages, tools, options, FUEL)
    }

    /// The tokens of a rendered conversation: special tokens are taken from the text, and where the
    /// template does not begin with the beginning-of-sequence token that the model wants, it is added.
    pub fn prompt_tokens(&self, tokenizer: &Tokenizer, rendered: &str) -> Vec<u32> {
        tokenizer.encode_prompt(&[], rendered, true)
    }
}

impl Inner {
    /// What the template makes of its variables within so much fuel.
    fn run(&self, variables: Value, fuel: u64) -> Result<String, ChatError> {
        apart(&self.name, || {
            let mut env = self.env.clone();
            env.set_fuel(Some(fuel));
            env.get_template(NAME)?.render(variables)
        })
    }
}

/// Does something on a thread of its own: with a stack that the limits of templates cannot exhaust, and
/// where a panic ends only that.
fn apart<T: Send>(
    name: &str,
    work: impl FnOnce() -> Result<T, minijinja::Error> + Send,
) -> Result<T, ChatError> {
    let broken = |problem: &str| ChatError::Template {
        template: name.to_owned(),
        line: None,
        problem: problem.to_owned(),
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
        let started = thread.spawn_scoped(scope, || work().map_err(|e| said(name, &e)));
        let thread = started.map_err(|e| broken(&format!("no thread to render it on: {e}")))?;
        let failed =
            |_| broken("the interpreter failed; this is a bug in gannet: please report it");
        thread.join().map_err(failed)?
    })
}

/// The most characters of what an error says.
const MOST_SAID: usize = 400;

/// An error of the interpreter, in one line.
fn said(name: &str, error: &minijinja::Error) -> ChatError {
    let mut line = error.line();
    let mut problem = error
        .detail()
        .map_or_else(|| error.kind().to_string(), str::to_owned);
    let mut is_limit = error.kind() == ErrorKind::OutOfFuel;
    let mut next = std::error::Error::source(error);
    while let Some(source) = next {
        if let Some(Raised(message)) = source.downcast_ref() {
            return ChatError::Refused {
                template: name.to_owned(),
                line,
                message: message.clone(),
            };
        }
        if let Some(inner) = source.downcast_ref::<minijinja::Error>() {
            line = inner.line().or(line);
            is_limit |= inner.kind() == ErrorKind::OutOfFuel;
            problem = inner
                .detail()
                .map_or_else(|| inner.kind().to_string(), str::to_owned);
        }
        next = source.source();
    }
    let template = name.to_owned();
    if is_limit {
        let what = "takes more steps or makes more text than any template should";
        return ChatError::Limit {
            template,
            line,
            what,
        };
    }
    if let Some((at, _)) = problem.char_indices().nth(MOST_SAID) {
        problem.truncate(at);
        problem.push_str("...");
    }
    ChatError::Template {
        template,
        line,
        problem,
    }
}
