//! Containers of weights besides GGUF, which is a crate of its own.

pub mod safetensors;
