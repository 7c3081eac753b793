//! The CUDA executors: a plan lowered to kernel launches, issued one by one or replayed as a graph.
use std::sync::Arc;

use crate::Error;
use crate::device::SessionOptions;
use crate::exec::Executor;
use crate::model::Model;

/// Puts a model on a GPU.
///
/// # Errors
/// [`Error::Cuda`] where no GPU can be used, or the model does not fit on it.
pub fn make(
    _model: &Arc<Model>,
    _options: &SessionOptions,
    _index: usize,
) -> Result<Box<dyn Executor>, Error> {
    gannet_cuda_runtime::Driver::load()?;
    Err(Error::Cuda("being written".to_owned()))
}

/// Bytes a second that a plain read of device memory reaches.
///
/// # Errors
/// No GPU can be used.
pub fn measure_read_ceiling(_index: usize, _config: &crate::config::Config) -> Result<f64, Error> {
    gannet_cuda_runtime::Driver::load()?;
    Err(Error::Cuda("being written".to_owned()))
}
