//! The lower two of the three layers: `raw` is a table of function pointers, `result` one Rust
//! function per driver call that turns a code into a `Result`.
//!
//! Always holds: a return code is a plain `u32` (never a Rust enum, which an unknown code would
//! make undefined), and a missing symbol is an error value, never a panic.

#[cfg(target_os = "linux")]
mod library;
pub(crate) mod raw;
mod result;
mod result_graph;

pub(crate) use raw::{Api, Handle, sys};
pub(crate) use result_graph::{RawCopy, RawFill, RawLaunch};
