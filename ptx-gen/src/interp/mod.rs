//! Runs kernels on the CPU, instruction by instruction, and says exactly what is wrong with those that are.
//!
//! [`launch`] executes an [`ir::Kernel`](crate::ir::Kernel) over a grid against [`Memory`]. Warps run in lockstep,
//! blocks in parallel where they cannot see each other; arithmetic is PTX's, rounding included; every access is
//! checked. What comes back is [`InterpStats`], or the first [`Fault`] with kernel, instruction, source line, block and
//! thread.
//!
//! ```
//! use gannet_ptx_gen::interp::{LaunchArg, Memory, Options, launch};
//! use gannet_ptx_gen::{ir::Kernel, target::Target};
//!
//! let kernel = Kernel::new("double", Target::Sm80, |k| {
//!     k.block_size(32);
//!     let x = k.in_out::<f32>("x");
//!     x.store(k.thread_x(), x.load(k.thread_x()) * 2.0);
//! });
//! let mut memory = Memory::new();
//! let x = memory.alloc_from(&[1.5f32; 32]);
//! launch(&kernel, [1, 1, 1], &[LaunchArg::U64(x)], &memory, &Options::default()).unwrap();
//! assert_eq!(memory.read::<f32>(x, 32).unwrap(), [3.0; 32]);
//! // One element too few: the fault names thread 31 and the line of the store.
//! let short = memory.alloc_from(&[1.5f32; 31]);
//! let fault = launch(&kernel, [1, 1, 1], &[LaunchArg::U64(short)], &memory, &Options::default());
//! assert_eq!(fault.unwrap_err().site.unwrap().thread, [31, 0, 0]);
//! ```
//!
//! Beside accesses out of bounds, misaligned or to nothing, these are faults: reads of shared memory (and of
//! allocations made with [`Memory::alloc_poisoned`]) that nothing has written, races on shared memory, asynchronous
//! copies read before they were waited for, bulk copies of what no `fence.proxy.async` has handed to them, barriers and warp-wide instructions that part of a warp reaches,
//! deadlocks, products of warpgroups whose registers or memory are touched while they are in flight, which no fence
//! orders or whose descriptors do not describe a matrix, registers that a block does not have, mbarriers used against their protocol, and read-only loads of what the launch has written.
//!
//! The interpreter knows nothing of performance, of caches or of memory that reorders: memory is sequentially
//! consistent here, so a missing fence goes unnoticed. `mma` accumulates in `f64` and rounds once. Approximate
//! functions are exactly rounded. What orders blocks of a cluster is not followed, but for what is in flight. How near hardware comes, form by form, is measured by [`crate::conformance`];
//! `CONFORMANCE.md` has the figures.

mod block;
mod cluster;
mod decode;
mod exec;
mod fault;
mod memory;
mod races;
mod slots;
mod warp;

use rayon::prelude::*;

use crate::ir::{Kernel, Ty};
use block::{Block, IDLE_ROUNDS, Progress};
use decode::Program;

pub(crate) use exec::e4m3;
pub use fault::{Fault, FaultKind, FaultSpace, Site};
use memory::Number;
pub use memory::{Memory, MemoryElement};

/// An argument of a launch.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum LaunchArg {
    /// A 32-bit unsigned integer.
    U32(u32),
    /// A 32-bit signed integer.
    I32(i32),
    /// A 64-bit unsigned integer, or a device address.
    U64(u64),
    /// A 64-bit signed integer.
    I64(i64),
    /// A single.
    F32(f32),
    /// A double.
    F64(f64),
}

impl LaunchArg {
    /// The bits and their width.
    fn bits(self) -> (u64, u32) {
        match self {
            LaunchArg::U32(x) => (u64::from(x), 32),
            LaunchArg::I32(x) => (u64::from(x as u32), 32),
            LaunchArg::U64(x) => (x, 64),
            LaunchArg::I64(x) => (x as u64, 64),
            LaunchArg::F32(x) => (u64::from(x.to_bits()), 32),
            LaunchArg::F64(x) => (x.to_bits(), 64),
        }
    }

    fn is_float(self) -> bool {
        matches!(self, LaunchArg::F32(_) | LaunchArg::F64(_))
    }
}

/// How a launch is executed.
#[derive(Clone, Debug)]
pub struct Options {
    /// Run blocks on one thread even where they could run in parallel.
    pub serial: bool,
    /// Warp instructions after which a block counts as hung.
    pub max_steps: u64,
    /// Blocks that are in flight at once where blocks can see each other; a kernel whose blocks wait for each other
    /// needs all of its grid.
    pub resident_blocks: usize,
    /// Fault on reads of shared memory that nothing has written (slower).
    pub track_shared: bool,
    /// Switch between warps at arbitrary instructions, in an order drawn from this seed, instead of only where a warp
    /// waits: what depends on the order comes out differently from seed to seed.
    pub shuffle: Option<u64>,
    /// Fault on accesses to shared memory that no barrier orders (slower).
    pub races: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            serial: false,
            max_steps: 1 << 30,
            resident_blocks: 1024,
            track_shared: true,
            races: true,
            shuffle: None,
        }
    }
}

/// What a launch amounted to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct InterpStats {
    /// Blocks executed.
    pub blocks: u64,
    /// Instructions executed by warps.
    pub warp_instructions: u64,
    /// Instructions executed by lanes.
    pub lane_instructions: u64,
}

impl InterpStats {
    fn plus(self, other: InterpStats) -> InterpStats {
        InterpStats {
            blocks: self.blocks + other.blocks,
            warp_instructions: self.warp_instructions + other.warp_instructions,
            lane_instructions: self.lane_instructions + other.lane_instructions,
        }
    }
}

/// A kernel that has been verified and decoded, for launching more than once.
#[derive(Debug)]
pub struct Prepared {
    program: Program,
}

impl Prepared {
    /// Verifies and decodes a kernel.
    ///
    /// # Errors
    /// [`FaultKind::Refused`] where [`Kernel::verify`] refuses it.
    pub fn new(kernel: &Kernel) -> Result<Prepared, Fault> {
        kernel
            .verify()
            .map_err(|e| Fault::new(FaultKind::Refused(Box::new(e))))?;
        Prepared::unverified(kernel)
    }

    /// Decodes a kernel that the verifier may refuse: to see a mistake happen that it would have caught.
    ///
    /// # Errors
    /// [`FaultKind::Unsupported`] where an instruction's operands do not fit it.
    ///
    /// # Panics
    /// A launch may panic where an instruction carries a type that PTX does not give it, such as a 64-bit shuffle;
    /// the verifier rules those out.
    pub fn unverified(kernel: &Kernel) -> Result<Prepared, Fault> {
        let program = decode::decode(kernel).map_err(Fault::new)?;
        Ok(Prepared { program })
    }

    /// Executes the kernel over `grid` blocks; see [`launch`].
    ///
    /// # Errors
    /// The first [`Fault`] met.
    pub fn launch(
        &self,
        grid: [u32; 3],
        args: &[LaunchArg],
        memory: &Memory,
        options: &Options,
    ) -> Result<InterpStats, Fault> {
        let program = &self.program;
        let args = check(program, grid, args)?;
        let blocks = u64::from(grid[0]) * u64::from(grid[1]) * u64::from(grid[2]);
        let launch = memory.next_launch(program.hands_over);
        let new = || Block::new(program, memory, &args, launch, grid, options);
        if program.cluster > 1 {
            return cluster::run(program, memory, &args, launch, grid, options);
        }
        if program.communicates && blocks > 1 {
            return take_turns(program, memory, &args, launch, grid, options);
        }
        let one = |block: &mut Block, n: u64| {
            block.start(index(n, grid));
            block.run().map(|()| block.stats())
        };
        if options.serial || blocks == 1 {
            let mut block = new();
            let each = |sum: InterpStats, n| Ok(sum.plus(one(&mut block, n)?));
            return (0..blocks).try_fold(InterpStats::default(), each);
        }
        (0..blocks)
            .into_par_iter()
            .map_init(new, one)
            .try_reduce(InterpStats::default, |a, b| Ok(a.plus(b)))
    }
}

/// Verifies `kernel` and executes it over `grid` blocks with one argument a parameter, in the parameters' order.
///
/// Blocks run in parallel unless the kernel has global atomics or strong global loads, by which blocks may wait for
/// each other; then they take turns on one thread, in a fixed order, which makes the result reproducible.
///
/// # Errors
/// The first [`Fault`] met; blocks that ran before or beside it have left their writes in `memory`. A kernel that the
/// verifier refuses, a wrong argument count or type, an empty grid and a block of more than 1024 threads are faults
/// without a site.
pub fn launch(
    kernel: &Kernel,
    grid: [u32; 3],
    args: &[LaunchArg],
    memory: &Memory,
    options: &Options,
) -> Result<InterpStats, Fault> {
    Prepared::new(kernel)?.launch(grid, args, memory, options)
}

/// The (x, y, z) index of the grid's `n`-th block.
fn index(n: u64, grid: [u32; 3]) -> [u32; 3] {
    let (x, y) = (u64::from(grid[0]), u64::from(grid[1]));
    [(n % x) as u32, (n / x % y) as u32, (n / (x * y)) as u32]
}

/// Runs blocks that may wait for each other: a round of turns each, new ones starting as old ones end.
fn take_turns(
    program: &Program,
    memory: &Memory,
    args: &[u64],
    launch: Number,
    grid: [u32; 3],
    options: &Options,
) -> Result<InterpStats, Fault> {
    let blocks = u64::from(grid[0]) * u64::from(grid[1]) * u64::from(grid[2]);
    let mut waiting = (0..blocks).map(|n| index(n, grid));
    let mut resident: Vec<Block> = Vec::new();
    for at in waiting.by_ref().take(options.resident_blocks.max(1)) {
        let mut block = Block::new(program, memory, args, launch, grid, options);
        block.start(at);
        resident.push(block);
    }
    let mut stats = InterpStats::default();
    while !resident.is_empty() {
        if resident.iter().all(|b| b.idle > IDLE_ROUNDS) {
            return Err(resident[0].deadlock());
        }
        let mut n = 0;
        while n < resident.len() {
            if resident[n].round()? == Progress::Running {
                n += 1;
                continue;
            }
            stats = stats.plus(resident[n].stats());
            match waiting.next() {
                Some(at) => resident[n].start(at),
                None => {
                    resident.remove(n);
                }
            }
        }
    }
    Ok(stats)
}

/// The arguments' bits, once they fit the kernel's parameters and the launch can be.
fn check(program: &Program, grid: [u32; 3], args: &[LaunchArg]) -> Result<Vec<u64>, Fault> {
    let refuse = |what: String| {
        Err(Fault::new(FaultKind::Launch {
            kernel: program.name.clone(),
            what,
        }))
    };
    if grid.contains(&0) {
        return refuse(format!("the grid {grid:?} is empty"));
    }
    // CUDA's limits on a grid.
    if grid[0] > i32::MAX as u32 || grid[1] > 65535 || grid[2] > 65535 {
        return refuse(format!(
            "the grid {grid:?} is larger than [2147483647, 65535, 65535]"
        ));
    }
    if !grid[0].is_multiple_of(program.cluster) {
        let cluster = program.cluster;
        return refuse(format!(
            "the grid {grid:?} is not made of clusters of {cluster} blocks"
        ));
    }
    let threads = program
        .block_size
        .iter()
        .map(|n| u64::from(*n))
        .product::<u64>();
    if !(1..=1024).contains(&threads) {
        return refuse(format!("a block has 1 to 1024 threads, not {threads}"));
    }
    if args.len() != program.params.len() {
        return refuse(format!(
            "{} parameters, but {} arguments",
            program.params.len(),
            args.len()
        ));
    }
    let mut bits = Vec::with_capacity(args.len());
    for (param, arg) in program.params.iter().zip(args) {
        let (value, width) = arg.bits();
        let float = matches!(param.ty, Ty::F32 | Ty::F64);
        if width != param.ty.bits() || float != arg.is_float() {
            return refuse(format!(
                "parameter {} is {}, but the argument is {arg:?}",
                param.name, param.ty
            ));
        }
        bits.push(value);
    }
    Ok(bits)
}
