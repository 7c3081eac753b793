//! The variables that a template is given, and what is done with its text.

use minijinja::value::Value;

use super::error::ChatError;
use super::message::{Message, Tool, ToolCall};
use super::{FUEL_A_BYTE, Inner, TemplateOptions, environment, guard, json};

/// Variables that callers cannot set.
const OWN: &[&str] = &[
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "strftime_now",
    "raise_exception",
];

/// What marks the end of the message that is to be continued: no message has it, and templates that
/// trim contents take its last space.
const END_MARK: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// The text of a conversation.
pub(super) fn render(
    template: &Inner,
    messages: &[Message],
    tools: &[Tool],
    options: &TemplateOptions,
    fuel: u64,
) -> Result<String, ChatError> {
    if options.continue_final_message && options.add_generation_prompt {
        let problem = "and add_generation_prompt exclude each other";
        return Err(ChatError::input("continue_final_message", problem));
    }
    let marked;
    let mut given = messages;
    if options.continue_final_message {
        marked = with_mark(messages)?;
        given = &marked;
    }
    let bytes = bytes(messages, tools, options);
    let fuel = fuel.saturating_add(FUEL_A_BYTE.saturating_mul(bytes as u64));
    let variables = variables(template, given, tools, options, bytes)?;
    let text = template.run(variables, fuel)?;
    match options.continue_final_message {
        true => up_to_mark(&text),
        false => Ok(text),
    }
}

/// About how many bytes a conversation has.
fn bytes(messages: &[Message], tools: &[Tool], options: &TemplateOptions) -> usize {
    let of = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let of_call = |call: &ToolCall| call.name.len() + call.arguments.len() + 64;
    let of_message = |message: &Message| {
        let calls: usize = message.tool_calls.iter().map(of_call).sum();
        of(&message.content) + of(&message.reasoning) + calls + 64
    };
    let of_tool = |tool: &Tool| of(&tool.description) + of(&tool.parameters) + 64;
    messages.iter().map(of_message).sum::<usize>()
        + tools.iter().map(of_tool).sum::<usize>()
        + options
            .variables
            .iter()
            .map(|(_, json)| json.len())
            .sum::<usize>()
}

fn with_mark(messages: &[Message]) -> Result<Vec<Message>, ChatError> {
    let mut marked = messages.to_vec();
    let last = marked
        .last_mut()
        .and_then(|message| message.content.as_mut());
    let Some(content) = last else {
        let problem = "needs a last message with content to continue";
        return Err(ChatError::input("continue_final_message", problem));
    };
    content.push_str(END_MARK);
    Ok(marked)
}

fn up_to_mark(text: &str) -> Result<String, ChatError> {
    if let Some(at) = text.rfind(END_MARK) {
        return Ok(text[..at].to_owned());
    }
    // The template trims contents, so it trims the one that is continued.
    match text.rfind(END_MARK.trim_end()) {
        Some(at) => Ok(text[..at].trim_end().to_owned()),
        None => {
            let problem =
                "the template does not write the last message as it is, so it cannot be continued";
            Err(ChatError::input("continue_final_message", problem))
        }
    }
}

fn variables(
    template: &Inner,
    messages: &[Message],
    tools: &[Tool],
    options: &TemplateOptions,
    bytes: usize,
) -> Result<Value, ChatError> {
    let text = |text: &str| Value::from(text);
    let mut all: Vec<(String, Value)> = Vec::new();
    let mut set = |name: &str, value: Value| all.push((name.to_owned(), value));
    set(guard::ROOM, Value::from(bytes));
    for (name, token) in &template.tokens.all {
        set(name, text(token));
    }
    for name in ["enable_thinking", "thinking"] {
        if let Some(thinking) = options.thinking {
            set(name, Value::from(thinking));
        }
    }
    for (name, json) in &options.variables {
        let place = format!("chat_template_kwargs.{name}");
        if OWN.contains(&name.as_str()) {
            return Err(ChatError::input(
                place,
                "is set by the request itself; leave it out",
            ));
        }
        let value = json::parse(json).map_err(|problem| ChatError::input(place, problem))?;
        set(name, value);
    }
    let values = (messages.iter().enumerate()).map(|(i, message)| template.message(i, message));
    set(
        "messages",
        Value::from(values.collect::<Result<Vec<_>, _>>()?),
    );
    set("tools", tools_value(tools)?);
    set("documents", Value::from(()));
    set(
        "add_generation_prompt",
        Value::from(options.add_generation_prompt),
    );
    set("strftime_now", environment::strftime_now(options.now));
    Ok(Value::from_pairs(all))
}

fn tools_value(tools: &[Tool]) -> Result<Value, ChatError> {
    if tools.is_empty() {
        return Ok(Value::from(()));
    }
    let values = tools.iter().enumerate().map(|(i, tool)| {
        let mut function = vec![("name", Value::from(tool.name.as_str()))];
        if let Some(description) = &tool.description {
            function.push(("description", Value::from(description.as_str())));
        }
        if let Some(parameters) = &tool.parameters {
            let place = || format!("tools[{i}].function.parameters");
            let schema = json::parse_object(parameters);
            let schema = schema.map_err(|problem| ChatError::input(place(), problem))?;
            function.push(("parameters", schema));
        }
        if let Some(strict) = tool.strict {
            function.push(("strict", Value::from(strict)));
        }
        Ok(Value::from_pairs([
            ("type", Value::from("function")),
            ("function", Value::from_pairs(function)),
        ]))
    });
    Ok(Value::from(values.collect::<Result<Vec<_>, ChatError>>()?))
}

impl Inner {
    /// A message as the template wants it.
    fn message(&self, index: usize, message: &Message) -> Result<Value, ChatError> {
        let mut fields = vec![
            ("role", Value::from(self.role(&message.role))),
            ("content", self.content(message)),
        ];
        let text = |text: &String| Value::from(text.as_str());
        fields.extend(message.name.as_ref().map(|name| ("name", text(name))));
        let reasoning = message.reasoning.as_ref();
        fields.extend(reasoning.map(|thoughts| (self.needs.reasoning, text(thoughts))));
        if !message.tool_calls.is_empty() {
            let calls = message.tool_calls.iter().enumerate();
            let calls = calls.map(|(j, call)| self.call(call, index, j));
            fields.push((
                "tool_calls",
                Value::from(calls.collect::<Result<Vec<_>, _>>()?),
            ));
        }
        let id = message.tool_call_id.as_ref();
        fields.extend(id.map(|id| ("tool_call_id", text(id))));
        Ok(Value::from_pairs(fields))
    }

    /// Templates that do not know of developers know who says such things.
    fn role<'m>(&self, role: &'m str) -> &'m str {
        match role == "developer" && !self.source.contains("developer") {
            true => "system",
            false => role,
        }
    }

    fn content(&self, message: &Message) -> Value {
        match &message.content {
            Some(content) if self.needs.typed_content => {
                let part = [
                    ("type", Value::from("text")),
                    ("text", Value::from(content.as_str())),
                ];
                Value::from(vec![Value::from_pairs(part)])
            }
            Some(content) => Value::from(content.as_str()),
            None if self.needs.empty_content => Value::from(""),
            None => Value::from(()),
        }
    }

    fn call(&self, call: &ToolCall, index: usize, number: usize) -> Result<Value, ChatError> {
        let place = || format!("messages[{index}].tool_calls[{number}].function.arguments");
        let object = json::parse_object(&call.arguments);
        let object = object.map_err(|problem| ChatError::input(place(), problem))?;
        let arguments = match self.needs.text_arguments {
            true => Value::from(call.arguments.as_str()),
            false => object,
        };
        let function = [
            ("name", Value::from(call.name.as_str())),
            ("arguments", arguments),
        ];
        let mut fields = vec![
            ("type", Value::from("function")),
            ("function", Value::from_pairs(function)),
        ];
        if !call.id.is_empty() {
            fields.insert(0, ("id", Value::from(call.id.as_str())));
        }
        Ok(Value::from_pairs(fields))
    }
}
