//! Published clients of other servers, unchanged, against `gannet serve`.
//!
//! Each test starts servers of the embedded model on the CPU and runs a script beside this file with a client
//! of the field: the Python packages `openai`, `anthropic` and `ollama`, the npm packages `openai` and
//! `@anthropic-ai/sdk`. A script fails by an exit code other than 0 and says why. Where the interpreter or the
//! package is missing, the test is skipped. `GANNET_PYTHON` names another Python; Node finds packages by
//! `NODE_PATH`.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

mod interpreters;
#[path = "../pooled/mod.rs"]
mod pooled;
mod scripts;
mod server;
