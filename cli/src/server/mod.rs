//! The HTTP server of `gannet serve`.
//!
//! Routes read their dialect's words into a [`generation::Job`] or a [`conversation::Turn`] and write what
//! comes of it in the same words; nothing else knows dialects. The engine has a thread of its own and hands
//! tokens over without waiting. What goes wrong is an [`error::ApiError`], whose body is written last.

mod admission;
mod anthropic;
mod app;
mod auth;
mod body;
mod connections;
mod controls;
mod conversation;
mod document;
mod error;
pub(crate) mod folder;
mod generation;
mod health;
pub(crate) mod hosts;
mod json;
pub(crate) mod loaded;
mod metrics;
pub(crate) mod models;
mod ollama;
mod openai;
mod page;
pub(crate) mod planted;
mod record;
mod router;
mod run;
mod sse;
mod tokens;
mod vectors;

pub(crate) use app::Config;
pub(crate) use run::{Serving, serve};
