//! Operators and methods of values.

use std::ops::{Add, BitAnd, BitOr, BitXor, Div, Mul, Neg, Not, Rem, Shl, Shr, Sub};

use half::{bf16, f16};

use super::val::Repr;
use super::{AsVal, Bf16x2, Bits, Builder, F16x2, Float, Int, Num, Pred, Type, Val, fold};
use crate::op::{Approx, Cmp, Opcode};

macro_rules! binary {
    ($($trait:ident $method:ident $bound:ident $op:ident;)*) => {$(
        impl<'k, T: $bound, R: AsVal<'k, T>> $trait<R> for Val<'k, T> {
            type Output = Val<'k, T>;
            #[track_caller]
            fn $method(self, right: R) -> Val<'k, T> {
                fold::binary(Opcode::$op { ty: T::TY }, self, right.val(self.k))
            }
        }
    )*};
}

binary! {
    Add add Num Add;
    Sub sub Num Sub;
    Mul mul Num Mul;
    Div div Num Div;
    Rem rem Int Rem;
    BitAnd bitand Bits And;
    BitOr bitor Bits Or;
    BitXor bitxor Bits Xor;
}

impl<'k, T: Int, R: AsVal<'k, u32>> Shl<R> for Val<'k, T> {
    type Output = Val<'k, T>;
    #[track_caller]
    fn shl(self, by: R) -> Val<'k, T> {
        fold::shift(Opcode::Shl { ty: T::TY }, self, by.val(self.k))
    }
}

impl<'k, T: Int, R: AsVal<'k, u32>> Shr<R> for Val<'k, T> {
    type Output = Val<'k, T>;
    #[track_caller]
    fn shr(self, by: R) -> Val<'k, T> {
        fold::shift(Opcode::Shr { ty: T::TY }, self, by.val(self.k))
    }
}

impl<'k, T: Num> Neg for Val<'k, T> {
    type Output = Val<'k, T>;
    #[track_caller]
    fn neg(self) -> Val<'k, T> {
        self.op1(Opcode::Neg { ty: T::TY })
    }
}

impl<'k, T: Bits> Not for Val<'k, T> {
    type Output = Val<'k, T>;
    #[track_caller]
    fn not(self) -> Val<'k, T> {
        if let Repr::Imm(mut imm) = self.repr {
            imm.bits ^= u64::MAX >> (64 - imm.ty.bits());
            return Val::imm(self.k, imm);
        }
        let result = self.op1(Opcode::Not { ty: T::TY });
        if let (Repr::Reg(to), Repr::Reg(from)) = (result.repr, self.repr) {
            self.k.state.borrow_mut().negations.insert(to, from);
        }
        result
    }
}

impl<'k, T: Num> Val<'k, T> {
    #[track_caller]
    fn compare(self, cmp: Cmp, right: impl AsVal<'k, T>) -> Val<'k, Pred> {
        fold::compare(cmp, self, right.val(self.k))
    }

    /// `self < right`, false on NaN.
    #[track_caller]
    pub fn lt(self, right: impl AsVal<'k, T>) -> Val<'k, Pred> {
        self.compare(Cmp::Lt, right)
    }

    /// `self <= right`, false on NaN.
    #[track_caller]
    pub fn le(self, right: impl AsVal<'k, T>) -> Val<'k, Pred> {
        self.compare(Cmp::Le, right)
    }

    /// `self == right`, false on NaN.
    #[track_caller]
    pub fn eq(self, right: impl AsVal<'k, T>) -> Val<'k, Pred> {
        self.compare(Cmp::Eq, right)
    }

    /// `self != right`, true on NaN.
    #[track_caller]
    pub fn ne(self, right: impl AsVal<'k, T>) -> Val<'k, Pred> {
        self.compare(Cmp::Ne, right)
    }

    /// `self >= right`, false on NaN.
    #[track_caller]
    pub fn ge(self, right: impl AsVal<'k, T>) -> Val<'k, Pred> {
        self.compare(Cmp::Ge, right)
    }

    /// `self > right`, false on NaN.
    #[track_caller]
    pub fn gt(self, right: impl AsVal<'k, T>) -> Val<'k, Pred> {
        self.compare(Cmp::Gt, right)
    }

    /// The smaller; of a number and a NaN, the number.
    #[track_caller]
    pub fn min(self, right: impl AsVal<'k, T>) -> Val<'k, T> {
        fold::binary(Opcode::Min { ty: T::TY }, self, right.val(self.k))
    }

    /// The larger; of a number and a NaN, the number.
    #[track_caller]
    pub fn max(self, right: impl AsVal<'k, T>) -> Val<'k, T> {
        fold::binary(Opcode::Max { ty: T::TY }, self, right.val(self.k))
    }

    /// The absolute value.
    #[track_caller]
    pub fn abs(self) -> Val<'k, T> {
        self.op1(Opcode::Abs { ty: T::TY })
    }
}

impl<'k, T: Float> Val<'k, T> {
    /// `self * b + c` with one rounding.
    #[track_caller]
    pub fn fma(self, b: impl AsVal<'k, T>, c: impl AsVal<'k, T>) -> Val<'k, T> {
        let (b, c) = (b.val(self.k), c.val(self.k));
        self.k.value(
            Opcode::Fma { ty: T::TY },
            &[self.operand(), b.operand(), c.operand()],
        )
    }
}

macro_rules! approximate {
    ($($(#[$doc:meta])* $name:ident $f:ident;)*) => {
        impl<'k> Val<'k, f32> {$(
            $(#[$doc])*
            #[track_caller]
            pub fn $name(self) -> Val<'k, f32> {
                self.op1(Opcode::Approx { f: Approx::$f, ty: crate::ir::Ty::F32 })
            }
        )*}
    };
}

approximate! {
    /// `1 / self`, approximate (1 ulp); subnormals count as zero.
    rcp Rcp;
    /// `1 / sqrt(self)`, approximate; subnormals count as zero.
    rsqrt Rsqrt;
    /// `sqrt(self)`, approximate; subnormals count as zero.
    sqrt Sqrt;
    /// `2^self`, approximate; subnormals count as zero.
    ex2 Ex2;
    /// `log2(self)`, approximate; subnormals count as zero.
    lg2 Lg2;
    /// `sin(self)`, approximate, for small arguments.
    sin Sin;
    /// `cos(self)`, approximate, for small arguments.
    cos Cos;
    /// `tanh(self)`, approximate (2^-11 relative).
    tanh_approx Tanh;
}

impl<'k> Val<'k, f32> {
    /// `e^self` as `2^(self * log2(e))`, approximate.
    #[track_caller]
    pub fn exp(self) -> Val<'k, f32> {
        (self * std::f32::consts::LOG2_E).ex2()
    }

    /// `self / right` within 2 ulp, faster than `/`.
    #[track_caller]
    pub fn div_fast(self, right: impl AsVal<'k, f32>) -> Val<'k, f32> {
        self.op2(Opcode::DivFull, right.val(self.k))
    }

    /// `sqrt(self)`, correctly rounded.
    #[track_caller]
    pub fn sqrt_exact(self) -> Val<'k, f32> {
        self.op1(Opcode::SqrtRn {
            ty: crate::ir::Ty::F32,
        })
    }

    /// `1 / self`, correctly rounded.
    #[track_caller]
    pub fn rcp_exact(self) -> Val<'k, f32> {
        self.op1(Opcode::RcpRn {
            ty: crate::ir::Ty::F32,
        })
    }
}

impl<'k, T: Int> Val<'k, T> {
    /// `self * b + c`, low bits.
    #[track_caller]
    pub fn mad(self, b: impl AsVal<'k, T>, c: impl AsVal<'k, T>) -> Val<'k, T> {
        let (b, c) = (b.val(self.k), c.val(self.k));
        self.k.value(
            Opcode::MadLo { ty: T::TY },
            &[self.operand(), b.operand(), c.operand()],
        )
    }

    /// Bits `first .. first + count`, sign-extended for signed types.
    #[track_caller]
    pub fn bits(self, first: impl AsVal<'k, u32>, count: impl AsVal<'k, u32>) -> Val<'k, T> {
        let (first, count) = (first.val(self.k), count.val(self.k));
        self.k.value(
            Opcode::Bfe { ty: T::TY },
            &[self.operand(), first.operand(), count.operand()],
        )
    }

    /// High half of the product.
    #[track_caller]
    pub fn mul_hi(self, b: impl AsVal<'k, T>) -> Val<'k, T> {
        self.op2(Opcode::MulHi { ty: T::TY }, b.val(self.k))
    }
}

impl<'k> Val<'k, u32> {
    /// `self` with its bits `first .. first + count` replaced by the low bits of `field`.
    #[track_caller]
    pub fn insert_bits(self, field: impl AsVal<'k, u32>, first: u32, count: u32) -> Val<'k, u32> {
        let k = self.k;
        let (field, first, count) = (field.val(k), k.constant(first), k.constant(count));
        k.value(
            Opcode::Bfi {
                ty: crate::ir::Ty::U32,
            },
            &[
                field.operand(),
                self.operand(),
                first.operand(),
                count.operand(),
            ],
        )
    }

    /// Any bitwise function of three words: bit `4a + 2b + c` of `lut` is its result.
    #[track_caller]
    pub fn lop3(self, b: impl AsVal<'k, u32>, c: impl AsVal<'k, u32>, lut: u8) -> Val<'k, u32> {
        let (b, c) = (b.val(self.k), c.val(self.k));
        self.k.value(
            Opcode::Lop3 { lut },
            &[self.operand(), b.operand(), c.operand()],
        )
    }

    /// Four bytes picked from `{high, self}` by the nibbles of `selector`; nibbles 0..=3 name the
    /// bytes of `self`, 4..=7 those of `high`, plus 8 for the byte's sign, replicated.
    #[track_caller]
    pub fn prmt(self, high: impl AsVal<'k, u32>, selector: impl AsVal<'k, u32>) -> Val<'k, u32> {
        let (high, selector) = (high.val(self.k), selector.val(self.k));
        self.k.value(
            Opcode::Prmt,
            &[self.operand(), high.operand(), selector.operand()],
        )
    }

    /// Byte `i` (0..=3) of the word, zero-extended.
    #[track_caller]
    pub fn byte(self, i: u32) -> Val<'k, u32> {
        self.bits(8 * i, 8u32)
    }

    /// Byte `i` (0..=3) of the word, sign-extended.
    #[track_caller]
    pub fn signed_byte(self, i: u32) -> Val<'k, i32> {
        self.as_i32().bits(8 * i, 8u32)
    }

    /// Number of ones.
    #[track_caller]
    pub fn count_ones(self) -> Val<'k, u32> {
        self.op1(Opcode::Popc {
            ty: crate::ir::Ty::U32,
        })
    }

    /// Number of leading zeros.
    #[track_caller]
    pub fn leading_zeros(self) -> Val<'k, u32> {
        self.op1(Opcode::Clz {
            ty: crate::ir::Ty::U32,
        })
    }

    /// The word's halves as two f16.
    #[track_caller]
    pub fn unpack_f16(self) -> [Val<'k, f16>; 2] {
        self.k.unpack16(self.operand())
    }

    /// The word's halves as two bf16.
    #[track_caller]
    pub fn unpack_bf16(self) -> [Val<'k, bf16>; 2] {
        self.k.unpack16(self.operand())
    }
}

impl<'k> Val<'k, F16x2> {
    /// The two elements.
    #[track_caller]
    pub fn unpack(self) -> [Val<'k, f16>; 2] {
        self.k.unpack16(self.operand())
    }
}

impl<'k> Val<'k, Bf16x2> {
    /// The two elements.
    #[track_caller]
    pub fn unpack(self) -> [Val<'k, bf16>; 2] {
        self.k.unpack16(self.operand())
    }
}

impl Builder {
    #[track_caller]
    fn unpack16<T: Type>(&self, word: crate::ir::Operand) -> [Val<'_, T>; 2] {
        let r = self.emit(Opcode::Unpack2x16, &[T::TY; 2], &[word]);
        [Val::reg(self, r[0]), Val::reg(self, r[1])]
    }

    /// Two f32 rounded to f16 and packed, the first in the low half. Every target has it.
    #[track_caller]
    pub fn pack_f16<'k>(
        &'k self,
        low: impl AsVal<'k, f32>,
        high: impl AsVal<'k, f32>,
    ) -> Val<'k, F16x2> {
        let (low, high) = (low.val(self), high.val(self));
        if self.target().has_ampere() {
            let op = Opcode::CvtPack {
                ty: crate::ir::Ty::F16x2,
            };
            return self.value(op, &[high.operand(), low.operand()]);
        }
        let (low, high) = (low.cast::<f16>(), high.cast::<f16>());
        self.value(Opcode::Pack2x16, &[low.operand(), high.operand()])
    }

    /// Two f32 rounded to bf16 and packed, the first in the low half. sm_80 and later.
    #[track_caller]
    pub fn pack_bf16<'k>(
        &'k self,
        low: impl AsVal<'k, f32>,
        high: impl AsVal<'k, f32>,
    ) -> Val<'k, Bf16x2> {
        let op = Opcode::CvtPack {
            ty: crate::ir::Ty::Bf16x2,
        };
        self.value(op, &[high.val(self).operand(), low.val(self).operand()])
    }

    /// Two 16-bit values in one word, the first in the low half.
    #[track_caller]
    pub fn pack16<'k, T: Type>(&'k self, low: Val<'k, T>, high: Val<'k, T>) -> Val<'k, u32> {
        assert_eq!(T::TY.bits(), 16, "pack16 packs 16-bit values");
        self.value(
            Opcode::Pack2x16,
            &[low.in_reg().operand(), high.in_reg().operand()],
        )
    }

    /// `dot4(a, b) + c` over the signed bytes of two words.
    #[track_caller]
    pub fn dp4a<'k>(
        &'k self,
        a: Val<'k, u32>,
        b: Val<'k, u32>,
        c: impl AsVal<'k, i32>,
    ) -> Val<'k, i32> {
        self.dp4a_with(a, b, c, true, true)
    }

    /// `dot4(a, b) + c` over bytes whose signedness is stated by operand.
    #[track_caller]
    pub fn dp4a_with<'k>(
        &'k self,
        a: Val<'k, u32>,
        b: Val<'k, u32>,
        c: impl AsVal<'k, i32>,
        a_signed: bool,
        b_signed: bool,
    ) -> Val<'k, i32> {
        let c = c.val(self);
        self.value(
            Opcode::Dp4a { a_signed, b_signed },
            &[a.operand(), b.operand(), c.operand()],
        )
    }

    /// `yes` where `cond` holds, else `no`.
    #[track_caller]
    pub fn select<'k, T: Type>(
        &'k self,
        cond: Val<'k, Pred>,
        yes: impl AsVal<'k, T>,
        no: impl AsVal<'k, T>,
    ) -> Val<'k, T> {
        let (yes, no) = (yes.val(self), no.val(self));
        match cond.known() {
            Some(0) => no,
            Some(_) => yes,
            None => self.value(
                Opcode::Selp { ty: T::TY },
                &[yes.operand(), no.operand(), cond.operand()],
            ),
        }
    }
}
