//! `gannet ptx`: the kernels that Gannet writes, as text.
//!
//! The library has representative kernels of every family.

use clap::Args;
use gannet_ptx_gen::ir::Kernel;
use gannet_ptx_gen::target::Target;
use gannet_ptx_gen::kernels;

use crate::console::Console;
use crate::failure::Failure;
use crate::figures;
use crate::table::Table;

/// List the kernels, or print one as PTX
#[derive(Args)]
pub(crate) struct Ptx {
    /// Kernel to print, by name
    #[arg(value_name = "KERNEL")]
    kernel: Option<String>,
    /// GPU to write for
    #[arg(long, value_name = "TARGET", default_value = "sm_90a", value_parser = target)]
    target: Target,
}

fn target(name: &str) -> Result<Target, String> {
    Target::from_name(name).ok_or_else(|| {
        let names: Vec<_> = Target::ALL.iter().map(|t| t.name()).collect();
        format!("expected one of {}", names.join(", "))
    })
}

impl Ptx {
    pub(crate) fn run(self, console: &mut Console) -> Result<(), Failure> {
        let kernels = kernels::library(self.target);
        match &self.kernel {
            None => console.print(&listing(&kernels)),
            Some(name) => match kernels.iter().find(|k| k.name == *name) {
                Some(kernel) => console.print(&kernel.ptx().map_err(Failure::of)?),
                None => Err(Failure::Work(format!(
                    "no kernel {name:?} for {}; `gannet ptx` lists them",
                    self.target
                ))),
            },
        }
    }
}

fn listing(kernels: &[Kernel]) -> String {
    let mut table = Table::new(&["kernel", ">threads", ">shared", ">parameters", "what it does"]);
    for kernel in kernels {
        let (_, shared) = kernel.shared_offsets();
        let what = kernel.doc.lines().map(str::trim).find(|l| !l.is_empty()).unwrap_or("");
        table.row([
            kernel.name.clone(),
            kernel.threads().to_string(),
            figures::bytes(u64::from(shared)),
            kernel.params.len().to_string(),
            what.to_owned(),
        ]);
    }
    table.render()
}
