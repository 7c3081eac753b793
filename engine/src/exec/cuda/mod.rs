//! The CUDA executors: a plan lowered to kernel launches, issued one by one or replayed as a graph.
//!
//! Launches are prepared once for a shape of step: every pointer in them stays where it is for the
//! life of the executor, and every value that changes between steps is read from the step state, a
//! fixed device buffer. Nothing here computes on the CPU.

mod bands;
mod ceiling;
mod decode;
mod executor;
mod load;
mod memory;
mod open;
mod prepare;
mod profile;
mod record;
mod sampler;
mod state;
mod weights;

use std::sync::Arc;

use crate::Error;
use crate::device::SessionOptions;
use crate::exec::Executor;
use crate::model::Model;

pub use ceiling::measure_read_ceiling;
pub use executor::CudaExecutor;
pub use load::OpeningGpu;
pub use open::{Gpu, target_for};

/// Puts a model on a GPU.
///
/// # Errors
/// [`Error::Cuda`] where no GPU can be used, or the model does not fit on it.
pub fn make(
    model: &Arc<Model>,
    options: &SessionOptions,
    index: usize,
) -> Result<Box<dyn Executor>, Error> {
    let gpu = match &options.gpu {
        Some(opening) if opening.index() == index => opening.wait()?,
        _ => Arc::new(Gpu::open(index, &options.config)?),
    };
    Ok(Box::new(CudaExecutor::new(&gpu, model, options)?))
}
