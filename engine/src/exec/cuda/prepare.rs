//! From a lowered step to launches with addresses: kernels compiled, arguments packed.

use std::borrow::Cow;

use gannet_cuda_runtime::{
    Args, Buffer, KernelSignature, Launch, LoadedKernel, Module, ModuleSource, PackedArgs,
    ParamSpec,
};
use gannet_ptx_gen::ir::Kernel as PtxKernel;
use rayon::prelude::*;

use super::open::Gpu;
use super::state::StepState;
use crate::error::{CudaError, Error, NoDevice};
use crate::exec::addresses::{Addresses, Passed};
use crate::exec::packed::place;
use crate::lower::{Arg, KernelSpec, Lowered, Named, Shape};
use crate::plan::Plan;

/// The step of a class of shapes, ready to issue.
pub(super) struct Prepared {
    pub(super) lowered: Lowered,
    /// Those of the shape that it was lowered for.
    pub(super) launches: Vec<Launch>,
    /// Memory of each buffer of the plan in that shape; `None` where fusion never makes it.
    pub(super) buffers: Vec<Option<Buffer>>,
}

impl Prepared {
    /// A launch in a step of a shape of the class: of the same memory, over that step's rows.
    pub(super) fn launch(&self, index: usize, shape: Shape) -> Result<Cow<'_, Launch>, Error> {
        let launch = &self.launches[index];
        if shape == self.lowered.shape {
            return Ok(Cow::Borrowed(launch));
        }
        let planned = &self.lowered.launches[index];
        let mut launch = launch.clone();
        launch.grid = self.lowered.grid(planned, shape);
        for (i, arg) in planned.args.iter().enumerate() {
            if let Arg::Count(count) = arg {
                launch.args.set_u32(i, count.of(shape))?;
            }
        }
        Ok(Cow::Owned(launch))
    }
}

/// Device memory that launches name besides the step's buffers.
pub(super) struct Memory {
    pub(super) weights: Vec<Buffer>,
    pub(super) ropes: Vec<Buffer>,
    pub(super) keys: Vec<Buffer>,
    pub(super) values: Vec<Buffer>,
    /// Shared by the buffers of every shape that fits.
    pub(super) workspace: Buffer,
    pub(super) scratch: Buffer,
    /// [`Arg::Counters`].
    pub(super) counters: Buffer,
}

/// Compiled kernels, each once.
#[derive(Default)]
pub(super) struct Kernels {
    compiled: Vec<(KernelSpec, LoadedKernel)>,
}

impl Kernels {
    /// Writes and compiles what is not compiled yet, on all cores.
    pub(super) fn compile(&mut self, gpu: &Gpu, specs: &[KernelSpec]) -> Result<(), Error> {
        let missing: Vec<&KernelSpec> = specs
            .iter()
            .filter(|spec| self.compiled.iter().all(|(known, _)| known != *spec))
            .collect();
        let compiled = missing
            .into_par_iter()
            .map(|spec| Ok((spec.clone(), compile(gpu, &spec.kernel())?)))
            .collect::<Result<Vec<_>, Error>>()?;
        self.compiled.extend(compiled);
        Ok(())
    }

    /// The compiled kernel of a spec.
    pub(super) fn get(&self, spec: &KernelSpec) -> Result<&LoadedKernel, Error> {
        let found = self.compiled.iter().find(|(known, _)| known == spec);
        found
            .map(|(_, kernel)| kernel)
            .ok_or_else(|| Error::internal(format!("{spec:?} was not compiled")))
    }
}

/// Compiles one kernel.
pub(super) fn compile(gpu: &Gpu, kernel: &PtxKernel) -> Result<LoadedKernel, Error> {
    let ptx = kernel
        .ptx()
        .map_err(|e| Error::internal(format!("kernel {}: {e}", kernel.name.as_str())))?;
    // `launch_of` counts on it.
    if gpu.target.has_hopper() && !kernel.starts_early() {
        let name = kernel.name.as_str();
        return Err(Error::internal(format!(
            "kernel {name} does not wait for the launch in front of it"
        )));
    }
    let target = gpu.target.to_string();
    let source = ModuleSource {
        name: kernel.name.as_str(),
        ptx: &ptx,
        target: &target,
    };
    let module = Module::load(&gpu.context, source, &gpu.cache)
        .map_err(|error| not_loaded(error, gpu, &ptx))?;
    let params = kernel
        .params
        .iter()
        .map(|p| ParamSpec::scalar(p.name.clone(), p.bytes() as usize))
        .collect();
    Ok(module.kernel(&KernelSignature {
        name: kernel.name.clone(),
        params,
        block: kernel.block_size,
        dynamic_shared: kernel.dynamic_shared,
    })?)
}

/// `CUDA_ERROR_UNSUPPORTED_PTX_VERSION`.
const PTX_TOO_NEW: u32 = 222;

/// Why a kernel's module was not loaded: the driver is older than the text, or something is wrong.
fn not_loaded(source: CudaError, gpu: &Gpu, ptx: &str) -> Error {
    let too_new = source.driver_error().is_some_and(|e| e.code == PTX_TOO_NEW);
    if !too_new {
        return Error::Driver { source };
    }
    let version = ptx.lines().find_map(|line| line.strip_prefix(".version "));
    Error::NoDevice(NoDevice::DriverTooOld {
        name: gpu.properties.name.clone(),
        served: gpu.driver,
        ptx: version.unwrap_or_default().trim().to_owned(),
    })
}

/// Packs a lowered step's arguments.
pub(super) fn prepare(
    gpu: &Gpu,
    plan: &Plan,
    kernels: &mut Kernels,
    memory: &Memory,
    state: &StepState,
    lowered: Lowered,
) -> Result<Prepared, Error> {
    kernels.compile(gpu, &lowered.kernels)?;
    let compiled: Vec<&LoadedKernel> = lowered
        .kernels
        .iter()
        .map(|k| kernels.get(k))
        .collect::<Result<_, _>>()?;
    let buffers = allocate(gpu, plan, &lowered, &memory.workspace)?;
    let scratch = if lowered.scratch_bytes <= memory.scratch.len() {
        memory.scratch.clone()
    } else {
        Buffer::new(&gpu.context, lowered.scratch_bytes)?
    };
    let addresses = Addresses {
        plan,
        shape: lowered.shape,
        inputs: &state.inputs,
        weights: &memory.weights,
        ropes: &memory.ropes,
        keys: &memory.keys,
        values: &memory.values,
        buffers: &buffers,
        scratch: &scratch,
        counters: &memory.counters,
    };
    let launches = lowered
        .launches
        .iter()
        .map(|launch| {
            let kernel = compiled[launch.kernel];
            let mut args = Args::for_kernel(kernel);
            for &arg in &launch.args {
                args = match addresses.of(arg)? {
                    Passed::Pointer(buffer) => args.ptr(buffer),
                    Passed::Number(n) => args.u32(n),
                };
            }
            let grid = lowered.grid(launch, lowered.shape);
            Ok(launch_of(gpu, kernel, grid, args.finish()?))
        })
        .collect::<Result<Vec<_>, Error>>()?;
    Ok(Prepared {
        lowered,
        launches,
        buffers,
    })
}

/// The arguments of a kernel that is no part of a plan, by the names of its parameters; `n` is what it is
/// over, if it takes that.
pub(super) fn args_by_name(
    spec: &KernelSpec,
    kernel: &LoadedKernel,
    given: &Named<&Buffer>,
    n: Option<u32>,
) -> Result<PackedArgs, Error> {
    let buffers = given.clone().map(Passed::Pointer);
    let given = match n {
        Some(n) => buffers.with("n", Passed::Number(n)),
        None => buffers,
    };
    let args = given.bind(spec)?.into_iter();
    let args = args.fold(Args::for_kernel(kernel), |args, passed| match passed {
        Passed::Pointer(buffer) => args.ptr(buffer),
        Passed::Number(n) => args.u32(n),
    });
    Ok(args.finish()?)
}

/// A launch of a kernel of ours. Where launches may overlap, it starts before the one in front of it
/// has finished: every kernel written for such a GPU waits by itself.
pub(super) fn launch_of(
    gpu: &Gpu,
    kernel: &LoadedKernel,
    grid: [u32; 3],
    args: PackedArgs,
) -> Launch {
    let launch = Launch::new(kernel, grid, args);
    match gpu.target.has_hopper() {
        true => launch.programmatic(),
        false => launch,
    }
}

/// Lays the buffers out in the workspace, or in memory of their own where they do not fit.
fn allocate(
    gpu: &Gpu,
    plan: &Plan,
    lowered: &Lowered,
    workspace: &Buffer,
) -> Result<Vec<Option<Buffer>>, Error> {
    let (places, total) = place(plan, lowered);
    let memory = if total <= workspace.len() {
        workspace.clone()
    } else {
        Buffer::new(&gpu.context, total)?
    };
    places
        .into_iter()
        .map(|p| {
            Ok(p.map(|(start, len)| memory.slice(start..start + len))
                .transpose()?)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use gannet_ptx_gen::target::Target;

    use super::*;

    #[test]
    fn a_kernel_that_was_not_compiled_is_a_broken_invariant() {
        let spec = KernelSpec::from(super::super::decode::advance(Target::Sm80, 1, 16, true));
        let error = Kernels::default().get(&spec).err().unwrap();
        assert!(matches!(error, Error::Internal { .. }), "{error}");
        assert!(error.to_string().contains("was not compiled"), "{error}");
    }
}
