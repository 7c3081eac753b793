//! Tools in Anthropic's words, and how they are to be used.

use gannet_engine::chat::Tool;
use gannet_engine::tool_calls::ToolChoice;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::server::body::read_at;
use crate::server::error::ApiError;

/// A tool that the client runs. Where caches end, how its arguments are streamed and who may call it changes
/// nothing: every tool is called by the model, and arguments are streamed as they come.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    name: String,
    description: Option<String>,
    input_schema: Map<String, Value>,
    #[serde(rename = "type")]
    _type: Option<String>,
    strict: Option<bool>,
    #[serde(rename = "cache_control")]
    _cache_control: Option<Value>,
    #[serde(rename = "eager_input_streaming")]
    _eager_input_streaming: Option<bool>,
    #[serde(rename = "allowed_callers")]
    _allowed_callers: Option<Vec<String>>,
    defer_loading: Option<bool>,
    input_examples: Option<Vec<Value>>,
}

/// The tools of a request.
pub(super) fn tools(given: &[Value]) -> Result<Vec<Tool>, ApiError> {
    let each = given.iter().enumerate();
    each.map(|(i, tool)| one(tool, &format!("tools[{i}]")))
        .collect()
}

fn one(tool: &Value, place: &str) -> Result<Tool, ApiError> {
    let kind = tool.get("type").and_then(Value::as_str);
    if let Some(kind) = kind.filter(|kind| *kind != "custom") {
        let place = format!("{place}.type");
        let message = format!(
            "{place} is {kind:?}, which this server does not run; only custom tools are supported"
        );
        return Err(ApiError::param(place, message).code("unsupported_tool"));
    }
    let given: Given = read_at(tool.clone(), place)?;
    if given.defer_loading == Some(true) {
        let place = format!("{place}.defer_loading");
        let message = format!("{place}: there is no search for tools here; leave it out");
        return Err(ApiError::param(place, message).code("unsupported_parameter"));
    }
    let mut description = given.description;
    for example in given.input_examples.iter().flatten() {
        let text = description.get_or_insert_default();
        text.push_str("\nExample: ");
        text.push_str(&example.to_string());
    }
    Ok(Tool {
        name: given.name,
        description,
        parameters: Some(Value::Object(given.input_schema).to_string()),
        strict: given.strict,
    })
}

/// How tools are to be used.
#[derive(Default)]
pub(super) struct Use {
    pub(super) choice: Option<ToolChoice>,
    /// No tool may be used.
    pub(super) never: bool,
    /// Several calls may come at once.
    pub(super) parallel: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Choice {
    #[serde(rename = "type")]
    kind: String,
    name: Option<String>,
    disable_parallel_tool_use: Option<bool>,
}

/// Reads `tool_choice`.
pub(super) fn tool_choice(given: Option<Value>, tools: &[Tool]) -> Result<Use, ApiError> {
    let Some(given) = given.filter(|given| !given.is_null()) else {
        return Ok(Use {
            parallel: true,
            ..Use::default()
        });
    };
    let given: Choice = read_at(given, "tool_choice")?;
    let wrong = |place: &str, why: String| Err(ApiError::param(place, why));
    if given.name.is_some() && given.kind != "tool" {
        return wrong(
            "tool_choice.name",
            "tool_choice.name means nothing without type tool".to_owned(),
        );
    }
    let choice = match (given.kind.as_str(), given.name) {
        ("auto" | "none", _) => None,
        ("any", _) => Some(ToolChoice::Required),
        ("tool", Some(name)) => {
            if !tools.iter().any(|tool| tool.name == name) {
                let why = format!("tool_choice.name is {name:?}, which is none of the tools");
                return wrong("tool_choice.name", why);
            }
            Some(ToolChoice::Named(name))
        }
        ("tool", None) => {
            return wrong("tool_choice.name", "tool_choice.name is missing".to_owned());
        }
        (kind, _) => {
            let why = format!("tool_choice.type is {kind:?}; expected auto, any, tool or none");
            return wrong("tool_choice.type", why);
        }
    };
    if choice.is_some() && tools.is_empty() {
        return wrong(
            "tool_choice",
            "tool_choice requires a call, and there are no tools".to_owned(),
        );
    }
    Ok(Use {
        choice,
        never: given.kind == "none",
        parallel: given.disable_parallel_tool_use != Some(true),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn look() -> Value {
        json!({"name": "look", "description": "Looks.", "input_schema": {"type": "object"},
               "cache_control": {"type": "ephemeral"}, "type": "custom"})
    }

    #[test]
    fn tools_of_clients_are_read_and_others_refused() {
        let read = tools(&[look()]).unwrap();
        assert_eq!(read[0].name, "look");
        assert_eq!(read[0].parameters.as_deref(), Some(r#"{"type":"object"}"#));
        for (tool, place) in [
            (
                json!({"type": "web_search_20250305", "name": "web_search"}),
                "tools[0].type",
            ),
            (json!({"name": "x"}), "tools[0].input_schema"),
            (
                json!({"name": "x", "input_schema": {}, "color": 1}),
                "tools[0].color",
            ),
            (
                json!({"name": "x", "input_schema": []}),
                "tools[0].input_schema",
            ),
            (
                json!({"name": "x", "input_schema": {}, "defer_loading": true}),
                "tools[0].defer_loading",
            ),
        ] {
            let error = tools(std::slice::from_ref(&tool)).unwrap_err();
            assert_eq!(
                error.param.as_deref(),
                Some(place),
                "{tool}: {}",
                error.message
            );
        }
    }

    #[test]
    fn choices_are_read() {
        let tools = tools(&[look()]).unwrap();
        let used = |given: Value| tool_choice(Some(given), &tools).unwrap();
        assert!(matches!(
            used(json!({"type": "any"})).choice,
            Some(ToolChoice::Required)
        ));
        let named =
            used(json!({"type": "tool", "name": "look", "disable_parallel_tool_use": true}));
        assert!(matches!(named.choice, Some(ToolChoice::Named(name)) if name == "look"));
        assert!(!named.parallel);
        assert!(used(json!({"type": "none"})).never);
        assert!(used(json!({"type": "auto"})).choice.is_none());
        for (given, place) in [
            (json!({"type": "tool"}), "tool_choice.name"),
            (json!({"type": "tool", "name": "other"}), "tool_choice.name"),
            (json!({"type": "auto", "name": "look"}), "tool_choice.name"),
            (json!({"type": "some"}), "tool_choice.type"),
            (json!({}), "tool_choice.type"),
            (json!("any"), "tool_choice"),
            (json!({"type": "any", "x": 1}), "tool_choice.x"),
        ] {
            let error = tool_choice(Some(given.clone()), &tools).err().unwrap();
            assert_eq!(
                error.param.as_deref(),
                Some(place),
                "{given}: {}",
                error.message
            );
        }
        let none = tool_choice(Some(json!({"type": "any"})), &[])
            .err()
            .unwrap();
        assert_eq!(none.param.as_deref(), Some("tool_choice"));
    }
}
