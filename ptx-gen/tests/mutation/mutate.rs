//! Mutants: every way in which this test knows to spoil one statement of a kernel.
//!
//! A mutant is described by the place of its statement and a [`Change`]. Applied, it gives a kernel
//! that mostly still verifies, since a mistake that the verifier refuses is an easy one.

use gannet_ptx_gen::ir::{Imm, Inst, Kernel, Loc, Operand, RegInfo, Stmt, Ty};
use gannet_ptx_gen::op::Opcode;

use super::siblings::{opposite, sibling};

/// What becomes of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Change {
    /// The instruction goes; its results are zero, or keep the values that variables had.
    Delete,
    /// The instruction goes; its result is its first source of that type.
    PassOn,
    /// Two sources trade places.
    Swap(usize, usize),
    /// The constant source grows by one (a float or a mask doubles).
    Grow(usize),
    /// The constant source shrinks by one (a float or a mask halves).
    Shrink(usize),
    /// The address moves by one element.
    Move(usize),
    /// The instruction becomes a sibling: another comparison, `sub` for `add`, ...
    Sibling,
    /// The comparison is turned round.
    Flip,
    /// The guard or the branch is taken where it was not.
    Negate,
    /// The guard goes: the instruction always runs.
    Unguard,
    /// The branch is always taken.
    Always,
    /// The loop runs once.
    Once,
}

impl Change {
    /// In words, for the list of survivors.
    pub(crate) fn describe(self) -> String {
        match self {
            Change::Delete => "deleted".into(),
            Change::PassOn => "deleted, first source passed on".into(),
            Change::Swap(a, b) => format!("sources {a} and {b} swapped"),
            Change::Grow(i) => format!("constant {i} grown"),
            Change::Shrink(i) => format!("constant {i} shrunk"),
            Change::Move(i) => format!("address {i} moved by an element"),
            Change::Sibling => "replaced by a sibling".into(),
            Change::Flip => "comparison turned round".into(),
            Change::Negate => "condition negated".into(),
            Change::Unguard => "guard removed".into(),
            Change::Always => "taken always".into(),
            Change::Once => "runs once".into(),
        }
    }
}

/// A statement that can be spoilt: its number in program order, and how.
pub(crate) struct Site {
    pub(crate) statement: usize,
    pub(crate) changes: Vec<Change>,
    pub(crate) loc: Loc,
    /// The operation without its operands.
    pub(crate) what: String,
    /// The constants among its sources, by position.
    pub(crate) constants: Vec<(usize, u64)>,
}

/// All that can be spoilt in a kernel.
pub(crate) fn sites(kernel: &Kernel) -> Vec<Site> {
    let mut sites = Vec::new();
    let mut statement = 0;
    collect(kernel, &kernel.body, &mut statement, &mut sites);
    sites
}

fn collect(kernel: &Kernel, stmts: &[Stmt], next: &mut usize, sites: &mut Vec<Site>) {
    for stmt in stmts {
        let statement = *next;
        *next += 1;
        let constants = match stmt {
            Stmt::Inst(inst) => constants(inst),
            _ => Vec::new(),
        };
        let mut add = |changes: Vec<Change>, loc, what| {
            sites.push(Site {
                statement,
                changes,
                loc,
                what,
                constants: constants.clone(),
            });
        };
        match stmt {
            Stmt::Comment(_) => {}
            Stmt::Inst(inst) => {
                let row = gannet_ptx_gen::table::row_of(inst.op, kernel.target);
                add(changes(kernel, inst), inst.loc, row.mnemonic);
            }
            Stmt::If(branch) => {
                add(
                    vec![Change::Negate, Change::Always],
                    branch.loc,
                    "if".into(),
                );
                collect(kernel, &branch.then, next, sites);
                collect(kernel, &branch.otherwise, next, sites);
            }
            Stmt::Loop(l) => {
                add(vec![Change::Negate, Change::Once], l.loc, "loop".into());
                collect(kernel, &l.body, next, sites);
            }
        }
    }
}

fn constants(inst: &Inst) -> Vec<(usize, u64)> {
    let constant = |(i, operand): (usize, &Operand)| match operand {
        Operand::Imm(imm) => Some((i, imm.bits)),
        _ => None,
    };
    inst.src.iter().enumerate().filter_map(constant).collect()
}

/// The mutant.
pub(crate) fn mutant(kernel: &Kernel, statement: usize, change: Change) -> Kernel {
    let mut mutant = kernel.clone();
    let body = std::mem::take(&mut mutant.body);
    let mut next = 0;
    mutant.body = rewrite(&mut mutant, body, &mut next, statement, change);
    mutant
}

fn rewrite(
    kernel: &mut Kernel,
    stmts: Vec<Stmt>,
    next: &mut usize,
    wanted: usize,
    change: Change,
) -> Vec<Stmt> {
    let mut out = Vec::with_capacity(stmts.len());
    for mut stmt in stmts {
        let here = *next == wanted;
        *next += 1;
        match &mut stmt {
            Stmt::Comment(_) => {}
            Stmt::Inst(inst) if here => {
                out.extend(spoilt(kernel, inst, change).into_iter().map(Stmt::Inst));
                continue;
            }
            Stmt::Inst(_) => {}
            Stmt::If(branch) => {
                let then = std::mem::take(&mut branch.then);
                branch.then = rewrite(kernel, then, next, wanted, change);
                let otherwise = std::mem::take(&mut branch.otherwise);
                branch.otherwise = rewrite(kernel, otherwise, next, wanted, change);
                match change {
                    Change::Negate if here => branch.negated = !branch.negated,
                    Change::Always if here => {
                        out.append(&mut branch.then);
                        continue;
                    }
                    _ => {}
                }
            }
            Stmt::Loop(l) => {
                let body = std::mem::take(&mut l.body);
                l.body = rewrite(kernel, body, next, wanted, change);
                match change {
                    Change::Negate if here => {
                        let again = new_register(kernel, Ty::Pred);
                        let not = Inst {
                            op: Opcode::Not { ty: Ty::Pred },
                            dst: vec![again],
                            src: vec![l.again.into()],
                            guard: None,
                            loc: l.loc,
                        };
                        l.body.push(Stmt::Inst(not));
                        l.again = again;
                        // Inside the loop the register is new in each turn.
                        kernel.regs[again.0 as usize].mutable = true;
                    }
                    Change::Once if here => {
                        out.append(&mut l.body);
                        continue;
                    }
                    _ => {}
                }
            }
        }
        out.push(stmt);
    }
    out
}

fn new_register(kernel: &mut Kernel, ty: Ty) -> gannet_ptx_gen::ir::Reg {
    kernel.regs.push(RegInfo { ty, mutable: false });
    gannet_ptx_gen::ir::Reg(kernel.regs.len() as u32 - 1)
}

/// The changes that make sense for an instruction. Those that no test could notice by their nature
/// are left out: hints of caches, and the order of operands that commute.
fn changes(kernel: &Kernel, inst: &Inst) -> Vec<Change> {
    let mut changes = vec![Change::Delete];
    if matches!(inst.op, Opcode::AssumeUniform) {
        return vec![Change::Sibling];
    }
    // A generic address of global memory is the same number in the global window.
    let copies = matches!(inst.op, Opcode::Mov { .. } | Opcode::CvtaToGlobal);
    if first_of_type(kernel, inst).is_some() && !copies {
        changes.push(Change::PassOn);
    }
    let reg = |i: usize| inst.src.get(i).filter(|s| !matches!(s, Operand::Addr(_)));
    let ordered = matches!(
        inst.op,
        Opcode::Sub { .. }
            | Opcode::Div { .. }
            | Opcode::DivFull
            | Opcode::Rem { .. }
            | Opcode::Selp { .. }
            | Opcode::Pack2x16
            | Opcode::Pack2x32
            | Opcode::CvtPack { .. }
    );
    if ordered && reg(0) != reg(1) && reg(0).is_some() {
        changes.push(Change::Swap(0, 1));
    }
    // The addend for a factor.
    let added = matches!(inst.op, Opcode::Fma { .. } | Opcode::MadLo { .. });
    if added && inst.src[1] != inst.src[2] {
        changes.push(Change::Swap(1, 2));
    }
    if let Opcode::Mma(m) = inst.op {
        let (a, b, _) = m.fragments();
        changes.extend([Change::Swap(a, a + b - 1), Change::Swap(0, a - 1)]);
        changes.retain(|c| !matches!(c, Change::Swap(i, j) if inst.src[*i] == inst.src[*j]));
    }
    if let Opcode::St { vec, .. } = inst.op
        && vec > 1
        && inst.src[1] != inst.src[2]
    {
        changes.push(Change::Swap(1, 2));
    }
    for (i, operand) in inst.src.iter().enumerate() {
        match operand {
            Operand::Imm(imm) if imm.ty != Ty::Pred => {
                // The clamp of a shuffle has no more bits.
                if !(matches!(inst.op, Opcode::Shfl { .. }) && i == 2) {
                    changes.push(Change::Grow(i));
                }
                // Zero has nothing to halve, and infinity becomes the same either way.
                let infinite = imm.ty == Ty::F32 && f32::from_bits(imm.bits as u32).is_infinite();
                if imm.bits != 0 && !infinite {
                    changes.push(Change::Shrink(i));
                }
            }
            Operand::Addr(_) if !matches!(inst.op, Opcode::LoadParam { .. }) => {
                changes.push(Change::Move(i));
            }
            _ => {}
        }
    }
    if sibling(inst).is_some() {
        changes.push(Change::Sibling);
    }
    if matches!(inst.op, Opcode::Setp { .. }) {
        changes.push(Change::Flip);
    }
    if inst.guard.is_some() {
        changes.extend([Change::Negate, Change::Unguard]);
    }
    changes
}

/// The first source that fits the only destination.
fn first_of_type(kernel: &Kernel, inst: &Inst) -> Option<Operand> {
    let [dst] = inst.dst[..] else { return None };
    let ty = kernel.reg(dst).ty;
    let fits = |operand: &&Operand| match operand {
        Operand::Reg(reg) => kernel.reg(*reg).ty.bits() == ty.bits() && *reg != dst,
        _ => false,
    };
    inst.src.iter().find(fits).copied()
}

/// What stands for the instruction in the mutant.
fn spoilt(kernel: &mut Kernel, inst: &Inst, change: Change) -> Vec<Inst> {
    let mut new = inst.clone();
    match change {
        Change::Delete => return without(kernel, inst),
        Change::PassOn => {
            let ty = kernel.reg(inst.dst[0]).ty;
            new.src = first_of_type(kernel, inst).into_iter().collect();
            new.op = Opcode::Mov { ty };
        }
        Change::Swap(a, b) => new.src.swap(a, b),
        Change::Grow(i) => new.src[i] = moved(inst.op, new.src[i], 1),
        // The clamp of a shuffle is forgotten: a smaller one would do for the lower lanes.
        Change::Shrink(2) if matches!(inst.op, Opcode::Shfl { .. }) => {
            new.src[2] = Imm::u32(0).into()
        }
        Change::Shrink(i) => new.src[i] = moved(inst.op, new.src[i], -1),
        Change::Move(i) => {
            if let Operand::Addr(address) = &mut new.src[i] {
                address.offset += element(inst.op);
            }
        }
        Change::Sibling => {
            if let Some(op) = sibling(inst) {
                new.op = op;
            }
        }
        Change::Flip => {
            if let Opcode::Setp { cmp, .. } = &mut new.op {
                *cmp = opposite(*cmp);
            }
        }
        Change::Negate => new.guard = inst.guard.map(|(reg, value)| (reg, !value)),
        Change::Unguard => new.guard = None,
        Change::Always | Change::Once => {}
    }
    vec![new]
}

/// Nothing in the instruction's place, or zeros in what only it writes. A matrix product leaves
/// its accumulators.
fn without(kernel: &Kernel, inst: &Inst) -> Vec<Inst> {
    let fixed = inst.dst.iter().enumerate();
    let fixed = fixed.filter(|(_, reg)| !kernel.reg(**reg).mutable);
    fixed
        .map(|(i, reg)| {
            let ty = kernel.reg(*reg).ty;
            let zero = Operand::Imm(Imm { ty, bits: 0 });
            let value = match inst.op {
                Opcode::Mma(m) => {
                    let (a, b, _) = m.fragments();
                    inst.src[a + b + i]
                }
                _ => zero,
            };
            Inst {
                op: Opcode::Mov { ty },
                dst: vec![*reg],
                src: vec![value],
                guard: None,
                loc: inst.loc,
            }
        })
        .collect()
}

/// The constant one further. A float becomes twice or half as large, zero and infinity become one;
/// masks and distances of shuffles turn into their neighbours by a bit.
fn moved(op: Opcode, operand: Operand, by: i64) -> Operand {
    let Operand::Imm(imm) = operand else {
        return operand;
    };
    let scale = if by > 0 { 2.0f64 } else { 0.5 };
    let by_bits = matches!(
        op,
        Opcode::And { .. }
            | Opcode::Or { .. }
            | Opcode::Xor { .. }
            | Opcode::Lop3 { .. }
            | Opcode::Shfl { .. }
    );
    let bits = match imm.ty {
        Ty::F32 => {
            let value = f32::from_bits(imm.bits as u32);
            let new = if value == 0.0 || value.is_infinite() {
                1f32.copysign(value)
            } else {
                value * scale as f32
            };
            u64::from(new.to_bits())
        }
        Ty::F16 | Ty::Bf16 | Ty::F16x2 | Ty::Bf16x2 => imm.bits ^ 0x0400,
        Ty::F64 => (f64::from_bits(imm.bits) * scale).to_bits(),
        ty if by_bits => {
            let new = if by > 0 { imm.bits << 1 } else { imm.bits >> 1 };
            new & (u64::MAX >> (64 - ty.bits()))
        }
        ty => imm.bits.wrapping_add_signed(by) & (u64::MAX >> (64 - ty.bits())),
    };
    Operand::Imm(Imm { ty: imm.ty, bits })
}

/// Bytes by which an access is moved.
fn element(op: Opcode) -> i32 {
    match op {
        Opcode::Ld { ty, vec, .. } | Opcode::St { ty, vec, .. } => {
            ty.bytes() as i32 * i32::from(vec)
        }
        Opcode::Atom { ty, .. } | Opcode::Red { ty, .. } => ty.bytes() as i32,
        Opcode::CpAsync { bytes, .. } => i32::from(bytes),
        Opcode::Ldmatrix { .. } | Opcode::Stmatrix { .. } => 16,
        _ => 4,
    }
}
