//! The kernel library: every kernel a plan is lowered to.
//!
//! A family is one file: a `Spec` struct with every number that the text depends on, and its
//! methods `kernel()` (the PTX), `grid(..)` (the launch), `bytes(..)` and `flops(..)` (what it
//! moves and computes). Activations are f32 and row-major, `[rows, dim]`.

mod add;
mod rms_norm;

use crate::ir::Kernel;
use crate::target::Target;

pub use add::AddSpec;
pub use rms_norm::RmsNormSpec;

/// Representative kernels of every family for a target, in a fixed order with unique names:
/// what golden files, ptxas and the listing on the command line go through.
pub fn library(target: Target) -> Vec<Kernel> {
    let mut kernels = Vec::new();
    kernels.extend(add::representative(target).iter().map(AddSpec::kernel));
    kernels.extend(
        rms_norm::representative(target)
            .iter()
            .map(RmsNormSpec::kernel),
    );
    kernels
}
