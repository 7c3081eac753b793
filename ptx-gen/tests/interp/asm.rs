//! A few lines of sugar for writing kernels in the IR.

use gannet_ptx_gen::interp::{Fault, InterpStats, LaunchArg, Memory, Options, Prepared};
use gannet_ptx_gen::ir::{
    Address, Base, If, Imm, Inst, Kernel, Loc, Loop, Operand, Param, Reg, RegInfo, SharedDecl,
    Stmt, Ty,
};
use gannet_ptx_gen::op::{Cache, Opcode, Order, Space, Special};
use gannet_ptx_gen::target::Target;

/// A kernel being written. Parameters are U64 addresses unless said otherwise.
pub(crate) struct Asm {
    pub(crate) kernel: Kernel,
    open: Vec<Vec<Stmt>>,
}

impl Asm {
    pub(crate) fn new(threads: u32) -> Asm {
        let kernel = Kernel {
            name: "test".to_owned(),
            doc: String::new(),
            target: Target::Sm90a,
            params: Vec::new(),
            shared: Vec::new(),
            block_size: [threads, 1, 1],
            min_blocks: None,
            cluster: 1,
            dynamic_shared: 0,
            body: Vec::new(),
            regs: Vec::new(),
        };
        Asm {
            kernel,
            open: vec![Vec::new()],
        }
    }

    pub(crate) fn reg(&mut self, ty: Ty) -> Reg {
        self.kernel.regs.push(RegInfo { ty, mutable: false });
        Reg(self.kernel.regs.len() as u32 - 1)
    }

    pub(crate) fn var(&mut self, ty: Ty, value: Imm) -> Reg {
        let reg = self.reg(ty);
        self.kernel.regs[reg.0 as usize].mutable = true;
        self.emit(Opcode::Mov { ty }, &[reg], &[value.into()]);
        reg
    }

    #[track_caller]
    pub(crate) fn emit(&mut self, op: Opcode, dst: &[Reg], src: &[Operand]) {
        self.emit_if(None, op, dst, src);
    }

    #[track_caller]
    pub(crate) fn emit_if(
        &mut self,
        guard: Option<(Reg, bool)>,
        op: Opcode,
        dst: &[Reg],
        src: &[Operand],
    ) {
        let inst = Inst {
            op,
            dst: dst.to_vec(),
            src: src.to_vec(),
            guard,
            loc: Loc::here(),
        };
        self.top().push(Stmt::Inst(inst));
    }

    /// Emits an instruction with one result.
    #[track_caller]
    pub(crate) fn get(&mut self, op: Opcode, ty: Ty, src: &[Operand]) -> Reg {
        let d = self.reg(ty);
        self.emit(op, &[d], src);
        d
    }

    fn top(&mut self) -> &mut Vec<Stmt> {
        self.open.last_mut().expect("a body is open")
    }

    pub(crate) fn open(&mut self) {
        self.open.push(Vec::new());
    }

    fn close(&mut self) -> Vec<Stmt> {
        self.open.pop().expect("a body is open")
    }

    pub(crate) fn if_else(
        &mut self,
        cond: Reg,
        then: impl FnOnce(&mut Asm),
        otherwise: impl FnOnce(&mut Asm),
    ) {
        self.open();
        then(self);
        let yes = self.close();
        self.open();
        otherwise(self);
        let no = self.close();
        let branch = If {
            cond,
            negated: false,
            then: yes,
            otherwise: no,
            loc: Loc::here(),
        };
        self.top().push(Stmt::If(branch));
    }

    /// A loop whose body returns the predicate that repeats it.
    pub(crate) fn repeat(&mut self, body: impl FnOnce(&mut Asm) -> Reg) {
        self.open();
        let again = body(self);
        let body = self.close();
        self.top().push(Stmt::Loop(Loop {
            body,
            again,
            loc: Loc::here(),
        }));
    }

    /// A pointer parameter, loaded.
    pub(crate) fn pointer(&mut self) -> Reg {
        let index = self.kernel.params.len() as u32;
        self.kernel.params.push(Param {
            name: format!("p{index}"),
            ty: Ty::U64,
            pointee: None,
        });
        let at = Operand::Addr(Address {
            base: Base::Param(index),
            offset: 0,
        });
        self.get(Opcode::LoadParam { ty: Ty::U64 }, Ty::U64, &[at])
    }

    pub(crate) fn shared(&mut self, bytes: u32) -> u32 {
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

    pub(crate) fn tid(&mut self) -> Reg {
        self.get(Opcode::Special(Special::Tid(0)), Ty::U32, &[])
    }

    /// base + 4 * index, in global memory.
    pub(crate) fn element(&mut self, base: Reg, index: Reg) -> Reg {
        let op = Opcode::MadWide { ty: Ty::U32 };
        self.get(
            op,
            Ty::U64,
            &[index.into(), Imm::u32(4).into(), base.into()],
        )
    }

    #[track_caller]
    pub(crate) fn load(&mut self, ty: Ty, address: Reg) -> Reg {
        let op = Opcode::Ld {
            space: Space::Global,
            ty,
            vec: 1,
            order: Order::Weak,
            cache: Cache::default(),
        };
        self.get(op, ty, &[at(address, 0)])
    }

    #[track_caller]
    pub(crate) fn store(&mut self, ty: Ty, address: Reg, offset: i32, value: impl Into<Operand>) {
        let op = Opcode::St {
            space: Space::Global,
            ty,
            vec: 1,
            order: Order::Weak,
        };
        self.emit(op, &[], &[at(address, offset), value.into()]);
    }

    pub(crate) fn finish(mut self) -> Kernel {
        self.kernel.body = self.close();
        self.kernel
    }
}

pub(crate) fn at(base: Reg, offset: i32) -> Operand {
    Operand::Addr(Address {
        base: Base::Reg(base),
        offset,
    })
}

pub(crate) fn in_shared(index: u32, offset: i32) -> Operand {
    Operand::Addr(Address {
        base: Base::Shared(index),
        offset,
    })
}

/// A constant of any type.
pub(crate) fn imm(ty: Ty, bits: u64) -> Operand {
    Operand::Imm(Imm { ty, bits })
}

/// Runs a kernel on one block, unverified: many here are wrong on purpose.
pub(crate) fn with_options(
    kernel: &Kernel,
    args: &[LaunchArg],
    memory: &Memory,
    options: &Options,
) -> Result<InterpStats, Fault> {
    Prepared::unverified(kernel)?.launch([1, 1, 1], args, memory, options)
}

/// Runs a kernel on one block.
pub(crate) fn run(kernel: &Kernel, args: &[u64], memory: &Memory) -> Result<InterpStats, Fault> {
    let args: Vec<LaunchArg> = args.iter().map(|a| LaunchArg::U64(*a)).collect();
    with_options(kernel, &args, memory, &Options::default())
}

/// The register type a value of a type is held in, and stored as.
fn held(ty: Ty) -> Ty {
    match ty.bits() {
        8 | 16 => Ty::U16,
        64 => Ty::U64,
        _ => Ty::U32,
    }
}

/// The results of one instruction on constants, as 64-bit words; predicates as 0 and 1.
pub(crate) fn eval_all(op: Opcode, dst: &[Ty], src: &[Operand]) -> Vec<u64> {
    let mut a = Asm::new(32);
    let out = a.pointer();
    let results: Vec<Reg> = dst.iter().map(|ty| a.reg(*ty)).collect();
    a.emit(op, &results, src);
    for (i, (ty, d)) in dst.iter().zip(&results).enumerate() {
        let value = match ty {
            Ty::Pred => {
                let pick = [Imm::u32(1).into(), Imm::u32(0).into(), (*d).into()];
                a.get(Opcode::Selp { ty: Ty::U32 }, Ty::U32, &pick)
            }
            _ => *d,
        };
        a.store(held(*ty), out, 8 * i as i32, value);
    }
    let kernel = a.finish();
    let mut memory = Memory::new();
    let address = memory.alloc_zeroed(8 * dst.len() as u64);
    run(&kernel, &[address], &memory).expect("no fault");
    memory.read(address, dst.len()).expect("in bounds")
}

/// The single result of one instruction on constants.
pub(crate) fn eval(op: Opcode, dst: Ty, src: &[Operand]) -> u64 {
    eval_all(op, &[dst], src)[0]
}
