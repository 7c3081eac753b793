//! Writes a kernel as PTX text.
//!
//! A pure function of the kernel: equal kernels give equal text, which is what the on-disk
//! cache of compiled kernels and the golden files rely on. It decides nothing and checks
//! nothing; [`crate::verify`] has run before.

use std::fmt::Write;

use crate::ir::{Address, Base, Imm, Inst, Kernel, Operand, Reg, Stmt, Ty};
use crate::op::Opcode;
use crate::table::{Group, Row, Slot, row_of};
use crate::target::PtxVersion;

/// The lowest PTX version that the kernel's target and instructions allow.
pub fn version(kernel: &Kernel) -> PtxVersion {
    let mut version = kernel.target.min_ptx();
    if kernel.cluster > 1 {
        version = version.max(PtxVersion::new(7, 8));
    }
    kernel.for_each_inst(|inst| version = version.max(row_of(inst.op, kernel.target).ptx));
    version
}

/// The kernel as one PTX module with one entry.
pub fn print(kernel: &Kernel) -> String {
    let mut p = Printer {
        kernel,
        names: register_names(kernel),
        out: String::new(),
        labels: 0,
    };
    p.header();
    p.block(&kernel.body, 1);
    p.out.push_str("    ret;\n}\n");
    p.out
}

/// Register files in declaration order: prefix, PTX type.
const FILES: [(&str, &str); 6] = [
    ("%p", "pred"),
    ("%h", "b16"),
    ("%r", "b32"),
    ("%f", "f32"),
    ("%rd", "b64"),
    ("%fd", "f64"),
];

/// Which of [`FILES`] a type lives in.
pub(crate) fn register_file(ty: Ty) -> usize {
    match ty {
        Ty::Pred => 0,
        Ty::U8 | Ty::I8 | Ty::U16 | Ty::I16 | Ty::F16 | Ty::Bf16 => 1,
        Ty::U32 | Ty::I32 | Ty::F16x2 | Ty::Bf16x2 => 2,
        Ty::F32 => 3,
        Ty::U64 | Ty::I64 => 4,
        Ty::F64 => 5,
    }
}

/// Names registers in order of first appearance, so that the text reads top down and has no
/// holes. Registers that no statement mentions get no name.
fn register_names(kernel: &Kernel) -> Vec<Option<(usize, u32)>> {
    let mut names = vec![None; kernel.regs.len()];
    let mut next = [0u32; FILES.len()];
    let mut name = |reg: Reg| {
        let slot = &mut names[reg.0 as usize];
        if slot.is_none() {
            let file = register_file(kernel.reg(reg).ty);
            *slot = Some((file, next[file]));
            next[file] += 1;
        }
    };
    kernel.for_each_inst(|inst| {
        inst.dst.iter().for_each(|r| name(*r));
        for operand in &inst.src {
            match operand {
                Operand::Reg(r)
                | Operand::Addr(Address {
                    base: Base::Reg(r), ..
                }) => name(*r),
                _ => {}
            }
        }
        if let Some((r, _)) = inst.guard {
            name(r);
        }
    });
    names
}

struct Printer<'a> {
    kernel: &'a Kernel,
    names: Vec<Option<(usize, u32)>>,
    out: String,
    labels: u32,
}

impl Printer<'_> {
    fn line(&mut self, depth: usize, text: &str) {
        for _ in 0..depth {
            self.out.push_str("    ");
        }
        self.out.push_str(text);
        self.out.push('\n');
    }

    fn header(&mut self) {
        let k = self.kernel;
        self.line(0, &format!("// {}", ascii(&k.name)));
        for line in k.doc.lines() {
            self.line(0, format!("// {}", ascii(line)).trim_end());
        }
        self.line(0, &format!(".version {}", version(k)));
        self.line(0, &format!(".target {}", k.target));
        self.line(0, ".address_size 64");
        self.line(0, "");
        for decl in k.shared.iter().filter(|d| d.dynamic) {
            self.line(
                0,
                &format!(".extern .shared .align {} .b8 {}[];", decl.align, decl.name),
            );
            self.line(0, "");
        }
        self.line(0, &format!(".visible .entry {}(", k.name));
        for (i, param) in k.params.iter().enumerate() {
            let comma = if i + 1 == k.params.len() { "" } else { "," };
            let note = param
                .pointee
                .map(|p| format!(" // {} {:?}", p.ty, p.access).to_lowercase())
                .unwrap_or_default();
            let ty = if param.ty.is_int() || param.ty == Ty::F32 || param.ty == Ty::F64 {
                param.ty.ptx()
            } else {
                param.ty.ptx_bits()
            };
            self.line(1, &format!(".param .{ty} {}{comma}{note}", param.name));
        }
        self.line(0, ")");
        let [x, y, z] = k.block_size;
        self.line(0, &format!(".reqntid {x}, {y}, {z}"));
        if let Some(blocks) = k.min_blocks {
            self.line(0, &format!(".minnctapersm {blocks}"));
        }
        if k.cluster > 1 {
            self.line(0, &format!(".reqnctapercluster {}, 1, 1", k.cluster));
        }
        self.line(0, "{");
        for (file, (prefix, ty)) in FILES.iter().enumerate() {
            let count = self
                .names
                .iter()
                .flatten()
                .filter(|(f, _)| *f == file)
                .count();
            if count > 0 {
                self.line(1, &format!(".reg .{ty} {prefix}<{count}>;"));
            }
        }
        for decl in k.shared.iter().filter(|d| !d.dynamic) {
            self.line(
                1,
                &format!(
                    ".shared .align {} .b8 {}[{}];",
                    decl.align, decl.name, decl.bytes
                ),
            );
        }
        self.line(0, "");
    }

    fn block(&mut self, stmts: &[Stmt], depth: usize) {
        for stmt in stmts {
            match stmt {
                Stmt::Comment(text) => {
                    for line in text.lines() {
                        self.line(depth, &format!("// {}", ascii(line)));
                    }
                }
                Stmt::Inst(inst) => {
                    let text = self.inst(inst);
                    self.line(depth, &text);
                }
                Stmt::If(branch) => {
                    let n = self.label();
                    let cond = self.reg(branch.cond);
                    // The jump skips `then`, so it is taken on the opposite of the condition.
                    let skip = if branch.negated { "" } else { "!" };
                    let has_else = !branch.otherwise.is_empty();
                    let target = if has_else { "else" } else { "endif" };
                    self.line(depth, &format!("@{skip}{cond} bra {target}_{n};"));
                    self.block(&branch.then, depth + 1);
                    if has_else {
                        self.line(depth + 1, &format!("bra endif_{n};"));
                        self.line(depth, &format!("else_{n}:"));
                        self.block(&branch.otherwise, depth + 1);
                    }
                    self.line(depth, &format!("endif_{n}:"));
                }
                Stmt::Loop(l) => {
                    let n = self.label();
                    self.line(depth, &format!("loop_{n}:"));
                    self.block(&l.body, depth + 1);
                    let again = self.reg(l.again);
                    self.line(depth + 1, &format!("@{again} bra loop_{n};"));
                }
            }
        }
    }

    fn label(&mut self) -> u32 {
        self.labels += 1;
        self.labels
    }

    fn inst(&self, inst: &Inst) -> String {
        let row = row_of(inst.op, self.kernel.target);
        let mut text = String::new();
        if let Some((pred, when)) = inst.guard {
            let _ = write!(text, "@{}{} ", if when { "" } else { "!" }, self.reg(pred));
        }
        text.push_str(&self.mnemonic(inst, &row));
        let dst: Vec<Operand> = inst.dst.iter().map(|r| Operand::Reg(*r)).collect();
        let mut parts = self.groups(&row.dst, &dst);
        if inst.op == Opcode::ElectSync {
            // The one instruction whose destinations are joined by a bar.
            parts = vec![parts.join("|")];
        }
        parts.extend(self.groups(&row.src, &inst.src));
        if !parts.is_empty() {
            text.push(' ');
            text.push_str(&parts.join(", "));
        }
        text.push(';');
        text
    }

    /// A move between register files needs the untyped spelling.
    fn mnemonic(&self, inst: &Inst, row: &Row) -> String {
        if let (Opcode::Mov { ty }, [Operand::Reg(from)]) = (inst.op, inst.src.as_slice())
            && register_file(self.kernel.reg(*from).ty) != register_file(ty)
        {
            return format!("mov.{}", ty.ptx_bits());
        }
        row.mnemonic.clone()
    }

    fn groups(&self, groups: &[Group], operands: &[Operand]) -> Vec<String> {
        let mut rest = operands.iter();
        let mut next = |slot: &Slot| match rest.next() {
            Some(o) => self.operand(o, *slot),
            None => "<missing>".to_owned(),
        };
        groups
            .iter()
            .filter_map(|group| match group {
                Group::One(slot) => Some(next(slot)),
                Group::Many(slot, n) => {
                    let list: Vec<String> = (0..*n).map(|_| next(slot)).collect();
                    Some(format!("{{{}}}", list.join(", ")))
                }
                Group::Lit(text) => Some(text.clone()),
                Group::Again(slot, n) => {
                    (0..*n).for_each(|_| drop(next(slot)));
                    None
                }
            })
            .collect()
    }

    fn operand(&self, operand: &Operand, slot: Slot) -> String {
        match operand {
            Operand::Reg(r) => self.reg(*r),
            Operand::Imm(imm) => immediate(*imm),
            Operand::Addr(a) => {
                let base = match a.base {
                    Base::Reg(r) => self.reg(r),
                    Base::Param(i) => self.kernel.params[i as usize].name.clone(),
                    Base::Shared(i) => self.kernel.shared[i as usize].name.clone(),
                };
                let offset = match a.offset {
                    0 => String::new(),
                    n => format!("+{n}"),
                };
                if slot == Slot::SharedName {
                    format!("{base}{offset}")
                } else {
                    format!("[{base}{offset}]")
                }
            }
        }
    }

    fn reg(&self, reg: Reg) -> String {
        match self.names[reg.0 as usize] {
            Some((file, n)) => format!("{}{n}", FILES[file].0),
            None => "<unnamed>".to_owned(),
        }
    }
}

/// Constants: floats as their bits, integers in decimal (hexadecimal for large unsigned ones,
/// which are masks more often than counts).
fn immediate(imm: Imm) -> String {
    match imm.ty {
        Ty::F32 => format!("0f{:08X}", imm.bits),
        Ty::F64 => format!("0d{:016X}", imm.bits),
        Ty::F16 | Ty::Bf16 => format!("0x{:04X}", imm.bits),
        Ty::F16x2 | Ty::Bf16x2 => format!("0x{:08X}", imm.bits),
        ty if ty.is_signed() => imm.as_i64().to_string(),
        _ if imm.bits > 0x00FF_FFFF => format!("0x{:X}", imm.bits),
        _ => imm.bits.to_string(),
    }
}

fn ascii(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_ascii() && !c.is_ascii_control() {
                c
            } else {
                '?'
            }
        })
        .collect()
}
