//! How models write calls of tools.

use crate::text::tokenizer::Tokenizer;

/// How the models of a family write calls of tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ToolFormat {
    /// `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, one a call: Hermes, Qwen.
    Hermes,
    /// `{"name": ..., "parameters": {...}}` as the whole reply, after `<|python_tag|>` or without it;
    /// several are separated by semicolons: Llama 3.
    Llama3,
    /// `[TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]`: Mistral, up to its version 7.
    Mistral,
    /// `[TOOL_CALLS]name[ARGS]{...}`, one a call: Mistral from its version 11 on.
    MistralArgs,
    /// A fenced block `tool_code` or `json` that holds a JSON list of calls, or one: Gemma 3.
    Gemma,
}

impl ToolFormat {
    /// The format that a chat template writes calls in; `None` where it writes none.
    #[must_use]
    pub fn of_template(source: &str) -> Option<ToolFormat> {
        let has = |text| source.contains(text);
        if has("[TOOL_CALLS]") {
            return Some(match has("[ARGS]") {
                true => ToolFormat::MistralArgs,
                false => ToolFormat::Mistral,
            });
        }
        if has("<tool_call>") {
            return Some(ToolFormat::Hermes);
        }
        if has("<|python_tag|>") || has("\"parameters\"") && has("<|start_header_id|>") {
            return Some(ToolFormat::Llama3);
        }
        if has("tool_code") || has("<start_of_turn>") && has("tools") {
            return Some(ToolFormat::Gemma);
        }
        None
    }

    /// What begins a call, and may be a control token.
    pub(super) fn markers(self) -> &'static [&'static str] {
        match self {
            ToolFormat::Hermes => &["<tool_call>", "</tool_call>"],
            ToolFormat::Llama3 => &["<|python_tag|>"],
            ToolFormat::Mistral => &["[TOOL_CALLS]"],
            ToolFormat::MistralArgs => &["[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"],
            ToolFormat::Gemma => &[],
        }
    }

    /// Control tokens of a vocabulary that are part of how calls and thoughts are written: to be given
    /// out as text ([`GenerateOptions::shown_tokens`](crate::GenerateOptions)) to a
    /// [`ReplyParser`](super::ReplyParser).
    #[must_use]
    pub fn shown_tokens(format: Option<ToolFormat>, tokenizer: &Tokenizer) -> Vec<u32> {
        let markers = format.map_or(&[] as &[&str], ToolFormat::markers);
        let texts = markers.iter().chain(&["<think>", "</think>"]);
        let ids = texts.filter_map(|text| tokenizer.token_id(text));
        ids.filter(|&id| tokenizer.is_hidden(id) && !tokenizer.is_eog(id))
            .collect()
    }
}
