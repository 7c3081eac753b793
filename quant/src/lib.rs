//! Block formats of quantised weights.

pub mod formats;
mod error;
mod matrix;
pub mod random;
mod registry;
pub mod scalar;

pub use error::Error;
pub use matrix::Matrix;
pub use registry::{Format, FormatSpec};
