//! What may stand above the wait for the predecessor.
//!
//! A kernel with that wait may start before the launch in front of it has finished. So every thread waits,
//! unconditionally, before it ends and before it writes anything. It lets the next launch start once it
//! has waited, so that whatever is older than its predecessor is complete when a kernel starts; or, where
//! it says so, before, and then one launch more may still run. Loads of the read-only path
//! (`ld.global.nc`) are none: ptxas moves the wait above them. Whether what a kernel *reads* early is
//! older depends on the launches: the interpreter sees it.

use super::Error;
use crate::ir::{Inst, Kernel, Stmt};
use crate::op::{Opcode, Space};
use crate::table::row_of;

pub(super) fn check(k: &Kernel) -> Result<(), Error> {
    if !k.starts_early() {
        return Ok(());
    }
    for stmt in &k.body {
        match stmt {
            Stmt::Inst(inst) if inst.op == Opcode::GridDepWait && inst.guard.is_none() => {
                return Ok(());
            }
            stmt => nothing_late(k, stmt)?,
        }
    }
    // Not reached: `nothing_late` has refused the wait that is not of all threads.
    Ok(())
}

/// Refuses what must come after the wait.
fn nothing_late(k: &Kernel, stmt: &Stmt) -> Result<(), Error> {
    match stmt {
        Stmt::Inst(inst) if is_late(inst) => Err(Error::Early {
            kernel: k.name.as_str().into(),
            op: row_of(inst.op, k.target).mnemonic.into(),
            at: inst.loc,
        }),
        Stmt::Inst(_) | Stmt::Comment(_) => Ok(()),
        Stmt::If(branch) => {
            let sides = branch.then.iter().chain(&branch.otherwise);
            sides.into_iter().try_for_each(|s| nothing_late(k, s))
        }
        Stmt::Loop(l) => l.body.iter().try_for_each(|s| nothing_late(k, s)),
    }
}

fn is_late(inst: &Inst) -> bool {
    match inst.op {
        Opcode::St { space, .. } | Opcode::Atom { space, .. } | Opcode::Red { space, .. } => {
            space == Space::Global
        }
        // A wait that only some threads reach is none.
        Opcode::CpAsyncBulkStore | Opcode::Exit | Opcode::GridDepWait => true,
        // ptxas takes it for a constant's and moves the wait above it.
        Opcode::Ld { cache, .. } => cache.nc,
        _ => false,
    }
}
