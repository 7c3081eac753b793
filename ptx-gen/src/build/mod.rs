//! The builder: kernels written as Rust functions.
//!
//! [`Kernel::new`] hands a [`Builder`] to a closure. Values carry the builder, so that operators
//! append instructions; a lifetime keeps them inside their kernel.
//!
//! # Guide for kernel authors
//!
//! ```
//! use gannet_ptx_gen::{ir::Kernel, target::Target};
//!
//! // y[i] = a * x[i] + y[i], one element a thread.
//! let kernel = Kernel::new("saxpy", Target::Sm80, |k| {
//!     k.doc("y[i] = a * x[i] + y[i], i < n. Grid [ceil(n / 256), 1, 1].");
//!     k.block_size(256);
//!     let (x, y) = (k.input::<f32>("x"), k.in_out::<f32>("y"));
//!     let (a, n) = (k.scalar::<f32>("a"), k.scalar::<u32>("n"));
//!     let i = k.block_x() * 256 + k.thread_x();
//!     k.if_(i.lt(n), || y.store(i, a.fma(x.load(i), y.load(i))));
//! });
//! assert!(kernel.ptx().unwrap().contains("fma.rn.f32"));
//! ```
//!
//! **Order.** First `doc`, then `block_size` (reductions and `threads()` read it), then the
//! parameters in launch order, then the program. `input`, `output`, `in_out` and `scalar` declare a
//! parameter and give it at once. A kernel of the library has the list in its spec's `params()`:
//! `k.declare(self.params())`, then `k.bind::<f32>("x")`, `k.bind_if` for one that not every such
//! kernel has, and `k.bind_value::<u32>("n")`.
//!
//! **Values.** [`Val<T>`](Val) is computed once, never changes and is `Copy`.
//! `+ - * / % & | ^ << >> ! -` and `lt le eq ne ge gt min max` take a value or a Rust literal on
//! the right. A literal alone is [`Builder::constant`]. f32 `+ - *` round each step (ptxas may not fuse
//! them); write `a.fma(b, c)` where fusing is wanted. `/` on f32 is correctly rounded and slow:
//! `div_fast` or `* rcp()` are not. `rcp rsqrt sqrt ex2 lg2 exp` are the hardware's
//! approximations, subnormals flushed. Integer `x * 1`, `x + 0`, `x * 2^n`, `x / 2^n`, `x % 2^n`
//! fold by themselves, and what is known while building is computed while building, `if_` and
//! `select` included. Equal pure expressions are emitted once, so repeat them freely.
//!
//! **Variables.** `let s = k.var(0f32); s.set(s.get() + v);` A [`Var`] is not `Copy`; `get()` gives
//! the value of now. Write the type of a literal in `var` (`0f32`, `0u32`).
//!
//! **Types.** `u8 i8 u16 u32 i32 u64 i64 f16 bf16 f32 f64`, [`F16x2`], [`Bf16x2`], [`Pred`]. Bytes
//! only load, store and `cast`. `cast::<U>()` converts as Rust's `as`; `round_to::<i32>()` rounds
//! to nearest even; `bitcast::<U>()` keeps the bits (`u32` <-> `f32`, `u32` <-> `F16x2`). An f16
//! becomes f32 by `cast`. Two f32 become a packed pair by `k.pack_f16(low, high)`, whose
//! `unpack()` gives two f16. `Val<u32>` has `byte(i)`, `signed_byte(i)`, `bits(first, count)`,
//! `insert_bits`, `prmt`, `lop3`, `unpack_f16`.
//!
//! **Memory.** [`Ptr<T>`](Ptr) (device) and [`Shared<T>`](Shared) count in elements:
//! `load(i)`, `store(i, v)`, `load_vec::<4>(i)`, `load_vec4(i)`, `store_vec(i, [..])` (aligned to
//! the whole vector, at most 16 bytes). `p.offset(row)` advances once; `p.cast::<U>()` changes the
//! element; `p.byte_offset(b)` adds constant bytes (plane offsets). Constants in an index
//! become address offsets, also out of sums and products: `p.load((i + 3) * 4 + j)` is the address
//! of `i * 4 + j` plus 48 bytes, so unrolled loops share one address (index sums must not wrap).
//! Indices are `u32`; a `u64` value indexes a `Ptr` of 4 Gi elements and more. `.streaming()` on a
//! pointer makes its loads those of weights (read-only path, no L1, 128-byte L2 fetches);
//! `.read_only()` those of small read-only arrays. Both forbid aliasing with anything the kernel
//! writes. Loads stay in program order relative to stores as written; group the loads you want
//! in flight together. `k.shared::<f32>("tile", 1024)` is static (48 KB in all);
//! `k.dynamic_shared::<u8>("ring", bytes)` goes beyond, once a kernel, cut with `at` and `cast`.
//!
//! **Control flow.** `if_`, `if_else`, `if_value`, `select`; `for_each(start, end, step, |i| ..)`
//! loops on the GPU; `unrolled(0..4, |j| ..)`, or a plain Rust `for`, while building;
//! `loop_while(|| {..; again})`; `while_(cond, body)`; `exit_if`. A barrier must stand where
//! every thread of the block arrives: conditions and trip counts around it must not depend on the
//! thread, on memory that differs by thread, or on a shuffle. The verifier insists; where it
//! cannot see it, `k.assume_uniform(cond)` vouches. Values loaded from memory at a block-uniform
//! address count as uniform. Shuffles, votes, `mma` and `ldmatrix` must in the same way be
//! reached by the whole warp; `k.warp()` and `k.shfl(v, 0)` are equal within a warp.
//!
//! **Working together.** `warp_sum`, `warp_max`, `lanes_reduce(v, n, f)`, `warp_argmax`, `shfl_xor`,
//! `shfl`, `ballot`; `block_sum`, `block_max` (barriers inside; call them in uniform flow);
//! `mma_f16`, `mma_f16_any`, `mma_bf16`, `mma`, `Shared::ldmatrix::<4>(i)`; `cp_async(16, dst, i, src, j)`,
//! `cp_async_commit`, `cp_async_wait(n)`, then `barrier`.
//!
//! **Warpgroups** (sm_90a): `wgmma` with `accumulators`, `Shared::descriptor`, fences, groups and waits;
//! see the head of `warpgroup.rs` and `descriptor.rs`. `more_registers`, `fewer_registers` (with
//! `min_blocks`); `cluster`, `cluster_barrier`, `mbarrier_arrive_in`, `bulk_copy_multicast`.
//!
//! **Beside the launch in front.** From sm_90 on a launch may start before the one in front of it
//! has finished. `k.wait_for_predecessor()` is where what that one wrote may be read; what stands
//! above it overlaps: loads of weights, index arithmetic. Loads there are plain ones, also through
//! `.read_only()` or `.streaming()`: ptxas moves the wait above others. A kernel that does not say where waits at
//! its start. Nothing may be written, and no thread may exit, above it (the verifier insists).
//!
//! **What is missing** is reached by [`Builder::inst`]: any [`Opcode`] with any operands.
//!
//! **Names.** A kernel's name says what its text depends on: `gemv_q4_k_1536x8960`. Put a few
//! representative specs into [`crate::kernels::library`], run the golden test with
//! `GANNET_BLESS=1`, and read the diff.

mod cluster;
mod copy;
mod descriptor;
mod early;
mod flow;
mod fold;
mod matrix;
mod ops;
mod params;
mod ptr;
mod reduce;
mod shared;
mod types;
mod val;
mod warpgroup;

use std::cell::RefCell;
use std::collections::HashMap;

use crate::ir::{
    Access, Address, Base, Inst, Kernel, Loc, Operand, Param, Reg, RegInfo, SharedDecl, Stmt, Ty,
};
use crate::op::{Opcode, Special};
use crate::target::Target;

pub use copy::BulkCopy;
pub use descriptor::{Descriptor, MatrixLayout, Swizzle};
pub use ptr::{Index, Ptr};
pub use shared::Shared;
pub use types::{Bf16x2, Bits, F16x2, Float, Int, Num, Pred, Type, Word};
pub use val::{AsVal, Cast, Val, Var};
pub use warpgroup::{Accumulators, Condition, LeftFactor};

/// A kernel under construction. Every method appends; see the module's guide.
pub struct Builder {
    state: RefCell<State>,
    target: Target,
}

struct State {
    regs: Vec<RegInfo>,
    params: Vec<Param>,
    shared: Vec<SharedDecl>,
    doc: String,
    block_size: [u32; 3],
    min_blocks: Option<u32>,
    cluster: u32,
    dynamic_shared: u32,
    /// Who is named as the emitter instead of the caller, while a method emits inside a closure.
    blamed: Option<Loc>,
    /// Whether the kernel has placed its wait for its predecessor.
    waits: bool,
    /// Whether it has let the launch behind it start.
    launches: bool,
    /// Open statement lists, innermost last.
    scopes: Vec<Scope>,
    /// `reg = other + constant`, for folding constants into addresses.
    offsets: HashMap<Reg, (Reg, i64)>,
    /// `reg = !other`, so that branches on a negation need no instruction.
    negations: HashMap<Reg, Reg>,
}

#[derive(Default)]
struct Scope {
    stmts: Vec<Stmt>,
    /// Pure instructions already computed here; inner scopes see them, outer ones do not.
    known: HashMap<(Opcode, Vec<Operand>), Vec<Reg>>,
}

impl Kernel {
    /// Builds a kernel: `body` receives the builder and writes the program with it.
    ///
    /// The result is not verified yet; [`Kernel::ptx`] does that before it prints. For sm_90 and
    /// later it starts with [`Builder::wait_for_predecessor`] unless `body` calls that.
    ///
    /// # Panics
    ///
    /// When `body` breaks a rule of the builder (its methods state theirs).
    #[track_caller]
    pub fn new(name: impl Into<String>, target: Target, body: impl FnOnce(&Builder)) -> Kernel {
        let builder = Builder {
            target,
            state: RefCell::new(State {
                regs: Vec::new(),
                params: Vec::new(),
                shared: Vec::new(),
                doc: String::new(),
                block_size: [1, 1, 1],
                min_blocks: None,
                cluster: 1,
                dynamic_shared: 0,
                blamed: None,
                waits: false,
                launches: false,
                scopes: vec![Scope::default()],
                offsets: HashMap::new(),
                negations: HashMap::new(),
            }),
        };
        body(&builder);
        let mut body = std::mem::take(&mut builder.state.borrow_mut().scopes[0].stmts);
        early::keep_order(&mut body);
        builder.wait_for_predecessor();
        let mut state = builder.state.into_inner();
        // The dynamic array follows every static one in the layout, whenever it was declared.
        let mut order: Vec<usize> = (0..state.shared.len()).collect();
        order.sort_by_key(|i| state.shared[*i].dynamic);
        let mut program = state.scopes.pop().map(|s| s.stmts).unwrap_or_default();
        program.extend(body);
        let mut kernel = Kernel {
            name: name.into(),
            doc: state.doc,
            target,
            params: state.params,
            shared: order.iter().map(|i| state.shared[*i].clone()).collect(),
            block_size: state.block_size,
            min_blocks: state.min_blocks,
            cluster: state.cluster,
            dynamic_shared: state.dynamic_shared,
            body: program,
            regs: state.regs,
        };
        crate::tidy::tidy(&mut kernel, &order);
        kernel
    }
}

impl Builder {
    /// The GPU the kernel is written for.
    pub fn target(&self) -> Target {
        self.target
    }

    /// Sets the contract printed above the kernel.
    pub fn doc(&self, text: impl Into<String>) {
        self.state.borrow_mut().doc = text.into();
    }

    /// Sets a one-dimensional block of so many threads. Call it first: reductions and
    /// [`Builder::threads`] read it.
    pub fn block_size(&self, threads: u32) {
        self.state.borrow_mut().block_size = [threads, 1, 1];
    }

    /// Lets ptxas use all registers with which `blocks` blocks still fit a multiprocessor.
    pub fn min_blocks(&self, blocks: u32) {
        self.state.borrow_mut().min_blocks = Some(blocks);
    }

    /// Threads of a block, as set by [`Builder::block_size`].
    pub fn threads(&self) -> u32 {
        self.state.borrow().block_size.iter().product()
    }

    /// A line for readers of the PTX.
    pub fn comment(&self, text: impl Into<String>) {
        self.push(Stmt::Comment(text.into()));
    }

    /// A pointer parameter that the kernel reads through.
    #[track_caller]
    pub fn input<T: Type>(&self, name: &str) -> Ptr<'_, T> {
        self.pointer(name, Access::Read)
    }

    /// A pointer parameter that the kernel writes through.
    #[track_caller]
    pub fn output<T: Type>(&self, name: &str) -> Ptr<'_, T> {
        self.pointer(name, Access::Write)
    }

    /// A pointer parameter that the kernel reads and writes through.
    #[track_caller]
    pub fn in_out<T: Type>(&self, name: &str) -> Ptr<'_, T> {
        self.pointer(name, Access::ReadWrite)
    }

    /// A parameter passed by value.
    #[track_caller]
    pub fn scalar<T: Type>(&self, name: &str) -> Val<'_, T> {
        let index = self.param(Param::scalar::<T>(name));
        self.load_param(index)
    }

    #[track_caller]
    fn pointer<T: Type>(&self, name: &str, access: Access) -> Ptr<'_, T> {
        let index = self.param(Param::pointer::<T>(name, access));
        self.load_pointer(index)
    }

    #[track_caller]
    fn load_pointer<T: Type>(&self, index: u32) -> Ptr<'_, T> {
        let generic: Val<'_, u64> = self.load_param(index);
        Ptr::new(self.value(Opcode::CvtaToGlobal, &[generic.operand()]))
    }

    fn param(&self, param: Param) -> u32 {
        let params = &mut self.state.borrow_mut().params;
        params.push(param);
        params.len() as u32 - 1
    }

    #[track_caller]
    fn load_param<T: Type>(&self, index: u32) -> Val<'_, T> {
        let address = Operand::Addr(Address {
            base: Base::Param(index),
            offset: 0,
        });
        self.value(Opcode::LoadParam { ty: T::TY }, &[address])
    }

    /// Thread index in x.
    #[track_caller]
    pub fn thread_x(&self) -> Val<'_, u32> {
        self.special(Special::Tid(0))
    }

    /// Block index in x.
    #[track_caller]
    pub fn block_x(&self) -> Val<'_, u32> {
        self.special(Special::Ctaid(0))
    }

    /// Block index in y.
    #[track_caller]
    pub fn block_y(&self) -> Val<'_, u32> {
        self.special(Special::Ctaid(1))
    }

    /// Block index in z.
    #[track_caller]
    pub fn block_z(&self) -> Val<'_, u32> {
        self.special(Special::Ctaid(2))
    }

    /// Blocks of the grid in x.
    #[track_caller]
    pub fn grid_x(&self) -> Val<'_, u32> {
        self.special(Special::Nctaid(0))
    }

    /// Lane within the warp: `thread_x % 32`.
    #[track_caller]
    pub fn lane(&self) -> Val<'_, u32> {
        self.thread_x() % 32u32
    }

    /// Warp within the block: `thread_x / 32`.
    #[track_caller]
    pub fn warp(&self) -> Val<'_, u32> {
        self.thread_x() / 32u32
    }

    /// Any special register that holds 32 bits.
    #[track_caller]
    pub fn special(&self, special: Special) -> Val<'_, u32> {
        self.value(Opcode::Special(special), &[])
    }

    /// A constant as a value; usually a literal can stand by itself.
    pub fn constant<T: Type>(&self, value: T) -> Val<'_, T> {
        Val::imm(self, value.imm())
    }

    /// A mutable variable with an initial value.
    #[track_caller]
    pub fn var<'k, T: Type>(&'k self, init: impl AsVal<'k, T>) -> Var<'k, T> {
        Var::new(self, init.val(self))
    }

    /// Appends any instruction with any operands and gives its results as registers of the types
    /// in `dst`: for what has no method of its own. The verifier checks it like every other.
    #[track_caller]
    pub fn inst(&self, op: Opcode, dst: &[Ty], src: &[Operand]) -> Vec<Reg> {
        self.emit(op, dst, src)
    }

    /// A register got from [`Builder::inst`] as a value of its type.
    ///
    /// # Panics
    ///
    /// When the register has another type.
    pub fn from_reg<T: Type>(&self, reg: Reg) -> Val<'_, T> {
        assert_eq!(
            self.state.borrow().regs[reg.0 as usize].ty,
            T::TY,
            "the register's type"
        );
        Val::reg(self, reg)
    }

    // ---- what the other files of the builder append with ----

    /// Appends an instruction whose single result is a value.
    #[track_caller]
    pub(crate) fn value<T: Type>(&self, op: Opcode, src: &[Operand]) -> Val<'_, T> {
        Val::reg(self, self.emit(op, &[T::TY], src)[0])
    }

    /// Appends an instruction, with fresh registers for its results. A pure instruction that was
    /// already computed is not computed again.
    #[track_caller]
    pub(crate) fn emit(&self, op: Opcode, dst: &[Ty], src: &[Operand]) -> Vec<Reg> {
        let loc = self.here();
        let src: Vec<Operand> = src.iter().map(|o| self.as_taken(op, *o)).collect();
        let src = src.as_slice();
        let state = &mut *self.state.borrow_mut();
        let reusable = op.is_pure() && src.iter().all(|o| state.is_constant(o));
        if reusable
            && let Some(known) = state
                .scopes
                .iter()
                .rev()
                .find_map(|s| s.known.get(&(op, src.to_vec())))
            && known
                .iter()
                .zip(dst)
                .all(|(r, ty)| state.regs[r.0 as usize].ty == *ty)
        {
            return known.clone();
        }
        let dst: Vec<Reg> = dst.iter().map(|ty| state.fresh(*ty, false)).collect();
        let inst = Inst {
            op,
            dst: dst.clone(),
            src: src.to_vec(),
            guard: None,
            loc,
        };
        if let Some(scope) = state.scopes.last_mut() {
            if reusable {
                scope.known.insert((op, src.to_vec()), dst.clone());
            }
            scope.stmts.push(Stmt::Inst(inst));
        }
        dst
    }

    /// The caller's caller, unless a method of ours has taken its place.
    #[track_caller]
    fn here(&self) -> Loc {
        let caller = Loc::here();
        self.state.borrow().blamed.unwrap_or(caller)
    }

    /// Runs a part of a method whose closures cannot see who called it: all that is emitted names `loc`. For code of
    /// the builder only; what a kernel's author writes keeps its own lines.
    fn blame<R>(&self, loc: Loc, emit: impl FnOnce() -> R) -> R {
        let outer = self.state.borrow().blamed;
        self.state.borrow_mut().blamed = outer.or(Some(loc));
        let result = emit();
        self.state.borrow_mut().blamed = outer;
        result
    }

    /// The operand, in a register where the instruction takes no such constant.
    #[track_caller]
    fn as_taken(&self, op: Opcode, operand: Operand) -> Operand {
        match operand {
            Operand::Imm(imm) if !op.takes_constant(imm.ty) => {
                self.emit(Opcode::Mov { ty: imm.ty }, &[imm.ty], &[operand])[0].into()
            }
            operand => operand,
        }
    }

    fn push(&self, stmt: Stmt) {
        if let Some(scope) = self.state.borrow_mut().scopes.last_mut() {
            scope.stmts.push(stmt);
        }
    }

    /// Runs `body` with a fresh statement list and returns the list.
    fn scoped<R>(&self, body: impl FnOnce() -> R) -> (Vec<Stmt>, R) {
        self.state.borrow_mut().scopes.push(Scope::default());
        let result = body();
        let scope = self.state.borrow_mut().scopes.pop();
        (scope.map(|s| s.stmts).unwrap_or_default(), result)
    }
}

impl State {
    fn fresh(&mut self, ty: Ty, mutable: bool) -> Reg {
        self.regs.push(RegInfo { ty, mutable });
        Reg(self.regs.len() as u32 - 1)
    }

    /// Whether the operand can never change: everything but a `Var`'s register.
    fn is_constant(&self, operand: &Operand) -> bool {
        match operand {
            Operand::Reg(r)
            | Operand::Addr(Address {
                base: Base::Reg(r), ..
            }) => !self.regs[r.0 as usize].mutable,
            _ => true,
        }
    }
}
