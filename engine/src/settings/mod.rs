//! Every setting: what a user can ask for, what the environment says, and which of them counts.
//!
//! Values only: nothing here opens a device or a file. The environment is read in one place
//! ([`Environment::read`]), and what was given wins over it in one place ([`Settings::resolve`]).

mod choice;
mod environment;
pub(crate) mod machine;
mod resolve;
mod rules;

use std::path::PathBuf;
use std::time::Duration;

pub use gannet_ptx_gen::kernels::{GemvVariant, KvType};

pub use choice::{DeviceChoice, ExecutorChoice, SamplerOn};
pub use environment::{
    Environment, MAX_THREADS, TABLE, Variable, log_filter, markdown, pool_threads,
};
pub use resolve::Given;
pub use rules::RuleSet;

/// The arithmetic of the matrix products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// f32 activations everywhere: the reference.
    Exact,
    /// What is fastest within the stated tolerance.
    #[default]
    Fast,
}

/// Whether buffers with disjoint lifetimes share memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Buffers {
    /// They do.
    #[default]
    Shared,
    /// Every buffer has its own memory, so that all can be read after a step.
    Distinct,
}

/// Planted faults, so that the machinery that must notice them can be tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// Leave this launch out of every list that is issued or recorded, by its index.
    pub omit_launch: Option<usize>,
    /// Refuse to build graphs.
    pub refuse_graphs: bool,
    /// Fail this step of those that are queued, counted from 1.
    pub fail_step: Option<u64>,
    /// Fail every step whose number this divides; at least 1.
    pub fail_every: Option<u64>,
    /// Lose the executor where the results of this step are due.
    pub lose_at: Option<u64>,
    /// Panic at this step.
    pub panic_at: Option<u64>,
    /// The logits of the first output of this step are no numbers.
    pub nan_at: Option<u64>,
    /// Every step takes so much longer.
    pub slow_steps: Duration,
    /// Putting a model on its device takes so much longer.
    pub slow_load: Duration,
}

impl Faults {
    /// Whether there are any that show in steps that are queued.
    #[must_use]
    pub fn are_of_steps(&self) -> bool {
        let Faults {
            omit_launch: _,
            refuse_graphs: _,
            slow_load: _,
            fail_step,
            fail_every,
            lose_at,
            panic_at,
            nan_at,
            slow_steps,
        } = *self;
        let steps = [fail_step, fail_every, lose_at, panic_at, nan_at];
        steps.iter().any(Option::is_some) || !slow_steps.is_zero()
    }
}

/// What a user asked for, over whatever was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Overrides {
    /// The variant of every matrix-vector product that has it.
    pub gemv: Option<GemvVariant>,
    /// Rows up to which a step runs on matrix-vector kernels.
    pub gemv_max_rows: Option<usize>,
    /// Do without what was measured.
    pub ignore_measured: bool,
    /// Rules of lowering to do without.
    pub without: RuleSet,
}

/// What is kept on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskCache {
    /// Where compiled kernels, measured profiles and passed gates are kept; `None`: nowhere.
    pub folder: Option<PathBuf>,
    /// Whether compiled kernels are kept, too.
    pub cubins: bool,
}

impl DiskCache {
    /// Where compiled kernels are kept, if they are.
    #[must_use]
    pub fn cubin_folder(&self) -> Option<PathBuf> {
        let folder = self.folder.as_ref().filter(|_| self.cubins)?;
        Some(folder.join("cubin"))
    }
}

impl Default for DiskCache {
    fn default() -> Self {
        DiskCache {
            folder: None,
            cubins: true,
        }
    }
}

/// How a model is run.
///
/// The default is what this crate does where nobody said anything: no variable of the environment is
/// read and nothing is kept on disk. [`Settings::resolve`] takes both into account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where it runs.
    pub device: DeviceChoice,
    /// How launches reach a GPU.
    pub executor: ExecutorChoice,
    /// Arithmetic of the matrix products.
    pub precision: Precision,
    /// Whether what a GPU, or its interpreted kernels, compute of a sequence is the same bits whatever
    /// runs beside it: alone or in a batch, its prompt whole, in chunks or known already. Slower; on the
    /// CPU it always holds.
    pub batch_invariant: bool,
    /// Positions of the cache; `None`: the model's, at most [`DEFAULT_CONTEXT`].
    pub context: Option<usize>,
    /// Rows of the largest step; `None`: the device's choice.
    pub max_rows: Option<usize>,
    /// Tokens of prompts in a step of an [`Engine`](crate::Engine) while sequences decode: fewer keep the next
    /// tokens of those coming, more get prompts done sooner. `None`: as many as cost the device little.
    pub prompt_budget: Option<usize>,
    /// Rows of a step whose logits are wanted; 1 for generation.
    pub max_outputs: Option<usize>,
    /// Sequences at once; `None`: one.
    pub slots: Option<usize>,
    /// Blocks of the cache, of [`BLOCK_TOKENS`](crate::internals::kv::BLOCK_TOKENS) positions each;
    /// `None`: a whole context for every slot. Sequences
    /// that share prefixes need fewer.
    pub cache_blocks: Option<usize>,
    /// Blocks that the host keeps for sequences that had to give way to others, so that they need not be
    /// computed again; `None`: those of one context, at most 1 GiB, where the cache has fewer blocks than
    /// the slots could take, and none elsewhere.
    pub saved_blocks: Option<usize>,
    /// Which variants of kernels run, over what the device's profile says.
    pub overrides: Overrides,
    /// Element type of a GPU's cache; layers whose keys have large biases have a more exact one.
    pub kv_type: KvType,
    /// Where tokens are chosen.
    pub sampler_on: SamplerOn,
    /// Whether a GPU is held against the CPU before it first serves a model.
    pub gate: bool,
    /// What is kept on disk.
    pub disk_cache: DiskCache,
    /// Faults to plant, for tests of what must notice them.
    pub faults: Faults,
    /// Whether buffers share memory.
    pub buffers: Buffers,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            device: DeviceChoice::default(),
            executor: ExecutorChoice::default(),
            precision: Precision::default(),
            batch_invariant: false,
            context: None,
            max_rows: None,
            prompt_budget: None,
            max_outputs: None,
            slots: None,
            cache_blocks: None,
            saved_blocks: None,
            overrides: Overrides::default(),
            kv_type: KvType::default(),
            sampler_on: SamplerOn::default(),
            gate: true,
            disk_cache: DiskCache::default(),
            faults: Faults::default(),
            buffers: Buffers::default(),
        }
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
