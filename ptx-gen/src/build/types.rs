//! The types a kernel computes with: Rust's own numbers, plus a few that Rust lacks.

use half::{bf16, f16};

use crate::ir::{Imm, Ty};

/// A type that a [`super::Val`] may have. Literals of it may stand wherever a value may.
pub trait Type: Copy + 'static {
    /// The type in the kernel.
    const TY: Ty;

    /// Bit pattern of the literal, in the low bits.
    fn bits(self) -> u64;

    /// The literal as a constant operand.
    fn imm(self) -> Imm {
        Imm {
            ty: Self::TY,
            bits: self.bits(),
        }
    }
}

/// A truth value of one thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pred(pub bool);

/// Two halves in one register, element 0 in the low bits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct F16x2(pub f16, pub f16);

/// Two brain floats in one register, element 0 in the low bits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bf16x2(pub bf16, pub bf16);

/// Types with `+ - *`, `min`, `max`.
pub trait Num: Type {}

/// Integer types with division, shifts and masks.
pub trait Int: Num {}

/// Types with `fma`.
pub trait Float: Num {}

/// Types that fit one 32-bit register, as shuffles want.
pub trait Word: Type {}

/// Types with `& | ^ !`.
pub trait Bits: Type {}

macro_rules! types {
    ($($rust:ty, $ty:ident, $bits:expr, [$($marker:ident)*];)*) => {$(
        impl Type for $rust {
            const TY: Ty = Ty::$ty;
            fn bits(self) -> u64 {
                let bits: fn($rust) -> u64 = $bits;
                bits(self)
            }
        }
        $(impl $marker for $rust {})*
    )*};
}

types! {
    Pred, Pred, |v| v.0.into(), [Bits];
    u8, U8, |v| v.into(), [];
    i8, I8, |v| (v as u8).into(), [];
    u16, U16, |v| v.into(), [Num Int Bits];
    u32, U32, |v| v.into(), [Num Int Bits Word];
    i32, I32, |v| (v as u32).into(), [Num Int Bits Word];
    u64, U64, |v| v, [Num Int Bits];
    i64, I64, |v| v as u64, [Num Int Bits];
    f16, F16, |v| v.to_bits().into(), [Num Float];
    bf16, Bf16, |v| v.to_bits().into(), [Num Float];
    f32, F32, |v| v.to_bits().into(), [Num Float Word];
    f64, F64, |v| v.to_bits(), [Num Float];
    F16x2, F16x2, |v| u64::from(v.0.to_bits()) | u64::from(v.1.to_bits()) << 16, [Num Float Word];
    Bf16x2, Bf16x2, |v| u64::from(v.0.to_bits()) | u64::from(v.1.to_bits()) << 16, [Num Float Word];
}
