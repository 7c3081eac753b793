//! GPU kernels as Rust functions: a typed PTX emitter, its verifier and printer, an interpreter
//! that runs the same kernels on the CPU, and a library of inference kernels.
//!
//! No CUDA toolkit is involved: PTX is text, and the NVIDIA driver compiles it. A kernel is
//! written against the [`build`]er (whose page is the guide for kernel authors), becomes plain
//! data ([`ir::Kernel`]), is checked by the [`verify`]er and printed by [`print`](mod@print):
//!
//! ```
//! use gannet_ptx_gen::{ir::Kernel, target::Target};
//!
//! // out[0] = the sum of 256 numbers, by one block.
//! let kernel = Kernel::new("sum_256", Target::Sm80, |k| {
//!     k.block_size(256);
//!     let (x, out) = (k.input::<f32>("x"), k.output::<f32>("out"));
//!     let sum = k.block_sum(x.load(k.thread_x()));
//!     k.if_(k.thread_x().eq(0), || out.store(0, sum));
//! });
//! let ptx = kernel.ptx()?;
//! assert!(ptx.contains(".target sm_80") && ptx.contains(".visible .entry sum_256("));
//!
//! // A barrier that only some threads reach would hang a GPU; it does not get that far.
//! let wrong = Kernel::new("wrong", Target::Sm80, |k| {
//!     k.block_size(256);
//!     k.if_(k.thread_x().lt(100), || k.barrier());
//! });
//! assert!(wrong.ptx().is_err());
//! # Ok::<(), gannet_ptx_gen::verify::Error>(())
//! ```
//!
//! # What always holds
//!
//! * Text is a pure function of the kernel, and a kernel of its spec and target: equal specs
//!   give equal bytes, so compiled kernels can be cached by their text.
//! * A kernel declares the lowest PTX version that its target and instructions allow.
//! * Every instruction has one row in the [`table`]; printer and verifier know no other source.
//! * The crate has no `unsafe`, loads no driver, and knows nothing of model files.

pub mod build;
#[cfg(feature = "interp")]
pub mod conformance;
#[cfg(feature = "interp")]
pub mod interp;
pub mod ir;
pub mod kernels;
pub mod op;
pub mod print;
pub mod table;
pub mod target;
mod tidy;
pub mod verify;
