//! Chat templates: those that files carry, held to Python's jinja2, and what hostile ones can do.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

mod hostile;
mod oracle;
mod reads;
mod support;
