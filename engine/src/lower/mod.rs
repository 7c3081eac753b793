//! Lowering: plan operations become launches of library kernels, in four passes.
//!
//! | pass | decides |
//! |---|---|
//! | [`pattern`] | which operations share a launch; every rule can be switched off by its name |
//! | `select` | which kernel, which variant of it |
//! | `schedule` | in what order, and what overlaps |
//! | `bind` | arguments, by the names of the kernels' parameters |
//!
//! A launch is data: kernel, grid, arguments by role, buffers read and written, bytes moved. Every
//! GPU executor runs the same list, so a kernel that runs eagerly and is missing from a graph
//! cannot be written. Nothing here knows an address or a driver.

mod activations;
mod attention;
mod bind;
mod kernels;
mod listing;
pub mod node;
pub mod pattern;
pub mod profile;
mod refused;
mod schedule;
mod select;
mod shape;

pub use activations::Activations;
pub use kernels::{Advance, KernelSpec, SampleDraw, SampleFilter};
pub use listing::Listing;
pub use pattern::{FusionRule, PATTERNS, rule_names};
pub use profile::DeviceProfile;
pub use shape::{Count, Shape, StepKind};

pub(crate) use bind::Named;
pub(crate) use refused::beside_tensor_cores;
pub(crate) use select::weight_format;

use std::sync::Arc;

use gannet_ptx_gen::ir::Access;
use gannet_ptx_gen::target::Target;

use crate::Error;
use crate::kv::KvType;
use crate::plan::{Buf, CacheId, Column, Plan, Rope, Storage, Weight, assign_storage};
use crate::settings::{Buffers, Precision};

/// Steps with up to this many rows run on matrix-vector kernels, which read each weight once for
/// all of them; longer ones on tensor cores.
pub const GEMV_MAX_ROWS: usize = 8;

/// The same where the product for batches exists: from here on it is faster.
const GEMV_FAST_ROWS: usize = 4;

/// Steps with more rows than that and up to this many run on products for batches, which like
/// those read each weight once.
pub const BATCH_MAX_ROWS: usize = 64;

/// Elements of [`Arg::Counters`]: what a product of a prompt takes whose tiles are those of a batch.
pub const COUNTERS: usize = 8192;

/// What lowering may assume of the device and the cache.
#[derive(Debug, Clone, PartialEq)]
pub struct LowerOptions {
    /// Instruction set.
    pub target: Target,
    /// Arithmetic of the matrix products.
    pub precision: Precision,
    /// Whether every row is computed by the same kernels in the same order, however many there are.
    pub batch_invariant: bool,
    /// Multiprocessors to keep busy.
    pub multiprocessors: usize,
    /// Entries in a row of the block table.
    pub max_blocks: usize,
    /// Element type of the cache.
    pub kv_type: KvType,
    /// Whether buffers share memory.
    pub buffers: Buffers,
    /// Which variants of the kernels run.
    pub profile: Arc<DeviceProfile>,
}

impl LowerOptions {
    /// Rows up to which a step's products run on matrix-vector kernels.
    pub(crate) fn gemv_rows(&self) -> usize {
        let built_in = match self.precision {
            // The products of more rows round activations to f16.
            Precision::Exact => GEMV_MAX_ROWS,
            Precision::Fast if self.target.has_ampere() => GEMV_FAST_ROWS,
            Precision::Fast => GEMV_MAX_ROWS,
        };
        self.profile.gemv_max_rows(built_in).clamp(1, GEMV_MAX_ROWS)
    }
}

/// An argument of a launch, by role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arg {
    /// A buffer of the plan.
    Buffer(Buf),
    /// A weight: packed planes of a matrix, f32 of a vector.
    Weight(Weight),
    /// `u32[rows]` or `u32[outputs]`: an input of the step.
    Input(Column),
    /// `u32[num_slots, max_blocks]`.
    BlockTable,
    /// Keys of a cache.
    Keys(CacheId),
    /// Values of a cache.
    Values(CacheId),
    /// Cosines and sines.
    RopeTable(Rope),
    /// Partial results between the launches of one unit.
    Scratch,
    /// `u32[COUNTERS]`, zero between launches.
    Counters,
    /// How many rows (elements, for kernels without rows) the launch is over.
    Count(Count),
}

/// One kernel launch.
#[derive(Debug, Clone, PartialEq)]
pub struct LoweredLaunch {
    /// Index into [`Lowered::kernels`].
    pub kernel: usize,
    /// What it is over: rows, or elements for kernels without rows.
    pub count: Count,
    /// Arguments in the order of the kernel's parameters.
    pub args: Vec<Arg>,
    /// The unit it belongs to, an index into [`Lowered::units`].
    pub unit: usize,
}

impl Arg {
    /// What it is called in listings and messages of a step of that shape.
    #[must_use]
    pub fn describe(self, plan: &Plan, shape: Shape) -> String {
        match self {
            Arg::Buffer(b) => plan.buffer(b).name.clone(),
            Arg::Weight(w) => plan.weight(w).name.clone(),
            Arg::Input(column) => column.name().to_owned(),
            Arg::BlockTable => "block_table".to_owned(),
            Arg::Keys(cache) => format!("keys of {}", plan.cache(cache).name),
            Arg::Values(cache) => format!("values of {}", plan.cache(cache).name),
            Arg::RopeTable(Rope(rope)) => format!("rope.{rope}"),
            Arg::Scratch => "scratch".to_owned(),
            Arg::Counters => "counters".to_owned(),
            Arg::Count(count) => count.of(shape).to_string(),
        }
    }
}

/// A smallest piece that an executor can run alone: the launches of one plan operation, or of several
/// that share them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// What it is called in a report.
    pub name: String,
    /// The plan operations that it covers, ascending.
    pub ops: Vec<usize>,
    /// Buffers it reads.
    pub reads: Vec<Buf>,
    /// Buffers it writes.
    pub writes: Vec<Buf>,
    /// What its matrix products round activations to, or weights where those are rounded for a GPU.
    pub activations: Activations,
}

/// A step as launches: those of every shape of its class ([`Shape::class`]).
#[derive(Debug, Clone, PartialEq)]
pub struct Lowered {
    /// The shape it was lowered for: of the shapes of its class that it runs, the largest.
    pub shape: Shape,
    /// The kernels, each once.
    pub kernels: Vec<KernelSpec>,
    /// The launches in order.
    pub launches: Vec<LoweredLaunch>,
    /// What can be run and compared alone.
    pub units: Vec<Unit>,
    /// Where buffers may share memory.
    pub storage: Storage,
    /// Bytes of scratch that the largest unit needs.
    pub scratch_bytes: usize,
}

/// Lowers a plan for steps of one shape.
///
/// # Errors
/// A shape that no kernel of the library computes.
pub fn lower(plan: &Plan, shape: Shape, options: &LowerOptions) -> Result<Lowered, Error> {
    let selector = select::Selector {
        plan,
        shape,
        options,
    };
    let nodes = pattern::group(plan, shape, &selector, options.profile.without());
    let selected = nodes.into_iter().map(|node| selector.select(node));
    let selected = selected.collect::<Result<Vec<_>, _>>()?;
    let scheduled = schedule::schedule(plan, selected, shape, options);
    let mut lowered = Lowered {
        shape,
        kernels: Vec::new(),
        launches: Vec::new(),
        units: Vec::new(),
        storage: Storage {
            slot: Vec::new(),
            sizes: Vec::new(),
        },
        scratch_bytes: 0,
    };
    for unit in scheduled {
        bind::bind(plan, unit, &mut lowered)?;
    }
    let steps = lowered.units.iter();
    let steps: Vec<_> = steps
        .map(|unit| (unit.reads.clone(), unit.writes.clone()))
        .collect();
    lowered.storage = match options.buffers {
        Buffers::Shared => assign_storage(plan, &steps, &[plan.logits, plan.next]),
        Buffers::Distinct => {
            let written: Vec<Buf> = steps.iter().flat_map(|(_, w)| w.clone()).collect();
            assign_storage(plan, &steps, &written)
        }
    };
    Ok(lowered)
}

impl Lowered {
    /// Appends a launch of the unit that comes next.
    fn push(&mut self, chosen: &select::Chosen, args: Vec<Arg>) {
        let select::Chosen { spec, count } = chosen;
        let kernel = self.kernels.iter().position(|k| k == spec);
        let kernel = kernel.unwrap_or_else(|| {
            self.kernels.push(spec.clone());
            self.kernels.len() - 1
        });
        self.launches.push(LoweredLaunch {
            kernel,
            count: *count,
            args,
            unit: self.units.len(),
        });
    }

    /// What a launch does with each of its pointers, by the declaration of its kernel.
    #[must_use]
    pub fn accesses(&self, launch: &LoweredLaunch) -> Vec<(Arg, Access)> {
        let params = self.kernels[launch.kernel].params();
        bind::accesses(&launch.args, &params).collect()
    }

    /// Blocks of a launch in a step of a shape of the same class.
    #[must_use]
    pub fn grid(&self, launch: &LoweredLaunch, shape: Shape) -> [u32; 3] {
        self.kernels[launch.kernel].grid(launch.count.of(shape))
    }

    /// Bytes that a launch must move.
    #[must_use]
    pub fn launch_bytes(&self, launch: &LoweredLaunch) -> u64 {
        self.kernels[launch.kernel].bytes(launch.count.of(self.shape))
    }

    /// Bytes that all launches must move.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.launches.iter().map(|l| self.launch_bytes(l)).sum()
    }
}
