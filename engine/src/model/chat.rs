//! The chat template that a model file carries.

use gannet_gguf::shown_path;

use super::Model;
use crate::text::chat::{ChatError, ChatTemplate};

impl ChatTemplate {
    /// The model file's own template.
    ///
    /// # Errors
    /// One line: the file has none, and what to do then; or it is none that can be understood.
    pub fn of(model: &Model) -> Result<ChatTemplate, ChatError> {
        own(model, None)
    }

    /// Another template of the model file by its name (`tokenizer.chat_template.NAME`), such as
    /// `tool_use`.
    ///
    /// # Errors
    /// As [`ChatTemplate::of`].
    pub fn variant(model: &Model, name: &str) -> Result<ChatTemplate, ChatError> {
        own(model, Some(name))
    }
}

fn own(model: &Model, variant: Option<&str>) -> Result<ChatTemplate, ChatError> {
    let file = shown_path(model.path());
    ChatTemplate::of_metadata(model.gguf().metadata(), &file, model.tokenizer(), variant)
}
