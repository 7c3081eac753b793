//! Every row of the instruction table against ptxas: one kernel per instruction form, at the
//! lowest target and PTX version the row names.
//!
//! Needs ptxas, found through `PTXAS` or `PATH`; without it the test says that it was skipped.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::process::{Command, Stdio};

use gannet_ptx_gen::conformance::forms;
use gannet_ptx_gen::ir::{
    Address, Base, Imm, Inst, Kernel, Loc, Operand, Param, Reg, RegInfo, SharedDecl, Stmt, Ty,
};
use gannet_ptx_gen::op::*;
use gannet_ptx_gen::table::{Group, Slot, row_of};
use gannet_ptx_gen::target::Target;

/// A kernel that executes the one instruction on registers it has assigned.
fn kernel_of(op: Opcode, target: Target) -> Kernel {
    let mut k = Kernel {
        name: "form".into(),
        doc: String::new(),
        target,
        params: vec![Param {
            name: "p".into(),
            ty: Ty::U64,
            pointee: None,
        }],
        shared: vec![SharedDecl {
            name: "s".into(),
            ty: Ty::U64,
            bytes: 64,
            align: 16,
            dynamic: false,
        }],
        block_size: [128, 1, 1],
        min_blocks: matches!(op, Opcode::SetMaxNReg { .. }).then_some(1),
        cluster: 1,
        dynamic_shared: 0,
        body: Vec::new(),
        regs: Vec::new(),
    };
    let row = row_of(op, target);
    let shared = Operand::Addr(Address {
        base: Base::Shared(0),
        offset: 0,
    });
    let param = Operand::Addr(Address {
        base: Base::Param(0),
        offset: 0,
    });
    let (mut src, mut dst) = (Vec::new(), Vec::new());
    for slot in slots(&row.src) {
        src.push(match slot {
            Slot::Is(ty) => Operand::Reg(assigned(&mut k, ty)),
            Slot::Bits(bits) => Operand::Reg(assigned(&mut k, plain(bits, op))),
            Slot::Address(Space::Shared) | Slot::SharedName => shared,
            Slot::Address(Space::Global) => {
                let base = fresh(&mut k, Ty::U64);
                push(
                    &mut k,
                    Opcode::LoadParam { ty: Ty::U64 },
                    vec![base],
                    vec![param],
                );
                Operand::Addr(Address {
                    base: Base::Reg(base),
                    offset: 16,
                })
            }
            Slot::Param => param,
        });
    }
    for slot in slots(&row.dst) {
        let ty = match slot {
            Slot::Is(ty) => ty,
            Slot::Bits(bits) => plain(bits, op),
            _ => panic!("{op:?}: a destination is a register"),
        };
        dst.push(fresh(&mut k, ty));
    }
    if let Opcode::Wgmma(_) = op {
        product(&mut k, op, dst, src);
    } else {
        push(&mut k, op, dst, src);
    }
    k
}

/// A product adds to registers that were written before, and is waited for.
fn product(k: &mut Kernel, op: Opcode, dst: Vec<Reg>, mut src: Vec<Operand>) {
    for d in &dst {
        let info = &mut k.regs[d.0 as usize];
        info.mutable = true;
        let ty = info.ty;
        let zero = Operand::Imm(Imm { ty, bits: 0 });
        push(k, Opcode::Mov { ty }, vec![*d], vec![zero]);
    }
    src.extend(dst.iter().map(|d| Operand::Reg(*d)));
    push(k, Opcode::WgmmaFence, vec![], vec![]);
    push(k, op, dst, src);
    push(k, Opcode::WgmmaCommit, vec![], vec![]);
    push(k, Opcode::WgmmaWait { pending: 0 }, vec![], vec![]);
}

/// A type of so many bits; what the instruction moves, when it is a move.
fn plain(bits: u32, op: Opcode) -> Ty {
    match (op, bits) {
        (Opcode::Mov { ty }, _) => ty,
        (_, 16) => Ty::F16,
        (_, 32) => Ty::U32,
        _ => Ty::U64,
    }
}

fn fresh(k: &mut Kernel, ty: Ty) -> Reg {
    k.regs.push(RegInfo { ty, mutable: false });
    Reg(k.regs.len() as u32 - 1)
}

fn assigned(k: &mut Kernel, ty: Ty) -> Reg {
    let reg = fresh(k, ty);
    push(
        k,
        Opcode::Mov { ty },
        vec![reg],
        vec![Operand::Imm(Imm { ty, bits: 1 })],
    );
    reg
}

fn push(k: &mut Kernel, op: Opcode, dst: Vec<Reg>, src: Vec<Operand>) {
    k.body.push(Stmt::Inst(Inst {
        op,
        dst,
        src,
        guard: None,
        loc: Loc::here(),
    }));
}

fn slots(groups: &[Group]) -> Vec<Slot> {
    groups
        .iter()
        .flat_map(|group| match group {
            Group::One(slot) => vec![*slot],
            Group::Many(slot, n) => vec![*slot; *n],
            Group::Lit(_) | Group::Again(..) => vec![],
        })
        .collect()
}

/// What ptxas says against the text; `None` when it accepts it.
fn refused(ptxas: &str, text: &str, target: Target) -> Option<String> {
    let mut child = Command::new(ptxas)
        .args(["-arch", target.name(), "-o", "/dev/null", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

fn lowest_target(capability: u32) -> Target {
    *Target::ALL
        .iter()
        .find(|t| t.capability() >= capability)
        .expect("a target for every row")
}

#[test]
fn every_variant_has_a_form_here() {
    let source = include_str!("../src/op/mod.rs");
    let body = source
        .split("pub enum Opcode {")
        .nth(1)
        .unwrap()
        .split("\n}")
        .next()
        .unwrap();
    let variants = body.lines().filter_map(|line| {
        let name = line.strip_prefix("    ")?;
        let name = name.split(|c: char| !c.is_ascii_alphanumeric()).next()?;
        name.starts_with(|c: char| c.is_ascii_uppercase())
            .then_some(name)
    });
    let tested: Vec<String> = forms().iter().map(|op| format!("{op:?}")).collect();
    let missing: Vec<&str> = variants
        .filter(|v| {
            !tested
                .iter()
                .any(|t| t.split(|c: char| !c.is_ascii_alphanumeric()).next() == Some(*v))
        })
        .collect();
    assert!(missing.is_empty(), "no form of {missing:?} is tested");
}

#[test]
fn every_form_verifies_where_its_row_says() {
    for op in forms() {
        let capability = row_of(op, Target::Sm75).capability;
        let target = lowest_target(capability);
        let kernel = kernel_of(op, target);
        assert!(
            !row_of(op, target).section.is_empty(),
            "{op:?} has no section"
        );
        assert_eq!(kernel.verify(), Ok(()), "{op:?}");
        if let Some(older) = Target::ALL
            .iter()
            .rev()
            .find(|t| t.capability() < capability)
        {
            assert!(kernel_of(op, *older).verify().is_err(), "{op:?} on {older}");
        }
    }
}

#[test]
fn ptxas_accepts_every_form() {
    let ptxas = std::env::var("PTXAS").unwrap_or_else(|_| "ptxas".into());
    if Command::new(&ptxas).arg("--version").output().is_err() {
        eprintln!("skipped: no ptxas (set PTXAS to its path)");
        return;
    }
    let mut complaints = Vec::new();
    for op in forms() {
        let lowest = lowest_target(row_of(op, Target::Sm75).capability);
        let target = if matches!(op, Opcode::CpAsyncBulk) {
            [lowest, Target::Sm120]
        } else {
            [lowest; 2]
        };
        for target in &target[..if target[0] == target[1] { 1 } else { 2 }] {
            let text = kernel_of(op, *target).ptx().unwrap();
            if let Some(error) = refused(&ptxas, &text, *target) {
                complaints.push(format!("{op:?} on {target}: {error}"));
            }
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
