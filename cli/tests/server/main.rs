//! The server under every trouble, as clients see it: the built `gannet serve` and real sockets.
//!
//! The client is written by hand, so that it can send what no library sends and stop reading wherever it
//! likes. Every row of the table of the server's answers has a test here.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]
// Servers serve the model that the binary carries.
#![cfg(feature = "embedded-model")]

mod busy;
mod cache;
mod client;
mod ends;
mod faults;
mod fuzz;
mod harness;
mod hostile;
mod hosts;
mod keys;
mod leaving;
mod models;
mod origins;
#[path = "../pooled/mod.rs"]
mod pooled;
mod refused;
mod schema;
mod slow;
mod stress;
mod text;
mod vectors;
