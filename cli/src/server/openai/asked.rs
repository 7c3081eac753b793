//! Parts of requests that say what replies must be: formats of their text, and calls of tools.

use gannet_engine::chat::parse_tools;
use gannet_engine::requests::Grammar;
use gannet_engine::tool_calls::ToolChoice;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::server::body::read;
use crate::server::error::ApiError;

/// A number for a key of the prefix cache.
pub(crate) fn salt_of(key: &str) -> u64 {
    // FNV-1a, 64 bits: http://www.isthe.com/chongo/tech/comp/fnv/
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    key.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonSchema {
    schema: Option<Map<String, Value>>,
    #[serde(rename = "name")]
    _name: Option<String>,
    #[serde(rename = "description")]
    _description: Option<String>,
    /// Replies always match.
    #[serde(rename = "strict")]
    _strict: Option<bool>,
}

/// What `response_format` asks for.
pub(crate) fn response_format(format: &Value) -> Result<Option<Grammar>, ApiError> {
    #[derive(Deserialize)]
    #[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
    enum Format {
        Text,
        JsonObject,
        JsonSchema { json_schema: JsonSchema },
    }
    let inside = |e: ApiError| {
        let param = match &e.param {
            Some(param) => format!("response_format.{param}"),
            None => "response_format".to_owned(),
        };
        e.about(param)
    };
    Ok(match read(format.clone()).map_err(inside)? {
        Format::Text => None,
        Format::JsonObject => Some(Grammar::JsonObject),
        Format::JsonSchema { json_schema } => match json_schema.schema {
            Some(schema) => Some(Grammar::JsonSchema(Value::Object(schema).to_string())),
            None => {
                let param = "response_format.json_schema.schema";
                return Err(ApiError::param(param, format!("{param} is missing")));
            }
        },
    })
}

/// Tools, and how they are to be used.
pub(super) fn tools(
    tools: Option<&[Value]>,
    choice: Option<&Value>,
) -> Result<(Vec<gannet_engine::chat::Tool>, Option<ToolChoice>), ApiError> {
    let tools = Value::Array(tools.unwrap_or_default().to_vec()).to_string();
    let tools = parse_tools(&tools).map_err(ApiError::from)?;
    let wrong = || {
        let why = "tool_choice must be none, auto, required or \
                   {\"type\": \"function\", \"function\": {\"name\": ...}}";
        ApiError::param("tool_choice", why)
    };
    let choice = match choice {
        None | Some(Value::Null) => None,
        Some(Value::String(word)) => match word.as_str() {
            "auto" => Some(ToolChoice::Auto),
            "none" => return Ok((Vec::new(), None)),
            "required" => Some(ToolChoice::Required),
            _ => return Err(wrong()),
        },
        Some(Value::Object(object)) => {
            let name = object.get("function").and_then(|f| f.get("name"));
            let name = name.and_then(Value::as_str).ok_or_else(wrong)?;
            if !tools.iter().any(|tool| tool.name == name) {
                let why = format!("tool_choice names {name:?}, which is none of the tools");
                return Err(ApiError::param("tool_choice", why));
            }
            Some(ToolChoice::Named(name.to_owned()))
        }
        Some(_) => return Err(wrong()),
    };
    match (&choice, tools.is_empty()) {
        (Some(ToolChoice::Required), true) => {
            let why = "tool_choice requires a call, and there are no tools";
            Err(ApiError::param("tool_choice", why))
        }
        _ => Ok((tools, choice)),
    }
}
