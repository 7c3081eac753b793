//! The operation that one writes by mistake for another.
//!
//! A sibling is never the same function: where the obvious one would be for the operands at hand,
//! another takes its place.

use gannet_ptx_gen::ir::{Inst, Operand, Ty};
use gannet_ptx_gen::op::{Approx, Cmp, Op, Round, Shfl};

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
pub(crate) fn sibling(inst: &Inst) -> Option<Op> {
    let zero = |i: usize| matches!(inst.src[i], Operand::Imm(imm) if imm.bits == 0);
    Some(match inst.op {
        Op::Add { ty } => Op::Sub { ty },
        Op::Sub { ty } => Op::Add { ty },
        Op::Mul { ty } => Op::Add { ty },
        Op::Min { ty } => Op::Max { ty },
        Op::Max { ty } => Op::Min { ty },
        Op::Div { ty } if ty.is_int() => Op::Rem { ty },
        Op::Rem { ty } => Op::Div { ty },
        Op::Neg { ty } => Op::Abs { ty },
        Op::Abs { ty } => Op::Neg { ty },
        Op::And { ty } => Op::Or { ty },
        Op::Or { ty } => Op::And { ty },
        Op::Xor { ty } => Op::Or { ty },
        Op::Shl { ty } => Op::Shr { ty },
        Op::Shr { ty: Ty::U32 } => Op::Shl { ty: Ty::U32 },
        Op::Shr { ty: Ty::I32 } => Op::Shr { ty: Ty::U32 },
        Op::Bfe { ty: Ty::U32 } => Op::Bfe { ty: Ty::I32 },
        Op::Bfe { ty: Ty::I32 } => Op::Bfe { ty: Ty::U32 },
        Op::Lop3 { lut } => Op::Lop3 { lut: lut ^ 0x40 },
        Op::Dp4a { a_signed, b_signed } => Op::Dp4a {
            a_signed: !a_signed,
            b_signed,
        },
        // Unsigned, `x <= 0` would be the same.
        Op::Setp { cmp: Cmp::Eq, ty } if zero(1) && ty.is_int() && !ty.is_signed() => {
            Op::Setp { cmp: Cmp::Ge, ty }
        }
        Op::Setp { cmp, ty } => Op::Setp {
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
        Op::Cvt {
            to,
            from,
            round,
            sat,
        } => match (to, from) {
            (Ty::F32, Ty::I32) => Op::Cvt {
                to,
                from: Ty::U32,
                round,
                sat,
            },
            (Ty::F32, Ty::I8) => Op::Cvt {
                to,
                from: Ty::U8,
                round,
                sat,
            },
            (Ty::F32, Ty::U8) => Op::Cvt {
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
                Op::Cvt {
                    to,
                    from,
                    round,
                    sat,
                }
            }
            _ => return None,
        },
        Op::Approx { f, ty } => Op::Approx {
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
        Op::Shfl { mode, ty } => Op::Shfl {
            mode: match mode {
                Shfl::Bfly => Shfl::Idx,
                Shfl::Down => Shfl::Up,
                Shfl::Up => Shfl::Down,
                Shfl::Idx => Shfl::Bfly,
            },
            ty,
        },
        Op::Ldmatrix { num, trans } => Op::Ldmatrix { num, trans: !trans },
        Op::Stmatrix { num, trans } => Op::Stmatrix { num, trans: !trans },
        Op::CpAsyncWait { pending } => Op::CpAsyncWait {
            pending: pending + 1,
        },
        Op::AssumeUniform => Op::Not { ty: Ty::Pred },
        _ => return None,
    })
}
