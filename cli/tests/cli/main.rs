//! The command line as scripts see it: the binary, its exit codes, its two streams.
//!
//! Everything here runs the built `gannet`. A test that needs what a machine may lack (a folder of
//! reference data, a machine without a GPU) prints `skipped:` and says why.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]
// Most commands are tried on the model that the binary carries.
#![cfg(feature = "embedded-model")]

mod asked;
mod detokenize;
mod errors;
mod evaluate;
mod files;
mod inspect;
mod malformed;
mod measure;
mod outputs;
mod quantize;
mod run;
mod says;
mod streams;
mod support;
mod template;
mod text;
mod tools;
