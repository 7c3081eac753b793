//! `cvt`: between integers, floats and each other, with every rounding and clamp.
//!
//! The conversions that kernels are full of have loops of their own; the rest go through one general function.

use super::float::Half;
use super::num::{self, Round};
use crate::interp::decode::Inst;
use crate::interp::warp::Warp;
use crate::ir::Ty;
use crate::op;

/// A converted value before it is cut to its destination.
enum Value {
    Int(i128),
    Float(f64),
}

fn value(ty: Ty, bits: u64) -> Value {
    match ty {
        Ty::U8 => Value::Int(i128::from(bits as u8)),
        Ty::I8 => Value::Int(i128::from(bits as u8 as i8)),
        Ty::U16 => Value::Int(i128::from(bits as u16)),
        Ty::I16 => Value::Int(i128::from(bits as u16 as i16)),
        Ty::I32 => Value::Int(i128::from(bits as u32 as i32)),
        Ty::U64 => Value::Int(i128::from(bits)),
        Ty::I64 => Value::Int(i128::from(bits as i64)),
        Ty::F16 => Value::Float(f64::from(Half::F16.value(bits as u32))),
        Ty::Bf16 => Value::Float(f64::from(Half::Bf16.value(bits as u32))),
        Ty::F32 => Value::Float(f64::from(f32::from_bits(bits as u32))),
        Ty::F64 => Value::Float(f64::from_bits(bits)),
        Ty::U32 | Ty::Pred | Ty::F16x2 | Ty::Bf16x2 => Value::Int(i128::from(bits as u32)),
    }
}

/// The register width of a type: 8-bit values sit in 16-bit registers.
fn register_mask(ty: Ty) -> u64 {
    match ty.bits() {
        8 | 16 => 0xffff,
        64 => u64::MAX,
        _ => 0xffff_ffff,
    }
}

/// The bits of an integer in a register of type `ty`: low bits of the type, extended to the register.
fn cut(ty: Ty, x: i128) -> u64 {
    let x = match ty {
        Ty::U8 => x & 0xff,
        Ty::I8 => i128::from(x as i8),
        _ => x,
    };
    x as u64 & register_mask(ty)
}

fn range(ty: Ty) -> (i128, i128) {
    let bits = ty.bits();
    if ty.is_signed() {
        (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    } else {
        (0, (1 << bits) - 1)
    }
}

fn rounding(round: op::Round) -> Round {
    match round {
        op::Round::None | op::Round::Rn | op::Round::Rni => Round::Nearest,
        op::Round::Rz | op::Round::Rzi => Round::Zero,
        op::Round::Rmi => Round::Down,
        op::Round::Rpi => Round::Up,
    }
}

fn to_float(ty: Ty, x: f64, round: Round) -> u64 {
    match ty {
        Ty::F64 => x.to_bits(),
        Ty::F16 => u64::from(num::to_f16(x, round)),
        Ty::Bf16 => u64::from(num::to_bf16(x, round)),
        _ => u64::from(num::to_f32(x, round).to_bits()),
    }
}

/// Converts one value.
pub(super) fn convert(to: Ty, from: Ty, round: op::Round, sat: bool, bits: u64) -> u64 {
    let mode = rounding(round);
    match value(from, bits) {
        Value::Int(x) if to.is_int() => {
            let (low, high) = range(to);
            cut(to, if sat { x.clamp(low, high) } else { x })
        }
        Value::Int(x) if to == Ty::F64 => (x as f64).to_bits(),
        // i128 to f64 rounds; what it lost becomes the sticky bit.
        Value::Int(x) => to_float(
            to,
            num::add_odd(x as f64, (x - (x as f64) as i128) as f64),
            mode,
        ),
        // PTX ISA, `cvt`: NaN becomes 0 between types of up to 32 bits, else the top bit alone.
        Value::Float(x) if to.is_int() && x.is_nan() && (from == Ty::F64 || to.bits() == 64) => {
            cut(to, 1 << (to.bits() - 1))
        }
        // A conversion to an integer always clamps; `as` does, and takes NaN to 0.
        Value::Float(x) if to.is_int() => {
            let (low, high) = range(to);
            cut(to, (num::integral(x, mode) as i128).clamp(low, high))
        }
        Value::Float(x) => {
            let integral = matches!(
                round,
                op::Round::Rni | op::Round::Rzi | op::Round::Rmi | op::Round::Rpi
            );
            let x = if integral { num::integral(x, mode) } else { x };
            // `.sat` on a float clamps to [0, 1], NaN to 0.
            let x = if sat {
                if x.is_nan() { 0.0 } else { x.clamp(0.0, 1.0) }
            } else {
                x
            };
            to_float(to, x, mode)
        }
    }
}

/// Cvt.
pub(super) fn execute(
    to: Ty,
    from: Ty,
    round: op::Round,
    sat: bool,
    i: &Inst,
    m: u32,
    w: &mut Warp,
) {
    use op::Round::{Rn, Rni, Rzi};
    match (to, from, round, sat) {
        (Ty::F32, Ty::F16, _, false) => return w.map1(i, m, |a| Half::F16.value(a).to_bits()),
        (Ty::F32, Ty::Bf16, _, false) => return w.map1(i, m, |a| a << 16),
        (Ty::F16, Ty::F32, Rn, false) => {
            return w.map1(i, m, |a| Half::F16.narrow(f32::from_bits(a)));
        }
        (Ty::Bf16, Ty::F32, Rn, false) => {
            return w.map1(i, m, |a| Half::Bf16.narrow(f32::from_bits(a)));
        }
        (Ty::F32, Ty::U32, Rn, false) => return w.map1(i, m, |a| (a as f32).to_bits()),
        (Ty::F32, Ty::I32, Rn, false) => return w.map1(i, m, |a| (a as i32 as f32).to_bits()),
        (Ty::F32, Ty::I8, _, false) => return w.map1(i, m, |a| f32::from(a as u8 as i8).to_bits()),
        (Ty::F32, Ty::U8, _, false) => return w.map1(i, m, |a| f32::from(a as u8).to_bits()),
        (Ty::I32, Ty::F32, Rzi, _) => return w.map1(i, m, |a| f32::from_bits(a) as i32 as u32),
        (Ty::U32, Ty::F32, Rzi, _) => return w.map1(i, m, |a| f32::from_bits(a) as u32),
        (Ty::I32, Ty::F32, Rni, _) => {
            return w.map1(i, m, |a| f32::from_bits(a).round_ties_even() as i32 as u32);
        }
        (Ty::U32 | Ty::I32, Ty::U8, _, false) => return w.map1(i, m, |a| a & 0xff),
        (Ty::U32 | Ty::I32, Ty::I8, _, false) => return w.map1(i, m, |a| a as u8 as i8 as u32),
        (Ty::U32 | Ty::I32, Ty::U16, _, false) => return w.map1(i, m, |a| a & 0xffff),
        (Ty::U32 | Ty::I32, Ty::I16, _, false) => return w.map1(i, m, |a| a as u16 as i16 as u32),
        (Ty::U16 | Ty::I16, Ty::U32 | Ty::I32, _, false) => return w.map1(i, m, |a| a & 0xffff),
        (Ty::U64 | Ty::I64, Ty::U32, _, false) => {
            let out = w.word(i.src[0]).map(u64::from);
            return w.put64(i.dst[0], &out, m);
        }
        (Ty::U64 | Ty::I64, Ty::I32, _, false) => {
            let out = w.word(i.src[0]).map(|a| a as i32 as u64);
            return w.put64(i.dst[0], &out, m);
        }
        (Ty::U32 | Ty::I32, Ty::U64 | Ty::I64, _, false) => {
            let out = w.long(i.src[0]).map(|a| a as u32);
            return w.put(i.dst[0], &out, m);
        }
        _ => {}
    }
    let source = if from.bits() == 64 {
        *w.long(i.src[0])
    } else {
        w.word(i.src[0]).map(u64::from)
    };
    let mut out = [0; 32];
    for l in 0..32 {
        if m >> l & 1 == 1 {
            out[l] = convert(to, from, round, sat, source[l]);
        }
    }
    if to.bits() == 64 {
        w.put64(i.dst[0], &out, m);
    } else {
        w.put(i.dst[0], &out.map(|x| x as u32), m);
    }
}
