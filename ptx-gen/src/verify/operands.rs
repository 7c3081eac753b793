//! Operands against the slots of the instruction table, and instructions against the target.

use super::{Error, form};
use crate::ir::{Address, Base, Inst, Kernel, Operand, Reg, Ty};
use crate::op::Space;
use crate::table::{Group, Row, Slot, row_of};

pub(super) fn check(k: &Kernel) -> Result<(), Error> {
    let mut result = Ok(());
    k.for_each_inst(|inst| {
        if result.is_ok() {
            result = instruction(k, inst);
        }
    });
    result
}

fn instruction(k: &Kernel, inst: &Inst) -> Result<(), Error> {
    let row = row_of(inst.op, k.target);
    let form_error = |why: String| Error::Form {
        kernel: k.name.as_str().into(),
        op: row.mnemonic.as_str().into(),
        at: inst.loc,
        why: why.into(),
    };
    if !row.exists_on(k.target) {
        return Err(Error::Target {
            kernel: k.name.as_str().into(),
            op: row.mnemonic.as_str().into(),
            at: inst.loc,
            needs: row.capability,
            alone: if row.specific { "a alone" } else { "" },
            ptx: row.ptx,
            target: k.target,
        });
    }
    form::check(k, inst).map_err(form_error)?;
    let (dst, src) = (slots(&row.dst), slots(&row.src));
    if dst.len() != inst.dst.len() || src.len() != inst.src.len() {
        return Err(form_error(format!(
            "{} results and {} sources instead of {} and {}",
            inst.dst.len(),
            inst.src.len(),
            dst.len(),
            src.len()
        )));
    }
    for (i, (slot, reg)) in dst.iter().zip(&inst.dst).enumerate() {
        fits(k, *slot, &Operand::Reg(*reg))
            .map_err(|found| mismatch(k, inst, &row, i, slot, found))?;
    }
    for (i, (slot, operand)) in src.iter().zip(&inst.src).enumerate() {
        let result = match operand {
            Operand::Imm(_) if in_braces(&row.src, i) => Err("a constant, not a register".into()),
            Operand::Imm(imm) if !inst.op.takes_constant(imm.ty) => {
                Err(format!("a {} constant, not a register", imm.ty))
            }
            operand => fits(k, *slot, operand),
        };
        result.map_err(|found| mismatch(k, inst, &row, dst.len() + i, slot, found))?;
    }
    if let Some((guard, _)) = inst.guard {
        fits(k, Slot::Is(Ty::Pred), &Operand::Reg(guard))
            .map_err(|found| form_error(format!("guarded by {found}")))?;
    }
    Ok(())
}

fn mismatch(k: &Kernel, inst: &Inst, row: &Row, index: usize, slot: &Slot, found: String) -> Error {
    Error::Operand {
        kernel: k.name.as_str().into(),
        op: row.mnemonic.as_str().into(),
        at: inst.loc,
        index,
        expected: describe(slot).into(),
        found: found.into(),
    }
}

/// The operand slots of a list of groups, flattened.
fn slots(groups: &[Group]) -> Vec<Slot> {
    groups
        .iter()
        .flat_map(|group| match group {
            Group::One(slot) => vec![*slot],
            Group::Many(slot, n) | Group::Again(slot, n) => vec![*slot; *n],
            Group::Lit(_) => Vec::new(),
        })
        .collect()
}

/// Whether operand `index` stands within braces, where PTX takes registers only.
fn in_braces(groups: &[Group], index: usize) -> bool {
    let mut at = 0;
    for group in groups {
        let (n, braces) = match group {
            Group::One(_) => (1, false),
            Group::Many(_, n) | Group::Again(_, n) => (*n, true),
            Group::Lit(_) => (0, false),
        };
        if index < at + n {
            return braces;
        }
        at += n;
    }
    false
}

/// `Err` describes what the operand is instead.
fn fits(k: &Kernel, slot: Slot, operand: &Operand) -> Result<(), String> {
    match (slot, operand) {
        (Slot::Is(_) | Slot::Bits(_), Operand::Reg(r)) => {
            let ty = register(k, *r)?.ty;
            value_fits(slot, ty)
                .then_some(())
                .ok_or_else(|| ty.to_string())
        }
        (Slot::Is(_) | Slot::Bits(_), Operand::Imm(imm)) => {
            let fits = value_fits(slot, imm.ty) && imm.bits <= u64::MAX >> (64 - imm.ty.bits());
            fits.then_some(())
                .ok_or_else(|| format!("the {} constant {:#x}", imm.ty, imm.bits))
        }
        (Slot::Address(space), Operand::Addr(a)) => address_fits(k, space, a),
        (
            Slot::Param,
            Operand::Addr(Address {
                base: Base::Param(i),
                offset: 0,
            }),
        ) if (*i as usize) < k.params.len() => Ok(()),
        (
            Slot::SharedName,
            Operand::Addr(Address {
                base: Base::Shared(i),
                ..
            }),
        ) if (*i as usize) < k.shared.len() => Ok(()),
        (_, operand) => Err(format!("{operand:?}")),
    }
}

fn register(k: &Kernel, r: Reg) -> Result<&crate::ir::RegInfo, String> {
    k.regs
        .get(r.0 as usize)
        .ok_or_else(|| "an unknown register".into())
}

fn value_fits(slot: Slot, ty: Ty) -> bool {
    match slot {
        Slot::Is(want) => want == ty || (want.is_int() && ty.is_int() && want.bits() == ty.bits()),
        Slot::Bits(16) => matches!(ty.bits(), 8 | 16),
        Slot::Bits(n) => ty.bits() == n,
        _ => false,
    }
}

fn address_fits(k: &Kernel, space: Space, a: &Address) -> Result<(), String> {
    match (space, a.base) {
        (Space::Global, Base::Reg(r)) if register(k, r)?.ty == Ty::U64 => Ok(()),
        (Space::Shared, Base::Reg(r)) if register(k, r)?.ty == Ty::U32 => Ok(()),
        (Space::Shared, Base::Shared(i)) if (i as usize) < k.shared.len() => Ok(()),
        (_, Base::Reg(r)) => Err(format!("an address in a {} register", register(k, r)?.ty)),
        (_, Base::Shared(_)) => Err("an address of shared memory".into()),
        (_, Base::Param(_)) => Err("an address of a parameter".into()),
    }
}

fn describe(slot: &Slot) -> String {
    match slot {
        Slot::Is(ty) => format!("a {ty} value"),
        Slot::Bits(n) => format!("a register of {n} bits"),
        Slot::Address(Space::Global) => "an address of device memory".into(),
        Slot::Address(Space::Shared) => "an address of shared memory".into(),
        Slot::Param => "a parameter".into(),
        Slot::SharedName => "a shared array".into(),
    }
}
