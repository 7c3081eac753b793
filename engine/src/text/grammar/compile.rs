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
use llguidance::{Matcher as Parser, ParserFactory, regex_to_lark};

use super::env::Env;
use super::kept::{Compiled, GrammarCounts, Kept};
use super::numerals::Numerals;
use super::{Grammar, GrammarError, Matcher, lark, locate, refused, schema};
use crate::text::tokenizer::Tokenizer;

/// The longest regular expression, in bytes.
const LONGEST_REGEX: usize = 16 << 10;
/// The stack of a compiler's thread: address space, of which only what is used takes memory.
const STACK: usize = 256 << 20;
/// What the rules of a grammar are taken for in memory, for each byte of its text; long constants take a tenth
/// of it.
const BYTES_A_BYTE: usize = 64;
/// How long a caller waits for a compiler. Its work is bounded too, and ends soon after.
const PATIENCE: Duration = Duration::from_secs(10);

/// What compiles grammars for one vocabulary; made with the first of them.
pub struct Grammars {
    tokenizer: Arc<Tokenizer>,
    factory: OnceLock<Result<Arc<ParserFactory>, String>>,
    kept: Kept,
}

impl Grammars {
    /// For a vocabulary.
    #[must_use]
    pub fn new(tokenizer: &Arc<Tokenizer>) -> Grammars {
        Grammars {
            tokenizer: Arc::clone(tokenizer),
            factory: OnceLock::new(),
            kept: Kept::default(),
        }
    }

    /// A matcher at the start of a text: of one of the last grammars a copy; else it takes milliseconds, and
    /// seconds at most. Large vocabularies take a second more the first time.
    ///
    /// # Errors
    /// The grammar is none, allows nothing, uses what is not supported or is too large.
    pub fn compile(&self, grammar: &Grammar) -> Result<Matcher, GrammarError> {
        self.kept.get(grammar, || self.compile_anew(grammar))
    }

    /// How often grammars were there, and how often they had to be compiled.
    #[must_use]
    pub fn counts(&self) -> GrammarCounts {
        self.kept.counts()
    }

    fn compile_anew(&self, grammar: &Grammar) -> Result<Compiled, GrammarError> {
        let factory = self.factory.get_or_init(|| factory(&self.tokenizer));
        let factory = factory.clone().map_err(GrammarError)?;
        let (tokenizer, grammar) = (Arc::clone(&self.tokenizer), grammar.clone());
        let (answer, heard) = channel();
        let thread = std::thread::Builder::new()
            .name("gannet-grammar".to_owned())
            .stack_size(STACK);
        let spawned = thread.spawn(move || {
            // Who waited may be gone.
            let _ = answer.send(compile(&factory, &tokenizer, &grammar));
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
        // An object of so many optional properties has a few of them for each.
        max_items_in_row: 10_000,
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

fn compile(
    factory: &ParserFactory,
    tokenizer: &Tokenizer,
    grammar: &Grammar,
) -> Result<Compiled, GrammarError> {
    let (source, schema) = match grammar {
        Grammar::JsonSchema(text) => {
            let schema = schema::read(text)?;
            let prepared = schema::prepare(&schema)?;
            (TopLevelGrammar::from_json_schema(prepared), Some(schema))
        }
        Grammar::JsonObject => {
            let schema = schema::prepare(&serde_json::json!({"type": "object"}))?;
            (TopLevelGrammar::from_json_schema(schema), None)
        }
        Grammar::Regex(regex) => (of_regex(regex)?, None),
        Grammar::Lark(text) => (TopLevelGrammar::from_lark(lark::checked(text)?), None),
        Grammar::Turn(turn) => (TopLevelGrammar::from_lark(turn.lark(tokenizer)?), None),
    };
    let text_bytes = text_bytes(&source);
    let parser = factory.create_parser(source);
    // It shares the states of the lexer, of which the matcher does not tell.
    let weighed = parser.as_ref().ok().cloned();
    let parser = Parser::new(parser);
    match parser.get_error() {
        None => {
            let is_json = matches!(grammar, Grammar::JsonSchema(_) | Grammar::JsonObject);
            let numerals = is_json.then(|| Numerals::new(factory.tok_env()));
            let mut matcher = Matcher::new(parser, numerals);
            // What lets nothing begin is refused now, and later steps find a part of their work done.
            matcher.allowed().map_err(GrammarError)?;
            let lexer = weighed.map_or(0, |parser| parser.parser.lexer_stats().num_bytes);
            let given = format!("{grammar:?}").len();
            let bytes = lexer + given + text_bytes * BYTES_A_BYTE;
            Ok(Compiled { matcher, bytes })
        }
        Some(error) => {
            let place = schema.and_then(|schema| locate::failing(&schema));
            let error = one_line(&error);
            refused(match place {
                Some(place) => format!("schema at {place}: {error}"),
                None => error,
            })
        }
    }
}

/// Bytes of the text that a grammar is compiled from.
fn text_bytes(source: &TopLevelGrammar) -> usize {
    serde_json::to_string(source).map_or(0, |text| text.len())
}

/// A regular expression that is matched as a whole.
fn of_regex(regex: &str) -> Result<TopLevelGrammar, GrammarError> {
    check_regex(regex)?;
    Ok(match regex.is_empty() {
        true => TopLevelGrammar::from_lark("start: \"\"".to_owned()),
        false => TopLevelGrammar::from_regex(regex),
    })
}

fn check_regex(regex: &str) -> Result<(), GrammarError> {
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
    Ok(())
}

/// A grammar as an expression of a larger one in Lark.
///
/// # Errors
/// As where it is compiled by itself; a turn is no part of another.
pub(crate) fn embedded(grammar: &Grammar) -> Result<String, GrammarError> {
    match grammar {
        Grammar::JsonSchema(text) => {
            let schema = schema::prepare(&schema::read(text)?)?;
            Ok(format!("%json {schema}"))
        }
        Grammar::JsonObject => embedded_object("{}"),
        Grammar::Regex(regex) => {
            check_regex(regex)?;
            Ok(match regex.is_empty() {
                true => "\"\"".to_owned(),
                false => format!("/{}/", regex_to_lark(regex, "")),
            })
        }
        Grammar::Lark(text) => {
            let text = lark::checked(text)?;
            Ok(format!("%lark {{\n{text}\n}}"))
        }
        Grammar::Turn(_) => refused("a turn cannot be the answer of a turn"),
    }
}

/// The schema of an object as an expression in Lark: what does not say its type is one.
///
/// # Errors
/// As where it is compiled by itself, or it is the schema of something else.
pub(crate) fn embedded_object(schema: &str) -> Result<String, GrammarError> {
    let mut schema = schema::read(schema)?;
    if schema == serde_json::Value::Bool(true) {
        schema = serde_json::json!({});
    }
    let Some(root) = schema.as_object_mut() else {
        return refused("the schema is no object; write {\"type\": \"object\", ...}");
    };
    let kind = root.entry("type").or_insert_with(|| "object".into());
    if kind != "object" {
        let kind = kind.clone();
        return refused(format!(
            "the schema is of type {kind}; arguments are an object"
        ));
    }
    let schema = schema::prepare(&schema)?;
    Ok(format!("%json {schema}"))
}

/// What the first line of a message says.
pub(super) fn one_line(message: &str) -> String {
    let line = message.lines().map(str::trim).find(|line| !line.is_empty());
    let line = line.unwrap_or("no reason was given");
    if line == "NoExtensionBias" {
        return "nothing may come next, and the text is not complete: it can match nothing"
            .to_owned();
    }
    // A regular expression is shown in lines of its own before the reason.
    let mut reasons = message
        .lines()
        .filter_map(|line| line.trim().strip_prefix("error: "));
    let reason = reasons
        .next_back()
        .filter(|_| line.ends_with("regex parse error:"));
    let line = &match reason {
        Some(reason) => format!("invalid regular expression: {reason}"),
        None => line.to_owned(),
    };
    let internal = line.strip_prefix("panic: ");
    let line = internal.map_or(line.clone(), |why| format!("internal: {why}"));
    match line.char_indices().nth(300) {
        Some((at, _)) => format!("{}...", &line[..at]),
        None => line,
    }
}
