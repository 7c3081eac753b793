//! The routes that clients of Anthropic's API ask: `/v1/messages` and its count of tokens.
//!
//! Blocks of content become messages in no dialect ([`content`]), tools and how they are to be used too
//! ([`tools`]); what is sampled and the rest of the body stands in [`request`]. Replies go out as blocks, whole
//! ([`answer`]) or as events ([`stream`]).

mod answer;
mod content;
pub(crate) mod messages;
mod request;
mod stream;
mod tools;
