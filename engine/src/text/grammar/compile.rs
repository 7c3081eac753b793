//! Compiling grammars, off the thread that needs them, within bounds.
//!
//! The compiler recurses on what it reads: it gets a thread of its own with a stack for the deepest input
//! that is let through, and the size of the input is bounded before.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{InferenceCapabilities, TokEnv};
use llguidance::{Matcher as Parser, ParserFactory};

use super::env::Env;
use super::{Grammar, GrammarError, Matcher, refused, schema};
use crate::text::tokenizer::Tokenizer;

/// The longest regular expression, in bytes.
const LONGEST_REGEX: usize = 16 << 10;
/// The longest Lark grammar, in bytes.
const LONGEST_LARK: usize = 1 << 20;
/// The stack of a compiler's thread: address space, of which only what is used takes memory.
const STACK: usize = 256 << 20;
/// How long a caller waits for a compiler. Its work is bounded too, and ends soon after.
const PATIENCE: Duration = Duration::from_secs(10);

/// What compiles grammars for one vocabulary; made with the first of them.
pub struct Grammars {
    tokenizer: Arc<Tokenizer>,
    factory: OnceLock<Result<Arc<ParserFactory>, String>>,
}

impl Grammars {
    /// For a vocabulary.
    #[must_use]
    pub fn new(tokenizer: &Arc<Tokenizer>) -> Grammars {
        Grammars {
            tokenizer: Arc::clone(tokenizer),
            factory: OnceLock::new(),
        }
    }

    /// A matcher at the start of a text. Takes milliseconds, and seconds at most; large vocabularies
    /// take a second more the first time.
    ///
    /// # Errors
    /// The grammar is none, allows nothing, uses what is not supported or is too large.
    pub fn compile(&self, grammar: &Grammar) -> Result<Matcher, GrammarError> {
        let factory = self.factory.get_or_init(|| factory(&self.tokenizer));
        let factory = factory.clone().map_err(GrammarError)?;
        let grammar = grammar.clone();
        let (answer, heard) = channel();
        let thread = std::thread::Builder::new()
            .name("gannet-grammar".to_owned())
            .stack_size(STACK);
        let spawned = thread.spawn(move || {
            // Who waited may be gone.
            let _ = answer.send(compile(&factory, &grammar));
        });
        if let Err(why) = spawned {
            return refused(format!("no thread to compile it: {why}"));
        }
        match heard.recv_timeout(PATIENCE) {
            Ok(compiled) => compiled,
            Err(RecvTimeoutError::Timeout) => {
                refused("takes too long to compile; simplify it".to_owned())
            }
            Err(RecvTimeoutError::Disconnected) => {
                refused("could not be compiled; simplify it".to_owned())
            }
        }
    }
}

fn factory(tokenizer: &Arc<Tokenizer>) -> Result<Arc<ParserFactory>, String> {
    let env: TokEnv = Arc::new(Env::new(tokenizer)?);
    let slices = SlicedBiasComputer::general_slices();
    let capabilities = InferenceCapabilities::default();
    let factory = ParserFactory::new(&env, capabilities, &slices);
    let mut factory = factory.map_err(|e| one_line(&e.to_string()))?;
    factory.quiet();
    *factory.limits_mut() = limits();
    Ok(Arc::new(factory))
}

/// What a grammar and a step of it may take; times are those of a release build.
pub(super) fn limits() -> ParserLimits {
    ParserLimits {
        // At most 100 MB or so of states.
        max_lexer_states: 50_000,
        max_grammar_size: 300_000,
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

fn compile(factory: &ParserFactory, grammar: &Grammar) -> Result<Matcher, GrammarError> {
    let source = match grammar {
        Grammar::JsonSchema(text) => {
            let schema = schema::read(text)?;
            let prepared = schema::prepare(&schema)?;
            TopLevelGrammar::from_json_schema(prepared)
        }
        Grammar::JsonObject => {
            let schema = schema::prepare(&serde_json::json!({"type": "object"}))?;
            TopLevelGrammar::from_json_schema(schema)
        }
        Grammar::Regex(regex) => of_regex(regex)?,
        Grammar::Lark(text) => of_lark(text)?,
    };
    let parser = Parser::new(factory.create_parser(source));
    match parser.get_error() {
        None => Ok(Matcher::new(parser)),
        Some(error) => refused(one_line(&error)),
    }
}

/// A regular expression that is matched as a whole.
fn of_regex(regex: &str) -> Result<TopLevelGrammar, GrammarError> {
    if regex.len() > LONGEST_REGEX {
        let len = regex.len();
        return refused(format!(
            "the regular expression has {len} bytes; at most {LONGEST_REGEX} are compiled"
        ));
    }
    let slashes = regex.bytes().rev().take_while(|&b| b == b'\\').count();
    if slashes % 2 == 1 {
        return refused("the regular expression ends with a backslash that escapes nothing");
    }
    Ok(match regex.is_empty() {
        true => TopLevelGrammar::from_lark("start: \"\"".to_owned()),
        false => TopLevelGrammar::from_regex(regex),
    })
}

fn of_lark(text: &str) -> Result<TopLevelGrammar, GrammarError> {
    if text.len() > LONGEST_LARK {
        let len = text.len();
        return refused(format!(
            "the Lark grammar has {len} bytes; at most {LONGEST_LARK} are compiled"
        ));
    }
    Ok(TopLevelGrammar::from_lark(text.to_owned()))
}

/// What the first line of a message says.
pub(super) fn one_line(message: &str) -> String {
    let line = message.lines().map(str::trim).find(|line| !line.is_empty());
    let line = line.unwrap_or("no reason was given");
    let internal = line.strip_prefix("panic: ");
    let line = internal.map_or(line.to_owned(), |why| format!("internal: {why}"));
    match line.char_indices().nth(300) {
        Some((at, _)) => format!("{}...", &line[..at]),
        None => line,
    }
}
