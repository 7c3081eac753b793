//! Which executor runs a model: the choice of device and its consequences, in one place.
//!
//! `cuda` runs on the GPU or fails and says why. Only `auto` falls back to the CPU, and it says so;
//! where a way to launch kernels was named, too, it does not.

use std::sync::Arc;

use super::gate::{self, Coverage, Identity, Serving};
use crate::Error;
use crate::exec::cpu::CpuExecutor;
use crate::exec::cuda::{CudaExecutor, Gpu};
use crate::exec::{Executor, Opening, host, limits};
use crate::kv::KvType;
use crate::model::{Model, Phase, Span};
use crate::settings::{Buffers, DeviceChoice, ExecutorChoice, SessionOptions};

/// An executor, and what the user should know about the choice.
pub struct Made {
    /// The executor.
    pub executor: Box<dyn Executor>,
    /// One line, or nothing.
    pub notice: Option<String>,
}

/// Makes the executor that the options name.
///
/// # Errors
/// The device, or an executor that only a GPU has, was asked for by name and cannot be used; a size
/// is out of range; no product has the variant that was asked for; or the model does not fit on the
/// device.
pub fn make_executor(model: &Arc<Model>, options: &SessionOptions) -> Result<Made, Error> {
    make_executor_on(model, options, &Opening::default())
}

/// As [`make_executor`], on a device that has been opening meanwhile.
///
/// # Errors
/// As [`make_executor`].
pub fn make_executor_on(
    model: &Arc<Model>,
    options: &SessionOptions,
    opening: &Opening,
) -> Result<Made, Error> {
    options.overrides.check(model.plan())?;
    let plainly = |executor| Made {
        executor,
        notice: None,
    };
    match options.device {
        DeviceChoice::Cpu => cpu(model, options).map(plainly),
        DeviceChoice::Cuda(index) => cuda(model, options, opening, index).map(plainly),
        DeviceChoice::Interp => interp(model, options).map(plainly),
        DeviceChoice::Auto => match cuda(model, options, opening, 0) {
            Ok(executor) => Ok(plainly(executor)),
            Err(Error::Cuda(why)) if options.executor != ExecutorChoice::Auto => {
                let executor = options.executor;
                Err(Error::Cuda(format!(
                    "executor {executor} needs a GPU, and none can be used ({why}); without it \
                     device auto runs on the CPU"
                )))
            }
            Err(Error::Cuda(why)) => Ok(Made {
                executor: cpu(model, options)?,
                notice: Some(format!("no GPU in use ({why}); running on the CPU")),
            }),
            Err(other) => Err(other),
        },
    }
}

/// Puts a model on a GPU.
///
/// # Errors
/// [`Error::Cuda`] where no GPU can be used, the model does not fit on it, or the parity gate finds
/// that it computes the model wrongly.
fn cuda(
    model: &Arc<Model>,
    options: &SessionOptions,
    opening: &Opening,
    index: usize,
) -> Result<Box<dyn Executor>, Error> {
    let gpu = opening.gpu(index, &options.config)?;
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

fn cpu(model: &Arc<Model>, options: &SessionOptions) -> Result<Box<dyn Executor>, Error> {
    let limits = limits(model, options, 256)?;
    host::check(model.plan(), limits, KvType::F32, 1)?;
    let (model, precision) = (Arc::clone(model), options.precision);
    let made = CpuExecutor::new(model, precision, limits, options.buffers)?;
    Ok(Box::new(made))
}

#[cfg(feature = "interp")]
fn interp(model: &Arc<Model>, options: &SessionOptions) -> Result<Box<dyn Executor>, Error> {
    let limits = limits(model, options, 16)?;
    // The interpreter keeps a word beside each word that kernels store.
    host::check(model.plan(), limits, limits.kv_type, 2)?;
    let (model, precision) = (Arc::clone(model), options.precision);
    // A target whose launches overlap, so that what they read early is checked.
    let target = gannet_ptx_gen::target::Target::Sm90a;
    let mut made = crate::exec::interp::InterpExecutor::new(
        model,
        target,
        precision,
        limits,
        options.buffers,
    )?;
    made.set_faults(options.faults);
    made.set_overrides(options.overrides);
    made.set_sampler_on(options.sampler_on);
    Ok(Box::new(made))
}

#[cfg(not(feature = "interp"))]
fn interp(_: &Arc<Model>, _: &SessionOptions) -> Result<Box<dyn Executor>, Error> {
    let why = "this build has no interpreter; build with the feature \"interp\"";
    Err(Error::Interp(why.to_owned()))
}
