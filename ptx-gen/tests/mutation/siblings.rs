//! The operation that one writes by mistake for another.
//!
//! A sibling is never the same function: where the obvious one would be for the operands at hand,
//! another takes its place.

use gannet_ptx_gen::ir::{Inst, Operand, Ty};
use gannet_ptx_gen::op::{Approx, Cmp, Opcode, Round, Shfl};

/// The comparison that holds where this one does not.
pub(crate) fn opposite(cmp: Cmp) -> Cmp {
    match cmp {
        Cmp::Lt => Cmp::Ge,
        Cmp::Le => Cmp::Gt,
        Cmp::Eq => Cmp::Ne,
        Cmp::Ne => Cmp::Eq,
        Cmp::Ge => Cmp::Lt,
        Cmp::Gt => Cmp::Le,
    }
}

/// The operation that one writes by mistake.
pub(crate) fn sibling(inst: &Inst) -> Option<Opcode> {
    let zero = |i: usize| matches!(inst.src[i], Operand::Imm(imm) if imm.bits == 0);
    Some(match inst.op {
        Opcode::Add { ty } => Opcode::Sub { ty },
        Opcode::Sub { ty } => Opcode::Add { ty },
        Opcode::Mul { ty } => Opcode::Add { ty },
        Opcode::Min { ty } => Opcode::Max { ty },
        Opcode::Max { ty } => Opcode::Min { ty },
        Opcode::Div { ty } if ty.is_int() => Opcode::Rem { ty },
        Opcode::Rem { ty } => Opcode::Div { ty },
        Opcode::Neg { ty } => Opcode::Abs { ty },
        Opcode::Abs { ty } => Opcode::Neg { ty },
        Opcode::And { ty } => Opcode::Or { ty },
        Opcode::Or { ty } => Opcode::And { ty },
        Opcode::Xor { ty } => Opcode::Or { ty },
        Opcode::Shl { ty } => Opcode::Shr { ty },
        Opcode::Shr { ty: Ty::U32 } => Opcode::Shl { ty: Ty::U32 },
        Opcode::Shr { ty: Ty::I32 } => Opcode::Shr { ty: Ty::U32 },
        Opcode::Bfe { ty: Ty::U32 } => Opcode::Bfe { ty: Ty::I32 },
        Opcode::Bfe { ty: Ty::I32 } => Opcode::Bfe { ty: Ty::U32 },
        Opcode::Lop3 { lut } => Opcode::Lop3 { lut: lut ^ 0x40 },
        Opcode::Dp4a { a_signed, b_signed } => Opcode::Dp4a {
            a_signed: !a_signed,
            b_signed,
        },
        // Unsigned, `x <= 0` would be the same.
        Opcode::Setp { cmp: Cmp::Eq, ty } if zero(1) && ty.is_int() && !ty.is_signed() => {
            Opcode::Setp { cmp: Cmp::Ge, ty }
        }
        Opcode::Setp { cmp, ty } => Opcode::Setp {
            cmp: match cmp {
                Cmp::Lt => Cmp::Le,
                Cmp::Le => Cmp::Lt,
                Cmp::Gt => Cmp::Ge,
                Cmp::Ge => Cmp::Gt,
                Cmp::Eq => Cmp::Le,
                Cmp::Ne => Cmp::Lt,
            },
            ty,
        },
        Opcode::Cvt {
            to,
            from,
            round,
            sat,
        } => match (to, from) {
            (Ty::F32, Ty::I32) => Opcode::Cvt {
                to,
                from: Ty::U32,
                round,
                sat,
            },
            (Ty::F32, Ty::I8) => Opcode::Cvt {
                to,
                from: Ty::U8,
                round,
                sat,
            },
            (Ty::F32, Ty::U8) => Opcode::Cvt {
                to,
                from: Ty::I8,
                round,
                sat,
            },
            _ if to.is_int() && from.is_float() => {
                let round = if round == Round::Rmi {
                    Round::Rpi
                } else {
                    Round::Rmi
                };
                Opcode::Cvt {
                    to,
                    from,
                    round,
                    sat,
                }
            }
            _ => return None,
        },
        Opcode::Approx { f, ty } => Opcode::Approx {
            f: match f {
                Approx::Rcp => Approx::Rsqrt,
                Approx::Rsqrt => Approx::Rcp,
                Approx::Sqrt => Approx::Rsqrt,
                Approx::Ex2 => Approx::Rcp,
                Approx::Lg2 => Approx::Ex2,
                Approx::Sin => Approx::Cos,
                Approx::Cos => Approx::Sin,
                Approx::Tanh => Approx::Sin,
            },
            ty: match f {
                Approx::Ex2 | Approx::Tanh if ty != Ty::F32 => return None,
                _ => ty,
            },
        },
        // For lane 0, and for a reduction all that matters is often lane 0, `Down` would be as good.
        Opcode::Shfl { mode, ty } => Opcode::Shfl {
            mode: match mode {
                Shfl::Bfly => Shfl::Idx,
                Shfl::Down => Shfl::Up,
                Shfl::Up => Shfl::Down,
                Shfl::Idx => Shfl::Bfly,
            },
            ty,
        },
        Opcode::Ldmatrix { num, trans } => Opcode::Ldmatrix { num, trans: !trans },
        Opcode::Stmatrix { num, trans } => Opcode::Stmatrix { num, trans: !trans },
        Opcode::CpAsyncWait { pending } => Opcode::CpAsyncWait {
            pending: pending + 1,
        },
        Opcode::AssumeUniform => Opcode::Not { ty: Ty::Pred },
        _ => return None,
    })
}
