//! The items of a conversation, in no dialect.
//!
//! Thoughts, a text and calls that follow each other are one message of an assistant.

use gannet_engine::chat::{Message, ToolCall};
use serde::Deserialize;
use serde_json::Value;

use crate::server::body::read_at;
use crate::server::error::ApiError;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    role: String,
    content: Value,
    #[serde(rename = "type")]
    _type: Option<String>,
    #[serde(rename = "id")]
    _id: Option<String>,
    #[serde(rename = "status")]
    _status: Option<String>,
    #[serde(rename = "phase")]
    _phase: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
    refusal: Option<String>,
    #[serde(rename = "annotations")]
    _annotations: Option<Value>,
    #[serde(rename = "logprobs")]
    _logprobs: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FunctionCall {
    call_id: String,
    name: String,
    arguments: String,
    #[serde(rename = "type")]
    _type: String,
    #[serde(rename = "id")]
    _id: Option<String>,
    #[serde(rename = "status")]
    _status: Option<String>,
    #[serde(rename = "caller")]
    _caller: Option<Value>,
    #[serde(rename = "namespace")]
    _namespace: Option<String>,
    #[serde(rename = "async")]
    _async: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FunctionCallOutput {
    call_id: String,
    output: Value,
    #[serde(rename = "type")]
    _type: String,
    #[serde(rename = "id")]
    _id: Option<String>,
    #[serde(rename = "status")]
    _status: Option<String>,
    #[serde(rename = "caller")]
    _caller: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reasoning {
    summary: Option<Vec<Part>>,
    content: Option<Vec<Part>>,
    #[serde(rename = "type")]
    _type: String,
    #[serde(rename = "id")]
    _id: Option<String>,
    #[serde(rename = "status")]
    _status: Option<String>,
    #[serde(rename = "encrypted_content")]
    _encrypted_content: Option<String>,
}

/// The messages of a request's input.
pub(super) fn messages(input: &Value) -> Result<Vec<Message>, ApiError> {
    let items = match input {
        Value::String(text) => return Ok(vec![said("user", text.clone())]),
        Value::Array(items) => items,
        _ => {
            let why = "input: expected a string or an array of items";
            return Err(ApiError::param("input", why).code("invalid_type"));
        }
    };
    let mut reading = Reading::default();
    for (i, item) in items.iter().enumerate() {
        reading.item(item, &format!("input[{i}]"))?;
    }
    reading.close();
    match reading.messages.is_empty() {
        true => Err(ApiError::param(
            "input",
            "input is empty; give at least one message",
        )),
        false => Ok(reading.messages),
    }
}

/// A message of a role.
pub(super) fn said(role: &str, content: String) -> Message {
    Message {
        role: role.to_owned(),
        content: Some(content),
        ..Message::default()
    }
}

#[derive(Default)]
struct Reading {
    messages: Vec<Message>,
    /// What an assistant thought, said and called since somebody else spoke.
    turn: Option<Message>,
    /// Calls of tools: their ids and the tools' names.
    calls: Vec<(String, String)>,
}

impl Reading {
    fn turn(&mut self) -> &mut Message {
        self.turn.get_or_insert_with(|| Message {
            role: "assistant".to_owned(),
            ..Message::default()
        })
    }

    fn close(&mut self) {
        self.messages.extend(self.turn.take());
    }

    fn item(&mut self, item: &Value, place: &str) -> Result<(), ApiError> {
        let kind = item.get("type").map_or(Some("message"), Value::as_str);
        match kind.unwrap_or_default() {
            "message" => self.said(read_at(item.clone(), place)?, place),
            "function_call" => {
                let call: FunctionCall = read_at(item.clone(), place)?;
                self.call(call, place)
            }
            "function_call_output" => {
                let output: FunctionCallOutput = read_at(item.clone(), place)?;
                self.output(output, place)
            }
            "reasoning" => {
                let thought: Reasoning = read_at(item.clone(), place)?;
                let shown = thought.content.filter(|parts| !parts.is_empty());
                let parts = shown.or(thought.summary).unwrap_or_default();
                let texts: Vec<String> = parts.into_iter().filter_map(|part| part.text).collect();
                if !texts.is_empty() {
                    join(&mut self.turn().reasoning, texts.join("\n"));
                }
                Ok(())
            }
            "item_reference" => {
                let why = format!("{place}: nothing is stored here; send the item itself");
                Err(ApiError::param(place, why).code("unsupported_parameter"))
            }
            kind => {
                let why = format!(
                    "{place} is an item of type {kind:?}; expected message, function_call, \
                                   function_call_output or reasoning"
                );
                Err(ApiError::param(place, why).code("unsupported_content"))
            }
        }
    }

    fn said(&mut self, message: Said, place: &str) -> Result<(), ApiError> {
        let content = text(&message.content, &format!("{place}.content"))?;
        match message.role.as_str() {
            "assistant" => join(&mut self.turn().content, content),
            role @ ("user" | "system" | "developer") => {
                self.close();
                self.messages.push(said(role, content));
            }
            role => {
                let place = format!("{place}.role");
                let why =
                    format!("{place} is {role:?}; expected user, assistant, system or developer");
                return Err(ApiError::param(place, why));
            }
        }
        Ok(())
    }

    fn call(&mut self, call: FunctionCall, place: &str) -> Result<(), ApiError> {
        let is_object = serde_json::from_str::<Value>(&call.arguments).is_ok_and(|a| a.is_object());
        if !is_object {
            let place = format!("{place}.arguments");
            let why = format!("{place}: expected JSON text of an object");
            return Err(ApiError::param(place, why));
        }
        self.calls.push((call.call_id.clone(), call.name.clone()));
        self.turn().tool_calls.push(ToolCall {
            id: call.call_id,
            name: call.name,
            arguments: call.arguments,
        });
        Ok(())
    }

    fn output(&mut self, output: FunctionCallOutput, place: &str) -> Result<(), ApiError> {
        let called = self
            .calls
            .iter()
            .rev()
            .find(|(id, _)| *id == output.call_id);
        let Some((_, name)) = called else {
            let place = format!("{place}.call_id");
            let why = format!(
                "{place} is {:?}, which is no earlier function_call",
                output.call_id
            );
            return Err(ApiError::param(place, why));
        };
        let name = Some(name.clone());
        let content = text(&output.output, &format!("{place}.output"))?;
        self.close();
        self.messages.push(Message {
            name,
            tool_call_id: Some(output.call_id),
            ..said("tool", content)
        });
        Ok(())
    }
}

fn join(before: &mut Option<String>, more: String) {
    match before {
        Some(before) => {
            before.push('\n');
            before.push_str(&more);
        }
        None => *before = Some(more),
    }
}

/// A string, or parts of text, which are joined by newlines.
fn text(content: &Value, place: &str) -> Result<String, ApiError> {
    let parts = match content {
        Value::String(text) => return Ok(text.clone()),
        Value::Array(parts) => parts,
        _ => {
            let why = format!("{place}: expected a string or an array of parts");
            return Err(ApiError::param(place, why).code("invalid_type"));
        }
    };
    let each = parts.iter().enumerate();
    let texts = each.map(|(i, part)| part_text(part, &format!("{place}[{i}]")));
    Ok(texts.collect::<Result<Vec<String>, _>>()?.join("\n"))
}

fn part_text(part: &Value, place: &str) -> Result<String, ApiError> {
    let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
    if !matches!(
        kind,
        "input_text" | "output_text" | "text" | "refusal" | "summary_text" | "reasoning_text"
    ) {
        let why = format!(
            "{place} is a part of type {kind:?}; only text is supported: describe it in words"
        );
        return Err(ApiError::param(place, why).code("unsupported_content"));
    }
    let part: Part = read_at(part.clone(), place)?;
    let name = if part.kind == "refusal" {
        "refusal"
    } else {
        "text"
    };
    let text = if name == "text" {
        part.text
    } else {
        part.refusal
    };
    text.ok_or_else(|| {
        let place = format!("{place}.{name}");
        let why = format!("{place} is missing");
        ApiError::param(place, why).code("missing_required_parameter")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_an_assistant_does_in_a_row_is_one_message() {
        let found = messages(&json!([
            {"role": "developer", "content": "Be brief."},
            {"type": "message", "role": "user", "content": [
                {"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [
                {"type": "output_text", "text": "I look.", "annotations": [], "logprobs": []}]},
            {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "look", "arguments": "{}"},
            {"type": "function_call", "call_id": "c2", "name": "see", "arguments": "{\"a\":1}"},
            {"type": "function_call_output", "call_id": "c2", "output": "two"},
            {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "one"}]},
        ]))
        .unwrap();
        let roles: Vec<&str> = found.iter().map(|m| m.role.as_str()).collect();
        assert_eq!(roles, ["developer", "user", "assistant", "tool", "tool"]);
        assert_eq!(found[1].content.as_deref(), Some("a\nb"));
        let turn = &found[2];
        assert_eq!(
            (turn.reasoning.as_deref(), turn.content.as_deref()),
            (Some("hm"), Some("I look."))
        );
        assert_eq!(turn.tool_calls.len(), 2);
        assert_eq!(
            (found[3].name.as_deref(), found[3].tool_call_id.as_deref()),
            (Some("see"), Some("c2"))
        );
        assert_eq!(
            messages(&json!("x")).unwrap(),
            [said("user", "x".to_owned())]
        );
    }

    #[test]
    fn items_are_refused_by_their_place() {
        for (input, place) in [
            (json!([]), "input"),
            (json!(1), "input"),
            (json!([{"role": "wizard", "content": "x"}]), "input[0].role"),
            (
                json!([{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]),
                "input[0].content[0]",
            ),
            (
                json!([{"role": "user", "content": [{"type": "input_text"}]}]),
                "input[0].content[0].text",
            ),
            (json!([{"role": "user"}]), "input[0].content"),
            (
                json!([{"role": "user", "content": "x", "name": "y"}]),
                "input[0].name",
            ),
            (
                json!([{"type": "item_reference", "id": "msg_1"}]),
                "input[0]",
            ),
            (json!([{"type": "computer_call"}]), "input[0]"),
            (
                json!([{"type": "function_call_output", "call_id": "c", "output": "x"}]),
                "input[0].call_id",
            ),
            (
                json!([{"type": "function_call", "call_id": "c", "name": "n", "arguments": "{"}]),
                "input[0].arguments",
            ),
        ] {
            let error = messages(&input).unwrap_err();
            assert_eq!(
                error.param.as_deref(),
                Some(place),
                "{input}: {}",
                error.message
            );
        }
    }
}
