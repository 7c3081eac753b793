//! Which executor runs a model: the choice of device and its consequences, in one place.
//!
//! `cuda` runs on the GPU or fails and says why. Only `auto` falls back to the CPU, and it says so;
//! where a way to launch kernels was named, too, it does not.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::Error;
use crate::config::Config;
use crate::exec::cpu::CpuExecutor;
use crate::exec::cuda::OpeningGpu;
use crate::exec::{Buffers, Executor, Faults, Limits, Precision, host};
use crate::kv::{BlockTable, KvType};
use crate::model::Model;
use crate::profile::Overrides;

/// `--device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first GPU that works, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A GPU by index.
    Cuda(usize),
    /// The kernels of a GPU, interpreted on the CPU.
    Interp,
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "auto" => Ok(DeviceChoice::Auto),
            "cpu" => Ok(DeviceChoice::Cpu),
            "cuda" => Ok(DeviceChoice::Cuda(0)),
            "interp" => Ok(DeviceChoice::Interp),
            _ => s
                .strip_prefix("cuda:")
                .and_then(|n| n.parse().ok())
                .map(DeviceChoice::Cuda)
                .ok_or_else(|| {
                    format!("{s:?} is not a device; expected auto, cpu, cuda, cuda:N or interp")
                }),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Auto => write!(f, "auto"),
            DeviceChoice::Cpu => write!(f, "cpu"),
            DeviceChoice::Cuda(n) => write!(f, "cuda:{n}"),
            DeviceChoice::Interp => write!(f, "interp"),
        }
    }
}

/// `--executor`: how launches reach a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExecutorChoice {
    /// A graph; one launch after the other where it can't be built, said once.
    #[default]
    Auto,
    /// One launch after the other.
    Eager,
    /// A graph of kernel nodes, replayed for every step.
    Graph,
    /// A graph recorded by capturing a stream, replayed for every step.
    Capture,
}

impl ExecutorChoice {
    /// The values of `--executor`, for messages.
    pub const NAMES: &str = "auto, eager, graph or capture";
}

impl FromStr for ExecutorChoice {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "auto" => Ok(ExecutorChoice::Auto),
            "eager" => Ok(ExecutorChoice::Eager),
            "graph" => Ok(ExecutorChoice::Graph),
            "capture" => Ok(ExecutorChoice::Capture),
            _ => {
                let names = ExecutorChoice::NAMES;
                Err(format!("{s:?} is not an executor; expected {names}"))
            }
        }
    }
}

impl fmt::Display for ExecutorChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ExecutorChoice::Auto => "auto",
            ExecutorChoice::Eager => "eager",
            ExecutorChoice::Graph => "graph",
            ExecutorChoice::Capture => "capture",
        })
    }
}

/// `--sampler-on`: where the tokens of a GPU's sequences are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SamplerOn {
    /// On the device that computes the logits.
    #[default]
    Device,
    /// On the CPU, by the code that chooses for a model on the CPU: logits travel to the host and
    /// every token waits for it.
    Cpu,
}

impl FromStr for SamplerOn {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "device" => Ok(SamplerOn::Device),
            "cpu" => Ok(SamplerOn::Cpu),
            _ => Err(format!(
                "{s:?} is no place to sample on; expected device or cpu"
            )),
        }
    }
}

impl fmt::Display for SamplerOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SamplerOn::Device => "device",
            SamplerOn::Cpu => "cpu",
        })
    }
}

/// How a session is made.
#[derive(Debug, Clone, Default)]
pub struct SessionOptions {
    /// Where it runs.
    pub device: DeviceChoice,
    /// How launches reach a GPU.
    pub executor: ExecutorChoice,
    /// Arithmetic of the matrix products.
    pub precision: Precision,
    /// Positions of the cache; `None`: the model's, at most [`DEFAULT_CONTEXT`].
    pub context: Option<usize>,
    /// Rows of the largest step; `None`: the device's choice.
    pub max_rows: Option<usize>,
    /// Rows of a step whose logits are wanted; 1 for generation.
    pub max_outputs: Option<usize>,
    /// Sequences at once; `None`: one.
    pub slots: Option<usize>,
    /// Blocks of the cache ([`crate::kv::BLOCK_TOKENS`] positions each); `None`: a whole context
    /// for every slot. Sequences that share prefixes need fewer.
    pub cache_blocks: Option<usize>,
    /// Which variants of kernels run, over what the device's profile says.
    pub overrides: Overrides,
    /// Element type of a GPU's cache.
    pub kv_type: KvType,
    /// Where tokens are chosen.
    pub sampler_on: SamplerOn,
    /// Faults to plant, for tests of what must notice them.
    pub faults: Faults,
    /// Whether buffers share memory.
    pub buffers: Buffers,
    /// Settings of the process.
    pub config: Config,
    /// The GPU, where somebody has begun to open it: see [`SessionOptions::open_device`].
    pub gpu: Option<OpeningGpu>,
}

impl SessionOptions {
    /// Begins to open the GPU that the options name, on a thread of its own: call this before
    /// opening a model, and both happen at once. Whether it can be opened is found when a session
    /// is made.
    pub fn open_device(&mut self) {
        let index = match self.device {
            DeviceChoice::Auto => 0,
            DeviceChoice::Cuda(index) => index,
            DeviceChoice::Cpu | DeviceChoice::Interp => return,
        };
        self.gpu = Some(OpeningGpu::start(index, &self.config));
    }
}

/// Positions of the cache where nobody said how many: enough for a conversation, cheap on any
/// device.
pub const DEFAULT_CONTEXT: usize = 4096;

/// The most positions of a cache, and tokens of a request: what every size derived from them, on a
/// device or in a kernel, stays in range with.
pub const MAX_CONTEXT: usize = 1 << 24;

/// The most sequences at once.
pub const MAX_SLOTS: usize = 1 << 10;

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
    options.overrides.check(model.plan())?;
    let plainly = |executor| Made {
        executor,
        notice: None,
    };
    match options.device {
        DeviceChoice::Cpu => cpu(model, options).map(plainly),
        DeviceChoice::Cuda(index) => crate::exec::cuda::make(model, options, index).map(plainly),
        DeviceChoice::Interp => interp(model, options).map(plainly),
        DeviceChoice::Auto => match crate::exec::cuda::make(model, options, 0) {
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

/// The sizes that the options ask for, with a device's default for the rows of a step.
///
/// # Errors
/// More than [`MAX_CONTEXT`] positions or [`MAX_SLOTS`] sequences.
pub(crate) fn limits(
    model: &Model,
    options: &SessionOptions,
    rows: usize,
) -> Result<Limits, Error> {
    let context = options
        .context
        .unwrap_or(model.hparams().context_length.min(DEFAULT_CONTEXT));
    let (context, num_slots) = (context.max(1), options.slots.unwrap_or(1).max(1));
    let within = |what, found, most| {
        let too_large = Error::TooLarge { what, found, most };
        (found <= most).then_some(()).ok_or(too_large)
    };
    within("positions of context", context, MAX_CONTEXT)?;
    within("sequences at once", num_slots, MAX_SLOTS)?;
    // A batch has a power of two of rows, each with its logits.
    let batch = num_slots.next_power_of_two();
    let max_rows = options
        .max_rows
        .unwrap_or(rows)
        .clamp(1, context)
        .max(batch);
    let blocks = BlockTable::blocks_for(num_slots, context);
    Ok(Limits {
        max_rows,
        max_outputs: options
            .max_outputs
            .unwrap_or(1)
            .clamp(1, max_rows)
            .max(batch),
        context,
        num_slots,
        cache_blocks: options.cache_blocks.unwrap_or(blocks).clamp(1, blocks),
        kv_type: options.kv_type,
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_parse_and_print() {
        for text in ["auto", "cpu", "cuda:0", "cuda:3", "interp"] {
            assert_eq!(text.parse::<DeviceChoice>().unwrap().to_string(), text);
        }
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        assert!(
            "gpu"
                .parse::<DeviceChoice>()
                .unwrap_err()
                .contains("expected auto")
        );
    }
}
