//! The command line as scripts see it: the binary, its exit codes, its two streams.
//!
//! Everything here runs the built `gannet`. A test that needs what a machine may lack (a folder of
//! reference data, a machine without a GPU) prints `skipped:` and says why.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

mod errors;
mod evaluate;
mod inspect;
mod malformed;
mod measure;
mod run;
mod support;
mod tools;
