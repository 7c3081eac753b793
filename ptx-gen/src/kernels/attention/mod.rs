//! Attention over a paged cache: of few rows, of a whole prompt, and the merge of partial results.
//!
//! Which kernel serves which step:
//!
//! | kernel | rows | products |
//! |---|---|---|
//! | [`AttentionSpec`] | few, of any slots | f32 |
//! | [`AttentionDecodeSpec`] | few, of any slots | tensor cores, from Ampere on |
//! | [`AttentionFlashSpec`] | many consecutive ones of a slot | tensor cores |
//! | [`AttentionMergeSpec`] | those of the first two, where keys are divided | f32 |

mod common;
pub(super) mod decode;
mod decode_block;
mod decode_queries;
mod decode_tiles;
pub(super) mod flash;
mod flash_rows;
mod flash_tiles;
pub(super) mod merge;
pub(super) mod plain;
mod plain_pools;
mod shape;

pub use decode::AttentionDecodeSpec;
pub use flash::AttentionFlashSpec;
pub use merge::AttentionMergeSpec;
pub use plain::AttentionSpec;
pub use shape::AttentionShape;
