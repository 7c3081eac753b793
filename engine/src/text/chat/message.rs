//! What a conversation is made of: messages, calls of tools, and the tools on offer.

/// One message of a conversation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    /// Who speaks: `system`, `developer`, `user`, `assistant` or `tool`.
    pub role: String,
    /// What is said; nothing where an assistant only calls tools.
    pub content: Option<String>,
    /// What an assistant thought before it spoke (`reasoning_content` in JSON).
    pub reasoning: Option<String>,
    /// The name of the speaker, or of the tool that answers.
    pub name: Option<String>,
    /// The tools that an assistant calls.
    pub tool_calls: Vec<ToolCall>,
    /// The call that a tool's message answers.
    pub tool_call_id: Option<String>,
}

/// A call of a tool by an assistant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ToolCall {
    /// The name of this call, which the tool's answer repeats.
    pub id: String,
    /// The tool's name.
    pub name: String,
    /// JSON text of an object: an argument a key.
    pub arguments: String,
}

/// A tool that an assistant may call.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it does, for the model to read.
    pub description: Option<String>,
    /// JSON schema of its arguments, as text.
    pub parameters: Option<String>,
    /// Whether arguments must keep to the schema.
    pub strict: Option<bool>,
}

impl Message {
    /// A message of a role that says something.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message {
            role: role.into(),
            content: Some(content.into()),
            ..Message::default()
        }
    }
}
