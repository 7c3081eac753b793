//! Matrix products of a warpgroup: four neighbouring warps whose products run beside them.
//!
//! ```
//! use gannet_ptx_gen::build::{LeftFactor, MatrixLayout, Swizzle};
//! use gannet_ptx_gen::op::{Wgmma, WgmmaType};
//! use gannet_ptx_gen::{ir::Kernel, target::Target};
//!
//! let kernel = Kernel::new("product", Target::Sm90a, |k| {
//!     k.block_size(128);
//!     let x = k.shared_aligned::<half::f16>("x", 8 * 64, 1024);
//!     // .. eight rows of 64 elements are put into `x`, swizzled, and handed to the async proxy ..
//!     let b = x.descriptor(0, MatrixLayout::rows(Swizzle::B128));
//!     let d = k.accumulators::<f32>(4);
//!     let a = std::array::from_fn(|_| k.var(0u32));
//!     k.wgmma_fence();
//!     for step in 0..4u32 {
//!         let m = Wgmma::from_registers(WgmmaType::F16, 8);
//!         k.wgmma(m, &d, LeftFactor::Variables(&a), b.advance(32 * step), step > 0);
//!     }
//!     k.wgmma_commit();
//!     k.wgmma_wait(0);
//!     let _sum = d.get(0) + d.get(1);
//! });
//! assert!(kernel.ptx().unwrap().contains("wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16"));
//! ```

use super::val::Repr;
use super::{AsVal, Builder, Descriptor, Pred, Type, Val, Var};
use crate::ir::{Imm, Inst, Operand, Reg, Stmt};
use crate::op::{Opcode, Wgmma, WgmmaA};

/// Registers that a warpgroup's products add to; the layout is [`Wgmma`]'s.
pub struct Accumulators<'k, T> {
    registers: Vec<Var<'k, T>>,
}

impl<'k, T: Type> Accumulators<'k, T> {
    /// How many a thread has.
    pub fn len(&self) -> usize {
        self.registers.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.registers.is_empty()
    }

    /// The value of register `i`; its products must have been waited for.
    #[track_caller]
    pub fn get(&self, i: usize) -> Val<'k, T> {
        self.registers[i].get()
    }

    /// Sets register `i`; a [`Builder::wgmma_fence`] must follow before the next product.
    #[track_caller]
    pub fn set(&self, i: usize, value: impl AsVal<'k, T>) {
        self.registers[i].set(value);
    }
}

/// The left factor of a warpgroup's product.
pub enum LeftFactor<'k, 'v> {
    /// Values of every thread, computed before the fence (a constant is put into its register where
    /// the product stands: keep it in a variable). In a loop their registers are written again by the next turn: they
    /// must have been waited for by then.
    Values([Val<'k, u32>; 4]),
    /// Variables of every thread, read where they are.
    Variables(&'v [Var<'k, u32>; 4]),
    /// A matrix in shared memory.
    Shared(Descriptor<'k>),
}

impl Builder {
    /// `n` accumulators, zero.
    #[track_caller]
    pub fn accumulators<T: Type>(&self, n: usize) -> Accumulators<'_, T> {
        let loc = self.here();
        let zero = Val::imm(self, Imm { ty: T::TY, bits: 0 });
        let registers = self.blame(loc, || (0..n).map(|_| Var::new(self, zero)).collect());
        Accumulators { registers }
    }

    /// Starts `d = a * b + d`, or `d = a * b` where `add` does not hold; sm_90a. Every warp of the
    /// warpgroup does it with equal descriptors and `add`.
    ///
    /// # Panics
    ///
    /// When `m` has other accumulators or another kind of left factor.
    #[track_caller]
    pub fn wgmma<'k, T: Type>(
        &'k self,
        m: Wgmma,
        d: &Accumulators<'k, T>,
        a: LeftFactor<'k, '_>,
        b: Descriptor<'k>,
        add: impl Into<Condition<'k>>,
    ) {
        let loc = self.here();
        assert_eq!(d.len(), m.accumulators(), "accumulators of {m:?}");
        let in_registers = !matches!(a, LeftFactor::Shared(_));
        let expected = m.a == WgmmaA::Registers;
        assert_eq!(in_registers, expected, "the left factor of {m:?}");
        let (dst, src) = self.blame(loc, || {
            let mut src: Vec<Operand> = match a {
                LeftFactor::Values(a) => a.map(|v| v.to_reg().into()).to_vec(),
                LeftFactor::Variables(a) => a.iter().map(|v| v.register().into()).collect(),
                LeftFactor::Shared(a) => vec![a.value().operand()],
            };
            src.push(b.value().operand());
            src.push(add.into().on(self).into());
            let dst: Vec<Reg> = d.registers.iter().map(Var::register).collect();
            src.extend(dst.iter().map(|r| Operand::Reg(*r)));
            (dst, src)
        });
        self.push(Stmt::Inst(Inst {
            op: Opcode::Wgmma(m),
            dst,
            src,
            guard: None,
            loc,
        }));
    }

    /// Orders what the warpgroup did with registers before its next products; sm_90a.
    #[track_caller]
    pub fn wgmma_fence(&self) {
        self.emit(Opcode::WgmmaFence, &[], &[]);
    }

    /// Closes the group of the warpgroup's products so far; sm_90a.
    #[track_caller]
    pub fn wgmma_commit(&self) {
        self.emit(Opcode::WgmmaCommit, &[], &[]);
    }

    /// Waits until at most `pending` (0 to 7) of the newest groups are in flight; sm_90a.
    #[track_caller]
    pub fn wgmma_wait(&self, pending: u8) {
        self.emit(Opcode::WgmmaWait { pending }, &[], &[]);
    }

    /// Waits until each thread of the warpgroup has `registers` (24 to 256, a multiple of 8), more
    /// than before; sm_90a. The block must have them: others gave them up, or never had them.
    #[track_caller]
    pub fn more_registers(&self, registers: u16) {
        let increase = true;
        let op = Opcode::SetMaxNReg {
            registers,
            increase,
        };
        self.emit(op, &[], &[]);
    }

    /// Leaves each thread of the warpgroup `registers` (24 to 256, a multiple of 8), fewer than
    /// before; sm_90a.
    #[track_caller]
    pub fn fewer_registers(&self, registers: u16) {
        let increase = false;
        let op = Opcode::SetMaxNReg {
            registers,
            increase,
        };
        self.emit(op, &[], &[]);
    }
}

/// A predicate, or a truth value known while building.
#[derive(Clone, Copy)]
pub enum Condition<'k> {
    /// Known while building.
    Known(bool),
    /// Known to the kernel.
    Value(Val<'k, Pred>),
}

impl From<bool> for Condition<'_> {
    fn from(known: bool) -> Self {
        Condition::Known(known)
    }
}

impl<'k> From<Val<'k, Pred>> for Condition<'k> {
    fn from(value: Val<'k, Pred>) -> Self {
        match value.repr {
            Repr::Imm(imm) => Condition::Known(imm.bits != 0),
            Repr::Reg(_) => Condition::Value(value),
        }
    }
}

impl<'k> Condition<'k> {
    #[track_caller]
    fn on(self, k: &'k Builder) -> Reg {
        match self {
            Condition::Known(known) => k.constant(Pred(known)).to_reg(),
            Condition::Value(value) => value.to_reg(),
        }
    }
}
