//! stub
#![allow(
    missing_docs,
    unused_variables,
    clippy::missing_errors_doc,
    clippy::unnecessary_wraps,
    clippy::must_use_candidate,
    clippy::unused_self
)]
use crate::{Model, tokenizer::Tokenizer};
#[derive(Default, Clone, Debug, PartialEq)]
pub struct Message {
    pub role: String,
    pub content: Option<String>,
    pub reasoning: Option<String>,
    pub name: Option<String>,
    pub tool_calls: Vec<ToolCall>,
    pub tool_call_id: Option<String>,
}
#[derive(Default, Clone, Debug, PartialEq)]
pub struct ToolCall {
    pub id: String,
    pub name: String,
    pub arguments: String,
}
#[derive(Default, Clone, Debug, PartialEq)]
pub struct Tool {
    pub name: String,
    pub description: Option<String>,
    pub parameters: Option<String>,
    pub strict: Option<bool>,
}
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ChatError(pub String);
impl ChatError {
    pub fn param(&self) -> Option<&str> {
        None
    }
}
pub fn parse_messages(json: &str) -> Result<Vec<Message>, ChatError> {
    let v: Vec<serde_json::Value> =
        serde_json::from_str(json).map_err(|e| ChatError(e.to_string()))?;
    Ok(v.iter()
        .map(|m| Message {
            role: m["role"].as_str().unwrap_or("").to_owned(),
            content: m["content"].as_str().map(str::to_owned),
            ..Message::default()
        })
        .collect())
}
pub fn parse_tools(json: &str) -> Result<Vec<Tool>, ChatError> {
    Ok(vec![])
}
#[derive(Default, Clone, Debug)]
pub struct TemplateOptions {
    pub add_generation_prompt: bool,
    pub continue_final_message: bool,
    pub thinking: Option<bool>,
    pub variables: Vec<(String, String)>,
    pub now: Option<i64>,
}
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    name: String,
}
impl ChatTemplate {
    pub fn of(model: &Model) -> Result<ChatTemplate, ChatError> {
        Err(ChatError("none".into()))
    }
    pub fn named(name: &str, tokenizer: &Tokenizer) -> Result<ChatTemplate, ChatError> {
        Ok(ChatTemplate {
            name: name.to_owned(),
        })
    }
    pub fn names() -> impl Iterator<Item = &'static str> {
        ["plain"].into_iter()
    }
    pub fn parse(
        name: &str,
        source: &str,
        tokenizer: &Tokenizer,
    ) -> Result<ChatTemplate, ChatError> {
        Ok(ChatTemplate {
            name: name.to_owned(),
        })
    }
    pub fn name(&self) -> &str {
        &self.name
    }
    pub fn source(&self) -> &str {
        ""
    }
    pub fn thinks(&self) -> bool {
        false
    }
    pub fn render(
        &self,
        messages: &[Message],
        tools: &[Tool],
        options: &TemplateOptions,
    ) -> Result<String, ChatError> {
        Ok(messages
            .iter()
            .filter_map(|m| m.content.clone())
            .collect::<Vec<_>>()
            .join("\n\n"))
    }
    pub fn prompt_tokens(&self, tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
        tokenizer.encode_prompt(&[], text, true)
    }
}
