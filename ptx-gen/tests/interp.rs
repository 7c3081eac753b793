//! The interpreter against values worked out by hand, and against what a broken kernel must be told.
//!
//! Kernels here are written in the IR itself, so that a mistake in the builder cannot hide one in the interpreter.

#[path = "interp/asm.rs"]
mod asm;
#[path = "interp/built.rs"]
mod built;
#[path = "interp/control.rs"]
mod control;
#[path = "interp/faults.rs"]
mod faults;
#[path = "interp/matrices.rs"]
mod matrices;
#[path = "interp/races.rs"]
mod races;
#[path = "interp/scalar.rs"]
mod scalar;
#[path = "interp/waiting.rs"]
mod waiting;
#[path = "interp/warpwide.rs"]
mod warpwide;
