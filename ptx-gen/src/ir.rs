//! The kernel as data: what the builder produces and the verifier, the printer and the
//! interpreter consume.
//!
//! A [`Kernel`] is structured: there are no labels and no jumps, only [`Stmt::If`] and
//! [`Stmt::Loop`], so that "uniform control flow" and "assigned on every path" are properties
//! one walks a tree to decide. What an instruction *is* lives in [`crate::op::Opcode`]; its name,
//! operands and requirements live in [`crate::table`].
//!
//! # What always holds (and what an executor may rely on after [`crate::verify`])
//!
//! * [`Reg`] indexes [`Kernel::regs`]. A register whose `mutable` is false is written by exactly
//!   one instruction; a mutable one only by unguarded or guarded instructions of any number.
//! * A register holds [`Ty::bits`] bits. 8-bit values occupy a 16-bit PTX register, but an
//!   instruction only ever uses their low 8 bits (`U8`) or sign-extends them (`I8`).
//! * `Inst::dst` and `Inst::src` have exactly the slots that [`crate::table::row_of`] lists for
//!   the operation, in the order in which PTX writes them. Vector and fragment operands are
//!   flattened: `ld.v4` has four `dst`; `mma` has `src` = A registers, B registers, C registers;
//!   `st.v4` has `src` = address, then four values. What an instruction reads before it writes
//!   it (the accumulators of `wgmma`) is in both.
//! * An address operand is always [`Operand::Addr`], never a bare register.
//! * Addresses of the shared space are 32-bit byte offsets into the block's shared window;
//!   addresses of the global space are 64-bit.
//! * [`Kernel::shared`] is laid out in order: each static declaration at the next multiple of
//!   its `align`; at most one dynamic declaration, which comes last and whose size is
//!   [`Kernel::dynamic_shared`] (see [`Kernel::shared_offsets`]).

use std::fmt;
use std::panic::Location;

use crate::op::Opcode;
use crate::target::Target;

/// A kernel: one `.entry` of one PTX module.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Entry name; unique within a library, `[A-Za-z_][A-Za-z0-9_$]*`.
    pub name: String,
    /// The kernel's contract (parameters, shapes, formulas), printed as a comment above it.
    pub doc: String,
    /// The GPU the text is written for.
    pub target: Target,
    /// Parameters in launch order.
    pub params: Vec<Param>,
    /// Shared-memory arrays in layout order.
    pub shared: Vec<SharedDecl>,
    /// Threads of a block in x, y and z (`.reqntid`).
    pub block_size: [u32; 3],
    /// Blocks that must fit a multiprocessor together (`.minnctapersm`): what bounds the registers
    /// that ptxas may use. `None` leaves the bound to ptxas, which may spill to reach more blocks.
    pub min_blocks: Option<u32>,
    /// Blocks of a cluster, along x (`.reqnctapercluster`); 1 is none. A launch's grid in x is a
    /// multiple of it.
    pub cluster: u32,
    /// Bytes of dynamic shared memory the launch must provide.
    pub dynamic_shared: u32,
    /// The program.
    pub body: Vec<Stmt>,
    /// Every virtual register.
    pub regs: Vec<RegInfo>,
}

impl Kernel {
    /// Threads in one block.
    pub fn threads(&self) -> u32 {
        self.block_size.iter().product()
    }

    /// Byte offset of each entry of [`Kernel::shared`] in the block's shared window, and the
    /// bytes the window needs in all (static and dynamic).
    pub fn shared_offsets(&self) -> (Vec<u32>, u32) {
        let mut at = 0u32;
        let mut offsets = Vec::with_capacity(self.shared.len());
        for decl in &self.shared {
            at = at.next_multiple_of(decl.align.max(1));
            offsets.push(at);
            at += if decl.dynamic {
                self.dynamic_shared
            } else {
                decl.bytes
            };
        }
        (offsets, at)
    }

    /// Bytes of statically declared shared memory, padding included.
    pub fn static_shared(&self) -> u32 {
        let mut at = 0u32;
        for decl in self.shared.iter().filter(|d| !d.dynamic) {
            at = at.next_multiple_of(decl.align.max(1)) + decl.bytes;
        }
        at
    }

    /// Calls `f` on every instruction in program order.
    pub fn for_each_inst<'a>(&'a self, mut f: impl FnMut(&'a Inst)) {
        walk(&self.body, &mut f);
    }

    /// Whether it waits for the launch in front of it by itself, so that it may start before that
    /// has finished.
    pub fn starts_early(&self) -> bool {
        let mut waits = false;
        self.for_each_inst(|inst| waits |= inst.op == Opcode::GridDepWait);
        waits
    }

    /// Whether it lets the launch behind it start before it has waited for the one in front, which then
    /// may still run too.
    pub fn hands_over(&self) -> bool {
        let (mut waits, mut early) = (false, false);
        self.for_each_inst(|inst| match inst.op {
            Opcode::GridDepWait => waits = true,
            Opcode::GridDepLaunch => early |= !waits,
            _ => {}
        });
        waits && early
    }

    /// Information about a register of this kernel.
    pub fn reg(&self, reg: Reg) -> &RegInfo {
        &self.regs[reg.0 as usize]
    }
}

fn walk<'a>(stmts: &'a [Stmt], f: &mut impl FnMut(&'a Inst)) {
    for stmt in stmts {
        match stmt {
            Stmt::Inst(inst) => f(inst),
            Stmt::If(branch) => {
                walk(&branch.then, f);
                walk(&branch.otherwise, f);
            }
            Stmt::Loop(l) => walk(&l.body, f),
            Stmt::Comment(_) => {}
        }
    }
}

/// One kernel parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param {
    /// Name, unique within the kernel.
    pub name: String,
    /// Type of the parameter itself; `U64` for pointers.
    pub ty: Ty,
    /// For a pointer to global memory: the element type and what the kernel does through it.
    pub pointee: Option<Pointee>,
}

impl Param {
    /// Bytes the parameter takes in the argument block (also its alignment).
    pub fn bytes(&self) -> u32 {
        self.ty.bytes()
    }
}

/// What a pointer parameter points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pointee {
    /// Element type.
    pub ty: Ty,
    /// How the kernel uses the memory.
    pub access: Access,
}

/// How a kernel uses the memory behind a pointer parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// Only loads.
    Read,
    /// Only stores.
    Write,
    /// Loads and stores (and atomics).
    ReadWrite,
}

/// One shared-memory array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedDecl {
    /// Name, unique within the kernel.
    pub name: String,
    /// Element type; the size is in bytes, so this is for readers.
    pub ty: Ty,
    /// Bytes; 0 for the dynamic declaration (see [`Kernel::dynamic_shared`]).
    pub bytes: u32,
    /// Alignment in bytes, a power of two.
    pub align: u32,
    /// Whether the launch decides the size (`.extern .shared`).
    pub dynamic: bool,
}

/// A statement.
#[derive(Debug, Clone)]
pub enum Stmt {
    /// One instruction.
    Inst(Inst),
    /// Two-way branch.
    If(If),
    /// Loop whose test comes last.
    Loop(Loop),
    /// A line for readers; no effect.
    Comment(String),
}

/// `if cond { then } else { otherwise }`, decided by each thread for itself.
#[derive(Debug, Clone)]
pub struct If {
    /// Predicate register.
    pub cond: Reg,
    /// Whether `then` runs when the predicate is false instead of true.
    pub negated: bool,
    /// Statements of the taken side.
    pub then: Vec<Stmt>,
    /// Statements of the other side; may be empty.
    pub otherwise: Vec<Stmt>,
    /// Rust code that emitted it.
    pub loc: Loc,
}

/// `do { body } while again`: the body runs, then a thread whose `again` is true repeats it.
#[derive(Debug, Clone)]
pub struct Loop {
    /// Statements of one iteration; they assign `again`.
    pub body: Vec<Stmt>,
    /// Predicate register read after the body.
    pub again: Reg,
    /// Rust code that emitted it.
    pub loc: Loc,
}

/// One instruction.
#[derive(Debug, Clone)]
pub struct Inst {
    /// What it does.
    pub op: Opcode,
    /// Registers written, in PTX order.
    pub dst: Vec<Reg>,
    /// Operands read, in PTX order.
    pub src: Vec<Operand>,
    /// Runs only in threads where the predicate equals the flag.
    pub guard: Option<(Reg, bool)>,
    /// Rust code that emitted it.
    pub loc: Loc,
}

/// File and line of the Rust code that emitted a statement.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Loc {
    /// Path as the compiler saw it.
    pub file: &'static str,
    /// Line, from 1.
    pub line: u32,
}

impl Loc {
    /// The caller's caller, through `#[track_caller]`.
    #[track_caller]
    pub fn here() -> Loc {
        let at = Location::caller();
        Loc {
            file: at.file(),
            line: at.line(),
        }
    }
}

impl fmt::Display for Loc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

impl fmt::Debug for Loc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A virtual register: an index into [`Kernel::regs`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reg(pub u32);

/// What is known of a virtual register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RegInfo {
    /// Its type.
    pub ty: Ty,
    /// Whether it may be written more than once (a `Var`).
    pub mutable: bool,
}

/// An operand an instruction reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operand {
    /// A register.
    Reg(Reg),
    /// A constant.
    Imm(Imm),
    /// A memory address.
    Addr(Address),
}

impl From<Reg> for Operand {
    fn from(reg: Reg) -> Operand {
        Operand::Reg(reg)
    }
}

impl From<Imm> for Operand {
    fn from(imm: Imm) -> Operand {
        Operand::Imm(imm)
    }
}

/// A typed constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Imm {
    /// Type of the constant; equals the type of the slot it stands in (up to signedness).
    pub ty: Ty,
    /// The value's bit pattern in the low `ty.bits()` bits (integers in two's complement,
    /// floats as IEEE bits, predicates as 0 or 1); the other bits are zero.
    pub bits: u64,
}

impl Imm {
    /// A `u32` constant.
    pub fn u32(value: u32) -> Imm {
        Imm {
            ty: Ty::U32,
            bits: u64::from(value),
        }
    }

    /// An `i32` constant.
    pub fn i32(value: i32) -> Imm {
        Imm {
            ty: Ty::I32,
            bits: u64::from(value as u32),
        }
    }

    /// A `u64` constant.
    pub fn u64(value: u64) -> Imm {
        Imm {
            ty: Ty::U64,
            bits: value,
        }
    }

    /// An `f32` constant.
    pub fn f32(value: f32) -> Imm {
        Imm {
            ty: Ty::F32,
            bits: u64::from(value.to_bits()),
        }
    }

    /// The value of an integer constant, sign-extended when its type is signed.
    pub fn as_i64(self) -> i64 {
        let unused = 64 - self.ty.bits();
        if self.ty.is_signed() {
            ((self.bits << unused) as i64) >> unused
        } else {
            self.bits as i64
        }
    }
}

/// `base + offset`, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Address {
    /// Where it starts.
    pub base: Base,
    /// Constant byte offset, within `i32`.
    pub offset: i32,
}

/// The variable part of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Base {
    /// A register: 64-bit for the global space, 32-bit for the shared space.
    Reg(Reg),
    /// A kernel parameter, by index.
    Param(u32),
    /// A shared array, by index into [`Kernel::shared`].
    Shared(u32),
}

/// Type of a register, a constant or an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ty {
    /// Predicate.
    Pred,
    /// Unsigned byte; loads, stores and conversions only.
    U8,
    /// Signed byte; loads, stores and conversions only.
    I8,
    /// 16-bit unsigned.
    U16,
    /// 16-bit signed.
    I16,
    /// 32-bit unsigned.
    U32,
    /// 32-bit signed.
    I32,
    /// 64-bit unsigned.
    U64,
    /// 64-bit signed.
    I64,
    /// IEEE half.
    F16,
    /// Brain float.
    Bf16,
    /// IEEE single.
    F32,
    /// IEEE double.
    F64,
    /// Two halves, element 0 in the low bits.
    F16x2,
    /// Two brain floats, element 0 in the low bits.
    Bf16x2,
}

impl Ty {
    /// Width of a value in bits; 1 for a predicate.
    pub fn bits(self) -> u32 {
        match self {
            Ty::Pred => 1,
            Ty::U8 | Ty::I8 => 8,
            Ty::U16 | Ty::I16 | Ty::F16 | Ty::Bf16 => 16,
            Ty::U32 | Ty::I32 | Ty::F32 | Ty::F16x2 | Ty::Bf16x2 => 32,
            Ty::U64 | Ty::I64 | Ty::F64 => 64,
        }
    }

    /// Bytes of an element in memory (1 for a predicate, which cannot be stored).
    pub fn bytes(self) -> u32 {
        self.bits().div_ceil(8)
    }

    /// Whether it is a signed integer.
    pub fn is_signed(self) -> bool {
        matches!(self, Ty::I8 | Ty::I16 | Ty::I32 | Ty::I64)
    }

    /// Whether it is an integer.
    pub fn is_int(self) -> bool {
        matches!(self, Ty::U8 | Ty::U16 | Ty::U32 | Ty::U64) || self.is_signed()
    }

    /// Whether it is a scalar float.
    pub fn is_float(self) -> bool {
        matches!(self, Ty::F16 | Ty::Bf16 | Ty::F32 | Ty::F64)
    }

    /// PTX suffix in instructions where signedness matters (`u32`, `s32`, `f16x2`, ...).
    pub fn ptx(self) -> &'static str {
        match self {
            Ty::Pred => "pred",
            Ty::U8 => "u8",
            Ty::I8 => "s8",
            Ty::U16 => "u16",
            Ty::I16 => "s16",
            Ty::U32 => "u32",
            Ty::I32 => "s32",
            Ty::U64 => "u64",
            Ty::I64 => "s64",
            Ty::F16 => "f16",
            Ty::Bf16 => "bf16",
            Ty::F32 => "f32",
            Ty::F64 => "f64",
            Ty::F16x2 => "f16x2",
            Ty::Bf16x2 => "bf16x2",
        }
    }

    /// PTX suffix of the untyped form (`b8`, `b16`, `b32`, `b64`, `pred`).
    pub fn ptx_bits(self) -> &'static str {
        match self.bits() {
            1 => "pred",
            8 => "b8",
            16 => "b16",
            32 => "b32",
            _ => "b64",
        }
    }
}

impl fmt::Display for Ty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.ptx())
    }
}
