//! The paged cache of keys and values: what its elements are and how a step writes them.

mod kv_type;
pub(super) mod kv_write;

pub use kv_type::KvType;
pub use kv_write::KvWriteSpec;
