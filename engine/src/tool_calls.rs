//! stub
#![allow(
    missing_docs,
    unused_variables,
    clippy::missing_errors_doc,
    clippy::unnecessary_wraps,
    clippy::must_use_candidate,
    clippy::unused_self
)]
use crate::requests::Grammar;
#[derive(Clone, Copy, Debug)]
pub enum ToolFormat {
    Hermes,
}
impl ToolFormat {
    pub fn of_template(s: &str) -> Option<ToolFormat> {
        None
    }
}
#[derive(Clone, Debug)]
pub enum ToolChoice {
    Auto,
    Required,
    Named(String),
}
#[derive(Clone, Debug)]
pub struct ReplyParser;
#[derive(Clone, Debug)]
pub enum ReplyPart {
    Text(String),
    Reasoning(String),
    CallStart {
        index: usize,
        id: String,
        name: String,
    },
    CallArguments {
        index: usize,
        delta: String,
    },
    CallEnd {
        index: usize,
    },
}
impl ReplyParser {
    pub fn new(format: Option<ToolFormat>, thinking: bool, starts: bool) -> ReplyParser {
        ReplyParser
    }
    pub fn push(&mut self, t: &str) -> Vec<ReplyPart> {
        if t.is_empty() {
            vec![]
        } else {
            vec![ReplyPart::Text(t.to_owned())]
        }
    }
    pub fn finish(&mut self) -> Vec<ReplyPart> {
        vec![]
    }
}
pub fn tool_grammar(
    format: ToolFormat,
    tools: &[(String, String)],
    choice: &ToolChoice,
    parallel: bool,
    thinking: bool,
    f: Option<&Grammar>,
) -> Result<Grammar, crate::Error> {
    Ok(Grammar::JsonObject)
}
