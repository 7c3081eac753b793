//! Anthropic's messages, blocks of content, in no dialect.
//!
//! Blocks of a message become one message, but for results of tools, which are messages of their own. Turns of
//! one speaker that follow each other become one, as Anthropic's do. What is not text is refused by its place.

use gannet_engine::chat::{Message, ToolCall};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::server::body::read_at;
use crate::server::error::ApiError;

/// A message as it comes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    role: String,
    content: Value,
}

/// Text. Where caches end and what was cited changes nothing.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    #[serde(rename = "type")]
    _type: String,
    text: String,
    #[serde(rename = "cache_control")]
    _cache_control: Option<Value>,
    #[serde(rename = "citations")]
    _citations: Option<Value>,
}

/// A call of a tool, as an earlier answer had it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolUse {
    #[serde(rename = "type")]
    _type: String,
    id: String,
    name: String,
    input: Map<String, Value>,
    #[serde(rename = "cache_control")]
    _cache_control: Option<Value>,
    #[serde(rename = "caller")]
    _caller: Option<Value>,
    #[serde(rename = "toolset_name")]
    _toolset_name: Option<String>,
}

/// What a tool answered.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolResult {
    #[serde(rename = "type")]
    _type: String,
    tool_use_id: String,
    content: Option<Value>,
    is_error: Option<bool>,
    #[serde(rename = "cache_control")]
    _cache_control: Option<Value>,
    #[serde(rename = "toolset_name")]
    _toolset_name: Option<String>,
}

/// What an assistant thought. The signature is not looked at.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Thinking {
    #[serde(rename = "type")]
    _type: String,
    thinking: String,
    #[serde(rename = "signature")]
    _signature: Option<String>,
}

/// The kind of a block.
fn kind(block: &Value, place: &str) -> Result<String, ApiError> {
    match block.get("type").and_then(Value::as_str) {
        Some(kind) => Ok(kind.to_owned()),
        None => {
            let place = format!("{place}.type");
            let message =
                format!("{place} is missing; expected a block such as {{\"type\": \"text\"}}");
            Err(ApiError::param(place, message))
        }
    }
}

fn refused(kind: &str, place: &str, expected: &str) -> ApiError {
    let message = format!("{place} is a block of type {kind:?}; {expected}");
    ApiError::param(place, message).code("unsupported_content")
}

/// A string, or blocks of text, which are joined by newlines.
fn text(content: &Value, place: &str) -> Result<String, ApiError> {
    let texts: Vec<String> = match content {
        Value::String(text) => return Ok(text.clone()),
        Value::Array(blocks) => (blocks.iter().enumerate())
            .map(|(i, block)| text_block(block, &format!("{place}[{i}]")))
            .collect::<Result<_, _>>()?,
        _ => return Err(no_content(place)),
    };
    Ok(texts.join("\n"))
}

fn no_content(place: &str) -> ApiError {
    ApiError::param(
        place,
        format!("{place}: expected a string or an array of blocks"),
    )
    .code("invalid_type")
}

fn text_block(block: &Value, place: &str) -> Result<String, ApiError> {
    match kind(block, place)?.as_str() {
        "text" => Ok(read_at::<Text>(block.clone(), place)?.text),
        kind => Err(refused(
            kind,
            place,
            "only text is supported: describe it in words",
        )),
    }
}

/// Whether a line says something about the request and not to the model.
///
/// Claude Code begins its system prompt with a line such as `x-anthropic-billing-header: cc_version=...; cch=...`
/// that is another with each call: in a prompt it would be the end of every prefix that calls share.
fn is_header(line: &str) -> bool {
    let Some((name, _)) = line.split_once(':') else {
        return false;
    };
    let name = name.to_ascii_lowercase();
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '-';
    name.strip_prefix("x-anthropic-")
        .is_some_and(|rest| !rest.is_empty() && rest.chars().all(is_of_name))
}

/// A text without the headers that it begins with.
fn without_headers(text: &str) -> &str {
    let mut rest = text;
    while let Some(line) = rest.lines().next() {
        if !is_header(line) {
            break;
        }
        rest = rest[line.len()..].trim_start_matches(['\r', '\n']);
    }
    rest
}

/// The system prompt, without the headers of a client that its blocks begin with.
pub(super) fn system(system: &Value) -> Result<Option<Message>, ApiError> {
    let blocks: Vec<String> = match system {
        Value::Null => return Ok(None),
        Value::String(text) => vec![text.clone()],
        Value::Array(blocks) => (blocks.iter().enumerate())
            .map(|(i, block)| text_block(block, &format!("system[{i}]")))
            .collect::<Result<_, _>>()?,
        _ => return Err(no_content("system")),
    };
    let shown = blocks.iter().map(|block| without_headers(block));
    let shown: Vec<&str> = shown.filter(|block| !block.is_empty()).collect();
    Ok((!shown.is_empty()).then(|| said("system", shown.join("\n"))))
}

fn said(role: &str, content: String) -> Message {
    Message {
        role: role.to_owned(),
        content: Some(content),
        ..Message::default()
    }
}

/// The messages of a conversation.
pub(super) fn messages(given: &[Value]) -> Result<Vec<Message>, ApiError> {
    let mut read = Reading::default();
    for (i, message) in given.iter().enumerate() {
        let place = format!("messages[{i}]");
        let Given { role, content } = read_at(message.clone(), &place)?;
        let content_place = format!("{place}.content");
        match role.as_str() {
            "user" => read.user(&content, &content_place)?,
            "assistant" => read.assistant(&content, &content_place)?,
            "system" => read.add(said("system", text(&content, &content_place)?)),
            _ => {
                let place = format!("{place}.role");
                let message = format!("{place} is {role:?}; expected user, assistant or system");
                return Err(ApiError::param(place, message));
            }
        }
    }
    match read.messages.is_empty() {
        true => Err(ApiError::param(
            "messages",
            "messages is empty; give at least one",
        )),
        false => Ok(read.messages),
    }
}

/// Messages so far.
#[derive(Default)]
struct Reading {
    messages: Vec<Message>,
    /// Calls of tools: their ids and the tools' names.
    calls: Vec<(String, String)>,
}

impl Reading {
    /// Adds a message, to the one before where the same speaks on.
    fn add(&mut self, message: Message) {
        match self.messages.last_mut() {
            Some(last) if last.role == message.role && message.role != "tool" => {
                last.content = joined(last.content.take(), message.content);
                last.reasoning = joined(last.reasoning.take(), message.reasoning);
                last.tool_calls.extend(message.tool_calls);
            }
            _ => self.messages.push(message),
        }
    }

    fn user(&mut self, content: &Value, place: &str) -> Result<(), ApiError> {
        let Value::Array(blocks) = content else {
            self.add(said("user", text(content, place)?));
            return Ok(());
        };
        refuse_empty(blocks, place)?;
        for (i, block) in blocks.iter().enumerate() {
            let place = format!("{place}[{i}]");
            match kind(block, &place)?.as_str() {
                "tool_result" => self.result(read_at(block.clone(), &place)?, &place)?,
                _ => self.add(said("user", text_block(block, &place)?)),
            }
        }
        Ok(())
    }

    fn result(&mut self, result: ToolResult, place: &str) -> Result<(), ApiError> {
        let ToolResult {
            tool_use_id,
            content,
            is_error,
            ..
        } = result;
        let called = self.calls.iter().rev().find(|(id, _)| *id == tool_use_id);
        let Some((_, name)) = called else {
            let place = format!("{place}.tool_use_id");
            let message =
                format!("{place} is {tool_use_id:?}, which is no tool_use of an earlier message");
            return Err(ApiError::param(place, message));
        };
        let mut said_by_tool = match &content {
            None | Some(Value::Null) => String::new(),
            Some(content) => text(content, &format!("{place}.content"))?,
        };
        if is_error == Some(true) {
            // Templates have no other way to say so.
            said_by_tool.insert_str(0, "Error: ");
        }
        let name = Some(name.clone());
        let tool_call_id = Some(tool_use_id);
        self.messages.push(Message {
            name,
            tool_call_id,
            ..said("tool", said_by_tool)
        });
        Ok(())
    }

    fn assistant(&mut self, content: &Value, place: &str) -> Result<(), ApiError> {
        let mut message = Message {
            role: "assistant".to_owned(),
            ..Message::default()
        };
        let Value::Array(blocks) = content else {
            message.content = Some(text(content, place)?);
            self.add(message);
            return Ok(());
        };
        refuse_empty(blocks, place)?;
        for (i, block) in blocks.iter().enumerate() {
            let place = format!("{place}[{i}]");
            match kind(block, &place)?.as_str() {
                "tool_use" => {
                    let call: ToolUse = read_at(block.clone(), &place)?;
                    self.calls.push((call.id.clone(), call.name.clone()));
                    message.tool_calls.push(ToolCall {
                        id: call.id,
                        name: call.name,
                        arguments: Value::Object(call.input).to_string(),
                    });
                }
                "thinking" => {
                    let thought: Thinking = read_at(block.clone(), &place)?;
                    message.reasoning = joined(message.reasoning.take(), Some(thought.thinking));
                }
                // Nobody but who wrote it can read it.
                "redacted_thinking" => {}
                _ => {
                    let text = text_block(block, &place)?;
                    message.content = joined(message.content.take(), Some(text));
                }
            }
        }
        self.add(message);
        Ok(())
    }
}

fn refuse_empty(blocks: &[Value], place: &str) -> Result<(), ApiError> {
    match blocks.is_empty() {
        true => Err(ApiError::param(
            place,
            format!("{place} is empty; give at least one block"),
        )),
        false => Ok(()),
    }
}

fn joined(before: Option<String>, after: Option<String>) -> Option<String> {
    match (before, after) {
        (Some(before), Some(after)) => Some(format!("{before}\n{after}")),
        (before, after) => before.or(after),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(given: Value) -> Result<Vec<Message>, ApiError> {
        messages(given.as_array().unwrap())
    }

    #[test]
    fn blocks_become_messages() {
        let found = read(json!([
            {"role": "user", "content": "one"},
            {"role": "user", "content": [{"type": "text", "text": "two", "cache_control": {"type": "ephemeral"}}]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": 1}},
                {"type": "tool_use", "id": "t2", "name": "see", "input": {}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "t2", "content": "no", "is_error": true},
                {"type": "tool_result", "tool_use_id": "t1",
                 "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"type": "text", "text": "go on"},
            ]},
        ]))
        .unwrap();
        let roles: Vec<&str> = found.iter().map(|m| m.role.as_str()).collect();
        assert_eq!(roles, ["user", "assistant", "tool", "tool", "user"]);
        assert_eq!(found[0].content.as_deref(), Some("one\ntwo"));
        let spoken = &found[1];
        assert_eq!(spoken.reasoning.as_deref(), Some("hm"));
        assert_eq!(spoken.content.as_deref(), Some("I look."));
        assert_eq!(spoken.tool_calls[0].arguments, r#"{"at":1}"#);
        let (failed, answered) = (&found[2], &found[3]);
        assert_eq!(failed.content.as_deref(), Some("Error: no"));
        assert_eq!(failed.name.as_deref(), Some("see"));
        assert_eq!(answered.content.as_deref(), Some("a\nb"));
        assert_eq!(answered.tool_call_id.as_deref(), Some("t1"));
    }

    #[test]
    fn what_is_no_text_is_refused_by_its_place() {
        let image = json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}});
        let cases = [
            (json!([]), "messages"),
            (
                json!([{"role": "user", "content": [image]}]),
                "messages[0].content[0]",
            ),
            (
                json!([{"role": "user", "content": []}]),
                "messages[0].content",
            ),
            (
                json!([{"role": "user", "content": 1}]),
                "messages[0].content",
            ),
            (json!([{"role": "user"}]), "messages[0].content"),
            (
                json!([{"role": "tool", "content": "x"}]),
                "messages[0].role",
            ),
            (
                json!([{"role": "user", "content": "x", "name": "y"}]),
                "messages[0].name",
            ),
            (
                json!([{"role": "user", "content": [{"text": "x"}]}]),
                "messages[0].content[0].type",
            ),
            (
                json!([{"role": "user", "content": [{"type": "text"}]}]),
                "messages[0].content[0].text",
            ),
            (
                json!([{"role": "user", "content": [{"type": "text", "text": "x", "bold": true}]}]),
                "messages[0].content[0].bold",
            ),
            (
                json!([{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}]}]),
                "messages[0].content[0].tool_use_id",
            ),
            (
                json!([{"role": "assistant", "content": [
                    {"type": "tool_use", "id": "t", "name": "n", "input": {}}]},
                    {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "t", "content": [image]}]}]),
                "messages[1].content[0].content[0]",
            ),
        ];
        for (given, place) in cases {
            let error = read(given.clone()).unwrap_err();
            assert_eq!(
                error.param.as_deref(),
                Some(place),
                "{given}: {}",
                error.message
            );
        }
    }

    #[test]
    fn headers_of_clients_are_no_part_of_the_prompt() {
        let shown = |value: Value| system(&value).unwrap().and_then(|message| message.content);
        let header = "x-anthropic-billing-header: cc_version=2.1.4; cc_entrypoint=cli; cch=8f2a1;";
        let block = |text: &str| json!({"type": "text", "text": text});
        for given in [
            json!("You help."),
            json!([block(header), block("You help.")]),
            json!([block("You help."), block(header)]),
            json!(format!("{header}\nYou help.")),
            json!(format!("X-Anthropic-Other: 1\r\n{header}\r\n\r\nYou help.")),
        ] {
            assert_eq!(
                shown(given.clone()).as_deref(),
                Some("You help."),
                "{given}"
            );
        }
        assert_eq!(shown(json!([block(header)])), None);
        assert_eq!(shown(Value::Null), None);
        for text in [
            "x-anthropic- is a prefix: yes",
            "x-anthropic billing: 1",
            "Say x-anthropic-a: b",
        ] {
            assert_eq!(shown(json!(text)).as_deref(), Some(text));
        }
    }
}
