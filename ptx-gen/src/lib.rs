//! Typed PTX emitter and kernel library.
