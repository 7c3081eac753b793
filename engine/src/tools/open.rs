//! Which executor runs a model: the choice of device and its consequences, in one place.
//!
//! `cuda` runs on the GPU or fails and says why. `auto` takes the first GPU that works; only it falls
//! back to the CPU, only where there is no GPU or the model fits on none, and it says so; where a way to
//! launch kernels was named, too, it does not.

use std::sync::Arc;

use super::gate::{self, Coverage, Identity, Serving};
use super::notices::{beside_biases, beyond_trained, of_bytes, on_slower_kernels};
use crate::Error;
use crate::error::{CudaError, NoDevice};
use crate::exec::cpu::CpuExecutor;
use crate::exec::cuda::{CudaExecutor, Gpu};
use crate::exec::{Executor, Opening, faulty, host, limits};
use crate::kv::KvType;
use crate::model::{Model, Phase, Span};
use crate::settings::{Buffers, DeviceChoice, ExecutorChoice, Settings};

/// An executor, and what the user should know about the choice.
pub struct Made {
    /// The executor.
    pub executor: Box<dyn Executor>,
    /// One line, or nothing.
    pub notice: Option<String>,
    /// The index of the GPU that it is on.
    pub gpu: Option<usize>,
}

/// GPUs of a machine that `auto` looks at.
const MAX_GPUS: usize = 64;

/// Makes the executor that the settings name.
///
/// # Errors
/// The device, or an executor that only a GPU has, was asked for by name and cannot be used; a size
/// is out of range; no product has the variant that was asked for; or the model does not fit on the
/// device.
pub fn make_executor(model: &Arc<Model>, settings: &Settings) -> Result<Made, Error> {
    make_executor_on(model, settings, &Opening::default())
}

/// As [`make_executor`], on a device that has been opening meanwhile.
///
/// # Errors
/// As [`make_executor`].
pub fn make_executor_on(
    model: &Arc<Model>,
    settings: &Settings,
    opening: &Opening,
) -> Result<Made, Error> {
    let made = make_with(model, settings, |index| {
        cuda(model, settings, opening, index)
    })?;
    let executor = made.executor.as_ref();
    let notices = [
        made.notice.clone(),
        beyond_trained(model, executor.limits().context),
        beside_biases(executor),
        on_slower_kernels(executor, settings.precision),
        of_bytes(executor, settings.overrides),
    ];
    let notices: Vec<String> = notices.into_iter().flatten().collect();
    Ok(Made {
        notice: (!notices.is_empty()).then(|| notices.join("; ")),
        executor: faulty::plant(made.executor, settings.faults),
        gpu: made.gpu,
    })
}

/// As [`make_executor`], with what puts the model on the GPU of an index.
fn make_with(
    model: &Arc<Model>,
    settings: &Settings,
    mut on_gpu: impl FnMut(usize) -> Result<Box<dyn Executor>, Error>,
) -> Result<Made, Error> {
    settings.overrides.check(model.plan())?;
    let plainly = |executor| Made {
        executor,
        notice: None,
        gpu: None,
    };
    match settings.device {
        DeviceChoice::Cpu => cpu(model, settings).map(plainly),
        DeviceChoice::Cuda(index) => on_gpu(index).map(|executor| Made {
            gpu: Some(index),
            ..plainly(executor)
        }),
        DeviceChoice::Interp => interp(model, settings).map(plainly),
        DeviceChoice::Auto => match first_gpu(on_gpu)? {
            Ok(made) => Ok(made),
            Err(why) if settings.executor != ExecutorChoice::Auto => Err(Error::ExecutorNeedsGpu {
                executor: settings.executor.to_string(),
                source: Box::new(why),
            }),
            Err(why) => Ok(Made {
                notice: Some(instead_of_a_gpu(&why)),
                ..plainly(cpu(model, settings)?)
            }),
        },
    }
}

/// The first GPU that takes the model, or why the CPU is to take it: what is said of the first one.
///
/// # Errors
/// What a GPU failed with that is there and has room.
fn first_gpu(
    mut on_gpu: impl FnMut(usize) -> Result<Box<dyn Executor>, Error>,
) -> Result<Result<Made, Error>, Error> {
    let mut first: Option<Error> = None;
    for index in 0..MAX_GPUS {
        let why = match on_gpu(index) {
            Ok(executor) => {
                let passed = |why| format!("GPU 0 is not in use ({why}); running on cuda:{index}");
                return Ok(Ok(Made {
                    executor,
                    notice: first.map(passed),
                    gpu: Some(index),
                }));
            }
            Err(why) if falls_back(&why) => why,
            Err(why) => return Err(why),
        };
        let others_may_do = is_of_one_gpu(&why);
        first.get_or_insert(why);
        if !others_may_do {
            break;
        }
    }
    Ok(Err(first.unwrap_or(Error::NoDevice(NoDevice::Driver(
        CudaError::NoDevice,
    )))))
}

/// Whether an error is of the GPU that gave it, so that the next may do.
fn is_of_one_gpu(error: &Error) -> bool {
    match error {
        Error::NoDevice(NoDevice::Driver(_)) => false,
        other => falls_back(other),
    }
}

/// What a user is told of a CPU that took over: a driver that is there and does not work is not called a
/// missing GPU.
fn instead_of_a_gpu(why: &Error) -> String {
    let of_driver = match why {
        Error::NoDevice(NoDevice::Driver(why)) => Some(why),
        _ => None,
    };
    let is_absent = |why: &CudaError| {
        use CudaError::{LibraryMissing, NoDevice, NoSuchDevice};
        matches!(why, LibraryMissing | NoDevice | NoSuchDevice { .. })
    };
    match of_driver.is_none_or(is_absent) {
        true => format!("no GPU in use ({why}); running on the CPU"),
        false => format!("the GPU driver does not work ({why}); running on the CPU"),
    }
}

/// Whether `auto` runs on the CPU where a GPU gave this error: where there is no GPU, or one that is
/// too small. Everything else is wrong with the model, the GPU or this crate, and a CPU that took
/// over would hide it.
fn falls_back(error: &Error) -> bool {
    match error {
        Error::NoDevice(_) | Error::DoesNotFit(_) => true,
        Error::Gguf(_)
        | Error::Tokenizer { .. }
        | Error::Safetensors(_)
        | Error::UnsupportedFamily { .. }
        | Error::HyperParameter { .. }
        | Error::Tensor { .. }
        | Error::Unread { .. }
        | Error::Folder { .. }
        | Error::ContextFull { .. }
        | Error::TooLarge { .. }
        | Error::Memory { .. }
        | Error::TokenOutOfRange { .. }
        | Error::Request(_)
        | Error::Variable { .. }
        | Error::Idle { .. }
        | Error::ExecutorNeedsGpu { .. }
        | Error::NotFinite(_)
        | Error::Step(_)
        | Error::Lost(_)
        | Error::Gate(_)
        | Error::Driver { .. }
        | Error::Unsupported { .. }
        | Error::Interp(_)
        | Error::Internal { .. }
        | Error::Grammar(_)
        | Error::Io { .. } => false,
    }
}

/// Puts a model on a GPU.
///
/// # Errors
/// [`Error::NoDevice`], [`Error::DoesNotFit`], [`Error::Gate`] where it computes the model wrongly, or
/// it failed.
fn cuda(
    model: &Arc<Model>,
    settings: &Settings,
    opening: &Opening,
    index: usize,
) -> Result<Box<dyn Executor>, Error> {
    let gpu = opening.gpu(index, &settings.disk_cache)?;
    let mut executor = CudaExecutor::new(&gpu, model, settings)?;
    let (held, span) = Span::time(Phase::Gate, || {
        // Parity itself is going to compare what has distinct buffers.
        if !settings.gate || settings.buffers == Buffers::Distinct {
            return Ok(());
        }
        let identity = gate_identity(&gpu, model, &executor, settings)?;
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
    settings: &Settings,
) -> Result<Option<Identity>, Error> {
    let disk_cache = &settings.disk_cache;
    let Some(folder) = &disk_cache.folder else {
        return Ok(None);
    };
    let limits = executor.limits();
    let serving = Serving {
        machine: gpu.machine(),
        precision: settings.precision,
        batch_invariant: settings.batch_invariant,
        kv_type: limits.kv_type,
        choices: gpu.profile(disk_cache, settings.overrides)?.choices(),
        executor: settings.executor,
        sampler_on: settings.sampler_on,
        coverage: Coverage::of(limits),
    };
    Ok(Some(Identity::new(folder, model, &serving)))
}

fn cpu(model: &Arc<Model>, settings: &Settings) -> Result<Box<dyn Executor>, Error> {
    let limits = limits(model, settings, 256)?;
    let taken = host::Taken {
        kv_type: KvType::F32,
        buffers: settings.buffers,
        copies: 1,
        copies_weights: false,
    };
    host::check(model.plan(), limits, taken)?;
    let (model, precision) = (Arc::clone(model), settings.precision);
    let made = CpuExecutor::new(model, precision, limits, settings.buffers)?;
    Ok(Box::new(made))
}

#[cfg(feature = "interp")]
fn interp(model: &Arc<Model>, settings: &Settings) -> Result<Box<dyn Executor>, Error> {
    let limits = limits(model, settings, 16)?;
    // The interpreter keeps a word beside each word that kernels store.
    let taken = host::Taken {
        kv_type: limits.kv_type,
        buffers: settings.buffers,
        copies: 2,
        copies_weights: true,
    };
    host::check(model.plan(), limits, taken)?;
    let (model, precision) = (Arc::clone(model), settings.precision);
    // A target whose launches overlap, so that what they read early is checked.
    let target = gannet_ptx_gen::target::Target::Sm90a;
    let mut made = crate::exec::interp::InterpExecutor::new(
        model,
        target,
        precision,
        limits,
        settings.buffers,
    )?;
    made.set_faults(settings.faults);
    made.set_overrides(settings.overrides);
    made.set_batch_invariant(settings.batch_invariant);
    made.set_sampler_on(settings.sampler_on);
    Ok(Box::new(made))
}

#[cfg(not(feature = "interp"))]
fn interp(_: &Arc<Model>, _: &Settings) -> Result<Box<dyn Executor>, Error> {
    let why = "this build has no interpreter; build with the feature \"interp\"";
    Err(Error::Request(why.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::error::{DoesNotFit, GateFailure};

    const MODEL: &str = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../cli/models/rustdoc-tiny-Q4_K_M.gguf"
    );

    /// What can be wrong with a GPU: whether the CPU takes over, and what its line says.
    fn planted() -> Vec<(Error, bool, &'static str)> {
        let small = DoesNotFit {
            weights_mib: 900,
            cache_mib: 64,
            positions: 4096,
            workspace_mib: 10,
            free_mib: 100,
            largest_context: None,
        };
        let old = NoDevice::TooOld {
            name: "a GPU".to_owned(),
            capability: (7, 0),
        };
        let behind = NoDevice::DriverTooOld {
            name: "a GPU".to_owned(),
            served: (12, 2),
            ptx: "8.7".to_owned(),
        };
        let busy = NoDevice::Busy {
            name: "a GPU".to_owned(),
            source: CudaError::NoDevice,
        };
        let no_driver = NoDevice::Driver(CudaError::LibraryMissing);
        let broken = NoDevice::Driver(CudaError::LibraryBroken {
            why: "libcuda.so.1: file too short".to_owned(),
        });
        let stub = NoDevice::Driver(CudaError::Driver(gannet_cuda_runtime::DriverError {
            code: 34,
            name: "CUDA_ERROR_STUB_LIBRARY".to_owned(),
            text: "a stub".to_owned(),
            call: "cuInit",
        }));
        let past_the_end = NoDevice::Driver(CudaError::NoSuchDevice { index: 9, count: 1 });
        let wrong = GateFailure {
            device: "a GPU".to_owned(),
            unit: "matmul".to_owned(),
            buffer: "logits".to_owned(),
            step: "first use".to_owned(),
            against: "the CPU".to_owned(),
            nmse: 1.0,
            limit: 1e-6,
        };
        let shape = Error::Unsupported {
            what: "attention of layer 0".to_owned(),
            why: "heads of 7".to_owned(),
        };
        let failed = CudaError::Invalid {
            what: "a copy",
            reason: "planted".to_owned(),
        };
        let file = Error::Io {
            file: PathBuf::from("profile.json"),
            source: std::io::ErrorKind::NotFound.into(),
        };
        vec![
            (Error::NoDevice(no_driver), true, "525 or newer"),
            (Error::NoDevice(broken), true, "file too short"),
            (Error::NoDevice(stub), true, "cuInit"),
            (Error::NoDevice(past_the_end), true, "there are 1"),
            (Error::NoDevice(old), true, "7.5 or newer"),
            (Error::NoDevice(behind), true, "PTX 8.7"),
            (Error::NoDevice(busy), true, "end what uses it"),
            (Error::DoesNotFit(small), true, "weights 900 MiB"),
            (Box::new(wrong).into(), false, "--device cpu"),
            (CudaError::from(driver_error()).into(), false, "(700)"),
            (failed.into(), false, "a copy: planted"),
            (Error::internal("planted"), false, "bug in gannet"),
            (shape, false, "--device cpu"),
            (Error::Interp("planted".to_owned()), false, "interp: "),
            (Error::Request("planted".to_owned()), false, "planted"),
            (file, false, "profile.json"),
        ]
    }

    fn driver_error() -> gannet_cuda_runtime::DriverError {
        gannet_cuda_runtime::DriverError {
            code: 700,
            name: "CUDA_ERROR_ILLEGAL_ADDRESS".to_owned(),
            text: "an illegal memory access".to_owned(),
            call: "cuStreamSynchronize",
        }
    }

    fn settings(device: DeviceChoice) -> Settings {
        Settings {
            device,
            context: Some(16),
            ..Settings::default()
        }
    }

    /// What follows the last GPU.
    fn no_more(index: usize) -> Error {
        let count = index;
        Error::NoDevice(NoDevice::Driver(CudaError::NoSuchDevice { index, count }))
    }

    #[test]
    fn auto_runs_on_the_cpu_where_there_is_no_gpu_or_too_small_a_one_and_nowhere_else() {
        let model = Arc::new(Model::open(MODEL).unwrap());
        for (error, taken_over, text) in planted() {
            let line = error.to_string();
            assert!(line.contains(text) && !line.contains('\n'), "{line}");
            let is_broken = line.contains("broken") || line.contains("cuInit");
            let mut only = Some(error);
            let made = make_with(&model, &settings(DeviceChoice::Auto), |index| {
                Err(only.take().unwrap_or_else(|| no_more(index)))
            });
            match made {
                Ok(made) => {
                    assert!(taken_over, "{line}");
                    assert_eq!(made.executor.kind().to_string(), "cpu");
                    assert_eq!(made.gpu, None);
                    let what = match is_broken {
                        true => "the GPU driver does not work",
                        false => "no GPU in use",
                    };
                    let expected = format!("{what} ({line}); running on the CPU");
                    assert_eq!(made.notice, Some(expected));
                }
                Err(found) => {
                    assert!(!taken_over, "{line}");
                    assert_eq!(found.to_string(), line);
                }
            }
        }
    }

    /// One after the other, until one takes the model or fails with what no other is to hide.
    #[test]
    fn auto_takes_the_first_gpu_that_works() {
        let model = Arc::new(Model::open(MODEL).unwrap());
        let auto = settings(DeviceChoice::Auto);
        for (error, taken_over, _) in planted() {
            let line = error.to_string();
            let others_may_do = is_of_one_gpu(&error);
            let (mut only, mut asked) = (Some(error), Vec::new());
            let made = make_with(&model, &auto, |index| {
                asked.push(index);
                match (index, only.take()) {
                    (0, Some(error)) => Err(error),
                    (2, _) => cpu(&model, &auto),
                    (index, _) => Err(Error::NoDevice(NoDevice::TooOld {
                        name: format!("GPU {index}"),
                        capability: (6, 1),
                    })),
                }
            });
            match made {
                Ok(made) if others_may_do => {
                    assert_eq!((&asked[..], made.gpu), (&[0, 1, 2][..], Some(2)));
                    let expected = format!("GPU 0 is not in use ({line}); running on cuda:2");
                    assert_eq!(made.notice, Some(expected));
                }
                Ok(made) => assert_eq!((taken_over, made.gpu, &asked[..]), (true, None, &[0][..])),
                Err(_) => assert_eq!((taken_over, &asked[..]), (false, &[0][..])),
            }
        }
    }

    #[test]
    fn a_gpu_by_name_or_an_executor_by_name_is_never_replaced() {
        let model = Arc::new(Model::open(MODEL).unwrap());
        for (error, taken_over, _) in planted() {
            let line = error.to_string();
            let mut named = settings(DeviceChoice::Auto);
            named.executor = ExecutorChoice::Graph;
            let mut only = Some(error);
            let fails = |index| Err(only.take().unwrap_or_else(|| no_more(index)));
            match make_with(&model, &named, fails).err() {
                Some(Error::ExecutorNeedsGpu { executor, source }) => {
                    assert!(taken_over && executor == "graph");
                    assert_eq!(source.to_string(), line);
                }
                found => assert_eq!(
                    (taken_over, found.map(|e| e.to_string())),
                    (false, Some(line))
                ),
            }
        }
        for (error, ..) in planted() {
            let line = error.to_string();
            let mut only = Some(error);
            let made = make_with(&model, &settings(DeviceChoice::Cuda(3)), |index| {
                assert_eq!(index, 3);
                Err(only.take().unwrap())
            });
            assert_eq!(made.err().map(|e| e.to_string()), Some(line));
        }
    }
}
