//! Integer arithmetic, bits and comparisons.
//!
//! Registers narrower than 32 bits live zero-extended in 32-bit slots: signed operations extend first, and every
//! result is cut back to its width.

use super::{Exec, unsupported};
use crate::interp::decode::Inst;
use crate::interp::warp::Warp;
use crate::ir::Ty;
use crate::op::{Cmp, Opcode};

/// Sign-extends the low 16 bits.
#[inline(always)]
fn s16(x: u32) -> i32 {
    i32::from(x as u16 as i16)
}

/// Add, Sub, Mul, MadLo, Min, Max, Neg, Abs, Div, Rem, MulHi on an integer type.
pub(super) fn arithmetic(op: Opcode, ty: Ty, i: &Inst, m: u32, w: &mut Warp) -> Exec {
    match ty {
        Ty::U16 | Ty::I16 => narrow(op, ty, i, m, w),
        Ty::U32 | Ty::I32 => word(op, ty, i, m, w),
        Ty::U64 | Ty::I64 => long(op, ty, i, m, w),
        _ => unsupported(op),
    }
}

fn narrow(op: Opcode, ty: Ty, i: &Inst, m: u32, w: &mut Warp) -> Exec {
    let signed = ty == Ty::I16;
    let v = move |x: u32| if signed { s16(x) } else { (x & 0xffff) as i32 };
    let cut = |x: i32| x as u32 & 0xffff;
    match op {
        Opcode::Add { .. } => w.map2(i, m, |a, b| cut(v(a).wrapping_add(v(b)))),
        Opcode::Sub { .. } => w.map2(i, m, |a, b| cut(v(a).wrapping_sub(v(b)))),
        Opcode::Mul { .. } => w.map2(i, m, |a, b| cut(v(a).wrapping_mul(v(b)))),
        Opcode::MulHi { .. } => w.map2(i, m, |a, b| {
            cut(((i64::from(v(a)) * i64::from(v(b))) >> 16) as i32)
        }),
        Opcode::MadLo { .. } => w.map3(i, m, |a, b, c| {
            cut(v(a).wrapping_mul(v(b)).wrapping_add(v(c)))
        }),
        Opcode::Div { .. } => w.map2(i, m, |a, b| cut(v(a).checked_div(v(b)).unwrap_or(-1))),
        Opcode::Rem { .. } => w.map2(i, m, |a, b| cut(v(a).checked_rem(v(b)).unwrap_or(v(a)))),
        Opcode::Min { .. } => w.map2(i, m, |a, b| cut(v(a).min(v(b)))),
        Opcode::Max { .. } => w.map2(i, m, |a, b| cut(v(a).max(v(b)))),
        Opcode::Neg { .. } => w.map1(i, m, |a| cut(-v(a))),
        // PTX has the signed form only.
        Opcode::Abs { .. } => w.map1(i, m, |a| cut(s16(a).abs())),
        _ => return unsupported(op),
    }
    Ok(())
}

fn word(op: Opcode, ty: Ty, i: &Inst, m: u32, w: &mut Warp) -> Exec {
    let signed = ty == Ty::I32;
    match op {
        Opcode::Add { .. } => w.map2(i, m, u32::wrapping_add),
        Opcode::Sub { .. } => w.map2(i, m, u32::wrapping_sub),
        Opcode::Mul { .. } => w.map2(i, m, u32::wrapping_mul),
        Opcode::MadLo { .. } => w.map3(i, m, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        Opcode::MulHi { .. } if signed => {
            w.map2(i, m, |a, b| {
                ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32
            });
        }
        Opcode::MulHi { .. } => w.map2(i, m, |a, b| ((u64::from(a) * u64::from(b)) >> 32) as u32),
        // Division by zero has no defined result; all ones is what hardware gives.
        Opcode::Div { .. } if signed => {
            w.map2(i, m, |a, b| {
                if b == 0 {
                    u32::MAX
                } else {
                    (a as i32).wrapping_div(b as i32) as u32
                }
            });
        }
        Opcode::Div { .. } => w.map2(i, m, |a, b| a.checked_div(b).unwrap_or(u32::MAX)),
        Opcode::Rem { .. } if signed => {
            w.map2(i, m, |a, b| {
                if b == 0 {
                    a
                } else {
                    (a as i32).wrapping_rem(b as i32) as u32
                }
            });
        }
        Opcode::Rem { .. } => w.map2(i, m, |a, b| a.checked_rem(b).unwrap_or(a)),
        Opcode::Min { .. } if signed => w.map2(i, m, |a, b| (a as i32).min(b as i32) as u32),
        Opcode::Min { .. } => w.map2(i, m, u32::min),
        Opcode::Max { .. } if signed => w.map2(i, m, |a, b| (a as i32).max(b as i32) as u32),
        Opcode::Max { .. } => w.map2(i, m, u32::max),
        Opcode::Neg { .. } => w.map1(i, m, u32::wrapping_neg),
        Opcode::Abs { .. } => w.map1(i, m, |a| (a as i32).wrapping_abs() as u32),
        _ => return unsupported(op),
    }
    Ok(())
}

fn long(op: Opcode, ty: Ty, i: &Inst, m: u32, w: &mut Warp) -> Exec {
    let signed = ty == Ty::I64;
    match op {
        Opcode::Add { .. } => w.long2(i, m, u64::wrapping_add),
        Opcode::Sub { .. } => w.long2(i, m, u64::wrapping_sub),
        Opcode::Mul { .. } => w.long2(i, m, u64::wrapping_mul),
        Opcode::MadLo { .. } => w.long3(i, m, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        Opcode::MulHi { .. } if signed => {
            w.long2(i, m, |a, b| {
                ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64
            });
        }
        Opcode::MulHi { .. } => {
            w.long2(i, m, |a, b| ((u128::from(a) * u128::from(b)) >> 64) as u64)
        }
        Opcode::Div { .. } if signed => {
            w.long2(i, m, |a, b| {
                if b == 0 {
                    u64::MAX
                } else {
                    (a as i64).wrapping_div(b as i64) as u64
                }
            });
        }
        Opcode::Div { .. } => w.long2(i, m, |a, b| a.checked_div(b).unwrap_or(u64::MAX)),
        Opcode::Rem { .. } if signed => {
            w.long2(i, m, |a, b| {
                if b == 0 {
                    a
                } else {
                    (a as i64).wrapping_rem(b as i64) as u64
                }
            });
        }
        Opcode::Rem { .. } => w.long2(i, m, |a, b| a.checked_rem(b).unwrap_or(a)),
        Opcode::Min { .. } if signed => w.long2(i, m, |a, b| (a as i64).min(b as i64) as u64),
        Opcode::Min { .. } => w.long2(i, m, u64::min),
        Opcode::Max { .. } if signed => w.long2(i, m, |a, b| (a as i64).max(b as i64) as u64),
        Opcode::Max { .. } => w.long2(i, m, u64::max),
        Opcode::Neg { .. } => w.long1(i, m, u64::wrapping_neg),
        Opcode::Abs { .. } => w.long1(i, m, |a| (a as i64).wrapping_abs() as u64),
        _ => return unsupported(op),
    }
    Ok(())
}

/// Full 64-bit products of 32-bit factors, with or without an addend.
pub(super) fn wide(signed: bool, add: bool, i: &Inst, m: u32, w: &mut Warp) {
    let (a, b) = (w.word(i.src[0]), w.word(i.src[1]));
    let mut out = [0; 32];
    for l in 0..32 {
        out[l] = if signed {
            (i64::from(a[l] as i32) * i64::from(b[l] as i32)) as u64
        } else {
            u64::from(a[l]) * u64::from(b[l])
        };
    }
    if add {
        let c = w.long(i.src[2]);
        for l in 0..32 {
            out[l] = out[l].wrapping_add(c[l]);
        }
    }
    w.put64(i.dst[0], &out, m);
}

/// And, Or, Xor, Not on any width.
pub(super) fn logic(op: Opcode, ty: Ty, i: &Inst, m: u32, w: &mut Warp) -> Exec {
    match (ty.bits(), op) {
        (1, Opcode::Not { .. }) => w.put_pred(i.dst[0], !w.pred(i.src[0]), m),
        (1, _) => {
            let (a, b) = (w.pred(i.src[0]), w.pred(i.src[1]));
            let value = match op {
                Opcode::And { .. } => a & b,
                Opcode::Or { .. } => a | b,
                _ => a ^ b,
            };
            w.put_pred(i.dst[0], value, m);
        }
        (64, Opcode::And { .. }) => w.long2(i, m, |a, b| a & b),
        (64, Opcode::Or { .. }) => w.long2(i, m, |a, b| a | b),
        (64, Opcode::Xor { .. }) => w.long2(i, m, |a, b| a ^ b),
        (64, Opcode::Not { .. }) => w.long1(i, m, |a| !a),
        (_, Opcode::And { .. }) => w.map2(i, m, |a, b| a & b),
        (_, Opcode::Or { .. }) => w.map2(i, m, |a, b| a | b),
        (_, Opcode::Xor { .. }) => w.map2(i, m, |a, b| a ^ b),
        (32, Opcode::Not { .. }) => w.map1(i, m, |a| !a),
        (_, Opcode::Not { .. }) => w.map1(i, m, |a| !a & 0xffff),
        _ => return unsupported(op),
    }
    Ok(())
}

/// Shl and Shr: the amount is a u32 and clamps at the width.
pub(super) fn shift(op: Opcode, ty: Ty, i: &Inst, m: u32, w: &mut Warp) -> Exec {
    let left = matches!(op, Opcode::Shl { .. });
    match (ty, left) {
        (Ty::U16 | Ty::I16, true) => {
            w.map2(i, m, |a, b| if b > 15 { 0 } else { (a << b) & 0xffff })
        }
        (Ty::U16, false) => w.map2(i, m, |a, b| if b > 15 { 0 } else { a >> b }),
        (Ty::I16, false) => w.map2(i, m, |a, b| (s16(a) >> b.min(15)) as u32 & 0xffff),
        (Ty::U32 | Ty::I32, true) => w.map2(i, m, |a, b| if b > 31 { 0 } else { a << b }),
        (Ty::U32, false) => w.map2(i, m, |a, b| if b > 31 { 0 } else { a >> b }),
        (Ty::I32, false) => w.map2(i, m, |a, b| ((a as i32) >> b.min(31)) as u32),
        (Ty::U64 | Ty::I64, _) => {
            let (a, b) = (w.long(i.src[0]), w.word(i.src[1]));
            let mut out = [0; 32];
            for l in 0..32 {
                out[l] = match (left, ty) {
                    (true, _) => a[l].checked_shl(b[l]).unwrap_or(0),
                    (false, Ty::I64) => ((a[l] as i64) >> b[l].min(63)) as u64,
                    (false, _) => a[l].checked_shr(b[l]).unwrap_or(0),
                };
            }
            w.put64(i.dst[0], &out, m);
        }
        _ => return unsupported(op),
    }
    Ok(())
}

/// Bits `pos .. pos + len` of a `width`-bit value; only the low bytes of `pos` and `len` count (PTX ISA, `bfe`).
fn extract(a: u64, width: u32, pos: u32, len: u32, signed: bool) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    if len == 0 {
        return 0;
    }
    let field = a.checked_shr(pos).unwrap_or(0);
    let keep = if len >= 64 { u64::MAX } else { (1 << len) - 1 };
    let sign = signed && a >> (pos + len - 1).min(width - 1) & 1 == 1;
    // Past the value's own bits a signed field is filled with its sign.
    let present = width.saturating_sub(pos).min(len);
    let fill = if sign {
        u64::MAX.checked_shl(present).unwrap_or(0)
    } else {
        0
    };
    (field & keep) | fill
}

/// `b` with its bits `pos .. pos + len` replaced by the low bits of `a` (PTX ISA, `bfi`).
fn insert(a: u64, b: u64, pos: u32, len: u32) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    let keep = if len >= 64 { u64::MAX } else { (1 << len) - 1 };
    let mask = keep.checked_shl(pos).unwrap_or(0);
    (b & !mask) | (a.checked_shl(pos).unwrap_or(0) & mask)
}

/// Bfe and Bfi.
pub(super) fn fields(op: Opcode, ty: Ty, i: &Inst, m: u32, w: &mut Warp) {
    let signed = ty.is_signed();
    let bfi = matches!(op, Opcode::Bfi { .. });
    let (pos, len) = if bfi {
        (i.src[2], i.src[3])
    } else {
        (i.src[1], i.src[2])
    };
    let (pos, len) = (*w.word(pos), *w.word(len));
    if ty.bits() == 64 {
        let (a, b) = (
            *w.long(i.src[0]),
            if bfi { *w.long(i.src[1]) } else { [0; 32] },
        );
        let out = std::array::from_fn(|l| {
            if bfi {
                insert(a[l], b[l], pos[l], len[l])
            } else {
                extract(a[l], 64, pos[l], len[l], signed)
            }
        });
        w.put64(i.dst[0], &out, m);
    } else {
        let (a, b) = (
            *w.word(i.src[0]),
            if bfi { *w.word(i.src[1]) } else { [0; 32] },
        );
        let out = std::array::from_fn(|l| {
            let wide = u64::from(a[l]);
            if bfi {
                insert(wide, u64::from(b[l]), pos[l], len[l]) as u32
            } else {
                extract(wide, 32, pos[l], len[l], signed) as u32
            }
        });
        w.put(i.dst[0], &out, m);
    }
}

/// A function of three bits, applied to 32 bits at once.
pub(super) fn lop3(lut: u8, i: &Inst, m: u32, w: &mut Warp) {
    let (a, b, c) = (w.word(i.src[0]), w.word(i.src[1]), w.word(i.src[2]));
    let mut out = [0; 32];
    for term in (0..8).filter(|t| lut >> t & 1 == 1) {
        let flip = |bit: u32| if term & bit == 0 { u32::MAX } else { 0 };
        let (fa, fb, fc) = (flip(4), flip(2), flip(1));
        for l in 0..32 {
            out[l] |= (a[l] ^ fa) & (b[l] ^ fb) & (c[l] ^ fc);
        }
    }
    w.put(i.dst[0], &out, m);
}

/// Four bytes of `{b, a}` by nibbles of `c`; a nibble's high bit replicates the byte's sign.
pub(super) fn prmt(a: u32, b: u32, c: u32) -> u32 {
    let bytes = u64::from(a) | u64::from(b) << 32;
    (0..4).fold(0, |out, n| {
        let nibble = c >> (4 * n) & 0xf;
        let byte = (bytes >> (8 * (nibble & 7))) as u8;
        let byte = if nibble & 8 == 0 {
            byte
        } else {
            ((byte as i8) >> 7) as u8
        };
        out | u32::from(byte) << (8 * n)
    })
}

/// A dot product of four bytes plus `c`.
#[inline(always)]
pub(super) fn dp4a(a: u32, b: u32, c: u32, a_signed: bool, b_signed: bool) -> u32 {
    let byte = |x: u32, n: u32, signed: bool| {
        let byte = (x >> (8 * n)) as u8;
        if signed {
            i32::from(byte as i8)
        } else {
            i32::from(byte)
        }
    };
    (0..4).fold(c as i32, |sum, n| {
        sum.wrapping_add(byte(a, n, a_signed) * byte(b, n, b_signed))
    }) as u32
}

/// Popc and Clz.
pub(super) fn count(op: Opcode, ty: Ty, i: &Inst, m: u32, w: &mut Warp) {
    let popc = matches!(op, Opcode::Popc { .. });
    if ty.bits() == 64 {
        let a = *w.long(i.src[0]);
        let out = a.map(|x| {
            if popc {
                x.count_ones()
            } else {
                x.leading_zeros()
            }
        });
        w.put(i.dst[0], &out, m);
    } else {
        w.map1(i, m, |x| {
            if popc {
                x.count_ones()
            } else {
                x.leading_zeros()
            }
        });
    }
}

macro_rules! compare {
    ($w:ident . $test:ident, $i:expr, $m:expr, $cmp:expr, $cast:expr) => {
        match $cmp {
            Cmp::Lt => $w.$test($i, $m, |a, b| $cast(a) < $cast(b)),
            Cmp::Le => $w.$test($i, $m, |a, b| $cast(a) <= $cast(b)),
            Cmp::Eq => $w.$test($i, $m, |a, b| $cast(a) == $cast(b)),
            Cmp::Ne => $w.$test($i, $m, |a, b| $cast(a) != $cast(b)),
            Cmp::Ge => $w.$test($i, $m, |a, b| $cast(a) >= $cast(b)),
            Cmp::Gt => $w.$test($i, $m, |a, b| $cast(a) > $cast(b)),
        }
    };
}
pub(super) use compare;

/// Setp on an integer type.
pub(super) fn setp(op: Opcode, cmp: Cmp, ty: Ty, i: &Inst, m: u32, w: &mut Warp) -> Exec {
    match ty {
        Ty::U16 | Ty::U32 => compare!(w.test2, i, m, cmp, |x: u32| x),
        Ty::I16 => compare!(w.test2, i, m, cmp, s16),
        Ty::I32 => compare!(w.test2, i, m, cmp, |x: u32| x as i32),
        Ty::U64 => compare!(w.test2_long, i, m, cmp, |x: u64| x),
        Ty::I64 => compare!(w.test2_long, i, m, cmp, |x: u64| x as i64),
        _ => return unsupported(op),
    }
    Ok(())
}
