//! What is done with executors besides serving text: comparing, measuring, making models.
//!
//! Executors know nothing of these.

pub mod bench;
pub mod convert;
pub mod eval;
pub mod gate;
pub mod imatrix;
mod notices;
pub(crate) mod open;
pub mod parity;
pub mod quantize;
pub mod synth;
pub mod tune;

pub use open::{Made, make_executor, make_executor_on};
