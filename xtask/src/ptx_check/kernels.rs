//! The kernels to check: the whole library of ptx-gen, for every target it knows.

use gannet_ptx_gen::kernels;
use gannet_ptx_gen::target::Target;

use super::assemble::Source;

/// The text of every kernel for every target it exists on; `Err` when our own verifier refuses one.
pub(super) fn all() -> Result<Vec<Source>, String> {
    let mut sources = Vec::new();
    for target in Target::ALL {
        for kernel in kernels::library(*target) {
            let ptx = kernel
                .ptx()
                .map_err(|e| format!("{} for {target}: {e}", kernel.name))?;
            let target = target.name().to_string();
            sources.push(Source {
                name: kernel.name,
                target,
                ptx,
                dynamic_shared: kernel.dynamic_shared,
            });
        }
    }
    Ok(sources)
}
