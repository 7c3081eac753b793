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
mod tune;
mod weights;

use std::sync::Arc;

use crate::Error;
use crate::device::SessionOptions;
use crate::exec::{Buffers, Executor};
use crate::gate::{self, Coverage, Identity, Serving};
use crate::load::{Phase, Span};
use crate::model::Model;

pub use ceiling::measure_read_ceiling;
pub use executor::CudaExecutor;
pub use load::OpeningGpu;
pub use open::{Gpu, target_for};

/// Puts a model on a GPU.
///
/// # Errors
/// [`Error::Cuda`] where no GPU can be used, the model does not fit on it, or the parity gate finds
/// that it computes the model wrongly.
pub fn make(
    model: &Arc<Model>,
    options: &SessionOptions,
    index: usize,
) -> Result<Box<dyn Executor>, Error> {
    let gpu = match &options.gpu {
        Some(opening) if opening.index() == index => opening.wait()?,
        _ => Arc::new(Gpu::open(index, &options.config)?),
    };
    let mut executor = CudaExecutor::new(&gpu, model, options)?;
    let (held, span) = Span::time(Phase::Gate, || {
        // Parity itself is going to compare what has distinct buffers.
        if !options.config.gate || options.buffers == Buffers::Distinct {
            return Ok(());
        }
        let identity = gate_identity(&gpu, model, &executor, options)?;
        let name = &gpu.properties.name;
        gate::at_first_use(model, &mut executor, name, identity.as_ref())
    });
    held?;
    executor.add_span(span);
    Ok(Box::new(executor))
}

/// What the parity gate remembers a pass under; `None` where there is nowhere to remember it.
fn gate_identity(
    gpu: &Gpu,
    model: &Model,
    executor: &CudaExecutor,
    options: &SessionOptions,
) -> Result<Option<Identity>, Error> {
    let config = &options.config;
    let Some(cache_dir) = &config.cache_dir else {
        return Ok(None);
    };
    let limits = executor.limits();
    let serving = Serving {
        machine: gpu.machine(),
        precision: options.precision,
        kv_type: limits.kv_type,
        choices: gpu.profile(config, options.overrides)?.choices(),
        executor: options.executor,
        sampler_on: options.sampler_on,
        coverage: Coverage::of(limits),
    };
    Ok(Some(Identity::new(cache_dir, model, &serving)))
}
