//! Messages and tools in the JSON of OpenAI's interface.
//!
//! Nothing is passed over: what has no meaning here is refused by its place, such as
//! `messages[1].content[0]`, and only fields that say nothing are left out.

use minijinja::value::{Value, ValueKind};

use super::error::ChatError;
use super::json;
use super::message::{Message, Tool, ToolCall};
use super::python::Dump;

/// The roles that a message may have.
const ROLES: &[&str] = &["system", "developer", "user", "assistant", "tool"];

/// Fields of a message that are read.
const READ: &[&str] = &[
    "role",
    "content",
    "name",
    "tool_calls",
    "tool_call_id",
    "reasoning_content",
    "reasoning",
    "thinking",
];

/// Fields of a message that answers have and that mean nothing when they come back.
const IDLE: &[&str] = &[
    "id",
    "object",
    "type",
    "status",
    "refusal",
    "annotations",
    "cache_control",
];

/// Kinds of a content's parts that are text.
const TEXTS: &[&str] = &["text", "input_text", "output_text"];

/// The messages of a JSON array of OpenAI's form.
///
/// Contents are strings, null, or arrays of parts with text, which are joined by newlines. The arguments
/// of a tool call are JSON text of an object, or that object.
///
/// # Errors
/// What is wrong, and where ([`ChatError::param`]): `messages[2].role`.
pub fn parse_messages(json: &str) -> Result<Vec<Message>, ChatError> {
    let place = Place::root("messages");
    let list = array(json, &place)?;
    if list.is_empty() {
        return Err(place.wrong("there are none; give at least one message"));
    }
    list.iter()
        .enumerate()
        .map(|(i, value)| message(value, &place.index(i)))
        .collect()
}

/// The tools of a JSON array of OpenAI's form: `[{"type": "function", "function": {...}}]`.
///
/// # Errors
/// What is wrong, and where ([`ChatError::param`]): `tools[0].function.name`.
pub fn parse_tools(json: &str) -> Result<Vec<Tool>, ChatError> {
    let place = Place::root("tools");
    let list = array(json, &place)?;
    list.iter()
        .enumerate()
        .map(|(i, value)| tool(value, &place.index(i)))
        .collect()
}

/// Where in the input something stands.
struct Place(String);

impl Place {
    fn root(name: &str) -> Place {
        Place(name.to_owned())
    }

    fn index(&self, index: usize) -> Place {
        Place(format!("{}[{index}]", self.0))
    }

    fn field(&self, name: &str) -> Place {
        Place(format!("{}.{name}", self.0))
    }

    fn wrong(&self, problem: impl Into<String>) -> ChatError {
        ChatError::input(self.0.clone(), problem)
    }
}

/// What a value is, in JSON's words.
fn kind(value: &Value) -> &'static str {
    match value.kind() {
        ValueKind::None => "null",
        ValueKind::Bool => "a boolean",
        ValueKind::Number => "a number",
        ValueKind::String => "a string",
        ValueKind::Seq => "an array",
        ValueKind::Undefined => "missing",
        _ => "an object",
    }
}

fn array(json: &str, place: &Place) -> Result<Vec<Value>, ChatError> {
    let value = json::parse(json).map_err(|problem| place.wrong(problem))?;
    items(&value, place)
}

fn items(value: &Value, place: &Place) -> Result<Vec<Value>, ChatError> {
    if value.kind() != ValueKind::Seq {
        return Err(place.wrong(format!("is {}; expected an array", kind(value))));
    }
    Ok(value.try_iter().into_iter().flatten().collect())
}

/// A field of an object; none where it is missing or null.
fn field(value: &Value, name: &str) -> Option<Value> {
    let found = value.get_attr(name).ok()?;
    (!found.is_undefined() && !found.is_none()).then_some(found)
}

fn check_object(value: &Value, place: &Place) -> Result<(), ChatError> {
    match value.kind() {
        ValueKind::Map => Ok(()),
        _ => Err(place.wrong(format!("is {}; expected an object", kind(value)))),
    }
}

/// A field that is a string, where there is one.
fn text(value: &Value, name: &str, place: &Place) -> Result<Option<String>, ChatError> {
    let Some(found) = field(value, name) else {
        return Ok(None);
    };
    match found.as_str() {
        Some(text) => Ok(Some(text.to_owned())),
        None => {
            let problem = format!("is {}; expected a string", kind(&found));
            Err(place.field(name).wrong(problem))
        }
    }
}

/// As [`text`], of a field that must be there.
fn needed(value: &Value, name: &str, place: &Place) -> Result<String, ChatError> {
    let missing = || place.field(name).wrong("is missing; expected a string");
    text(value, name, place)?.ok_or_else(missing)
}

fn message(value: &Value, place: &Place) -> Result<Message, ChatError> {
    check_object(value, place)?;
    check_fields(value, place)?;
    let role = needed(value, "role", place)?;
    if !ROLES.contains(&role.as_str()) {
        let problem = format!("is {role:?}; expected one of {}", ROLES.join(", "));
        return Err(place.field("role").wrong(problem));
    }
    let mut reasoning = None;
    for name in ["reasoning_content", "reasoning", "thinking"] {
        reasoning = reasoning.or(text(value, name, place)?);
    }
    let message = Message {
        content: content(value, &place.field("content"))?,
        reasoning,
        name: text(value, "name", place)?,
        tool_calls: tool_calls(value, &role, &place.field("tool_calls"))?,
        tool_call_id: text(value, "tool_call_id", place)?,
        role,
    };
    check_content(&message, place)?;
    Ok(message)
}

/// Refuses fields of a message that would have a meaning here if they were known.
fn check_fields(value: &Value, place: &Place) -> Result<(), ChatError> {
    for key in value.try_iter().into_iter().flatten() {
        let name = key.as_str().unwrap_or_default();
        if READ.contains(&name) || IDLE.contains(&name) || field(value, name).is_none() {
            continue;
        }
        let problem = match name {
            "function_call" => "is an older form; use tool_calls",
            "audio" => "audio is not supported; give its text",
            _ => "is not a field of messages; leave it out",
        };
        return Err(place.field(name).wrong(problem));
    }
    Ok(())
}

/// Refuses a message that says nothing.
fn check_content(message: &Message, place: &Place) -> Result<(), ChatError> {
    let says = message.content.is_some() || !message.tool_calls.is_empty();
    if says || message.reasoning.is_some() {
        return Ok(());
    }
    let problem = match message.role.as_str() {
        "assistant" => "is missing; an assistant's message needs content or tool_calls",
        _ => "is missing; expected a string",
    };
    Err(place.field("content").wrong(problem))
}

fn content(message: &Value, place: &Place) -> Result<Option<String>, ChatError> {
    let Some(value) = field(message, "content") else {
        return Ok(None);
    };
    if let Some(text) = value.as_str() {
        return Ok(Some(text.to_owned()));
    }
    if value.kind() != ValueKind::Seq {
        let problem = format!(
            "is {}; expected a string or an array of parts",
            kind(&value)
        );
        return Err(place.wrong(problem));
    }
    let parts = items(&value, place)?;
    if parts.is_empty() {
        return Err(place.wrong("is an empty array; expected a string or parts with text"));
    }
    let texts: Result<Vec<String>, _> = (parts.iter().enumerate())
        .map(|(i, part)| part_text(part, &place.index(i)))
        .collect();
    Ok(Some(texts?.join("\n")))
}

fn part_text(part: &Value, place: &Place) -> Result<String, ChatError> {
    if let Some(text) = part.as_str() {
        return Ok(text.to_owned());
    }
    check_object(part, place)?;
    let kind = needed(part, "type", place)?;
    match kind.as_str() {
        "refusal" => needed(part, "refusal", place),
        kind if TEXTS.contains(&kind) => needed(part, "text", place),
        kind => {
            let problem =
                format!("is of type {kind:?}; only text is supported: describe it in words");
            Err(place.wrong(problem))
        }
    }
}

fn tool_calls(message: &Value, role: &str, place: &Place) -> Result<Vec<ToolCall>, ChatError> {
    let Some(value) = field(message, "tool_calls") else {
        return Ok(Vec::new());
    };
    let list = items(&value, place)?;
    if role != "assistant" && !list.is_empty() {
        let problem = format!("stand in a message of {role}; only an assistant calls tools");
        return Err(place.wrong(problem));
    }
    list.iter()
        .enumerate()
        .map(|(i, value)| tool_call(value, &place.index(i)))
        .collect()
}

fn tool_call(value: &Value, place: &Place) -> Result<ToolCall, ChatError> {
    check_object(value, place)?;
    let (function, inner) = function(value, place)?;
    Ok(ToolCall {
        id: text(value, "id", place)?.unwrap_or_default(),
        name: needed(&function, "name", &inner)?,
        arguments: arguments(&function, &inner.field("arguments"))?,
    })
}

/// The function that a tool or a call of one is, and where it stands.
fn function(value: &Value, place: &Place) -> Result<(Value, Place), ChatError> {
    if let Some(kind) = text(value, "type", place)?.filter(|kind| kind != "function") {
        let problem = format!("is {kind:?}; only \"function\" is supported");
        return Err(place.field("type").wrong(problem));
    }
    let inner = place.field("function");
    let Some(function) = field(value, "function") else {
        return Err(inner.wrong("is missing; expected an object with a name"));
    };
    check_object(&function, &inner)?;
    Ok((function, inner))
}

/// JSON text of a value.
fn json_text(value: &Value, place: &Place) -> Result<String, ChatError> {
    let text = Dump::default().write(None, value);
    text.map_err(|e| place.wrong(e.to_string()))
}

/// The arguments of a call, as JSON text of an object.
fn arguments(function: &Value, place: &Place) -> Result<String, ChatError> {
    match field(function, "arguments") {
        None => Ok("{}".to_owned()),
        Some(value) if value.kind() == ValueKind::Map => json_text(&value, place),
        Some(value) => match value.as_str() {
            Some(text) if text.trim().is_empty() => Ok("{}".to_owned()),
            Some(text) => {
                let checked = json::parse_object(text);
                checked
                    .map_err(|e| place.wrong(format!("{e}; expected JSON text of an object")))?;
                Ok(text.to_owned())
            }
            None => {
                let problem = format!("is {}; expected JSON text of an object", kind(&value));
                Err(place.wrong(problem))
            }
        },
    }
}

fn tool(value: &Value, place: &Place) -> Result<Tool, ChatError> {
    check_object(value, place)?;
    let (function, inner) = function(value, place)?;
    let name = needed(&function, "name", &inner)?;
    let parameters = match field(&function, "parameters") {
        Some(schema) => {
            let place = inner.field("parameters");
            check_object(&schema, &place)?;
            Some(json_text(&schema, &place)?)
        }
        None => None,
    };
    let strict = match field(&function, "strict") {
        Some(value) if value.kind() == ValueKind::Bool => Some(value.is_true()),
        Some(value) => {
            let problem = format!("is {}; expected true or false", kind(&value));
            return Err(inner.field("strict").wrong(problem));
        }
        None => None,
    };
    Ok(Tool {
        name,
        description: text(&function, "description", &inner)?,
        parameters,
        strict,
    })
}
