//! Which fields of an instruction go together: types an operation exists for, vector widths,
//! memory orders, barrier numbers.

use std::collections::BTreeSet;

use crate::ir::{Base, Inst, Kernel, Operand, Reg, Ty};
use crate::op::{Approx, Cache, Opcode, Order, Rmw, Round, Space};

/// `Err` says what does not go together.
pub(super) fn check(k: &Kernel, inst: &Inst) -> Result<(), String> {
    types(inst.op)?;
    match inst.op {
        Opcode::Ld {
            space,
            ty,
            vec,
            order,
            cache,
        } => {
            vector(k, inst, space, ty, vec)?;
            want(
                matches!(
                    order,
                    Order::Weak | Order::Volatile | Order::Relaxed(_) | Order::Acquire(_)
                ),
                "a load is weak, volatile, relaxed or acquire",
            )?;
            want(
                cache == Cache::default() || (space == Space::Global && order == Order::Weak),
                "cache hints belong to weak loads of device memory",
            )
        }
        Opcode::St {
            space,
            ty,
            vec,
            order,
        } => {
            vector(k, inst, space, ty, vec)?;
            want(
                matches!(
                    order,
                    Order::Weak | Order::Volatile | Order::Relaxed(_) | Order::Release(_)
                ),
                "a store is weak, volatile, relaxed or release",
            )
        }
        Opcode::Atom { f, ty, order, .. } => {
            update(f, ty)?;
            want(
                !matches!(order, Order::Weak | Order::Volatile),
                "an atomic has an order",
            )
        }
        Opcode::Red { f, ty, order, .. } => {
            update(f, ty)?;
            want(
                !matches!(f, Rmw::Exch | Rmw::Cas),
                "a reduction does not exchange",
            )?;
            want(
                matches!(order, Order::Relaxed(_) | Order::Release(_)),
                "a reduction is relaxed or release",
            )
        }
        Opcode::BarSyncN { id, threads } | Opcode::BarArrive { id, threads } => {
            want((1..16).contains(&id), "barriers are numbered 1 to 15")?;
            let n = u32::from(threads);
            want(
                n > 0 && n.is_multiple_of(32) && n <= k.threads().next_multiple_of(32),
                "barriers count whole warps of the block",
            )
        }
        Opcode::Wgmma(m) => {
            want(m.check().is_ok(), m.check().err().unwrap_or_default())?;
            let again = inst.src.len().saturating_sub(inst.dst.len());
            let same = |(d, s): (&Reg, &Operand)| *s == Operand::Reg(*d);
            want(
                inst.dst.iter().zip(&inst.src[again..]).all(same),
                "the accumulators that are read are those that are written",
            )?;
            let unique: BTreeSet<&Reg> = inst.dst.iter().collect();
            want(
                unique.len() == inst.dst.len(),
                "an accumulator stands twice among the results",
            )?;
            want(
                k.threads().is_multiple_of(128),
                "a block of warpgroups has a multiple of 128 threads",
            )?;
            want(inst.guard.is_none(), "a product has no guard")
        }
        Opcode::WgmmaWait { pending } => want(pending < 8, "a wait leaves 0 to 7 groups"),
        Opcode::SetMaxNReg { registers, .. } => {
            want(
                (24..=256).contains(&registers) && registers.is_multiple_of(8),
                "registers are a multiple of 8 from 24 to 256",
            )?;
            want(
                k.threads().is_multiple_of(128),
                "a block of warpgroups has a multiple of 128 threads",
            )
        }
        Opcode::CpAsync { bytes, bypass_l1 } => {
            want(
                matches!(bytes, 4 | 8 | 16),
                "copies are of 4, 8 or 16 bytes",
            )?;
            want(!bypass_l1 || bytes == 16, "only 16-byte copies bypass L1")
        }
        Opcode::Ldmatrix { num, .. } | Opcode::Stmatrix { num, .. } => {
            want(matches!(num, 1 | 2 | 4), "1, 2 or 4 matrices")
        }
        Opcode::Cvt {
            to,
            from,
            round,
            sat,
        } => conversion(to, from, round, sat),
        _ => Ok(()),
    }
}

fn want(holds: bool, why: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why.to_owned()) }
}

/// Vector widths, and alignment where it is known while building.
fn vector(k: &Kernel, inst: &Inst, space: Space, ty: Ty, vec: u8) -> Result<(), String> {
    let bytes = ty.bytes() * u32::from(vec);
    want(ty != Ty::Pred, "predicates have no memory form")?;
    want(
        matches!(vec, 1 | 2 | 4) && bytes <= 16,
        "vectors have 1, 2 or 4 elements and at most 16 bytes",
    )?;
    if let (Space::Shared, Some(Operand::Addr(a))) = (space, inst.src.first())
        && let Base::Shared(i) = a.base
        && let Some(decl) = k.shared.get(i as usize)
    {
        let aligned = decl.align >= bytes && a.offset.rem_euclid(bytes as i32) == 0;
        want(
            aligned,
            &format!(
                "offset {} of {} is not aligned to {bytes} bytes",
                a.offset, decl.name
            ),
        )?;
        let size = if decl.dynamic {
            k.dynamic_shared
        } else {
            decl.bytes
        };
        let end = i64::from(a.offset) + i64::from(bytes);
        want(
            a.offset >= 0 && end <= i64::from(size),
            &format!("offset {} is outside {}", a.offset, decl.name),
        )?;
    }
    Ok(())
}

fn update(f: Rmw, ty: Ty) -> Result<(), String> {
    let wide_int = ty.is_int() && ty.bits() >= 32;
    let ok = match f {
        Rmw::Add => wide_int || matches!(ty, Ty::F32 | Ty::F64),
        Rmw::Exch | Rmw::Cas => ty.bits() >= 32,
        _ => wide_int,
    };
    want(ok, &format!("no atomic {f:?} on {ty}"))
}

fn types(op: Opcode) -> Result<(), String> {
    let pair = |ty| matches!(ty, Ty::F16x2 | Ty::Bf16x2);
    let int = |ty: Ty| ty.is_int() && ty.bits() > 8;
    let ok = match op {
        Opcode::Add { ty }
        | Opcode::Sub { ty }
        | Opcode::Mul { ty }
        | Opcode::Min { ty }
        | Opcode::Max { ty }
        | Opcode::Neg { ty }
        | Opcode::Abs { ty } => int(ty) || ty.is_float() || pair(ty),
        Opcode::MulHi { ty } | Opcode::MadLo { ty } | Opcode::Rem { ty } => int(ty),
        Opcode::MulWide { ty } | Opcode::MadWide { ty } => matches!(ty, Ty::U32 | Ty::I32),
        Opcode::Div { ty } => int(ty) || matches!(ty, Ty::F32 | Ty::F64),
        Opcode::Fma { ty } => ty.is_float() || pair(ty),
        Opcode::Approx {
            f: Approx::Ex2 | Approx::Tanh,
            ty,
        } => matches!(ty, Ty::F32 | Ty::F16 | Ty::F16x2),
        Opcode::Approx { ty, .. } => ty == Ty::F32,
        Opcode::SqrtRn { ty } | Opcode::RcpRn { ty } => matches!(ty, Ty::F32 | Ty::F64),
        Opcode::And { ty } | Opcode::Or { ty } | Opcode::Xor { ty } | Opcode::Not { ty } => {
            int(ty) || ty == Ty::Pred
        }
        Opcode::Shl { ty } | Opcode::Shr { ty } => int(ty),
        Opcode::Bfe { ty } | Opcode::Bfi { ty } => int(ty) && ty.bits() >= 32,
        Opcode::Popc { ty } | Opcode::Clz { ty } => int(ty) && ty.bits() >= 32,
        Opcode::Setp { ty, .. } => int(ty) || ty.is_float(),
        Opcode::Selp { ty } => ty != Ty::Pred,
        Opcode::CvtPack { ty } => pair(ty),
        Opcode::Shfl { ty, .. } => ty.bits() == 32,
        Opcode::Redux { f, ty } => {
            matches!(ty, Ty::U32 | Ty::I32) && !matches!(f, Rmw::Exch | Rmw::Cas)
        }
        _ => true,
    };
    want(ok, "no such instruction for the type")
}

fn conversion(to: Ty, from: Ty, round: Round, sat: bool) -> Result<(), String> {
    let number = |ty: Ty| ty.is_int() || ty.is_float();
    want(
        number(to) && number(from),
        "conversions are between numbers",
    )?;
    let integral = matches!(round, Round::Rni | Round::Rzi | Round::Rmi | Round::Rpi);
    let ok = match (from.is_float(), to.is_float()) {
        (true, false) => integral,
        (false, true) => matches!(round, Round::Rn | Round::Rz),
        (true, true) if to.bits() < from.bits() => matches!(round, Round::Rn | Round::Rz),
        (true, true) if to == from => integral,
        _ => round == Round::None,
    };
    want(ok, &format!("rounding {round:?} from {from} to {to}"))?;
    let saturates = match (from.is_int(), to.is_int()) {
        (true, true) => !contains(to, from),
        (_, to_int) => to_int || to == Ty::F32,
    };
    want(!sat || saturates, "this conversion does not saturate")
}

/// Whether every value of one integer type is a value of the other.
fn contains(outer: Ty, inner: Ty) -> bool {
    match (outer.is_signed(), inner.is_signed()) {
        (true, false) => outer.bits() > inner.bits(),
        (false, true) => false,
        _ => outer.bits() >= inner.bits(),
    }
}
