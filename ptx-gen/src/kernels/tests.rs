//! Whether specs declare what their kernels do.

use std::collections::{BTreeMap, BTreeSet};

use super::{declared, library};
use crate::ir::{Access, Base, Inst, Kernel, Operand, Reg};
use crate::op::{Opcode, Space};
use crate::target::Target;

#[test]
fn specs_declare_the_parameters_of_their_kernels() {
    for target in Target::ALL {
        let (declared, kernels) = (declared(*target), library(*target));
        assert_eq!(declared.len(), kernels.len());
        for (params, kernel) in declared.iter().zip(&kernels) {
            assert_eq!(*params, kernel.params, "{}", kernel.name);
            let names: BTreeSet<_> = params.iter().map(|param| &param.name).collect();
            assert_eq!(names.len(), params.len(), "{}", kernel.name);
        }
    }
}

/// What is done through each pointer, by parameter.
#[derive(Default, PartialEq, Debug)]
struct Uses {
    reads: BTreeSet<u32>,
    writes: BTreeSet<u32>,
}

/// Whether an address of global memory, operand `i` of an instruction, is read and written.
fn touches(op: Opcode) -> Option<(usize, bool, bool)> {
    match op {
        Opcode::Ld {
            space: Space::Global,
            ..
        } => Some((0, true, false)),
        Opcode::St {
            space: Space::Global,
            ..
        } => Some((0, false, true)),
        Opcode::Atom {
            space: Space::Global,
            ..
        }
        | Opcode::Red {
            space: Space::Global,
            ..
        } => Some((0, true, true)),
        Opcode::CpAsync { .. } | Opcode::CpAsyncBulk => Some((1, true, false)),
        Opcode::CpAsyncBulkStore => Some((0, false, true)),
        _ => None,
    }
}

/// The uses of a kernel's pointers: every 64-bit number that is computed with one points where it
/// does.
fn uses(kernel: &Kernel) -> Uses {
    let mut from: BTreeMap<Reg, BTreeSet<u32>> = BTreeMap::new();
    let mut uses = Uses::default();
    let bases = |operand: &Operand, from: &BTreeMap<Reg, BTreeSet<u32>>| match operand {
        Operand::Reg(reg) => from.get(reg).cloned().unwrap_or_default(),
        Operand::Addr(at) => match at.base {
            Base::Reg(reg) => from.get(&reg).cloned().unwrap_or_default(),
            Base::Param(index) => BTreeSet::from([index]),
            Base::Shared(_) => BTreeSet::new(),
        },
        Operand::Imm(_) => BTreeSet::new(),
    };
    let mut step = |inst: &Inst| {
        if let Some((i, reads, writes)) = touches(inst.op) {
            let found = bases(&inst.src[i], &from);
            assert!(!found.is_empty(), "{}: {}: whose?", kernel.name, inst.loc);
            uses.reads.extend(found.iter().filter(|_| reads));
            uses.writes.extend(found.iter().filter(|_| writes));
            return;
        }
        for dst in &inst.dst {
            if kernel.reg(*dst).ty.bits() == 64 {
                let found: Vec<_> = inst.src.iter().map(|s| bases(s, &from)).collect();
                from.entry(*dst)
                    .or_default()
                    .extend(found.into_iter().flatten());
            }
        }
    };
    // A second time for what goes round a loop.
    kernel.for_each_inst(&mut step);
    kernel.for_each_inst(&mut step);
    uses
}

/// Lowering orders and overlaps launches by what parameters say is read and written.
#[test]
fn pointers_are_used_as_they_are_declared() {
    for kernel in Target::ALL.iter().flat_map(|target| library(*target)) {
        let mut declared = Uses::default();
        for (i, param) in (0..).zip(&kernel.params) {
            let Some(pointee) = param.pointee else {
                continue;
            };
            if pointee.access != Access::Write {
                declared.reads.insert(i);
            }
            if pointee.access != Access::Read {
                declared.writes.insert(i);
            }
        }
        assert_eq!(uses(&kernel), declared, "{}", kernel.name);
    }
}
