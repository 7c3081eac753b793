//! Loads that stand above the wait for the predecessor.
//!
//! ptxas moves that wait above loads of the read-only path (`ld.global.nc`), which it takes for
//! constants that may be read at any time; nothing would be loaded early then. Plain loads keep their
//! place.

use crate::ir::{Inst, Stmt};
use crate::op::Opcode;

/// Makes the loads above the wait plain ones, where there is a wait.
pub(super) fn keep_order(body: &mut [Stmt]) {
    let is_wait = |stmt: &Stmt| matches!(stmt, Stmt::Inst(inst) if inst.op == Opcode::GridDepWait);
    if let Some(wait) = body.iter().position(is_wait) {
        body[..wait].iter_mut().for_each(plain);
    }
}

fn plain(stmt: &mut Stmt) {
    match stmt {
        Stmt::Inst(Inst {
            op: Opcode::Ld { cache, .. },
            ..
        }) => cache.nc = false,
        Stmt::Inst(_) | Stmt::Comment(_) => {}
        Stmt::If(branch) => {
            let sides = branch.then.iter_mut().chain(&mut branch.otherwise);
            sides.for_each(plain);
        }
        Stmt::Loop(l) => l.body.iter_mut().for_each(plain),
    }
}
