//! A rough count of the registers alive at once.
//!
//! Each register lives from its first writing to its last reading; what crosses the head of a
//! loop and is read inside lives to the loop's end. Instructions are numbered in program order.

use crate::ir::{Address, Base, Kernel, Operand, Reg, Stmt, Ty};

/// 32-bit registers alive at the worst place; predicates are not counted.
pub(super) fn estimate(k: &Kernel) -> u32 {
    let mut walk = Walk {
        at: 0,
        first: vec![None; k.regs.len()],
        last: vec![0; k.regs.len()],
    };
    walk.block(&k.body);
    let mut change = vec![0i64; walk.at + 2];
    for (i, info) in k.regs.iter().enumerate() {
        let Some(first) = walk.first[i] else { continue };
        let words = match info.ty {
            Ty::Pred => 0,
            ty => i64::from(ty.bits().div_ceil(32)),
        };
        change[first] += words;
        change[walk.last[i].max(first) + 1] -= words;
    }
    let mut alive = 0;
    let peak = change.iter().map(|c| {
        alive += c;
        alive
    });
    peak.max().unwrap_or(0).try_into().unwrap_or(u32::MAX)
}

struct Walk {
    at: usize,
    first: Vec<Option<usize>>,
    last: Vec<usize>,
}

impl Walk {
    fn block(&mut self, stmts: &[Stmt]) {
        for stmt in stmts {
            self.at += 1;
            match stmt {
                Stmt::Comment(_) => {}
                Stmt::Inst(inst) => {
                    for operand in &inst.src {
                        if let Operand::Reg(r)
                        | Operand::Addr(Address {
                            base: Base::Reg(r), ..
                        }) = operand
                        {
                            self.read(*r);
                        }
                    }
                    for d in &inst.dst {
                        self.first[d.0 as usize].get_or_insert(self.at);
                    }
                }
                Stmt::If(branch) => {
                    self.read(branch.cond);
                    self.block(&branch.then);
                    self.block(&branch.otherwise);
                }
                Stmt::Loop(l) => {
                    let head = self.at;
                    self.block(&l.body);
                    self.read(l.again);
                    for (first, last) in self.first.iter().zip(&mut self.last) {
                        if first.is_some_and(|f| f < head) && *last > head {
                            *last = self.at;
                        }
                    }
                }
            }
        }
    }

    fn read(&mut self, r: Reg) {
        self.last[r.0 as usize] = self.at;
    }
}
