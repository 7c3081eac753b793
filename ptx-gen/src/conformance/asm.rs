//! Writes the small kernels of the conformance cases, straight in the IR: the builder chooses instructions by itself,
//! and here the instruction is given.
//!
//! Values cross global memory in slots of [`SLOT`] bytes, one value a slot, low bytes first.

use crate::ir::{
    Address, Base, If, Imm, Inst, Kernel, Loc, Loop, Operand, Param, Reg, RegInfo, SharedDecl,
    Stmt, Ty,
};
use crate::op::{Cache, Cmp, Opcode, Order, Space, Special};
use crate::target::Target;

/// Bytes between values in inputs and outputs.
pub(super) const SLOT: u32 = 8;

/// A kernel being written.
pub(super) struct Asm {
    kernel: Kernel,
    open: Vec<Vec<Stmt>>,
}

impl Asm {
    pub(super) fn new(target: Target, block_size: [u32; 3]) -> Asm {
        let kernel = Kernel {
            name: "conformance".into(),
            doc: String::new(),
            target,
            params: Vec::new(),
            shared: Vec::new(),
            block_size,
            dynamic_shared: 0,
            min_blocks: None,
            cluster: 1,
            body: Vec::new(),
            regs: Vec::new(),
        };
        Asm {
            kernel,
            open: vec![Vec::new()],
        }
    }

    pub(super) fn finish(mut self) -> Kernel {
        self.kernel.body = self.close();
        self.kernel
    }

    pub(super) fn reg(&mut self, ty: Ty) -> Reg {
        self.kernel.regs.push(RegInfo { ty, mutable: false });
        Reg(self.kernel.regs.len() as u32 - 1)
    }

    #[track_caller]
    pub(super) fn emit(&mut self, op: Opcode, dst: &[Reg], src: &[Operand]) {
        let inst = Inst {
            op,
            dst: dst.to_vec(),
            src: src.to_vec(),
            guard: None,
            loc: Loc::here(),
        };
        if let Some(top) = self.open.last_mut() {
            top.push(Stmt::Inst(inst));
        }
    }

    /// Emits an instruction with one result.
    #[track_caller]
    pub(super) fn get(&mut self, op: Opcode, ty: Ty, src: &[Operand]) -> Reg {
        let d = self.reg(ty);
        self.emit(op, &[d], src);
        d
    }

    fn close(&mut self) -> Vec<Stmt> {
        self.open.pop().unwrap_or_default()
    }

    /// `if cond { then } else { otherwise }`.
    #[track_caller]
    pub(super) fn branch(
        &mut self,
        cond: Reg,
        then: impl FnOnce(&mut Asm),
        otherwise: impl FnOnce(&mut Asm),
    ) {
        let loc = Loc::here();
        self.open.push(Vec::new());
        then(self);
        let yes = self.close();
        self.open.push(Vec::new());
        otherwise(self);
        let no = self.close();
        let branch = If {
            cond,
            negated: false,
            then: yes,
            otherwise: no,
            loc,
        };
        if let Some(top) = self.open.last_mut() {
            top.push(Stmt::If(branch));
        }
    }

    /// Runs `body` until the predicate it gives is true; returns that predicate.
    #[track_caller]
    pub(super) fn until(&mut self, body: impl FnOnce(&mut Asm) -> Reg) -> Reg {
        let loc = Loc::here();
        self.open.push(Vec::new());
        let done = body(self);
        let again = self.get(Opcode::Not { ty: Ty::Pred }, Ty::Pred, &[done.into()]);
        let body = self.close();
        if let Some(top) = self.open.last_mut() {
            top.push(Stmt::Loop(Loop { body, again, loc }));
        }
        done
    }

    /// A parameter, loaded.
    pub(super) fn param(&mut self, ty: Ty) -> Reg {
        let index = self.kernel.params.len() as u32;
        self.kernel.params.push(Param {
            name: format!("p{index}"),
            ty,
            pointee: None,
        });
        let at = Operand::Addr(Address {
            base: Base::Param(index),
            offset: 0,
        });
        self.get(Opcode::LoadParam { ty }, ty, &[at])
    }

    /// A shared array of `bytes` bytes, 16-byte aligned: its index.
    pub(super) fn shared(&mut self, bytes: u32) -> u32 {
        let index = self.kernel.shared.len() as u32;
        self.kernel.shared.push(SharedDecl {
            name: format!("s{index}"),
            ty: Ty::U32,
            bytes,
            align: 16,
            dynamic: false,
        });
        index
    }

    /// The address of a shared array, in a register.
    pub(super) fn shared_base(&mut self, array: u32) -> Reg {
        self.get(Opcode::SharedAddress, Ty::U32, &[in_shared(array, 0)])
    }

    pub(super) fn special(&mut self, which: Special) -> Reg {
        self.get(Opcode::Special(which), Ty::U32, &[])
    }

    pub(super) fn tid(&mut self) -> Reg {
        self.special(Special::Tid(0))
    }

    /// The thread's number in a one-dimensional grid.
    pub(super) fn index(&mut self) -> Reg {
        let (block, size, tid) = (
            self.special(Special::Ctaid(0)),
            self.special(Special::Ntid(0)),
            self.tid(),
        );
        self.get(
            Opcode::MadLo { ty: Ty::U32 },
            Ty::U32,
            &[block.into(), size.into(), tid.into()],
        )
    }

    /// `a <op> b` on u32.
    pub(super) fn word(&mut self, op: Opcode, a: Reg, b: u32) -> Reg {
        self.get(op, Ty::U32, &[a.into(), Imm::u32(b).into()])
    }

    /// The global address `base + index * stride`.
    pub(super) fn global(&mut self, base: Reg, index: Reg, stride: u32) -> Reg {
        self.get(
            Opcode::MadWide { ty: Ty::U32 },
            Ty::U64,
            &[index.into(), Imm::u32(stride).into(), base.into()],
        )
    }

    /// The shared address `base + index * stride`.
    pub(super) fn local(&mut self, base: Reg, index: Reg, stride: u32) -> Reg {
        self.get(
            Opcode::MadLo { ty: Ty::U32 },
            Ty::U32,
            &[index.into(), Imm::u32(stride).into(), base.into()],
        )
    }

    /// Whether `a <cmp> b`, u32.
    pub(super) fn test(&mut self, cmp: Cmp, a: Reg, b: u32) -> Reg {
        self.get(
            Opcode::Setp { cmp, ty: Ty::U32 },
            Ty::Pred,
            &[a.into(), Imm::u32(b).into()],
        )
    }

    /// A plain load; a predicate is a word that is not zero.
    pub(super) fn load(&mut self, space: Space, ty: Ty, base: Reg, offset: i32) -> Reg {
        if ty == Ty::Pred {
            let word = self.load(space, Ty::U32, base, offset);
            return self.test(Cmp::Ne, word, 0);
        }
        let op = Opcode::Ld {
            space,
            ty,
            vec: 1,
            order: Order::Weak,
            cache: Cache::default(),
        };
        self.get(op, ty, &[at(base, offset)])
    }

    /// A plain store; a predicate becomes a word, 0 or 1.
    pub(super) fn store(&mut self, space: Space, ty: Ty, base: Reg, offset: i32, value: Reg) {
        if ty == Ty::Pred {
            let pick = [Imm::u32(1).into(), Imm::u32(0).into(), value.into()];
            let word = self.get(Opcode::Selp { ty: Ty::U32 }, Ty::U32, &pick);
            return self.store(space, Ty::U32, base, offset, word);
        }
        let op = Opcode::St {
            space,
            ty,
            vec: 1,
            order: Order::Weak,
        };
        self.emit(op, &[], &[at(base, offset), value.into()]);
    }

    pub(super) fn barrier(&mut self) {
        self.emit(Opcode::BarSync, &[], &[]);
    }
}

/// An address based on a register.
pub(super) fn at(base: Reg, offset: i32) -> Operand {
    Operand::Addr(Address {
        base: Base::Reg(base),
        offset,
    })
}

/// An address based on a shared array.
pub(super) fn in_shared(array: u32, offset: i32) -> Operand {
    Operand::Addr(Address {
        base: Base::Shared(array),
        offset,
    })
}
