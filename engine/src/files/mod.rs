//! Containers of weights: GGUF, which is a crate of its own, and safetensors.

pub mod safetensors;
mod source;

pub use source::{Source, SourceTensor};
