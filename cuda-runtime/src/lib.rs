//! The CUDA driver, safely: device, memory, PTX modules, checked launches, graphs.
//!
//! For someone with PTX text and no CUDA toolkit. libcuda is looked for at run time; a machine
//! without it gets an error value, never a panic, and the crate builds anywhere.
//!
//! ```
//! use gannet_cuda_runtime::Driver;
//!
//! match Driver::load() {
//!     Ok(driver) => {
//!         for i in 0..driver.device_count()? {
//!             let properties = driver.device(i)?.properties()?;
//!             println!("{i}: {} ({} MiB)", properties.name, properties.total_memory >> 20);
//!         }
//!     }
//!     Err(why) => println!("no GPU: {why}"),
//! }
//! # Ok::<(), gannet_cuda_runtime::Error>(())
//! ```
//!
//! Adding two vectors, from PTX to result:
//!
//! ```no_run
//! use gannet_cuda_runtime::*;
//!
//! # fn main() -> Result<(), Error> {
//! # let ptx = "";
//! let context = Context::new(Driver::load()?.device(0)?)?;
//! let stream = Stream::new(&context)?;
//! let source = ModuleSource { name: "add", ptx, target: "sm_80" };
//! let module = Module::load(&context, source, &CubinCache::disabled())?;
//! let kernel = module.kernel(&KernelSignature {
//!     name: "add".into(),
//!     params: vec![ParamSpec::pointer("x"), ParamSpec::pointer("y"), ParamSpec::scalar("n", 4)],
//!     block: [256, 1, 1],
//!     dynamic_shared: 0,
//! })?;
//! let arena = Arena::new(&context, 1 << 20)?;
//! let (x, y) = (arena.alloc(4096, 256)?, arena.alloc(4096, 256)?);
//! stream.copy_to_device(&x, 0, &[0; 4096])?;
//! stream.memset_d32(&y, 0)?;
//! let args = Args::for_kernel(&kernel).ptr(&x).ptr(&y).u32(1024).finish()?;
//! let launch = Launch::new(&kernel, [4, 1, 1], args);
//! stream.launch(&launch)?; // now, or a thousand times with one call each:
//! let mut graph = GraphBuilder::new(&context)?;
//! graph.chain(&[launch.clone(), launch])?;
//! let graph = graph.instantiate()?;
//! for _ in 0..1000 {
//!     graph.launch(&stream)?;
//! }
//! let mut out = [0; 4096];
//! stream.copy_from_device(&y, 0, &mut out)?;
//! # Ok(())
//! # }
//! ```
//!
//! # What is checked, and what is not
//!
//! Handles, lifetimes, ranges, argument counts and sizes, launch shapes and threads are checked or
//! ruled out by types. What PTX does on the device is not: a kernel that writes outside its buffers
//! can damage other device memory and pinned memory, or end the context with an error that
//! [`Error::is_fatal`] reports. [`Arena::debug`] helps to find such kernels.
//!
//! # Layers
//!
//! `ffi::raw` is the table of functions, looked up one by one; `ffi::result` turns codes into
//! [`DriverError`]; everything public is the safe layer above. `unsafe` is found where the driver
//! is called and nowhere else: argument packing, layouts, the cache and error reports have none.

mod arena;
mod args;
mod cache;
mod capture;
mod context;
mod copy;
mod driver;
mod error;
mod ffi;
mod graph;
mod jit;
mod kernel;
mod launch;
mod memory;
mod module;
mod pinned;
mod stats;
mod stream;
mod upload;

pub use arena::Arena;
pub use args::{Args, PackedArgs};
pub use cache::CubinCache;
pub use capture::Capture;
pub use context::Context;
pub use driver::{Device, DeviceProperties, Driver};
pub use error::{DriverError, Error};
pub use graph::{GraphBuilder, GraphExec, GraphNode};
pub use jit::JitError;
pub use kernel::{KernelAttributes, KernelSignature, LoadedKernel, ParamSpec};
pub use launch::Launch;
pub use memory::{Buffer, DeviceBuffer};
pub use module::{Module, ModuleSource};
pub use pinned::PinnedBuffer;
pub use stats::Statistics;
pub use stream::{DeviceEvent, Stream};
pub use upload::{Staging, Upload, Uploader, UploaderConfig};

/// Everything public may cross threads; a change that breaks this fails to compile.
const _: () = {
    const fn check<T: Send + Sync>() {}
    check::<(
        Driver,
        Device,
        Context,
        Stream,
        DeviceEvent,
        Buffer,
        Arena,
        PinnedBuffer,
        Uploader,
    )>();
    check::<(
        Module,
        LoadedKernel,
        Args,
        PackedArgs,
        Launch,
        GraphBuilder,
        GraphExec,
        Capture,
        Error,
    )>();
};
