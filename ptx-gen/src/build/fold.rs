//! Constant folding, so that kernels may be written naturally: `row * 1 + 0` costs nothing and
//! `i / 32` is a shift.
//!
//! Integers fold with wrapping arithmetic, f32 with Rust's (IEEE, round to nearest), which are
//! the instructions' own results. Float identities are used only where they are exact: `x * 1`,
//! not `x + 0` (which changes -0).

use super::val::Repr;
use super::{Pred, Type, Val};
use crate::ir::{Imm, Ty};
use crate::op::{Cmp, Opcode};

/// `a <op> b` for two operands of one type.
#[track_caller]
pub(super) fn binary<'k, T: Type>(op: Opcode, a: Val<'k, T>, b: Val<'k, T>) -> Val<'k, T> {
    if let (Some(x), Some(y)) = (a.known(), b.known())
        && let Some(bits) = evaluate(op, T::TY, x, y)
    {
        return Val::imm(a.k, Imm { ty: T::TY, bits });
    }
    // Constants go right where order does not matter.
    let commutes = matches!(
        op,
        Opcode::Add { .. }
            | Opcode::Mul { .. }
            | Opcode::And { .. }
            | Opcode::Or { .. }
            | Opcode::Xor { .. }
    );
    let (a, b) = if commutes && a.known().is_some() {
        (b, a)
    } else {
        (a, b)
    };
    if let Some(result) = hoist_constants(op, a, b) {
        return result;
    }
    match (b.known(), T::TY) {
        (Some(c), Ty::F32) if c == u64::from(1f32.to_bits()) => match op {
            Opcode::Mul { .. } | Opcode::Div { .. } => a,
            _ => a.op2(op, b),
        },
        (Some(c), Ty::Pred) => with_known_predicate(op, a, c != 0),
        (Some(c), ty) if ty.is_int() => with_constant(op, a, b, c),
        _ => a.op2(op, b),
    }
}

#[track_caller]
fn with_known_predicate<'k, T: Type>(op: Opcode, a: Val<'k, T>, c: bool) -> Val<'k, T> {
    match (op, c) {
        (Opcode::And { .. }, true) | (Opcode::Or { .. } | Opcode::Xor { .. }, false) => a,
        (Opcode::Xor { .. }, true) => a.op1(Opcode::Not { ty: Ty::Pred }),
        (_, c) => Val::imm(
            a.k,
            Imm {
                ty: Ty::Pred,
                bits: u64::from(c),
            },
        ),
    }
}

/// `a <op> c` for integers.
#[track_caller]
fn with_constant<'k, T: Type>(op: Opcode, a: Val<'k, T>, b: Val<'k, T>, c: u64) -> Val<'k, T> {
    let k = a.k;
    let ones = u64::MAX >> (64 - T::TY.bits());
    let constant = |bits: u64| Val::imm(k, Imm { ty: T::TY, bits });
    let log2 = c.is_power_of_two().then(|| c.trailing_zeros());
    match (op, log2) {
        (Opcode::Add { .. } | Opcode::Sub { .. } | Opcode::Or { .. } | Opcode::Xor { .. }, _)
            if c == 0 =>
        {
            a
        }
        (Opcode::Mul { .. } | Opcode::And { .. }, _) if c == 0 => constant(0),
        (Opcode::And { .. }, _) if c == ones => a,
        (Opcode::Mul { .. } | Opcode::Div { .. }, Some(0)) => a,
        (Opcode::Rem { .. }, Some(0)) => constant(0),
        (Opcode::Mul { .. }, Some(n)) => shift(Opcode::Shl { ty: T::TY }, a, k.constant(n)),
        (Opcode::Div { .. }, Some(n)) if !T::TY.is_signed() => {
            shift(Opcode::Shr { ty: T::TY }, a, k.constant(n))
        }
        (Opcode::Rem { .. }, Some(_)) if !T::TY.is_signed() => {
            a.op2(Opcode::And { ty: T::TY }, constant(c - 1))
        }
        _ => {
            let result = a.op2(op, b);
            if T::TY == Ty::U32 {
                remember_offset(op, a, result, c);
            }
            result
        }
    }
}

/// Moves constants outwards, where addresses can absorb them: `a + (b + 3)` becomes
/// `(a + b) + 3`, and `(b + 3) * 4` becomes `b * 4 + 12`.
#[track_caller]
fn hoist_constants<'k, T: Type>(op: Opcode, a: Val<'k, T>, b: Val<'k, T>) -> Option<Val<'k, T>> {
    if T::TY != Ty::U32 {
        return None;
    }
    let (a, p) = split(a);
    let (base, constant) = match (op, b.known()) {
        (Opcode::Add { .. }, None) => {
            let (b, q) = split(b);
            let constant = p + q;
            if constant == 0 {
                return None;
            }
            (binary(op, a, b), constant)
        }
        (Opcode::Mul { .. }, Some(c)) if p != 0 && c > 1 => (binary(op, a, b), p * c as i64),
        _ => return None,
    };
    let constant = i32::try_from(constant).ok()?;
    let imm = Val::imm(
        base.k,
        Imm {
            ty: T::TY,
            bits: u64::from(constant as u32),
        },
    );
    Some(binary(Opcode::Add { ty: T::TY }, base, imm))
}

/// A value as another one plus a constant.
fn split<T: Type>(value: Val<'_, T>) -> (Val<'_, T>, i64) {
    match value.repr {
        Repr::Reg(r) => match value.k.state.borrow().offsets.get(&r) {
            Some((base, offset)) => (Val::reg(value.k, *base), *offset),
            None => (value, 0),
        },
        Repr::Imm(_) => (value, 0),
    }
}

/// Records `result = a + c`, so that an address built on `result` can be built on `a`.
fn remember_offset<'k, T: Type>(op: Opcode, a: Val<'k, T>, result: Val<'k, T>, c: u64) {
    let offset = match op {
        Opcode::Add { .. } => i64::from(c as u32 as i32),
        Opcode::Sub { .. } => -i64::from(c as u32 as i32),
        _ => return,
    };
    let state = &mut *a.k.state.borrow_mut();
    if let (Repr::Reg(result), Repr::Reg(base)) = (result.repr, a.repr) {
        // Chains are flattened as they grow: `(i + 1) + 2` is `i + 3`.
        let (base, before) = state.offsets.get(&base).copied().unwrap_or((base, 0));
        state.offsets.insert(result, (base, before + offset));
    }
}

/// `a << b` or `a >> b`.
#[track_caller]
pub(super) fn shift<'k, T: Type>(op: Opcode, a: Val<'k, T>, by: Val<'k, u32>) -> Val<'k, T> {
    match (a.known(), by.known()) {
        (_, Some(0)) => a,
        (None, Some(n)) if n < 32 && matches!(op, Opcode::Shl { .. }) && split(a).1 != 0 => {
            let factor = Val::imm(
                a.k,
                Imm {
                    ty: T::TY,
                    bits: 1 << n,
                },
            );
            hoist_constants(Opcode::Mul { ty: T::TY }, a, factor).unwrap_or_else(|| a.op2(op, by))
        }
        (Some(x), Some(n)) if n < u64::from(T::TY.bits()) => {
            let x = Imm { ty: T::TY, bits: x }.as_i64();
            let bits = match op {
                Opcode::Shl { .. } => (x as u64) << n,
                _ if T::TY.is_signed() => (x >> n) as u64,
                _ => x as u64 >> n,
            };
            Val::imm(
                a.k,
                Imm {
                    ty: T::TY,
                    bits: bits & (u64::MAX >> (64 - T::TY.bits())),
                },
            )
        }
        _ => a.op2(op, by),
    }
}

/// `a <cmp> b`.
#[track_caller]
pub(super) fn compare<'k, T: Type>(cmp: Cmp, a: Val<'k, T>, b: Val<'k, T>) -> Val<'k, Pred> {
    if let (Some(x), Some(y)) = (a.known(), b.known())
        && T::TY.is_int()
    {
        let order = if T::TY.is_signed() {
            let int = |bits| Imm { ty: T::TY, bits }.as_i64();
            int(x).cmp(&int(y))
        } else {
            x.cmp(&y)
        };
        let holds = match cmp {
            Cmp::Lt => order.is_lt(),
            Cmp::Le => order.is_le(),
            Cmp::Eq => order.is_eq(),
            Cmp::Ne => order.is_ne(),
            Cmp::Ge => order.is_ge(),
            Cmp::Gt => order.is_gt(),
        };
        return a.k.constant(Pred(holds));
    }
    // The first source of `setp` may be a constant too, but reads better in a register.
    let (cmp, a, b) = if a.known().is_some() {
        (mirrored(cmp), b, a)
    } else {
        (cmp, a, b)
    };
    a.op2(Opcode::Setp { cmp, ty: T::TY }, b)
}

fn mirrored(cmp: Cmp) -> Cmp {
    match cmp {
        Cmp::Lt => Cmp::Gt,
        Cmp::Le => Cmp::Ge,
        Cmp::Gt => Cmp::Lt,
        Cmp::Ge => Cmp::Le,
        other => other,
    }
}

/// The result of an operation on two constants; `None` where it is left to the GPU.
fn evaluate(op: Opcode, ty: Ty, x: u64, y: u64) -> Option<u64> {
    if ty == Ty::F32 {
        let (x, y) = (f32::from_bits(x as u32), f32::from_bits(y as u32));
        let result = match op {
            Opcode::Add { .. } => x + y,
            Opcode::Sub { .. } => x - y,
            Opcode::Mul { .. } => x * y,
            Opcode::Div { .. } => x / y,
            _ => return None,
        };
        return (!result.is_nan()).then(|| u64::from(result.to_bits()));
    }
    if !ty.is_int() && ty != Ty::Pred {
        return None;
    }
    let int = |bits| Imm { ty, bits }.as_i64();
    let (a, b) = (int(x), int(y));
    let signed = ty.is_signed();
    let result = match op {
        Opcode::Add { .. } => a.wrapping_add(b) as u64,
        Opcode::Sub { .. } => a.wrapping_sub(b) as u64,
        Opcode::Mul { .. } => a.wrapping_mul(b) as u64,
        Opcode::Div { .. } if y != 0 && signed => a.wrapping_div(b) as u64,
        Opcode::Div { .. } if y != 0 => x / y,
        Opcode::Rem { .. } if y != 0 && signed => a.wrapping_rem(b) as u64,
        Opcode::Rem { .. } if y != 0 => x % y,
        Opcode::And { .. } => x & y,
        Opcode::Or { .. } => x | y,
        Opcode::Xor { .. } => x ^ y,
        Opcode::Min { .. } if signed => a.min(b) as u64,
        Opcode::Min { .. } => x.min(y),
        Opcode::Max { .. } if signed => a.max(b) as u64,
        Opcode::Max { .. } => x.max(y),
        _ => return None,
    };
    Some(result & (u64::MAX >> (64 - ty.bits())))
}
