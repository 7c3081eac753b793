//! Typed PTX emitter and kernel library.

pub mod build;
#[cfg(feature = "interp")]
pub mod interp;
pub mod ir;
pub mod kernels;
pub mod op;
pub mod print;
pub mod table;
pub mod target;
mod tidy;
pub mod verify;
