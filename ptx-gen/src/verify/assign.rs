//! Definite assignment: a register is read only where every path has written it.
//!
//! A loop's body runs at least once, so what it assigns is assigned after it. A branch that ends
//! the thread assigns nothing and asks nothing of what follows.

use super::Error;
use crate::ir::{Address, Base, Inst, Kernel, Loc, Operand, Reg, Stmt};
use crate::op::Opcode;

pub(super) fn check(k: &Kernel) -> Result<(), Error> {
    let mut checker = Checker {
        k,
        written: Set::new(k.regs.len()),
    };
    let mut assigned = Set::new(k.regs.len());
    checker.block(&k.body, &mut assigned)?;
    Ok(())
}

/// A set of registers.
#[derive(Clone)]
struct Set(Vec<u64>);

impl Set {
    fn new(len: usize) -> Set {
        Set(vec![0; len.div_ceil(64)])
    }

    fn contains(&self, r: Reg) -> bool {
        self.0[r.0 as usize / 64] >> (r.0 % 64) & 1 == 1
    }

    fn insert(&mut self, r: Reg) {
        self.0[r.0 as usize / 64] |= 1 << (r.0 % 64);
    }

    fn intersect(&mut self, other: &Set) {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a &= b);
    }
}

struct Checker<'a> {
    k: &'a Kernel,
    /// Registers written anywhere so far.
    written: Set,
}

impl Checker<'_> {
    /// Whether the end of the block can be reached.
    fn block(&mut self, stmts: &[Stmt], assigned: &mut Set) -> Result<bool, Error> {
        for stmt in stmts {
            match stmt {
                Stmt::Comment(_) => {}
                Stmt::Inst(inst) => {
                    self.inst(inst, assigned)?;
                    if matches!(inst.op, Opcode::Exit | Opcode::Trap) && inst.guard.is_none() {
                        return Ok(false);
                    }
                }
                Stmt::If(branch) => {
                    self.read(branch.cond, branch.loc, assigned)?;
                    let mut other = assigned.clone();
                    let through_then = self.block(&branch.then, assigned)?;
                    let through_else = self.block(&branch.otherwise, &mut other)?;
                    match (through_then, through_else) {
                        (true, true) => assigned.intersect(&other),
                        (true, false) => {}
                        (false, true) => *assigned = other,
                        (false, false) => return Ok(false),
                    }
                }
                Stmt::Loop(l) => {
                    if !self.block(&l.body, assigned)? {
                        return Ok(false);
                    }
                    self.read(l.again, l.loc, assigned)?;
                }
            }
        }
        Ok(true)
    }

    fn inst(&mut self, inst: &Inst, assigned: &mut Set) -> Result<(), Error> {
        for operand in &inst.src {
            if let Operand::Reg(r)
            | Operand::Addr(Address {
                base: Base::Reg(r), ..
            }) = operand
            {
                self.read(*r, inst.loc, assigned)?;
            }
        }
        if let Some((r, _)) = inst.guard {
            self.read(r, inst.loc, assigned)?;
        }
        for d in &inst.dst {
            if self.written.contains(*d) && !self.k.reg(*d).mutable {
                return Err(Error::Reassigned {
                    kernel: self.k.name.as_str().into(),
                    at: inst.loc,
                });
            }
            self.written.insert(*d);
            if inst.guard.is_none() {
                assigned.insert(*d);
            }
        }
        Ok(())
    }

    fn read(&self, r: Reg, at: Loc, assigned: &Set) -> Result<(), Error> {
        if assigned.contains(r) {
            return Ok(());
        }
        Err(Error::Unassigned {
            kernel: self.k.name.as_str().into(),
            at,
        })
    }
}
