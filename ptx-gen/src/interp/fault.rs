//! What can go wrong while a kernel runs, and where it went wrong.
//!
//! A fault is the interpreter's whole point: it names the kernel, the instruction as it is printed in the PTX,
//! the source line that emitted it, the block and the thread. Nothing in this module computes.

use std::fmt;

/// Where a fault happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Site {
    /// The kernel's entry name.
    pub kernel: String,
    /// The instruction, close to its PTX spelling.
    pub instruction: String,
    /// The line of Rust that emitted the instruction, as `file:line`.
    pub source: String,
    /// The block's index in the grid (x, y, z).
    pub block: [u32; 3],
    /// The thread's index in the block (x, y, z); the first offending lane's.
    pub thread: [u32; 3],
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([bx, by, bz], [tx, ty, tz]) = (self.block, self.thread);
        write!(
            f,
            "kernel {}, `{}` from {}, block ({bx}, {by}, {bz}), thread ({tx}, {ty}, {tz})",
            self.kernel, self.instruction, self.source
        )
    }
}

/// A state space, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultSpace {
    /// Device memory.
    Global,
    /// The block's shared memory.
    Shared,
}

impl fmt::Display for FaultSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FaultSpace::Global => "global",
            FaultSpace::Shared => "shared",
        })
    }
}

/// What a kernel (or its launch) did wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FaultKind {
    /// An access to bytes that no allocation holds.
    #[error(
        "access to {bytes} bytes at {space} address {address:#x} is outside every allocation ({nearest})"
    )]
    OutOfBounds {
        /// The state space of the access.
        space: FaultSpace,
        /// The lane's address.
        address: u64,
        /// The lane's access width in bytes.
        bytes: u32,
        /// The allocation that was probably meant.
        nearest: String,
    },
    /// An address that is not a multiple of the access width.
    #[error(
        "access to {bytes} bytes at {space} address {address:#x} is misaligned: it must be a multiple of {align}"
    )]
    Misaligned {
        /// The state space of the access.
        space: FaultSpace,
        /// The lane's address.
        address: u64,
        /// The lane's access width in bytes.
        bytes: u32,
        /// What the address must be a multiple of.
        align: u32,
    },
    /// A read of bytes that nothing has written.
    #[error("read of {bytes} bytes at {space} address {address:#x} that nothing has written")]
    Uninitialised {
        /// The state space of the access.
        space: FaultSpace,
        /// The lane's address.
        address: u64,
        /// The lane's access width in bytes.
        bytes: u32,
    },
    /// A read of a register that no path has written.
    #[error("register {register} is read before it is written")]
    UninitialisedRegister {
        /// The register, as printed.
        register: String,
    },
    /// A load through the read-only path of bytes that the same launch has written: hardware may return old ones.
    #[error(
        "read-only load of {bytes} bytes at global address {address:#x}, which this launch has written"
    )]
    ReadOnly {
        /// The lane's address.
        address: u64,
        /// The lane's access width in bytes.
        bytes: u32,
    },
    /// A load above the wait for the launch in front of what that one, or another that may still run, has written:
    /// hardware may return old bytes.
    #[error(
        "load of {bytes} bytes at global address {address:#x}, which a launch that may still run writes, before waiting for it"
    )]
    Early {
        /// The lane's address.
        address: u64,
        /// The lane's access width in bytes.
        bytes: u32,
    },
    /// Two warps touched the same shared word with nothing ordering them, at least one writing.
    #[error("shared-memory race at address {address:#x}: {what}")]
    Race {
        /// The shared address of the word.
        address: u64,
        /// Which accesses conflict.
        what: String,
    },
    /// An asynchronous copy of bytes that ordinary instructions wrote, with no `fence.proxy.async` since.
    #[error("{space} address {address:#x} is accessed through the async proxy: {what}")]
    Proxy {
        /// The state space of the bytes.
        space: FaultSpace,
        /// Their first address.
        address: u64,
        /// Which write lacks the fence.
        what: String,
    },
    /// A register of a warpgroup's product is touched while the product is in flight, or its result is never awaited.
    #[error("a product in flight: {0}")]
    InFlight(String),
    /// No `wgmma.fence` orders registers before a warpgroup's product.
    #[error("a product without wgmma.fence: {0}")]
    Unfenced(String),
    /// A descriptor of a matrix in shared memory that does not describe one.
    #[error("matrix descriptor {0}")]
    Descriptor(String),
    /// A warp-wide instruction reached by only part of its warp.
    #[error("executed with lanes {active:#010x}, but it needs lanes {needed:#010x} together")]
    Divergent {
        /// The lanes that executed it.
        active: u32,
        /// The lanes that had to.
        needed: u32,
    },
    /// Every warp of a block waits and nothing can wake one.
    #[error("deadlock: every unfinished warp of the block waits: {waiting}")]
    Deadlock {
        /// The waiting warps and what they wait for.
        waiting: String,
    },
    /// The step budget of [`Options::max_steps`](super::Options::max_steps) is spent.
    #[error(
        "gave up after {steps} warp instructions in one block: a wait that never ends, or raise max_steps"
    )]
    StepLimit {
        /// Warp instructions executed by the block.
        steps: u64,
    },
    /// `trap`.
    #[error("trap")]
    Trap,
    /// A barrier or asynchronous-copy protocol broken in another way.
    #[error("{0}")]
    Protocol(String),
    /// The verifier refuses the kernel.
    #[error("{0}")]
    Refused(Box<crate::verify::Error>),
    /// The instruction is outside what the interpreter executes.
    #[error("the interpreter does not execute this instruction: {0}")]
    Unsupported(String),
    /// The launch itself is wrong: grid, block, or an argument.
    #[error("launch of {kernel}: {what}")]
    Launch {
        /// The kernel's entry name.
        kernel: String,
        /// What does not fit.
        what: String,
    },
    /// A host-side access to [`Memory`](super::Memory) that is out of bounds.
    #[error("host access to {bytes} bytes at {address:#x}: {what}")]
    Host {
        /// Where the access started.
        address: u64,
        /// How many bytes it wanted.
        bytes: u64,
        /// Why it cannot be.
        what: String,
    },
}

/// The first thing that went wrong in a launch, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// What happened.
    pub kind: Box<FaultKind>,
    /// Where, unless it happened outside a kernel.
    pub site: Option<Box<Site>>,
}

impl Fault {
    pub(crate) fn new(kind: FaultKind) -> Fault {
        Fault {
            kind: Box::new(kind),
            site: None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.site {
            Some(site) => write!(f, "{}: {}", site, self.kind),
            None => self.kind.fmt(f),
        }
    }
}

impl std::error::Error for Fault {}
