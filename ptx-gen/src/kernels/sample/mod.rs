//! What follows the logits of a step: choosing tokens, and feeding them back into the step state.

pub(super) mod advance;
pub(super) mod argmax;
mod draw;
pub(super) mod feed;
mod filter;
pub mod math;
mod penalties;
mod row;
pub(super) mod sampler;

pub use advance::AdvanceSpec;
pub use argmax::ArgmaxSpec;
pub use feed::FeedSpec;
pub use row::NO_TOKEN;
pub use sampler::{SampleParams, SampleSpec};
