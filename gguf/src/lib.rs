//! The GGUF container: a zero-copy reader for files from strangers, and a writer.
//!
//! [`Gguf::open`] maps a model file (and the other shards of a split model), validates everything
//! its header claims, and hands out [`Metadata`] and [`TensorInfo`]s that borrow from the map.
//! What the numbers in a tensor mean, and what a model needs, is for other crates to know.
//!
//! Nothing here allocates memory sized by an unchecked number from a file, panics on one, or reads
//! outside it; the tables built for a file stay below its size plus 16 MiB.
#![warn(missing_docs)]

mod cursor;
mod error;
mod metadata;
mod parse;
mod reader;
mod shard;
mod source;
mod tensor;
mod value;

pub use error::Error;
pub use metadata::Metadata;
pub use reader::Gguf;
pub use shard::{SPLIT_COUNT_KEY, SPLIT_NO_KEY, SPLIT_TENSORS_KEY, shard_path};
pub use tensor::{MAX_DIMS, MAX_NAME_BYTES, ShapeError, TensorInfo, TensorType};
pub use value::{Array, StringArray, Value, ValueType};
