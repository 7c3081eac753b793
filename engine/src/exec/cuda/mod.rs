//! The CUDA executors: a plan lowered to kernel launches, issued one by one or replayed as a graph.
//!
//! Launches are prepared once for a class of shapes: every pointer in them stays where it is for the
//! life of the executor, and every value that changes between steps is read from the step state, a
//! fixed device buffer. Nothing here computes on the CPU.

mod bands;
mod blocks;
mod ceiling;
mod decode;
mod executor;
mod load;
mod memory;
mod open;
mod prepare;
mod queue;
mod rank;
mod record;
mod replays;
mod ring;
mod sampler;
mod staging;
mod state;
mod timing;
mod trial;
mod weights;

pub use ceiling::measure_read_ceiling;
pub use executor::CudaExecutor;
pub use load::OpeningGpu;
pub use open::Gpu;
pub(crate) use trial::{Trial, Trials};
