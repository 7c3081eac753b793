//! Arithmetic in `f32`, `f64` and the 16-bit formats.
//!
//! Every operation rounds once, to nearest even. Approximate functions are the correctly rounded `f32` of an `f64`
//! result: hardware differs from them by the error its manual states.

use half::{bf16, f16};

use super::num::{self, Round};
use super::{Exec, int::compare, unsupported};
use crate::interp::decode::Inst;
use crate::interp::warp::Warp;
use crate::ir::Ty;
use crate::op::{Approx, Cmp, Opcode};

#[inline(always)]
fn f(x: u32) -> f32 {
    f32::from_bits(x)
}

#[inline(always)]
fn d(x: u64) -> f64 {
    f64::from_bits(x)
}

/// The smaller: -0 is below +0, a NaN loses to a number.
#[inline(always)]
fn min32(a: f32, b: f32) -> f32 {
    if a == b {
        f32::from_bits(a.to_bits() | b.to_bits())
    } else {
        a.min(b)
    }
}

#[inline(always)]
fn max32(a: f32, b: f32) -> f32 {
    if a == b {
        f32::from_bits(a.to_bits() & b.to_bits())
    } else {
        a.max(b)
    }
}

#[inline(always)]
fn min64(a: f64, b: f64) -> f64 {
    if a == b {
        f64::from_bits(a.to_bits() | b.to_bits())
    } else {
        a.min(b)
    }
}

#[inline(always)]
fn max64(a: f64, b: f64) -> f64 {
    if a == b {
        f64::from_bits(a.to_bits() & b.to_bits())
    } else {
        a.max(b)
    }
}

/// Arithmetic on a float type.
pub(super) fn arithmetic(op: Opcode, ty: Ty, i: &Inst, m: u32, w: &mut Warp) -> Exec {
    match ty {
        Ty::F32 => single(op, i, m, w),
        Ty::F64 => double(op, i, m, w),
        Ty::F16 | Ty::Bf16 | Ty::F16x2 | Ty::Bf16x2 => narrow(op, ty, i, m, w),
        _ => unsupported(op),
    }
}

fn single(op: Opcode, i: &Inst, m: u32, w: &mut Warp) -> Exec {
    match op {
        Opcode::Add { .. } => w.map2(i, m, |a, b| (f(a) + f(b)).to_bits()),
        Opcode::Sub { .. } => w.map2(i, m, |a, b| (f(a) - f(b)).to_bits()),
        Opcode::Mul { .. } => w.map2(i, m, |a, b| (f(a) * f(b)).to_bits()),
        Opcode::Div { .. } | Opcode::DivFull => w.map2(i, m, |a, b| (f(a) / f(b)).to_bits()),
        Opcode::Fma { .. } => w.map3(i, m, |a, b, c| f(a).mul_add(f(b), f(c)).to_bits()),
        Opcode::Min { .. } => w.map2(i, m, |a, b| min32(f(a), f(b)).to_bits()),
        Opcode::Max { .. } => w.map2(i, m, |a, b| max32(f(a), f(b)).to_bits()),
        Opcode::Neg { .. } => w.map1(i, m, |a| a ^ 1 << 31),
        Opcode::Abs { .. } => w.map1(i, m, |a| a & !(1 << 31)),
        Opcode::SqrtRn { .. } => w.map1(i, m, |a| f(a).sqrt().to_bits()),
        Opcode::RcpRn { .. } => w.map1(i, m, |a| (1.0 / f(a)).to_bits()),
        _ => return unsupported(op),
    }
    Ok(())
}

fn double(op: Opcode, i: &Inst, m: u32, w: &mut Warp) -> Exec {
    match op {
        Opcode::Add { .. } => w.long2(i, m, |a, b| (d(a) + d(b)).to_bits()),
        Opcode::Sub { .. } => w.long2(i, m, |a, b| (d(a) - d(b)).to_bits()),
        Opcode::Mul { .. } => w.long2(i, m, |a, b| (d(a) * d(b)).to_bits()),
        Opcode::Div { .. } => w.long2(i, m, |a, b| (d(a) / d(b)).to_bits()),
        Opcode::Fma { .. } => w.long3(i, m, |a, b, c| d(a).mul_add(d(b), d(c)).to_bits()),
        Opcode::Min { .. } => w.long2(i, m, |a, b| min64(d(a), d(b)).to_bits()),
        Opcode::Max { .. } => w.long2(i, m, |a, b| max64(d(a), d(b)).to_bits()),
        Opcode::Neg { .. } => w.long1(i, m, |a| a ^ 1 << 63),
        Opcode::Abs { .. } => w.long1(i, m, |a| a & !(1 << 63)),
        Opcode::SqrtRn { .. } => w.long1(i, m, |a| d(a).sqrt().to_bits()),
        Opcode::RcpRn { .. } => w.long1(i, m, |a| (1.0 / d(a)).to_bits()),
        _ => return unsupported(op),
    }
    Ok(())
}

/// A 16-bit float format.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    F16,
    Bf16,
}

impl Half {
    #[inline(always)]
    pub(super) fn value(self, bits: u32) -> f32 {
        match self {
            Half::F16 => f16::from_bits(bits as u16).to_f32(),
            Half::Bf16 => f32::from_bits(bits << 16),
        }
    }

    #[inline(always)]
    pub(super) fn round(self, x: f64) -> u32 {
        u32::from(match self {
            Half::F16 => num::to_f16(x, Round::Nearest),
            Half::Bf16 => num::to_bf16(x, Round::Nearest),
        })
    }

    /// Rounds an `f32`.
    #[inline(always)]
    pub(super) fn narrow(self, x: f32) -> u32 {
        u32::from(match self {
            Half::F16 => f16::from_f32(x).to_bits(),
            Half::Bf16 => bf16::from_f32(x).to_bits(),
        })
    }
}

/// Applies `g` to one or both halves of up to three sources.
#[inline(always)]
fn halves(pair: bool, i: &Inst, m: u32, w: &mut Warp, g: impl Fn(u32, u32, u32) -> u32) {
    let n = usize::from(i.num_src);
    let a = w.word(i.src[0]);
    let b = w.word(if n > 1 { i.src[1] } else { i.src[0] });
    let c = w.word(if n > 2 { i.src[2] } else { i.src[0] });
    let mut out = [0; 32];
    for l in 0..32 {
        out[l] = g(a[l] & 0xffff, b[l] & 0xffff, c[l] & 0xffff);
        if pair {
            out[l] |= g(a[l] >> 16, b[l] >> 16, c[l] >> 16) << 16;
        }
    }
    w.put(i.dst[0], &out, m);
}

fn narrow(op: Opcode, ty: Ty, i: &Inst, m: u32, w: &mut Warp) -> Exec {
    let pair = matches!(ty, Ty::F16x2 | Ty::Bf16x2);
    let h = if matches!(ty, Ty::F16 | Ty::F16x2) {
        Half::F16
    } else {
        Half::Bf16
    };
    // f32 has more than twice the digits of either format, so that rounding its sum, difference or quotient again
    // gives what one rounding would; a product and a fused product are rounded from f64.
    let wide = |a: u32| f64::from(h.value(a));
    match op {
        Opcode::Add { .. } => halves(pair, i, m, w, |a, b, _| h.narrow(h.value(a) + h.value(b))),
        Opcode::Sub { .. } => halves(pair, i, m, w, |a, b, _| h.narrow(h.value(a) - h.value(b))),
        Opcode::Mul { .. } => halves(pair, i, m, w, |a, b, _| h.round(wide(a) * wide(b))),
        Opcode::Fma { .. } => halves(pair, i, m, w, |a, b, c| {
            h.round(num::fma_odd(wide(a), wide(b), wide(c)))
        }),
        Opcode::Min { .. } => halves(pair, i, m, w, |a, b, _| {
            h.narrow(min32(h.value(a), h.value(b)))
        }),
        Opcode::Max { .. } => halves(pair, i, m, w, |a, b, _| {
            h.narrow(max32(h.value(a), h.value(b)))
        }),
        Opcode::Neg { .. } => halves(pair, i, m, w, |a, _, _| a ^ 0x8000),
        Opcode::Abs { .. } => halves(pair, i, m, w, |a, _, _| a & 0x7fff),
        _ => return unsupported(op),
    }
    Ok(())
}

/// An approximate function, exactly rounded.
fn function(which: Approx, x: f64) -> f64 {
    match which {
        Approx::Rcp => 1.0 / x,
        Approx::Rsqrt => 1.0 / x.sqrt(),
        Approx::Sqrt => x.sqrt(),
        Approx::Ex2 => x.exp2(),
        Approx::Lg2 => x.log2(),
        Approx::Sin => x.sin(),
        Approx::Cos => x.cos(),
        Approx::Tanh => x.tanh(),
    }
}

/// Rcp, Rsqrt, Sqrt, Ex2, Lg2, Sin, Cos, Tanh.
pub(super) fn approx(op: Opcode, which: Approx, ty: Ty, i: &Inst, m: u32, w: &mut Warp) -> Exec {
    match ty {
        Ty::F32 if which == Approx::Tanh => w.map1(i, m, |a| {
            (function(which, f64::from(f(a))) as f32).to_bits()
        }),
        // The other f32 forms are `.ftz`.
        Ty::F32 => w.map1(i, m, |a| {
            num::flush(function(which, f64::from(num::flush(f(a)))) as f32).to_bits()
        }),
        Ty::F16 | Ty::F16x2 | Ty::Bf16 | Ty::Bf16x2 => {
            let h = if matches!(ty, Ty::F16 | Ty::F16x2) {
                Half::F16
            } else {
                Half::Bf16
            };
            let pair = matches!(ty, Ty::F16x2 | Ty::Bf16x2);
            halves(pair, i, m, w, |a, _, _| {
                h.round(function(which, f64::from(h.value(a))))
            });
        }
        _ => return unsupported(op),
    }
    Ok(())
}

/// Setp on a float type: ordered, except that `Ne` holds for NaN.
pub(super) fn setp(op: Opcode, cmp: Cmp, ty: Ty, i: &Inst, m: u32, w: &mut Warp) -> Exec {
    match ty {
        Ty::F32 => compare!(w.test2, i, m, cmp, f),
        Ty::F64 => compare!(w.test2_long, i, m, cmp, d),
        Ty::F16 => compare!(w.test2, i, m, cmp, |x| Half::F16.value(x)),
        Ty::Bf16 => compare!(w.test2, i, m, cmp, |x| Half::Bf16.value(x)),
        _ => return unsupported(op),
    }
    Ok(())
}
