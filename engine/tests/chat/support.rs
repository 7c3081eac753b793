//! A model, and what the tests do with templates.

use std::sync::OnceLock;

use gannet_engine::Model;
use gannet_engine::chat::{ChatError, ChatTemplate, TemplateOptions, parse_messages, parse_tools};

/// The embedded demonstration model, which has no template of its own.
pub(crate) fn model() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| {
        let path = "/../cli/models/rustdoc-tiny-Q4_K_M.gguf";
        Model::open(format!("{}{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    })
}

/// A template of some source.
pub(crate) fn template(source: &str) -> Result<ChatTemplate, ChatError> {
    ChatTemplate::parse("test", source, model().tokenizer())
}

/// What a source makes of messages.
pub(crate) fn render(source: &str, messages: &str) -> Result<String, ChatError> {
    let messages = parse_messages(messages)?;
    template(source)?.render(&messages, &[], &TemplateOptions::default())
}

/// What a built-in template makes of messages and tools.
pub(crate) fn named(name: &str, messages: &str, tools: &str) -> Result<String, ChatError> {
    let template = ChatTemplate::named(name, model().tokenizer())?;
    let (messages, tools) = (parse_messages(messages)?, parse_tools(tools)?);
    template.render(&messages, &tools, &TemplateOptions::default())
}
