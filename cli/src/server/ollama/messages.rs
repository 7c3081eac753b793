//! Ollama's messages in no dialect.
//!
//! Calls of tools have no names of their own there: they get some, and results of tools belong to the first
//! call of their tool that has none yet.

use std::collections::VecDeque;

use gannet_engine::chat::{Message, ToolCall};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::server::body::read_at;
use crate::server::error::ApiError;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    role: String,
    content: Option<String>,
    thinking: Option<String>,
    images: Option<Vec<Value>>,
    tool_calls: Option<Vec<Value>>,
    tool_name: Option<String>,
    /// An older name of it.
    name: Option<String>,
    tool_call_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    id: Option<String>,
    #[serde(rename = "type")]
    _type: Option<String>,
    function: Function,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Function {
    name: String,
    arguments: Map<String, Value>,
    #[serde(rename = "index")]
    _index: Option<u64>,
    #[serde(rename = "description")]
    _description: Option<String>,
}

/// Roles that there are.
const ROLES: &[&str] = &["system", "user", "assistant", "tool"];

/// The messages of a conversation.
pub(super) fn messages(given: Vec<Value>) -> Result<Vec<Message>, ApiError> {
    let mut waiting = VecDeque::new();
    let mut calls = 0;
    let each = given.into_iter().enumerate();
    each.map(|(i, value)| {
        let place = format!("messages[{i}]");
        let given: Given = read_at(value, &place)?;
        check(&given, &place)?;
        let mut message = Message {
            content: given.content,
            reasoning: given.thinking,
            name: given.tool_name.or(given.name),
            tool_call_id: given.tool_call_id,
            role: given.role,
            ..Message::default()
        };
        for (k, value) in given.tool_calls.into_iter().flatten().enumerate() {
            let call: Call = read_at(value, &format!("{place}.tool_calls[{k}]"))?;
            let id = call.id.unwrap_or_else(|| format!("call{calls:05}"));
            calls += 1;
            waiting.push_back((id.clone(), call.function.name.clone()));
            message.tool_calls.push(ToolCall {
                id,
                name: call.function.name,
                arguments: Value::Object(call.function.arguments).to_string(),
            });
        }
        if message.role == "tool" {
            answer(&mut message, &mut waiting);
        }
        Ok(message)
    })
    .collect()
}

fn check(given: &Given, place: &str) -> Result<(), ApiError> {
    if !ROLES.contains(&given.role.as_str()) {
        let place = format!("{place}.role");
        let why = format!(
            "{place} is {:?}; expected one of {}",
            given.role,
            ROLES.join(", ")
        );
        return Err(ApiError::param(place, why));
    }
    if given
        .images
        .as_ref()
        .is_some_and(|images| !images.is_empty())
    {
        let place = format!("{place}.images");
        let why = format!("{place}: only text is supported: describe it in words");
        return Err(ApiError::param(place, why).code("unsupported_content"));
    }
    let calls = given
        .tool_calls
        .as_ref()
        .is_some_and(|calls| !calls.is_empty());
    if calls && given.role != "assistant" {
        let place = format!("{place}.tool_calls");
        let why = format!("{place}: only an assistant calls tools");
        return Err(ApiError::param(place, why));
    }
    if given.content.is_none() && given.thinking.is_none() && !calls {
        let place = format!("{place}.content");
        let why = format!("{place} is missing");
        return Err(ApiError::param(place, why).code("missing_required_parameter"));
    }
    Ok(())
}

/// Says which call a tool's message answers.
fn answer(message: &mut Message, waiting: &mut VecDeque<(String, String)>) {
    let fits = |(id, name): &(String, String)| match (&message.tool_call_id, &message.name) {
        (Some(wanted), _) => id == wanted,
        (None, Some(wanted)) => name == wanted,
        (None, None) => true,
    };
    let found = waiting
        .iter()
        .position(fits)
        .and_then(|at| waiting.remove(at));
    if let Some((id, name)) = found {
        message.tool_call_id.get_or_insert(id);
        message.name.get_or_insert(name);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(given: Value) -> Result<Vec<Message>, ApiError> {
        messages(given.as_array().unwrap().clone())
    }

    #[test]
    fn results_belong_to_the_calls_of_their_tools() {
        let call = |name: &str| json!({"function": {"name": name, "arguments": {"a": 1}}});
        let found = read(json!([
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [call("one"), call("two")]},
            {"role": "tool", "tool_name": "two", "content": "2"},
            {"role": "tool", "content": "1"},
        ]))
        .unwrap();
        let ids: Vec<&str> = found[1]
            .tool_calls
            .iter()
            .map(|call| call.id.as_str())
            .collect();
        assert_eq!(found[2].tool_call_id.as_deref(), Some(ids[1]));
        assert_eq!(found[3].tool_call_id.as_deref(), Some(ids[0]));
        assert_eq!(found[3].name.as_deref(), Some("one"));
        assert_eq!(found[1].tool_calls[0].arguments, r#"{"a":1}"#);
        assert_eq!(found[1].reasoning.as_deref(), Some("hm"));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (given, place) in [
            (
                json!([{"role": "user", "content": "x", "images": ["AAAA"]}]),
                "messages[0].images",
            ),
            (
                json!([{"role": "wizard", "content": "x"}]),
                "messages[0].role",
            ),
            (json!([{"role": "user"}]), "messages[0].content"),
            (
                json!([{"role": "user", "content": [1]}]),
                "messages[0].content",
            ),
            (
                json!([{"role": "user", "content": "x", "more": 1}]),
                "messages[0].more",
            ),
            (
                json!([{"role": "assistant", "tool_calls": [{"function": {"name": "x", "arguments": "{}"}}]}]),
                "messages[0].tool_calls[0].function.arguments",
            ),
            (
                json!([{"role": "user", "tool_calls": [{"function": {"name": "x", "arguments": {}}}]}]),
                "messages[0].tool_calls",
            ),
        ] {
            let error = read(given.clone()).unwrap_err();
            assert_eq!(
                error.param.as_deref(),
                Some(place),
                "{given}: {}",
                error.message
            );
        }
    }
}
