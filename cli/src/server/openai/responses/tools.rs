//! Tools of `/v1/responses`, and how they are to be used.
//!
//! Agents offer tools that OpenAI's servers run beside their own. The model here is told of functions alone;
//! others are left out and named in the log.

use gannet_engine::chat::Tool;
use gannet_engine::tool_calls::ToolChoice;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::server::body::read_at;
use crate::server::error::ApiError;

/// The tools of a request.
#[derive(Debug, Default)]
pub(super) struct Tools {
    pub(super) known: Vec<Tool>,
    /// As they were given.
    pub(super) shown: Vec<Value>,
    /// Kinds of those that are left out.
    pub(super) unknown: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Function {
    #[serde(rename = "type")]
    _type: String,
    name: String,
    description: Option<String>,
    parameters: Option<Map<String, Value>>,
    strict: Option<bool>,
    #[serde(rename = "defer_loading")]
    _defer_loading: Option<bool>,
}

/// Reads the tools of a request.
pub(super) fn tools(given: &[Value]) -> Result<Tools, ApiError> {
    let mut tools = Tools::default();
    for (i, tool) in given.iter().enumerate() {
        let place = format!("tools[{i}]");
        let Some(kind) = tool.get("type").and_then(Value::as_str) else {
            let place = format!("{place}.type");
            let why = format!("{place} is missing; expected function");
            return Err(ApiError::param(place, why).code("missing_required_parameter"));
        };
        if kind != "function" {
            tools.unknown.push(kind.to_owned());
            continue;
        }
        let function: Function = read_at(tool.clone(), &place)?;
        tools.known.push(Tool {
            name: function.name,
            description: function.description,
            parameters: function
                .parameters
                .map(|schema| Value::Object(schema).to_string()),
            strict: function.strict,
        });
        tools.shown.push(tool.clone());
    }
    Ok(tools)
}

/// How tools are to be used; `Err(None)`: not at all.
pub(super) enum Use {
    AsItLikes,
    Never,
    Must(ToolChoice),
}

/// Reads `tool_choice`.
pub(super) fn tool_choice(given: Option<&Value>, tools: &[Tool]) -> Result<Use, ApiError> {
    let wrong = |why: String| Err(ApiError::param("tool_choice", why));
    let expected =
        "tool_choice: expected none, auto, required or {\"type\": \"function\", \"name\": ...}";
    let choice = match given {
        None | Some(Value::Null) => return Ok(Use::AsItLikes),
        Some(Value::String(word)) => match word.as_str() {
            "auto" => return Ok(Use::AsItLikes),
            "none" => return Ok(Use::Never),
            "required" => ToolChoice::Required,
            _ => return wrong(expected.to_owned()),
        },
        Some(Value::Object(object)) => {
            let word = |name: &str| object.get(name).and_then(Value::as_str);
            match (word("type"), word("name")) {
                (Some("function"), Some(name)) if tools.iter().any(|tool| tool.name == name) => {
                    ToolChoice::Named(name.to_owned())
                }
                (Some("function"), Some(name)) => {
                    return wrong(format!(
                        "tool_choice names {name:?}, which is none of the tools"
                    ));
                }
                _ => return wrong(expected.to_owned()),
            }
        }
        Some(_) => return wrong(expected.to_owned()),
    };
    match tools.is_empty() {
        true => wrong("tool_choice requires a call, and there are no functions".to_owned()),
        false => Ok(Use::Must(choice)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn kinds_that_nothing_runs_are_left_out() {
        let function = json!({"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": true});
        let read = tools(&[
            json!({"type": "web_search"}),
            function.clone(),
            json!({"type": "custom", "name": "apply_patch", "format": {"type": "grammar"}}),
            json!({"type": "a_kind_of_tomorrow", "with": ["what", "ever"]}),
        ])
        .unwrap();
        assert_eq!(read.unknown, ["web_search", "custom", "a_kind_of_tomorrow"]);
        assert_eq!(
            (read.known[0].name.as_str(), read.shown),
            ("look", vec![function])
        );
        for (tool, place) in [
            (json!({}), "tools[0].type"),
            (json!({"type": "function"}), "tools[0].name"),
            (
                json!({"type": "function", "name": "x", "color": 1}),
                "tools[0].color",
            ),
        ] {
            assert_eq!(tools(&[tool]).unwrap_err().param.as_deref(), Some(place));
        }
    }

    #[test]
    fn choices_are_read() {
        let tools = tools(&[json!({"type": "function", "name": "look"})])
            .unwrap()
            .known;
        let named = json!({"type": "function", "name": "look"});
        let read = tool_choice(Some(&named), &tools).unwrap();
        assert!(matches!(read, Use::Must(ToolChoice::Named(name)) if name == "look"));
        assert!(matches!(
            tool_choice(Some(&json!("none")), &tools).unwrap(),
            Use::Never
        ));
        for wrong in [
            json!("any"),
            json!(1),
            json!({"type": "web_search"}),
            json!({"type": "function", "name": "x"}),
        ] {
            assert!(tool_choice(Some(&wrong), &tools).is_err(), "{wrong}");
        }
        assert!(tool_choice(Some(&json!("required")), &[]).is_err());
    }
}
