//! Typed PTX emitter and kernel library.

pub mod ir;
pub mod op;
pub mod target;
