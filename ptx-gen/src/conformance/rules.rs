//! What a GPU's results are held to, form by form.
//!
//! The bounds of approximate instructions are those of the PTX ISA 9.1 (sections of `div`: 9.7.3.8, `rcp`: 9.7.3.13,
//! `sqrt`: 9.7.3.15, `rsqrt`: 9.7.3.16, `sin`: 9.7.3.18, `cos`: 9.7.3.19, `tanh`: 9.7.3.22, and of the half-precision
//! `tanh`: 9.7.4.9 and `ex2`: 9.7.4.10), but for two that are held to less than it allows: `lg2` (9.7.3.20: 2^-22) and
//! `ex2` (9.7.3.21: 2 ulp). For floats it says ("Floating Point
//! Instructions") that which NaN an instruction gives is unspecified; moves, loads, stores and selections keep the
//! bits they are given.

use std::fmt;

use crate::ir::Ty;
use crate::op::{Approx, Opcode, Rmw};

/// How far results may be apart.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Rule {
    /// Equal bits.
    Bits,
    /// Equal bits, or a NaN of any kind on both sides.
    BitsOrBothNan,
    /// Within so many units in the last place (any NaN for a NaN).
    Ulp(u64),
    /// Within the larger of `abs` and `rel * |x|`, `x` being the interpreter's value, whose own rounding adds half
    /// a unit in the last place (any NaN for a NaN).
    AbsRel {
        /// Absolute error.
        abs: f64,
        /// Relative error.
        rel: f64,
    },
    /// Within an absolute bound of each output slot's own (any NaN for a NaN, infinities equal).
    Bounded {
        /// One bound a slot.
        bounds: Vec<f64>,
        /// What the bounds are, in words.
        what: &'static str,
    },
    /// The launch ends with an error on both sides.
    Traps,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::Bits => f.write_str("bits"),
            Rule::BitsOrBothNan => f.write_str("bits, any NaN"),
            Rule::Ulp(n) => write!(f, "{n} ulp"),
            Rule::AbsRel { abs, rel } => {
                let part = |name: &str, x: f64| format!("{name} 2^{:.4}", x.log2());
                let trim =
                    |text: String| text.trim_end_matches('0').trim_end_matches('.').to_owned();
                let parts = [("abs", *abs), ("rel", *rel)];
                let parts = parts.iter().filter(|(_, x)| *x > 0.0);
                let parts: Vec<String> = parts.map(|(n, x)| trim(part(n, *x))).collect();
                f.write_str(&parts.join(" or "))
            }
            Rule::Bounded { what, .. } => f.write_str(what),
            Rule::Traps => f.write_str("launch fails"),
        }
    }
}

fn relative(exponent: f64) -> Rule {
    Rule::AbsRel {
        abs: 0.0,
        rel: exponent.exp2(),
    }
}

fn absolute(exponent: f64) -> Rule {
    Rule::AbsRel {
        abs: exponent.exp2(),
        rel: 0.0,
    }
}

/// The rule of a form whose bounds do not depend on its inputs.
pub(super) fn of(op: Opcode) -> Rule {
    let pair = |ty| matches!(ty, Ty::F16x2 | Ty::Bf16x2);
    let float = |ty: Ty| ty.is_float() || pair(ty);
    match op {
        Opcode::Approx { f, ty: Ty::F32 } => match f {
            Approx::Rcp => Rule::Ulp(1),
            Approx::Sqrt => relative(-23.0),
            Approx::Rsqrt => relative(-22.9),
            // The ISA allows 2 ulp, which is 2^-22 of the least value of a binade.
            Approx::Ex2 => relative(-22.5),
            // Absolute for arguments in (0.5, 2), relative elsewhere, which is where the result exceeds 1. The ISA
            // allows 2^-22.
            Approx::Lg2 => Rule::AbsRel {
                abs: (-22.6f64).exp2(),
                rel: (-22.6f64).exp2(),
            },
            // By argument; see `trigonometric`.
            Approx::Sin | Approx::Cos => absolute(-20.5),
            Approx::Tanh => relative(-11.0),
        },
        // One unit of the subnormals, whose spacing is wider than the relative error that the ISA states.
        Opcode::Approx { f: Approx::Ex2, .. } => Rule::AbsRel {
            abs: (-24f64).exp2(),
            rel: (-9.9f64).exp2(),
        },
        Opcode::Approx { .. } => absolute(-10.987),
        Opcode::DivFull => Rule::Ulp(2),
        Opcode::SqrtRn { .. }
        | Opcode::RcpRn { .. }
        | Opcode::Fma { .. }
        | Opcode::CvtPack { .. } => Rule::BitsOrBothNan,
        Opcode::Add { ty }
        | Opcode::Sub { ty }
        | Opcode::Mul { ty }
        | Opcode::Div { ty }
        | Opcode::Min { ty }
        | Opcode::Max { ty }
        | Opcode::Neg { ty }
        | Opcode::Abs { ty }
        | Opcode::Cvt { to: ty, .. }
        | Opcode::Atom {
            f: Rmw::Add, ty, ..
        }
        | Opcode::Red {
            f: Rmw::Add, ty, ..
        } if float(ty) => Rule::BitsOrBothNan,
        Opcode::Trap => Rule::Traps,
        _ => Rule::Bits,
    }
}

/// Largest argument of sin and cos for which the PTX ISA bounds the error.
pub(super) const TRIGONOMETRIC_RANGE: f32 = 100.0 * core::f32::consts::PI;

/// The bound of sin and cos at an argument: 2^-20.5 within two pi, 2^-14.7 within a hundred, plus the rounding of the
/// interpreter's value.
pub(super) fn trigonometric(x: f32) -> f64 {
    let exponent = if x.abs() <= core::f32::consts::TAU {
        -20.5
    } else {
        -14.7
    };
    f64::exp2(exponent) + f64::exp2(-25.0)
}
