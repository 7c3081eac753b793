//! The three sides of an executor: what serves, what can be looked into, what can be timed.
//!
//! Whoever serves holds a [`Executor`] and nothing else. What compares executors asks it for
//! [`Executor::inspect`]: every executor can be looked into. What times launches asks for
//! [`Executor::measure`], which only those have that queue launches on a device.

use std::fmt;
use std::ops::ControlFlow;
use std::time::Duration;

use gannet_ptx_gen::target::Target;
use serde::{Serialize, Serializer};

use super::{DecodeStart, HostQueue, Limits, Load, SlotChoice, Step};
use crate::Error;
use crate::kv::BlockTable;
use crate::lower::{Shape, Unit};
use crate::plan::{Buf, Plan};

/// What an executor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExecutorKind {
    /// The CPU, activations of products rounded to 8 bits.
    Cpu,
    /// The CPU, everything in f32: the reference.
    CpuExact,
    /// A GPU, one launch after the other.
    CudaEager,
    /// A GPU, steps that repeat replayed as a graph of kernel nodes.
    CudaGraph,
    /// The same with a graph that was captured from a stream.
    CudaCapture,
    /// The kernels of a GPU, interpreted on the CPU.
    Interp,
}

impl ExecutorKind {
    /// Whether it runs on a GPU.
    #[must_use]
    pub fn is_gpu(self) -> bool {
        match self {
            ExecutorKind::CudaEager | ExecutorKind::CudaGraph | ExecutorKind::CudaCapture => true,
            ExecutorKind::Cpu | ExecutorKind::CpuExact | ExecutorKind::Interp => false,
        }
    }

    /// Whether it runs kernels, on a GPU or interpreted.
    #[must_use]
    pub fn runs_kernels(self) -> bool {
        self.is_gpu() || self == ExecutorKind::Interp
    }
}

/// Its name in reports: `cpu`, `cpu-exact`, `cuda-eager`, `cuda-graph`, `cuda-capture`, `interp`.
impl fmt::Display for ExecutorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            ExecutorKind::Cpu => "cpu",
            ExecutorKind::CpuExact => "cpu-exact",
            ExecutorKind::CudaEager => "cuda-eager",
            ExecutorKind::CudaGraph => "cuda-graph",
            ExecutorKind::CudaCapture => "cuda-capture",
            ExecutorKind::Interp => "interp",
        })
    }
}

impl Serialize for ExecutorKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What a launch took, measured on the device.
#[derive(Debug, Clone, PartialEq)]
pub struct LaunchTime {
    /// The unit it belongs to: plan operation and buffer, or what follows the plan.
    pub unit: String,
    /// The kernel's name.
    pub kernel: String,
    /// Blocks.
    pub grid: [u32; 3],
    /// Bytes that it must move, given the keys that the step's rows see.
    pub bytes: u64,
    /// Seconds of each repeat, in the order they ran.
    pub seconds: Vec<f64>,
}

/// Counters since an executor was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Forward steps.
    pub steps: u64,
    /// Kernel launches, those of graphs not counted.
    pub launches: u64,
    /// Graph launches.
    pub graph_launches: u64,
    /// Host waits for the device.
    pub synchronizations: u64,
    /// Kernels loaded, compiled or from a cache.
    pub modules: u64,
    /// Graphs built.
    pub graphs: u64,
    /// Queued steps that were timed, where that is on.
    pub timed: StepTimes,
    /// Steps that were to run as a graph and ran eagerly, because the graph could not be built.
    pub fallbacks: u64,
}

/// What timed steps took on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StepTimes {
    /// From the start of each to its end.
    pub busy: Duration,
    /// From the end of each to the start of the next, but for pauses ([`Executor::pause`]).
    pub idle: Duration,
}

/// Runs a plan.
pub trait Executor: Send {
    /// What it is.
    fn kind(&self) -> ExecutorKind;

    /// What a user should know about how it runs, such as a graph that could not be built.
    fn notice(&self) -> Option<String> {
        None
    }

    /// The instruction set of its kernels; `None` where it has none.
    fn target(&self) -> Option<Target> {
        None
    }

    /// The plan it runs.
    fn plan(&self) -> &Plan;

    /// Its sizes.
    fn limits(&self) -> Limits;

    /// What it took to make it; nothing where weights stay in the file.
    fn load(&self) -> Load {
        Load::default()
    }

    /// Runs a step.
    ///
    /// # Errors
    /// The device failed.
    fn run(&mut self, step: &Step<'_>) -> Result<(), Error>;

    /// Logits of the last step: `[outputs, vocab_size]`.
    ///
    /// # Errors
    /// The device failed.
    fn logits(&mut self) -> Result<&[f32], Error>;

    /// The most likely next token of each output row of the last step;
    /// [`NO_TOKEN`](super::sample::NO_TOKEN) where its logits are no numbers.
    ///
    /// # Errors
    /// The device failed.
    fn next(&mut self) -> Result<&[u32], Error>;

    /// Feeds each sequence its token, then each token that is chosen, for `steps` steps, or as many as
    /// its limit leaves it.
    /// `on_token(i, token)` gets what sequence `i` chose and ends that sequence by breaking; nothing
    /// of it is given out afterwards. Ends when all sequences have. The table must hold blocks that
    /// each sequence may write for all of its own steps.
    ///
    /// # Errors
    /// More sequences or positions than the limits, two sequences of one slot, logits that are no
    /// numbers, or the device failed.
    fn decode(
        &mut self,
        sequences: &[DecodeStart<'_>],
        steps: usize,
        table: &BlockTable,
        on_token: &mut dyn FnMut(usize, u32) -> ControlFlow<()>,
    ) -> Result<(), Error>;

    /// The queue of an executor that has none of its own.
    fn host_queue(&mut self) -> &mut HostQueue;

    /// Says how the tokens of a slot are chosen in the steps that are queued from now on.
    ///
    /// # Errors
    /// The device failed.
    fn set_slot(&mut self, choice: &SlotChoice<'_>) -> Result<(), Error> {
        self.host_queue().set(choice);
        Ok(())
    }

    /// Queues a step behind all that was queued before; see [`SlotChoice`]. Its outputs are of
    /// different slots.
    ///
    /// # Errors
    /// The step is outside of the limits, or the device failed.
    fn queue(&mut self, step: &Step<'_>) -> Result<(), Error> {
        let mut queue = std::mem::take(self.host_queue());
        let queued = queue.run(self, step);
        *self.host_queue() = queue;
        queued
    }

    /// What was chosen in the oldest step that was queued and not taken: a token for each of its
    /// outputs, [`NO_TOKEN`](super::sample::NO_TOKEN) where its logits are no numbers. `None` while it is not known, after at most `patience`, or where nothing is queued.
    ///
    /// # Errors
    /// The device failed.
    fn take(&mut self, patience: Duration) -> Result<Option<Vec<u32>>, Error> {
        let _ = patience;
        Ok(self.host_queue().take())
    }

    /// Makes ready whatever any step needs that can be queued, so that nothing is compiled or built while
    /// steps are.
    ///
    /// # Errors
    /// The device failed, or has too little memory.
    fn warm_up(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// Times the steps that are queued from now on, or does not; [`Stats::timed`] has the sums.
    fn time_steps(&mut self, on: bool) {
        let _ = on;
    }

    /// Says that there is nothing to queue: the device is not idle for lack of steps until there is.
    fn pause(&mut self) {}

    /// Forgets the steps that are queued, which may have run or not.
    ///
    /// # Errors
    /// The device failed.
    fn abandon(&mut self) -> Result<(), Error> {
        self.host_queue().clear();
        Ok(())
    }

    /// Copies cache blocks, all layers and keys and values of each: `(from, to)`.
    ///
    /// # Errors
    /// A block outside the cache, or the device failed.
    fn copy_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<(), Error>;

    /// Keeps copies of cache blocks on the host, behind what was queued before: `(block, place)`, places
    /// below [`Limits::saved_blocks`]. Does not wait.
    ///
    /// # Errors
    /// A block or a place that there is not, or the device failed.
    fn save_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<(), Error>;

    /// Brings copies back into cache blocks, in front of what is queued behind it: `(place, block)`. The
    /// copies stay where they are. Does not wait.
    ///
    /// # Errors
    /// As [`Executor::save_blocks`].
    fn restore_blocks(&mut self, pairs: &[(u32, u32)]) -> Result<(), Error>;

    /// Counters.
    fn stats(&self) -> Stats;

    /// The same executor, to be looked into.
    fn inspect(&mut self) -> &mut dyn Inspect;

    /// The same executor, to be timed; `None` where there are no launches on a device.
    fn measure(&mut self) -> Option<&mut dyn Measure> {
        None
    }
}

/// An executor whose every buffer can be read and overwritten, and whose steps run piece by piece.
pub trait Inspect: Executor {
    /// The pieces that [`Inspect::run_unit`] runs for a step of this shape.
    ///
    /// # Errors
    /// A shape that cannot be lowered.
    fn units(&mut self, shape: Shape) -> Result<Vec<Unit>, Error>;

    /// Fills every buffer with NaN (ids with an impossible value).
    ///
    /// # Errors
    /// The device failed.
    fn poison(&mut self) -> Result<(), Error>;

    /// Sets the inputs of a step without running it.
    ///
    /// # Errors
    /// The device failed.
    fn begin(&mut self, step: &Step<'_>) -> Result<(), Error>;

    /// Runs one unit of the step that was begun.
    ///
    /// # Errors
    /// The device failed.
    fn run_unit(&mut self, step: &Step<'_>, unit: usize) -> Result<(), Error>;

    /// A buffer's contents for the last step, ids as floats; `None` where fusion never makes it.
    ///
    /// # Errors
    /// The device failed.
    fn read(&mut self, b: Buf) -> Result<Option<Vec<f32>>, Error>;

    /// Overwrites a buffer of the step that was begun; ignored where fusion never makes it.
    ///
    /// # Errors
    /// The device failed.
    fn write(&mut self, b: Buf, data: &[f32]) -> Result<(), Error>;
}

/// An executor whose launches can be timed on the device that runs them.
pub trait Measure: Executor {
    /// Device time of one step of [`Executor::decode`] in seconds, all of its launches back to back.
    ///
    /// # Errors
    /// As [`Executor::decode`].
    fn device_step_time(
        &mut self,
        sequences: &[DecodeStart<'_>],
        steps: usize,
        table: &BlockTable,
    ) -> Result<f64, Error>;

    /// Runs a step of [`Executor::decode`] launch by launch, `repeats` times, and says what each
    /// took, those included that choose the tokens and feed them back. The table must hold blocks
    /// for a few steps.
    ///
    /// # Errors
    /// As [`Executor::decode`].
    fn launch_times(
        &mut self,
        sequences: &[DecodeStart<'_>],
        repeats: usize,
        table: &BlockTable,
    ) -> Result<Vec<LaunchTime>, Error>;
}
