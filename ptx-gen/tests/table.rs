//! Every row of the instruction table against ptxas: one kernel per instruction form, at the
//! lowest target and PTX version the row names.
//!
//! Needs ptxas, found through `PTXAS` or `PATH`; without it the test says that it was skipped.

use std::io::Write;
use std::process::{Command, Stdio};

use gannet_ptx_gen::ir::{
    Address, Base, Imm, Inst, Kernel, Loc, Operand, Param, Reg, RegInfo, SharedDecl, Stmt, Ty,
};
use gannet_ptx_gen::op::*;
use gannet_ptx_gen::table::{Group, Slot, row_of};
use gannet_ptx_gen::target::Target;

const INTS: [Ty; 6] = [Ty::U16, Ty::I16, Ty::U32, Ty::I32, Ty::U64, Ty::I64];
const FLOATS: [Ty; 6] = [Ty::F16, Ty::Bf16, Ty::F32, Ty::F64, Ty::F16x2, Ty::Bf16x2];
const SCOPES: [Scope; 3] = [Scope::Cta, Scope::Gpu, Scope::Sys];

/// Every instruction form, with its fields run through the values that change its spelling.
fn forms() -> Vec<Op> {
    let mut ops = Vec::new();
    let all = || INTS.into_iter().chain(FLOATS);
    for ty in all().chain([Ty::Pred, Ty::U8]) {
        ops.push(Op::Mov { ty });
    }
    for axis in 0..3 {
        ops.extend(
            [
                Special::Tid(axis),
                Special::Ntid(axis),
                Special::Ctaid(axis),
                Special::Nctaid(axis),
            ]
            .map(Op::Special),
        );
    }
    ops.extend(
        [
            Special::Laneid,
            Special::Warpid,
            Special::Smid,
            Special::Clock,
            Special::GlobalTimer,
        ]
        .map(Op::Special),
    );
    ops.extend([
        Op::SharedAddress,
        Op::LoadParam { ty: Ty::U64 },
        Op::CvtaToGlobal,
    ]);
    ops.extend([Op::Pack2x16, Op::Unpack2x16, Op::Pack2x32, Op::Unpack2x32]);
    for ty in all() {
        ops.extend([
            Op::Add { ty },
            Op::Sub { ty },
            Op::Mul { ty },
            Op::Min { ty },
            Op::Max { ty },
        ]);
        ops.extend([Op::Neg { ty }, Op::Abs { ty }]);
    }
    for ty in INTS {
        ops.extend([
            Op::MulHi { ty },
            Op::MadLo { ty },
            Op::Div { ty },
            Op::Rem { ty },
        ]);
        ops.extend([
            Op::And { ty },
            Op::Or { ty },
            Op::Xor { ty },
            Op::Not { ty },
            Op::Shl { ty },
            Op::Shr { ty },
        ]);
    }
    for ty in [Ty::U32, Ty::I32] {
        ops.extend([Op::MulWide { ty }, Op::MadWide { ty }]);
    }
    for ty in [Ty::U32, Ty::I32, Ty::U64, Ty::I64] {
        ops.extend([
            Op::Bfe { ty },
            Op::Bfi { ty },
            Op::Popc { ty },
            Op::Clz { ty },
        ]);
    }
    for ty in [Ty::F32, Ty::F64] {
        ops.extend([Op::Div { ty }, Op::SqrtRn { ty }, Op::RcpRn { ty }]);
    }
    ops.extend(FLOATS.map(|ty| Op::Fma { ty }));
    for f in [
        Approx::Rcp,
        Approx::Rsqrt,
        Approx::Sqrt,
        Approx::Ex2,
        Approx::Lg2,
        Approx::Sin,
        Approx::Cos,
        Approx::Tanh,
    ] {
        ops.push(Op::Approx { f, ty: Ty::F32 });
    }
    for f in [Approx::Ex2, Approx::Tanh] {
        ops.extend([Ty::F16, Ty::F16x2].map(|ty| Op::Approx { f, ty }));
    }
    let ty = Ty::Pred;
    ops.extend([
        Op::DivFull,
        Op::And { ty },
        Op::Or { ty },
        Op::Xor { ty },
        Op::Not { ty },
    ]);
    ops.extend([
        Op::Lop3 { lut: 0x96 },
        Op::Prmt,
        Op::Shf { left: true },
        Op::Shf { left: false },
    ]);
    for (a_signed, b_signed) in [(false, false), (false, true), (true, false), (true, true)] {
        ops.push(Op::Dp4a { a_signed, b_signed });
        ops.push(Op::Mma(Mma::M16n8k32Int8 { a_signed, b_signed }));
        ops.push(Op::Mma(Mma::M8n8k16Int8 { a_signed, b_signed }));
    }
    for cmp in [Cmp::Lt, Cmp::Le, Cmp::Eq, Cmp::Ne, Cmp::Ge, Cmp::Gt] {
        ops.extend(
            INTS.into_iter()
                .chain([Ty::F16, Ty::Bf16, Ty::F32, Ty::F64])
                .map(|ty| Op::Setp { cmp, ty }),
        );
    }
    ops.extend(all().chain([Ty::U8]).map(|ty| Op::Selp { ty }));
    ops.extend(conversions());
    ops.extend([
        Op::CvtPack { ty: Ty::F16x2 },
        Op::CvtPack { ty: Ty::Bf16x2 },
    ]);
    ops.extend(memory());
    ops.extend(SCOPES.map(|s| Op::Fence(Fence::Membar(s))));
    ops.extend(SCOPES.map(|s| Op::Fence(Fence::AcqRel(s))));
    ops.extend([
        Op::Fence(Fence::ProxyAsync),
        Op::Fence(Fence::MbarrierInit),
        Op::PrefetchL2,
    ]);
    ops.extend([
        Op::BarSync,
        Op::BarSyncN { id: 1, threads: 32 },
        Op::BarArrive { id: 1, threads: 32 },
        Op::BarWarpSync,
    ]);
    for mode in [Shfl::Up, Shfl::Down, Shfl::Bfly, Shfl::Idx] {
        ops.extend([Ty::U32, Ty::F32, Ty::F16x2].map(|ty| Op::Shfl { mode, ty }));
    }
    ops.extend([Vote::All, Vote::Any, Vote::Ballot].map(|f| Op::Vote { f }));
    for f in [Rmw::Add, Rmw::Min, Rmw::Max, Rmw::And, Rmw::Or, Rmw::Xor] {
        ops.extend([Ty::U32, Ty::I32].map(|ty| Op::Redux { f, ty }));
    }
    ops.extend([Op::MatchAny, Op::ActiveMask, Op::ElectSync, Op::Movmatrix]);
    ops.extend(
        [
            Mma::M16n8k16F16,
            Mma::M16n8k16Bf16,
            Mma::M16n8k8F16,
            Mma::M16n8k8Tf32,
        ]
        .map(Op::Mma),
    );
    for num in [1, 2, 4] {
        for trans in [false, true] {
            ops.extend([Op::Ldmatrix { num, trans }, Op::Stmatrix { num, trans }]);
        }
    }
    for (bytes, bypass_l1) in [(4, false), (8, false), (16, false), (16, true)] {
        ops.push(Op::CpAsync { bytes, bypass_l1 });
    }
    ops.extend([
        Op::CpAsyncCommit,
        Op::CpAsyncWait { pending: 1 },
        Op::CpAsyncBulk,
        Op::CpAsyncBulkStore,
        Op::CpAsyncBulkCommit,
        Op::CpAsyncBulkWait {
            pending: 1,
            read: false,
        },
        Op::CpAsyncBulkWait {
            pending: 0,
            read: true,
        },
    ]);
    ops.extend([
        Op::MbarrierInit,
        Op::MbarrierInval,
        Op::MbarrierArrive,
        Op::MbarrierArriveExpectTx,
    ]);
    ops.extend([
        Op::MbarrierTryWait,
        Op::MbarrierTestWait,
        Op::GridDepWait,
        Op::GridDepLaunch,
    ]);
    ops.extend([Op::Nanosleep, Op::Trap, Op::Exit, Op::AssumeUniform]);
    ops
}

fn conversions() -> Vec<Op> {
    let scalars = [
        Ty::U8,
        Ty::I8,
        Ty::U16,
        Ty::I16,
        Ty::U32,
        Ty::I32,
        Ty::U64,
        Ty::I64,
        Ty::F16,
        Ty::Bf16,
        Ty::F32,
        Ty::F64,
    ];
    let mut ops = Vec::new();
    for from in scalars {
        for to in scalars.into_iter().filter(|to| *to != from) {
            // The builder goes through f32 for brain floats; other pairs have their own forms.
            let bf16 = from == Ty::Bf16 || to == Ty::Bf16;
            if bf16 && from != Ty::F32 && to != Ty::F32 {
                continue;
            }
            let rounds: &[Round] = match (from.is_float(), to.is_float()) {
                (true, false) => &[Round::Rni, Round::Rzi, Round::Rmi, Round::Rpi],
                (false, true) => &[Round::Rn],
                (true, true) if to.bits() < from.bits() => &[Round::Rn],
                _ => &[Round::None],
            };
            for round in rounds {
                ops.push(Op::Cvt {
                    to,
                    from,
                    round: *round,
                    sat: false,
                });
                if narrows(to, from) {
                    ops.push(Op::Cvt {
                        to,
                        from,
                        round: *round,
                        sat: true,
                    });
                }
            }
        }
    }
    ops
}

/// Whether the integer conversion can overflow, so that it may saturate.
fn narrows(to: Ty, from: Ty) -> bool {
    let wider = to.bits() > from.bits();
    from.is_int() && to.is_int() && !(wider && (to.is_signed() || !from.is_signed()))
}

fn memory() -> Vec<Op> {
    let mut ops = Vec::new();
    let types = [
        Ty::U8,
        Ty::I8,
        Ty::U16,
        Ty::U32,
        Ty::I32,
        Ty::U64,
        Ty::F16,
        Ty::Bf16,
        Ty::F32,
        Ty::F64,
        Ty::F16x2,
    ];
    let streaming = Cache {
        nc: true,
        no_allocate: true,
        l2_128: true,
    };
    let read_only = Cache {
        nc: true,
        ..Cache::default()
    };
    for space in [Space::Global, Space::Shared] {
        for ty in types {
            for vec in [1, 2, 4].into_iter().filter(|v| v * ty.bytes() <= 16) {
                let vec = vec as u8;
                ops.push(Op::St {
                    space,
                    ty,
                    vec,
                    order: Order::Weak,
                });
                ops.push(Op::Ld {
                    space,
                    ty,
                    vec,
                    order: Order::Weak,
                    cache: Cache::default(),
                });
                if space == Space::Global {
                    ops.extend([streaming, read_only].map(|cache| Op::Ld {
                        space,
                        ty,
                        vec,
                        order: Order::Weak,
                        cache,
                    }));
                }
            }
        }
        let ty = Ty::U32;
        let ld = |order| Op::Ld {
            space,
            ty,
            vec: 1,
            order,
            cache: Cache::default(),
        };
        let st = |order| Op::St {
            space,
            ty,
            vec: 1,
            order,
        };
        ops.extend([ld(Order::Volatile), st(Order::Volatile)]);
        for s in SCOPES {
            ops.extend([
                ld(Order::Relaxed(s)),
                ld(Order::Acquire(s)),
                st(Order::Relaxed(s)),
                st(Order::Release(s)),
            ]);
            for order in [
                Order::Relaxed(s),
                Order::Acquire(s),
                Order::Release(s),
                Order::AcqRel(s),
            ] {
                ops.push(Op::Atom {
                    space,
                    f: Rmw::Add,
                    ty,
                    order,
                });
            }
            ops.extend([Order::Relaxed(s), Order::Release(s)].map(|order| Op::Red {
                space,
                f: Rmw::Add,
                ty,
                order,
            }));
        }
        let order = Order::Relaxed(Scope::Gpu);
        for ty in [Ty::U32, Ty::I32, Ty::U64, Ty::I64] {
            for f in [
                Rmw::Add,
                Rmw::Min,
                Rmw::Max,
                Rmw::And,
                Rmw::Or,
                Rmw::Xor,
                Rmw::Exch,
                Rmw::Cas,
            ] {
                ops.push(Op::Atom {
                    space,
                    f,
                    ty,
                    order,
                });
                if !matches!(f, Rmw::Exch | Rmw::Cas) {
                    ops.push(Op::Red {
                        space,
                        f,
                        ty,
                        order,
                    });
                }
            }
        }
        ops.extend([
            Op::Atom {
                space,
                f: Rmw::Add,
                ty: Ty::F32,
                order,
            },
            Op::Red {
                space,
                f: Rmw::Add,
                ty: Ty::F32,
                order,
            },
        ]);
    }
    ops
}

/// A kernel that executes the one instruction on registers it has assigned.
fn kernel_of(op: Op, target: Target) -> Kernel {
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
        block_size: [32, 1, 1],
        min_blocks: None,
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
                    Op::LoadParam { ty: Ty::U64 },
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
    push(&mut k, op, dst, src);
    k
}

/// A type of so many bits; what the instruction moves, when it is a move.
fn plain(bits: u32, op: Op) -> Ty {
    match (op, bits) {
        (Op::Mov { ty }, _) => ty,
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
        Op::Mov { ty },
        vec![reg],
        vec![Operand::Imm(Imm { ty, bits: 1 })],
    );
    reg
}

fn push(k: &mut Kernel, op: Op, dst: Vec<Reg>, src: Vec<Operand>) {
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
            Group::Lit(_) => vec![],
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
        .split("pub enum Op {")
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
        let target = if matches!(op, Op::CpAsyncBulk) {
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
