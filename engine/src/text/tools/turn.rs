//! A whole turn as one grammar: thoughts, free text, calls, and the arguments of each by its schema.
//!
//! The grammar allows what [`ReplyParser`](super::ReplyParser) reads as calls and nothing that it would
//! read as a call with other arguments: free text holds no marker of the format. Calls are written as the
//! templates of the families write them. A marker that is a control token of the vocabulary is that token,
//! and its text where there is none.

use std::fmt::Write;

use super::ToolFormat;
use crate::text::grammar::{Grammar, GrammarError, embedded, embedded_object, refused};
use crate::text::tokenizer::Tokenizer;

/// Which tools a reply calls.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ToolChoice {
    /// Any, or none.
    #[default]
    Auto,
    /// At least one.
    Required,
    /// This one.
    Named(String),
}

/// A whole turn of a model that may call tools, as [`tool_grammar`] makes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn {
    format: ToolFormat,
    tools: Vec<(String, String)>,
    choice: ToolChoice,
    parallel: bool,
    thinking: bool,
    in_thinking: bool,
    answer: Option<Grammar>,
}

/// The grammar of a whole turn that may call `tools`: for each its name, and the schema of its arguments as
/// text. `parallel` allows several calls in a reply, `thinking` thoughts (`<think>...</think>`) at its
/// start. A reply without calls is any text, or matches `answer`.
///
/// Thoughts are those of a reply that begins with `<think>`; where the prompt ended with it, see
/// [`Grammar::in_thinking`].
#[must_use]
pub fn tool_grammar(
    format: ToolFormat,
    tools: &[(String, String)],
    choice: ToolChoice,
    parallel: bool,
    thinking: bool,
    answer: Option<Grammar>,
) -> Grammar {
    Grammar::Turn(Box::new(Turn {
        format,
        tools: tools.to_vec(),
        choice,
        parallel,
        thinking,
        in_thinking: false,
        answer,
    }))
}

impl Grammar {
    /// The same turn behind a prompt that ended with `<think>`; no other grammar is changed.
    #[must_use]
    pub fn in_thinking(mut self) -> Grammar {
        if let Grammar::Turn(turn) = &mut self {
            turn.in_thinking = true;
        }
        self
    }
}

/// How a format writes calls.
struct Spelling {
    /// The marker in front of each call, or of all.
    open: &'static str,
    /// Between the marker and the call.
    before: &'static str,
    /// The key of the arguments.
    key: &'static str,
    /// Between calls.
    between: &'static str,
    /// Whether each call has a marker of its own.
    repeats_marker: bool,
    /// What free text may not begin with, as the inside of a class of characters.
    never_first: &'static str,
    /// What free text may not hold besides the marker.
    never: &'static [&'static str],
}

fn spelling(format: ToolFormat) -> Spelling {
    let plain = Spelling {
        open: "",
        before: "",
        key: "arguments",
        between: "",
        repeats_marker: false,
        never_first: "",
        never: &[],
    };
    match format {
        ToolFormat::Hermes => Spelling {
            open: "<tool_call>",
            before: "\n",
            between: "\n",
            repeats_marker: true,
            ..plain
        },
        ToolFormat::Llama3 => Spelling {
            open: "<|python_tag|>",
            key: "parameters",
            between: "; ",
            never_first: "{",
            ..plain
        },
        ToolFormat::Mistral => Spelling {
            open: "[TOOL_CALLS]",
            between: ", ",
            ..plain
        },
        ToolFormat::MistralArgs => Spelling {
            open: "[TOOL_CALLS]",
            repeats_marker: true,
            ..plain
        },
        ToolFormat::Gemma => Spelling {
            open: "```tool_code",
            before: "\n",
            between: ", ",
            never_first: "{\\[",
            never: &["```json"],
            ..plain
        },
    }
}

/// Lark text in the making.
struct Writer<'a> {
    tokenizer: &'a Tokenizer,
    text: String,
}

impl Writer<'_> {
    fn rule(&mut self, name: &str, body: &str) {
        // A string takes whatever is written.
        let _ = writeln!(self.text, "{name}: {body}");
    }

    /// A marker: the control token, or its text.
    fn marker(&self, text: &str) -> String {
        match self.control(text) {
            Some(id) => format!("<[{id}]>"),
            None => quoted(text),
        }
    }

    fn control(&self, text: &str) -> Option<u32> {
        let id = self.tokenizer.token_id(text)?;
        self.tokenizer.is_hidden(id).then_some(id)
    }

    /// Defines a rule for any text up to the first marker, and that.
    fn up_to(&mut self, name: &str, marker: &str, never: &[&str]) {
        match self.control(marker) {
            Some(id) => {
                let text = format!("{}_TEXT", name.to_uppercase());
                let rest = without(&[&[marker], never].concat());
                self.rule(&text, &format!("/(?s:.*)/{rest}"));
                self.rule(name, &format!("{text} <[{id}]>"));
            }
            None => {
                let (end, rest) = (in_regex(marker), without(never));
                self.rule(&format!("{name}[lazy]"), &format!("/(?s:.*){end}/{rest}"));
            }
        }
    }
}

impl Turn {
    /// Its Lark grammar for a vocabulary.
    ///
    /// # Errors
    /// There are no tools and no answer to match either, or no tool of a name that is asked for; a name or a schema that cannot be used.
    pub fn lark(&self, tokenizer: &Tokenizer) -> Result<String, GrammarError> {
        let text = "%llguidance {}\n".to_owned();
        let mut writer = Writer { tokenizer, text };
        let begun = match (self.in_thinking, self.thinking) {
            (true, _) => "thought SPACE ",
            (false, true) => "(think SPACE)? ",
            (false, false) => "",
        };
        writer.rule("start", &format!("{begun}body"));
        if !begun.is_empty() {
            writer.up_to("thought", "</think>", &[]);
            writer.rule("SPACE", "/\\n{0,4}/");
            let think = writer.marker("<think>");
            writer.rule("think", &format!("{think} thought"));
        }
        match (&self.choice, &self.answer) {
            // Thoughts and an answer.
            (ToolChoice::Auto, Some(answer)) if self.tools.is_empty() => {
                writer.rule("body", &embedded(answer)?);
            }
            _ => {
                self.body(&mut writer)?;
                self.calls(&mut writer)?;
            }
        }
        Ok(writer.text)
    }

    /// Calls, or what there is without.
    fn body(&self, writer: &mut Writer<'_>) -> Result<(), GrammarError> {
        let spelling = spelling(self.format);
        let (marker, before) = (writer.marker(spelling.open), quoted(spelling.before));
        // Llama 3 calls with the marker or without.
        let optional = match self.format {
            ToolFormat::Llama3 => "?",
            _ => "",
        };
        writer.rule("first", &format!("({marker} {before}){optional}"));
        match (&self.choice, &self.answer) {
            (ToolChoice::Required | ToolChoice::Named(_), _) => writer.rule("body", "first calls"),
            (ToolChoice::Auto, Some(answer)) => {
                let answer = embedded(answer)?;
                writer.rule("answer", &answer);
                writer.rule("body", "answer | first calls");
            }
            (ToolChoice::Auto, None) => self.free_text(writer, &spelling),
        }
        Ok(())
    }

    /// Free text, which may end with calls where the format lets text come before them.
    fn free_text(&self, writer: &mut Writer<'_>, spelling: &Spelling) {
        let mut never: Vec<&str> = spelling.never.to_vec();
        if self.thinking || self.in_thinking {
            never.extend(["<think>", "</think>"]);
        }
        let text = match spelling.never_first {
            "" => "/(?s:.*)/".to_owned(),
            first => format!("/([ \\n\\r\\t]*([^{first} \\n\\r\\t](?s:.*))?)/"),
        };
        let rest = without(&[&[spelling.open], never.as_slice()].concat());
        writer.rule("TEXT", &format!("{text}{rest}"));
        if self.format == ToolFormat::Llama3 {
            writer.rule("body", "TEXT | first calls");
            return;
        }
        writer.up_to("lead", spelling.open, &never);
        let before = quoted(spelling.before);
        writer.rule("body", &format!("TEXT | lead {before} calls"));
    }

    fn calls(&self, writer: &mut Writer<'_>) -> Result<(), GrammarError> {
        let spelling = spelling(self.format);
        let mut names = Vec::new();
        for (i, (name, schema)) in self.chosen()?.into_iter().enumerate() {
            let (rule, arguments) = (format!("call_{i}"), arguments(name, schema)?);
            let body = match self.format {
                ToolFormat::MistralArgs => {
                    let marker = writer.marker("[ARGS]");
                    format!("{} {marker} {arguments}", quoted(name))
                }
                _ => {
                    let name = quoted(name);
                    let head = format!("{{\"name\": {name}, \"{}\": ", spelling.key);
                    format!("{} {arguments} \"}}\"", quoted(&head))
                }
            };
            writer.rule(&rule, &body);
            names.push(rule);
        }
        let close = match self.format {
            ToolFormat::Hermes => {
                format!(" {} {}", quoted("\n"), writer.marker("</tool_call>"))
            }
            _ => String::new(),
        };
        writer.rule("call", &format!("({}){close}", names.join(" | ")));
        let again = match spelling.repeats_marker {
            true => format!("{} first call", quoted(spelling.between)),
            false => format!("{} call", quoted(spelling.between)),
        };
        let calls = match self.parallel {
            true => format!("call ({again})*"),
            false => "call".to_owned(),
        };
        let calls = match self.format {
            ToolFormat::Gemma => format!("{} {calls} {}", quoted("["), quoted("]\n```")),
            ToolFormat::Mistral => format!("/ ?\\[/ {calls} {}", quoted("]")),
            ToolFormat::Hermes | ToolFormat::Llama3 | ToolFormat::MistralArgs => calls,
        };
        writer.rule("calls", &calls);
        Ok(())
    }

    /// The tools that may be called.
    fn chosen(&self) -> Result<Vec<&(String, String)>, GrammarError> {
        let chosen: Vec<&(String, String)> = match &self.choice {
            ToolChoice::Named(named) => {
                let found = self.tools.iter().find(|(name, _)| name == named);
                let Some(found) = found else {
                    return refused(format!(
                        "no tool is called {named:?}; name one that is given"
                    ));
                };
                vec![found]
            }
            ToolChoice::Auto | ToolChoice::Required => self.tools.iter().collect(),
        };
        if chosen.is_empty() {
            return refused("no tools are given; give some, or ask for none");
        }
        for (name, _) in &chosen {
            let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
            if name.is_empty() || !name.chars().all(is_word) {
                return refused(format!(
                    "a tool is called {name:?}; use letters, digits, dots, dashes and underscores"
                ));
            }
        }
        Ok(chosen)
    }
}

/// The arguments of a tool: an object that its schema accepts.
fn arguments(name: &str, schema: &str) -> Result<String, GrammarError> {
    let of_tool = |e: GrammarError| GrammarError(format!("tool {name}: {}", e.0));
    let embed = || {
        let schema = match schema.trim() {
            "" => r#"{"type": "object"}"#,
            schema => schema,
        };
        embedded_object(schema)
    };
    embed().map_err(of_tool)
}

/// The rest of a terminal that holds none of some texts.
fn without(never: &[&str]) -> String {
    let never: Vec<String> = never.iter().map(|text| in_regex(text)).collect();
    match never.is_empty() {
        true => String::new(),
        false => format!(" & ~/(?s:.*)({})(?s:.*)/", never.join("|")),
    }
}

/// A text as a Lark string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A text as part of a regular expression in slashes.
fn in_regex(text: &str) -> String {
    let mut regex = String::new();
    for c in text.chars() {
        if !c.is_ascii_alphanumeric() && !matches!(c, '_' | '<' | '>') {
            regex.push('\\');
        }
        regex.push(c);
    }
    regex
}
