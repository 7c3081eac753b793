//! Values, variables, and what may stand for a value.

use std::marker::PhantomData;

use super::{Builder, Pred, Type};
use crate::ir::{Imm, Inst, Operand, Reg, Stmt, Ty};
use crate::op::{Opcode, Round};

/// A value: computed once, never changed, free to copy.
#[derive(Clone, Copy)]
pub struct Val<'k, T> {
    pub(super) k: &'k Builder,
    pub(super) repr: Repr,
    ty: PhantomData<T>,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Repr {
    Reg(Reg),
    Imm(Imm),
}

impl<'k, T: Type> Val<'k, T> {
    pub(super) fn reg(k: &'k Builder, reg: Reg) -> Val<'k, T> {
        Val {
            k,
            repr: Repr::Reg(reg),
            ty: PhantomData,
        }
    }

    pub(super) fn imm(k: &'k Builder, imm: Imm) -> Val<'k, T> {
        Val {
            k,
            repr: Repr::Imm(imm),
            ty: PhantomData,
        }
    }

    /// The value as an operand, for [`Builder::inst`].
    pub fn operand(self) -> Operand {
        match self.repr {
            Repr::Reg(r) => Operand::Reg(r),
            Repr::Imm(i) => Operand::Imm(i),
        }
    }

    /// The value's bits when it is known while building.
    pub(super) fn known(self) -> Option<u64> {
        match self.repr {
            Repr::Imm(i) => Some(i.bits),
            Repr::Reg(_) => None,
        }
    }

    /// A register that holds the value; constants are moved into one.
    #[track_caller]
    pub(super) fn to_reg(self) -> Reg {
        match self.repr {
            Repr::Reg(r) => r,
            Repr::Imm(i) => self
                .k
                .emit(Opcode::Mov { ty: T::TY }, &[T::TY], &[i.into()])[0],
        }
    }

    /// The same value, certainly in a register.
    #[track_caller]
    pub(super) fn in_reg(self) -> Val<'k, T> {
        Val::reg(self.k, self.to_reg())
    }

    #[track_caller]
    pub(super) fn op1<U: Type>(self, op: Opcode) -> Val<'k, U> {
        self.k.value(op, &[self.operand()])
    }

    #[track_caller]
    pub(super) fn op2<U: Type, V: Type>(self, op: Opcode, b: Val<'k, U>) -> Val<'k, V> {
        self.k.value(op, &[self.operand(), b.operand()])
    }

    /// The same bits as another type of the same width.
    ///
    /// # Panics
    ///
    /// When the widths differ.
    #[track_caller]
    pub fn bitcast<U: Type>(self) -> Val<'k, U> {
        assert_eq!(
            T::TY.bits(),
            U::TY.bits(),
            "bitcast between types of different width"
        );
        match self.repr {
            Repr::Imm(i) => Val::imm(
                self.k,
                Imm {
                    ty: U::TY,
                    bits: i.bits,
                },
            ),
            Repr::Reg(r) if same_register(T::TY, U::TY) => Val::reg(self.k, r),
            Repr::Reg(_) => self.op1(Opcode::Mov { ty: U::TY }),
        }
    }

    /// `self` where `cond` holds, else `other`.
    #[track_caller]
    pub fn select(self, cond: Val<'k, Pred>, other: impl AsVal<'k, T>) -> Val<'k, T> {
        self.k.select(cond, self, other)
    }

    /// Converts as Rust's `as` does: integers wrap or extend, floats round to nearest even, float
    /// to integer truncates and saturates.
    #[track_caller]
    pub fn cast<U: Cast>(self) -> Val<'k, U> {
        self.cast_rounded(Round::Rzi)
    }

    /// [`Val::cast`] from float to integer with the nearest-even instead of the truncated value.
    #[track_caller]
    pub fn round_to<U: Cast>(self) -> Val<'k, U> {
        self.cast_rounded(Round::Rni)
    }

    #[track_caller]
    fn cast_rounded<U: Cast>(self, to_int: Round) -> Val<'k, U> {
        let (from, to) = (T::TY, U::TY);
        if from == to || same_register(from, to) {
            return self.bitcast();
        }
        if let (Repr::Imm(i), true, true) = (self.repr, from.is_int(), to.is_int()) {
            let mask = u64::MAX >> (64 - to.bits());
            return Val::imm(
                self.k,
                Imm {
                    ty: to,
                    bits: i.as_i64() as u64 & mask,
                },
            );
        }
        // Brain floats are the upper half of an f32; every target converts them so.
        if from == Ty::Bf16 {
            let word = self.k.value::<u32>(
                Opcode::Pack2x16,
                &[
                    Val::<u16>::imm(
                        self.k,
                        Imm {
                            ty: Ty::U16,
                            bits: 0,
                        },
                    )
                    .in_reg()
                    .operand(),
                    self.in_reg().operand(),
                ],
            );
            return word.bitcast::<f32>().cast_rounded(to_int);
        }
        if to == Ty::Bf16 && from != Ty::F32 {
            return self.cast::<f32>().cast();
        }
        let round = match (from.is_float(), to.is_float()) {
            (true, true) if to.bits() < from.bits() => Round::Rn,
            (false, true) => Round::Rn,
            (true, false) => to_int,
            _ => Round::None,
        };
        self.in_reg().op1(Opcode::Cvt {
            to,
            from,
            round,
            sat: false,
        })
    }
}

impl<'k> Val<'k, u32> {
    /// The value as an `i32`, bit for bit.
    pub fn as_i32(self) -> Val<'k, i32> {
        self.bitcast()
    }
}

/// Types that `cast` converts to: every scalar.
pub trait Cast: Type {}

macro_rules! cast {
    ($($ty:ty)*) => {$(impl Cast for $ty {})*};
}
cast!(u8 i8 u16 u32 i32 u64 i64 half::f16 half::bf16 f32 f64);

/// Whether a value of one type may be used as the other without an instruction.
fn same_register(a: Ty, b: Ty) -> bool {
    a == b || (a.is_int() && b.is_int() && a.bits() == b.bits() && a.bits() > 8)
}

/// What may stand where a value of type `T` is wanted: the value, or a Rust literal.
pub trait AsVal<'k, T: Type>: Copy {
    /// As a value of the kernel that `k` builds.
    fn val(self, k: &'k Builder) -> Val<'k, T>;
}

impl<'k, T: Type> AsVal<'k, T> for T {
    fn val(self, k: &'k Builder) -> Val<'k, T> {
        Val::imm(k, self.imm())
    }
}

impl<'k, T: Type> AsVal<'k, T> for Val<'k, T> {
    fn val(self, _: &'k Builder) -> Val<'k, T> {
        self
    }
}

/// A variable: a register that may change. Not `Copy`, so that no one mistakes it for a value.
pub struct Var<'k, T> {
    k: &'k Builder,
    reg: Reg,
    ty: PhantomData<T>,
}

impl<'k, T: Type> Var<'k, T> {
    #[track_caller]
    pub(super) fn new(k: &'k Builder, init: Val<'k, T>) -> Var<'k, T> {
        let reg = k.state.borrow_mut().fresh(T::TY, true);
        let var = Var {
            k,
            reg,
            ty: PhantomData,
        };
        var.set(init);
        var
    }

    /// The register itself, for an instruction that reads or writes it in place.
    pub(super) fn register(&self) -> Reg {
        self.reg
    }

    /// The value it has now; later changes do not affect the result.
    #[track_caller]
    pub fn get(&self) -> Val<'k, T> {
        self.k.value(Opcode::Mov { ty: T::TY }, &[self.reg.into()])
    }

    /// Gives it a new value.
    #[track_caller]
    pub fn set(&self, value: impl AsVal<'k, T>) {
        let src = vec![value.val(self.k).operand()];
        let op = Opcode::Mov { ty: T::TY };
        let inst = Inst {
            op,
            dst: vec![self.reg],
            src,
            guard: None,
            loc: self.k.here(),
        };
        self.k.push(Stmt::Inst(inst));
    }

    /// Replaces the value by a function of it.
    #[track_caller]
    pub fn update(&self, f: impl FnOnce(Val<'k, T>) -> Val<'k, T>) {
        self.set(f(self.get()));
    }
}
