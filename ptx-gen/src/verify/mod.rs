//! The verifier: what must hold of a kernel before it is printed.
//!
//! ptxas accepts misaligned vectors, registers that were never written and barriers that half a
//! block reaches; a GPU then computes nonsense or hangs. These rules catch that on the laptop:
//!
//! * every operand has the type and the address space of its slot in [`crate::table`];
//! * every instruction exists on the target;
//! * every register is assigned on every path to its use, and only variables more than once;
//! * block barriers stand where all threads of the block arrive, warp-wide instructions where
//!   all lanes of the warp do (conservatively: thread and
//!   lane indices, and what follows from them, count as different);
//! * a barrier is not passed by because of what a thread has loaded;
//! * products of warpgroups have their registers to themselves while they are in flight, and a
//!   fence before them; a thread has registers enough for their operands, and a block for what its
//!   `setmaxnreg` asks for;
//! * where a kernel waits for the launch in front, every thread does before it writes or ends;
//! * shared memory fits, names and block sizes are legal.

mod assign;
mod early;
mod form;
mod operands;
mod pressure;
mod products;
mod registers;
mod uniform;

use crate::ir::{Kernel, Loc};
use crate::target::{PtxVersion, Target};

pub use registers::registers_of;

/// Why a kernel is refused. `at` is the Rust code that emitted the offending statement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel as a whole is not legal.
    #[error("kernel {kernel}: {why}")]
    Kernel {
        /// Its name.
        kernel: Box<str>,
        /// What is wrong.
        why: Box<str>,
    },
    /// An instruction's own fields do not go together.
    #[error("kernel {kernel}, {op} from {at}: {why}")]
    Form {
        /// The kernel's name.
        kernel: Box<str>,
        /// The instruction as PTX spells it.
        op: Box<str>,
        /// Who emitted it.
        at: Loc,
        /// What is wrong.
        why: Box<str>,
    },
    /// An operand does not fit its slot.
    #[error("kernel {kernel}, {op} from {at}: operand {index} must be {expected}, is {found}")]
    Operand {
        /// The kernel's name.
        kernel: Box<str>,
        /// The instruction as PTX spells it.
        op: Box<str>,
        /// Who emitted it.
        at: Loc,
        /// Position among destinations and sources, from 0.
        index: usize,
        /// What the slot takes.
        expected: Box<str>,
        /// What stands in it.
        found: Box<str>,
    },
    /// The target lacks the instruction.
    #[error(
        "kernel {kernel}, {op} from {at}: needs sm_{needs}{alone} and PTX {ptx}, target is {target}"
    )]
    Target {
        /// The kernel's name.
        kernel: Box<str>,
        /// The instruction as PTX spells it.
        op: Box<str>,
        /// Who emitted it.
        at: Loc,
        /// Lowest compute capability times ten.
        needs: u32,
        /// `a alone` where only the architecture-specific target will do; else nothing.
        alone: &'static str,
        /// Lowest PTX version.
        ptx: PtxVersion,
        /// The kernel's target.
        target: Target,
    },
    /// A register is read on a path that did not assign it.
    #[error("kernel {kernel}: {at} reads a value that is not assigned on every path to it")]
    Unassigned {
        /// The kernel's name.
        kernel: Box<str>,
        /// Who reads it.
        at: Loc,
    },
    /// A register that is no variable is written twice.
    #[error("kernel {kernel}: {at} assigns a value a second time")]
    Reassigned {
        /// The kernel's name.
        kernel: Box<str>,
        /// The second writer.
        at: Loc,
    },
    /// It may happen while the launch in front still runs.
    #[error("kernel {kernel}, {op} from {at}: stands above the wait for the predecessor")]
    Early {
        /// The kernel's name.
        kernel: Box<str>,
        /// The instruction as PTX spells it.
        op: Box<str>,
        /// Who emitted it.
        at: Loc,
    },
    /// A register is touched while a warpgroup's product that uses it may be in flight.
    #[error(
        "kernel {kernel}, {op} from {at}: touches {what} of the product from {since}, which no wait has completed on every path"
    )]
    InFlight {
        /// The kernel's name.
        kernel: Box<str>,
        /// The instruction as PTX spells it.
        op: Box<str>,
        /// Who emitted it.
        at: Loc,
        /// What the register is to the product.
        what: &'static str,
        /// Who emitted the product.
        since: Loc,
    },
    /// A warpgroup's product that may be in flight when the kernel ends.
    #[error("kernel {kernel}: the product from {at} may be in flight when a thread ends")]
    NeverWaited {
        /// The kernel's name.
        kernel: Box<str>,
        /// Who emitted the product.
        at: Loc,
    },
    /// A warpgroup's product whose registers may have been touched since the last fence.
    #[error(
        "kernel {kernel}, {op} from {at}: on some path its registers are touched after the last wgmma.fence, or there is none"
    )]
    Unfenced {
        /// The kernel's name.
        kernel: Box<str>,
        /// The instruction as PTX spells it.
        op: Box<str>,
        /// Who emitted it.
        at: Loc,
    },
    /// A barrier that threads may pass by because of what they have loaded.
    #[error(
        "kernel {kernel}, {op} from {at}: may be skipped by some threads and not by others, because of what {cause} loads"
    )]
    Skipped {
        /// The kernel's name.
        kernel: Box<str>,
        /// The instruction as PTX spells it.
        op: Box<str>,
        /// Who emitted it.
        at: Loc,
        /// The branch or loop that decides.
        cause: Loc,
    },
    /// Threads that must arrive together may take different paths.
    #[error(
        "kernel {kernel}, {op} from {at}: not every thread of the {group} arrives, because of {cause}"
    )]
    Divergent {
        /// The kernel's name.
        kernel: Box<str>,
        /// The instruction as PTX spells it.
        op: Box<str>,
        /// Who emitted it.
        at: Loc,
        /// `cluster`, `block`, `warpgroup` or `warp`.
        group: &'static str,
        /// The branch, loop or exit that divides them.
        cause: Loc,
    },
}

impl Kernel {
    /// Checks every rule.
    ///
    /// # Errors
    ///
    /// The first rule found broken.
    pub fn verify(&self) -> Result<(), Error> {
        whole(self)?;
        operands::check(self)?;
        assign::check(self)?;
        early::check(self)?;
        uniform::check(self)?;
        registers::check(self)?;
        products::check(self)
    }

    /// Verifies the kernel and prints it as a PTX module of one entry.
    ///
    /// # Errors
    ///
    /// As [`Kernel::verify`].
    pub fn ptx(&self) -> Result<String, Error> {
        self.verify()?;
        Ok(crate::print::print(self))
    }

    /// A rough count of 32-bit registers alive at once in a thread: an estimate of what ptxas
    /// will use, too low where it pipelines loads and too high where it recomputes.
    pub fn register_estimate(&self) -> u32 {
        pressure::estimate(self)
    }
}

/// The most static shared memory a kernel may declare, on every target.
const STATIC_SHARED: u32 = 48 << 10;

/// Rules about the kernel as a whole.
fn whole(k: &Kernel) -> Result<(), Error> {
    let refuse = |why: String| {
        Err(Error::Kernel {
            kernel: k.name.as_str().into(),
            why: why.into(),
        })
    };
    let names = std::iter::once(&k.name)
        .chain(k.params.iter().map(|p| &p.name))
        .chain(k.shared.iter().map(|d| &d.name));
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        if !legal_name(name) {
            return refuse(format!("{name:?} is not a PTX identifier"));
        }
        if !seen.insert(name) {
            return refuse(format!("{name:?} names two things"));
        }
    }
    let [x, y, z] = k.block_size;
    if x == 0
        || y == 0
        || z == 0
        || z > 64
        || x.max(y) > 1024
        || u64::from(x) * u64::from(y) * u64::from(z) > 1024
    {
        return refuse(format!(
            "a block of {x} x {y} x {z} threads; the limit is 1024"
        ));
    }
    if let Some(blocks) = k.min_blocks
        && (blocks == 0 || blocks.saturating_mul(k.threads()) > 2048)
    {
        return refuse(format!(
            "{blocks} blocks of {} threads on a multiprocessor; 2048 threads fit",
            k.threads()
        ));
    }
    if k.cluster > 1 {
        if !k.target.has_hopper() {
            return refuse(format!("clusters, which {} has not", k.target));
        }
        if k.cluster > 8 {
            return refuse(format!("clusters of {} blocks; 8 are portable", k.cluster));
        }
    } else if k.cluster == 0 {
        return refuse("clusters of no block".into());
    }
    let bytes: u32 = k
        .params
        .iter()
        .fold(0, |at, p| at.next_multiple_of(p.bytes()) + p.bytes());
    if bytes > 4096 {
        return refuse(format!("{bytes} bytes of parameters; the limit is 4096"));
    }
    if k.params.iter().any(|p| p.ty == crate::ir::Ty::Pred) {
        return refuse("a predicate cannot be a parameter".into());
    }
    if k.shared.iter().any(|d| !d.align.is_power_of_two()) {
        return refuse("an array's alignment is not a power of two".into());
    }
    let fixed = k.static_shared();
    if fixed > STATIC_SHARED {
        return refuse(format!(
            "{fixed} bytes of static shared memory; the limit is {STATIC_SHARED}"
        ));
    }
    let (_, total) = k.shared_offsets();
    if total > k.target.max_shared() {
        let limit = k.target.max_shared();
        return refuse(format!(
            "{total} bytes of shared memory; {} has {limit}",
            k.target
        ));
    }
    if k.shared.iter().rev().skip(1).any(|d| d.dynamic) {
        return refuse("the dynamic array is not the last one".into());
    }
    Ok(())
}

fn legal_name(name: &str) -> bool {
    let mut chars = name.chars();
    let first = chars
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    first && chars.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '$')
}
