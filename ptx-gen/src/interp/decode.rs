//! From the structured kernel to linear code: control flow as steps with targets, operands as slots.
//!
//! A slot is an index into one of a warp's three register files: 32-bit (which holds the narrower types as well),
//! 64-bit and predicates. Constants get slots too, filled once per warp, so an executor never asks what kind of
//! operand it reads. [`super::slots`] lets registers whose lives do not overlap share a slot.

use std::collections::{BTreeMap, BTreeSet};

use super::fault::FaultKind;
use super::slots;
use crate::ir::{Base, Inst as IrInst, Kernel, Loc, Operand, Param, Reg, Stmt, Ty};
use crate::op::{Opcode, Order, Space};
use crate::table::{Group, Slot, row_of};
use crate::target::Target;

/// Where the block's shared window starts: not at 0, so that a null pointer faults.
pub(crate) const SHARED_BASE: u32 = 1024;

/// A register file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum File {
    Pred,
    Word,
    Long,
}

impl File {
    pub(crate) fn of(ty: Ty) -> File {
        match ty.bits() {
            1 => File::Pred,
            64 => File::Long,
            _ => File::Word,
        }
    }
}

/// A decoded instruction. Unused slots are 0.
#[derive(Clone, Debug)]
pub(crate) struct Inst {
    pub(crate) op: Opcode,
    /// Predicate slot and the value it must have.
    pub(crate) guard: Option<(u32, bool)>,
    pub(crate) dst: [u32; 4],
    /// In source order; an address contributes the slot of its base.
    pub(crate) src: [u32; 10],
    /// Constant offsets of the addresses among the sources, in order; of `LoadParam`, the parameter's index.
    pub(crate) offset: [i32; 3],
    pub(crate) num_dst: u8,
    pub(crate) num_src: u8,
    /// Accumulators of a warpgroup's product, read and written.
    pub(crate) extra: Vec<u32>,
    /// Of another instruction: the registers that it shares with a warpgroup's products.
    pub(crate) watch: Vec<u32>,
}

/// One step of the linear program.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Opcode(Inst),
    /// Narrows the active lanes to those that take the branch; `otherwise` is the matching [`Step::Else`] or
    /// [`Step::EndIf`].
    If {
        cond: u32,
        negated: bool,
        otherwise: usize,
    },
    /// Switches to the lanes that did not take the branch; `end` is the matching [`Step::EndIf`].
    Else {
        end: usize,
    },
    /// Lets both sides of a branch go on together.
    EndIf,
    /// Remembers the lanes that enter a loop.
    Loop,
    /// Sends the lanes whose `cond` holds back to the step after `start`.
    Again {
        cond: u32,
        start: usize,
    },
    /// The end of the kernel.
    End,
}

/// A kernel ready to run; it owns all that it needs of the kernel.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) target: Target,
    pub(crate) params: Vec<Param>,
    pub(crate) block_size: [u32; 3],
    pub(crate) code: Vec<Step>,
    /// The source of each step.
    pub(crate) sites: Vec<Loc>,
    /// Slots of each file: predicates, words, longs.
    pub(crate) files: [u32; 3],
    /// File, slot and value of each constant.
    pub(crate) constants: Vec<(File, u32, u64)>,
    /// Bytes of the shared window.
    pub(crate) shared_bytes: u32,
    /// Bytes of its narrowest access, at most 4.
    pub(crate) shared_cell: u32,
    /// Whether it loads through the read-only path.
    pub(crate) read_only_loads: bool,
    /// Whether it may start before the launch in front of it has finished.
    pub(crate) starts_early: bool,
    /// Whether it lets the launch behind it start before it has waited itself.
    pub(crate) hands_over: bool,
    /// Whether blocks may wait for each other or update common words.
    pub(crate) communicates: bool,
    /// Whether it copies from global memory in bulk.
    pub(crate) bulk_loads: bool,
    /// Blocks of a cluster.
    pub(crate) cluster: u32,
    /// Registers that a launch gives each thread, where `setmaxnreg` may change that.
    pub(crate) registers: Option<u32>,
}

impl Program {
    /// Whether its stores are to be remembered: it may read them wrongly, or the launch behind may.
    pub(crate) fn marks_stores(&self) -> bool {
        self.read_only_loads || self.starts_early
    }

    /// Threads of a block.
    pub(crate) fn threads(&self) -> u32 {
        self.block_size.iter().product()
    }
}

/// Marks an operand that is the index of a constant instead of a register, until slots are assigned.
pub(crate) const CONSTANT: u32 = 1 << 31;

struct Decoder<'k> {
    kernel: &'k Kernel,
    shared: Vec<u32>,
    code: Vec<Step>,
    sites: Vec<Loc>,
    constants: BTreeMap<(File, u64), u32>,
    order: Vec<(File, u64)>,
    communicates: bool,
    shared_cell: u32,
    read_only_loads: bool,
    bulk_loads: bool,
}

/// Linearises a kernel.
pub(crate) fn decode(kernel: &Kernel) -> Result<Program, FaultKind> {
    let (shared, shared_bytes) = kernel.shared_offsets();
    let mut d = Decoder {
        kernel,
        shared,
        code: Vec::new(),
        sites: Vec::new(),
        constants: BTreeMap::new(),
        order: Vec::new(),
        communicates: false,
        shared_cell: 4,
        read_only_loads: false,
        bulk_loads: false,
    };
    d.body(&kernel.body)?;
    let end = d.sites.last().copied().unwrap_or(Loc { file: "", line: 0 });
    d.step(Step::End, end);
    let Decoder {
        mut code,
        sites,
        order,
        communicates,
        shared_cell,
        read_only_loads,
        bulk_loads,
        ..
    } = d;
    watch(kernel, &mut code);
    let assigned = slots::assign(kernel, &mut code, &order);
    Ok(Program {
        name: kernel.name.clone(),
        target: kernel.target,
        params: kernel.params.clone(),
        block_size: kernel.block_size,
        code,
        sites,
        files: assigned.files,
        constants: assigned.constants,
        shared_bytes,
        shared_cell,
        read_only_loads,
        starts_early: kernel.starts_early(),
        hands_over: kernel.hands_over(),
        communicates,
        bulk_loads,
        cluster: kernel.cluster.max(1),
        registers: kernel.launch_registers(),
    })
}

impl<'k> Decoder<'k> {
    fn step(&mut self, step: Step, loc: Loc) -> usize {
        self.code.push(step);
        self.sites.push(loc);
        self.code.len() - 1
    }

    fn body(&mut self, stmts: &'k [Stmt]) -> Result<(), FaultKind> {
        for stmt in stmts {
            match stmt {
                Stmt::Comment(_) => {}
                Stmt::Inst(inst) => {
                    let decoded = self.inst(inst)?;
                    self.communicates |= communicates(inst.op);
                    self.read_only_loads |= matches!(inst.op, Opcode::Ld { cache, .. } if cache.nc);
                    self.bulk_loads |=
                        matches!(inst.op, Opcode::CpAsyncBulk | Opcode::CpAsyncBulkMulticast);
                    self.shared_cell = self.shared_cell.min(shared_width(inst.op));
                    self.step(Step::Opcode(decoded), inst.loc);
                }
                Stmt::If(branch) => {
                    let (cond, negated) = (self.reg(branch.cond, File::Pred)?, branch.negated);
                    let start = self.step(
                        Step::If {
                            cond,
                            negated,
                            otherwise: 0,
                        },
                        branch.loc,
                    );
                    self.body(&branch.then)?;
                    let mut target = self.code.len();
                    if !branch.otherwise.is_empty() {
                        target = self.step(Step::Else { end: 0 }, branch.loc);
                        self.body(&branch.otherwise)?;
                        self.code[target] = Step::Else {
                            end: self.code.len(),
                        };
                    }
                    self.code[start] = Step::If {
                        cond,
                        negated,
                        otherwise: target,
                    };
                    self.step(Step::EndIf, branch.loc);
                }
                Stmt::Loop(l) => {
                    let start = self.step(Step::Loop, l.loc);
                    self.body(&l.body)?;
                    let cond = self.reg(l.again, File::Pred)?;
                    self.step(Step::Again { cond, start }, l.loc);
                }
            }
        }
        Ok(())
    }

    fn reg(&self, reg: Reg, file: File) -> Result<u32, FaultKind> {
        match self.kernel.regs.get(reg.0 as usize) {
            Some(info) if File::of(info.ty) == file => Ok(reg.0),
            _ => Err(FaultKind::Unsupported(format!(
                "register {} is not of the {file:?} file",
                reg.0
            ))),
        }
    }

    /// Checks that every operand stands in the register file that its slot in the table reads: an executor then
    /// never reads a slot of the wrong file.
    fn fits(&self, inst: &IrInst) -> Result<(), FaultKind> {
        let row = row_of(inst.op, self.kernel.target);
        let refuse = || {
            FaultKind::Unsupported(format!(
                "{} with such operands ({})",
                row.mnemonic, inst.loc
            ))
        };
        let (dst, src) = (slots_of(&row.dst), slots_of(&row.src));
        if dst.len() != inst.dst.len() || src.len() != inst.src.len() {
            return Err(refuse());
        }
        let known = |reg: &Reg, file: File| self.reg(*reg, file).map(|_| ()).map_err(|_| refuse());
        for (slot, reg) in dst.iter().zip(&inst.dst) {
            known(reg, slot_file(*slot).ok_or_else(refuse)?)?;
        }
        for (slot, operand) in src.iter().zip(&inst.src) {
            match (operand, slot_file(*slot)) {
                (Operand::Reg(reg), Some(file)) => known(reg, file)?,
                (Operand::Imm(imm), Some(file)) if File::of(imm.ty) == file => {}
                (Operand::Addr(address), None) => match (address.base, slot) {
                    (Base::Reg(reg), Slot::Address(Space::Global)) => known(&reg, File::Long)?,
                    (Base::Reg(reg), Slot::Address(Space::Shared)) => known(&reg, File::Word)?,
                    (Base::Param(n), Slot::Param) if (n as usize) < self.kernel.params.len() => {}
                    (Base::Shared(n), Slot::Address(Space::Shared) | Slot::SharedName)
                        if (n as usize) < self.shared.len() => {}
                    _ => return Err(refuse()),
                },
                _ => return Err(refuse()),
            }
        }
        Ok(())
    }

    fn constant(&mut self, file: File, bits: u64) -> u32 {
        let order = &mut self.order;
        CONSTANT
            | *self.constants.entry((file, bits)).or_insert_with(|| {
                order.push((file, bits));
                order.len() as u32 - 1
            })
    }

    fn inst(&mut self, inst: &IrInst) -> Result<Inst, FaultKind> {
        let too_many = || FaultKind::Unsupported(format!("{:?} with too many operands", inst.op));
        self.fits(inst)?;
        let mut out = Inst {
            op: inst.op,
            guard: None,
            dst: [0; 4],
            src: [0; 10],
            offset: [0; 3],
            num_dst: inst.dst.len() as u8,
            num_src: inst.src.len() as u8,
            extra: Vec::new(),
            watch: Vec::new(),
        };
        let (mut dst, mut src) = (inst.dst.as_slice(), inst.src.as_slice());
        if let Opcode::Wgmma(m) = inst.op {
            // The sources end with the destinations once more.
            src = &src[..src.len() - m.accumulators()];
            out.extra = dst.iter().map(|reg| reg.0).collect();
            (dst, out.num_dst, out.num_src) = (&[], 0, src.len() as u8);
        }
        if let Some((pred, value)) = inst.guard {
            out.guard = Some((self.reg(pred, File::Pred)?, value));
        }
        for (i, reg) in dst.iter().enumerate() {
            *out.dst.get_mut(i).ok_or_else(too_many)? = reg.0;
        }
        let mut addresses = 0;
        for (i, operand) in src.iter().enumerate() {
            let slot = match operand {
                Operand::Reg(reg) => reg.0,
                Operand::Imm(imm) => self.constant(File::of(imm.ty), imm.bits),
                Operand::Addr(address) => {
                    let (slot, offset) = match address.base {
                        Base::Reg(reg) => (reg.0, address.offset),
                        Base::Param(index) => (self.constant(File::Word, 0), index as i32),
                        Base::Shared(index) => {
                            let start = self
                                .shared
                                .get(index as usize)
                                .copied()
                                .unwrap_or(u32::MAX / 2);
                            (
                                self.constant(File::Word, u64::from(start + SHARED_BASE)),
                                address.offset,
                            )
                        }
                    };
                    *out.offset.get_mut(addresses).ok_or_else(too_many)? = offset;
                    addresses += 1;
                    slot
                }
            };
            *out.src.get_mut(i).ok_or_else(too_many)? = slot;
        }
        Ok(out)
    }
}

/// Tells every instruction which registers it shares with the products of warpgroups.
fn watch(kernel: &Kernel, code: &mut [Step]) {
    let mut shared = BTreeSet::new();
    for step in code.iter() {
        if let Step::Opcode(inst) = step {
            shared.extend(slots::products_registers(inst));
        }
    }
    if shared.is_empty() {
        return;
    }
    for step in code.iter_mut() {
        if let Step::Opcode(inst) = step
            && !matches!(inst.op, Opcode::Wgmma(_))
        {
            let (dst, src) = (usize::from(inst.num_dst), usize::from(inst.num_src));
            let operands = inst.dst[..dst].iter().chain(&inst.src[..src]);
            let word = |r: &u32| File::of(kernel.regs[*r as usize].ty) == File::Word;
            inst.watch = operands
                .filter(|r| *r & CONSTANT == 0 && word(r) && shared.contains(r))
                .copied()
                .collect();
        }
    }
}

/// The operand slots of a list of groups, flattened.
fn slots_of(groups: &[Group]) -> Vec<Slot> {
    let repeat = |slot: &Slot, n: usize| vec![*slot; n];
    groups
        .iter()
        .flat_map(|group| match group {
            Group::One(slot) => repeat(slot, 1),
            Group::Many(slot, n) | Group::Again(slot, n) => repeat(slot, *n),
            Group::Lit(_) => Vec::new(),
        })
        .collect()
}

/// The register file of a slot for a value; `None` for an address.
fn slot_file(slot: Slot) -> Option<File> {
    match slot {
        Slot::Is(ty) => Some(File::of(ty)),
        Slot::Bits(1) => Some(File::Pred),
        Slot::Bits(64) => Some(File::Long),
        Slot::Bits(_) => Some(File::Word),
        Slot::Address(_) | Slot::Param | Slot::SharedName => None,
    }
}

/// Bytes of an access to shared memory by one lane.
fn shared_width(op: Opcode) -> u32 {
    match op {
        Opcode::Ld {
            space: Space::Shared,
            ty,
            vec,
            ..
        }
        | Opcode::St {
            space: Space::Shared,
            ty,
            vec,
            ..
        } => ty.bytes() * u32::from(vec),
        Opcode::Atom {
            space: Space::Shared,
            ty,
            ..
        }
        | Opcode::Red {
            space: Space::Shared,
            ty,
            ..
        } => ty.bytes(),
        _ => u32::MAX,
    }
}

/// Whether blocks can see each other through this instruction before the kernel ends.
fn communicates(op: Opcode) -> bool {
    match op {
        Opcode::Atom {
            space: Space::Global,
            ..
        }
        | Opcode::Red {
            space: Space::Global,
            ..
        } => true,
        Opcode::Ld {
            space: Space::Global,
            order,
            ..
        } => order != Order::Weak,
        _ => false,
    }
}
