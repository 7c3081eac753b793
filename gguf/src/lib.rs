//! The GGUF container: a zero-copy reader for files from strangers, and a writer.
//!
//! [`Gguf::open`] maps a model file (and the other shards of a split model), validates everything
//! its header claims, and hands out [`Metadata`] and [`TensorInfo`]s that borrow from the map.
//! What the numbers in a tensor mean, and what a model needs, is for other crates to know.
//! [`Writer`] makes such files, streaming tensors that need not fit in memory.
//!
//! ```
//! use gannet_gguf::{Gguf, TensorType, Writer};
//!
//! let mut writer = Writer::new();
//! writer.set("general.architecture", "llama")?;
//! writer.set("llama.block_count", 16u32)?;
//! writer.set_array("tokenizer.ggml.tokens", &["<s>", "hello"])?;
//! writer.tensor("output_norm.weight", &[2], TensorType::F32)?;
//! let mut data = writer.start(Vec::new())?;
//! data.tensor("output_norm.weight", &[0, 0, 128, 63, 0, 0, 0, 64])?;
//! let file = data.finish()?;
//!
//! // `Gguf::open(path)` for a file on disk.
//! let model = Gguf::from_vec("example.gguf", file)?;
//! assert_eq!(model.metadata().str("general.architecture")?, "llama");
//! assert_eq!(model.metadata().u64("llama.block_count")?, 16);
//! assert_eq!(model.metadata().strings("tokenizer.ggml.tokens")?.iter().last(), Some("hello"));
//! let norm = model.tensor("output_norm.weight").expect("written above");
//! assert_eq!((norm.ty, norm.dims.as_slice()), (TensorType::F32, &[2][..]));
//! assert_eq!(model.data(norm).len(), 8);
//! # Ok::<(), gannet_gguf::Error>(())
//! ```
//!
//! Nothing here allocates memory sized by an unchecked number from a file, panics on one, or reads
//! outside it; the tables built for a file stay below its size plus 16 MiB.

mod cursor;
mod error;
mod fault;
mod metadata;
mod parse;
mod reader;
mod shard;
mod source;
mod tensor;
mod value;
mod writer;

pub use error::{Error, shown, shown_path};
pub use fault::exit_on_fault;
pub use metadata::Metadata;
pub use reader::Gguf;
pub use shard::{SPLIT_COUNT_KEY, SPLIT_NO_KEY, SPLIT_TENSORS_KEY, shard_path};
pub use source::MappedFile;
pub use tensor::{MAX_DIMS, MAX_NAME_BYTES, ShapeError, TensorInfo, TensorType};
pub use value::{Array, StringArray, Value, ValueType};
pub use writer::{ArrayElement, DataWriter, Writer};
