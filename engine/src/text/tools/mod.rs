//! Replies that call tools: how models of a family write calls, read as they come, and forced.

mod call;
mod format;
mod json;
mod parser;
#[cfg(test)]
mod tests;
mod turn;

pub use format::ToolFormat;
pub use parser::{ReplyParser, ReplyPart};
pub use turn::{ToolChoice, Turn, tool_grammar};
