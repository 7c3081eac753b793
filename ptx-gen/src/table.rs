//! The instruction table: how each [`Opcode`] is spelled, what operands it takes, what it requires.
//!
//! A table, however long (tidy: table). One row an instruction form. The printer, the verifier and
//! the `.version` of a kernel all read this table and nothing else, so that a new instruction is
//! one variant, one row here and one arm of the interpreter. Minimum versions and targets were
//! found by trial with ptxas 12.9 and 13.0, which agree.

use crate::ir::Ty;
use crate::op::{
    Approx, Cmp, Fence, Mma, Opcode, Order, Rmw, Round, Scope, Shfl, Space, Special, Vote, Wgmma,
    WgmmaA, WgmmaType,
};
use crate::target::{PtxVersion, Target};

/// What the table says of one instruction form.
#[derive(Debug, Clone)]
pub struct Row {
    /// Opcode with all its qualifiers, as PTX spells it.
    pub mnemonic: String,
    /// Section of the PTX ISA document that defines it.
    pub section: &'static str,
    /// Lowest PTX version.
    pub ptx: PtxVersion,
    /// Lowest compute capability times ten.
    pub capability: u32,
    /// Whether only the architecture-specific target of that capability (`sm_90a`) has it.
    pub specific: bool,
    /// Destinations in print order.
    pub dst: Vec<Group>,
    /// Sources in print order.
    pub src: Vec<Group>,
}

/// A group of operands as PTX prints them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Group {
    /// One operand.
    One(Slot),
    /// A brace-enclosed list of registers.
    Many(Slot, usize),
    /// Fixed text that stands where an operand would; takes none.
    Lit(String),
    /// The destinations once more, as sources: they are read before they are written. Printed
    /// nowhere else.
    Again(Slot, usize),
}

/// What an operand must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// A value of this type, or of the same width and the other signedness.
    Is(Ty),
    /// Any value of so many bits (8-bit types count as 16: that is their register).
    Bits(u32),
    /// An address in the space.
    Address(Space),
    /// An address based on a kernel parameter.
    Param,
    /// An address based on a shared array, printed without brackets.
    SharedName,
}

impl Row {
    /// Whether a target has the instruction.
    pub fn exists_on(&self, target: Target) -> bool {
        if self.specific {
            target == Target::Sm90a
        } else {
            self.capability <= target.capability()
        }
    }

    /// Of `sm_90a` alone.
    fn hopper_only(mut self) -> Row {
        self.specific = true;
        self.needs(8, 0, 90)
    }

    fn section(mut self, section: &'static str) -> Row {
        self.section = section;
        self
    }

    fn needs(mut self, major: u8, minor: u8, capability: u32) -> Row {
        self.ptx = PtxVersion::new(major, minor);
        self.capability = capability;
        self
    }

    fn to(mut self, group: Group) -> Row {
        self.dst.push(group);
        self
    }

    fn from(mut self, group: Group) -> Row {
        self.src.push(group);
        self
    }

    fn takes(mut self, slots: &[Slot]) -> Row {
        self.src.extend(slots.iter().map(|s| Group::One(*s)));
        self
    }

    fn lit(self, text: impl Into<String>) -> Row {
        self.from(Group::Lit(text.into()))
    }
}

/// A row that every target has.
fn row(mnemonic: impl Into<String>) -> Row {
    Row {
        mnemonic: mnemonic.into(),
        section: "",
        ptx: PtxVersion::new(6, 0),
        capability: 50,
        specific: false,
        dst: Vec::new(),
        src: Vec::new(),
    }
}

fn one(ty: Ty) -> Group {
    Group::One(Slot::Is(ty))
}

/// `d = f(a..)` with `n` sources, all of one type.
fn same(mnemonic: impl Into<String>, ty: Ty, n: usize) -> Row {
    row(mnemonic).to(one(ty)).takes(&vec![Slot::Is(ty); n])
}

/// A group of `vec` elements: braces only when there are several.
fn group(slot: Slot, vec: u8) -> Group {
    if vec == 1 {
        Group::One(slot)
    } else {
        Group::Many(slot, usize::from(vec))
    }
}

/// `.rn` keeps ptxas from contracting a product and a sum into one rounding, so that results
/// do not depend on the compiler.
fn rounded(name: &str, ty: Ty) -> String {
    match ty {
        t if t.is_float() || is_pair(t) => format!("{name}.rn.{ty}"),
        _ => format!("{name}.{ty}"),
    }
}

fn is_pair(ty: Ty) -> bool {
    matches!(ty, Ty::F16x2 | Ty::Bf16x2)
}

fn is_bf16(ty: Ty) -> bool {
    matches!(ty, Ty::Bf16 | Ty::Bf16x2)
}

fn is_half(ty: Ty) -> bool {
    matches!(ty, Ty::F16 | Ty::F16x2) || is_bf16(ty)
}

/// Type suffix of loads and stores: the 16-bit floats have none of their own.
fn memory(ty: Ty) -> &'static str {
    if is_half(ty) { ty.ptx_bits() } else { ty.ptx() }
}

fn space(space: Space) -> &'static str {
    match space {
        Space::Global => ".global",
        Space::Shared => ".shared",
    }
}

fn scope(scope: Scope) -> &'static str {
    match scope {
        Scope::Cta => ".cta",
        Scope::Gpu => ".gpu",
        Scope::Sys => ".sys",
    }
}

fn order(order: Order) -> String {
    match order {
        Order::Weak => String::new(),
        Order::Volatile => ".volatile".into(),
        Order::Relaxed(s) => format!(".relaxed{}", scope(s)),
        Order::Acquire(s) => format!(".acquire{}", scope(s)),
        Order::Release(s) => format!(".release{}", scope(s)),
        Order::AcqRel(s) => format!(".acq_rel{}", scope(s)),
    }
}

fn vector(vec: u8) -> String {
    if vec == 1 {
        String::new()
    } else {
        format!(".v{vec}")
    }
}

fn rmw(f: Rmw, ty: Ty) -> String {
    let (name, typed) = match f {
        Rmw::Add => ("add", true),
        Rmw::Min => ("min", true),
        Rmw::Max => ("max", true),
        Rmw::And => ("and", false),
        Rmw::Or => ("or", false),
        Rmw::Xor => ("xor", false),
        Rmw::Exch => ("exch", false),
        Rmw::Cas => ("cas", false),
    };
    // The signed 64-bit sum is the unsigned one, the only one there is.
    let suffix = match (typed, ty) {
        (true, Ty::I64) if f == Rmw::Add => "u64",
        (true, ty) => ty.ptx(),
        (false, ty) => ty.ptx_bits(),
    };
    format!(".{name}.{suffix}")
}

fn cmp(cmp: Cmp, ty: Ty) -> &'static str {
    match cmp {
        Cmp::Lt => "lt",
        Cmp::Le => "le",
        Cmp::Eq => "eq",
        // Unordered, so that NaN differs from everything, as in Rust.
        Cmp::Ne if ty.is_float() => "neu",
        Cmp::Ne => "ne",
        Cmp::Ge => "ge",
        Cmp::Gt => "gt",
    }
}

fn special(s: Special) -> &'static str {
    const AXES: [[&str; 3]; 4] = [
        ["%tid.x", "%tid.y", "%tid.z"],
        ["%ntid.x", "%ntid.y", "%ntid.z"],
        ["%ctaid.x", "%ctaid.y", "%ctaid.z"],
        ["%nctaid.x", "%nctaid.y", "%nctaid.z"],
    ];
    let axis = |which: usize, i: u8| AXES[which][usize::from(i % 3)];
    match s {
        Special::Tid(i) => axis(0, i),
        Special::Ntid(i) => axis(1, i),
        Special::Ctaid(i) => axis(2, i),
        Special::Nctaid(i) => axis(3, i),
        Special::Laneid => "%laneid",
        Special::Warpid => "%warpid",
        Special::Smid => "%smid",
        Special::Clock => "%clock",
        Special::GlobalTimer => "%globaltimer",
        Special::ClusterRank => "%cluster_ctarank",
        Special::ClusterSize => "%cluster_nctarank",
    }
}

fn int8(signed: bool) -> &'static str {
    if signed { "s8" } else { "u8" }
}

fn word(signed: bool) -> Ty {
    if signed { Ty::I32 } else { Ty::U32 }
}

const U32: Slot = Slot::Is(Ty::U32);
const PRED: Slot = Slot::Is(Ty::Pred);
const SHARED: Slot = Slot::Address(Space::Shared);
const GLOBAL: Slot = Slot::Address(Space::Global);

/// The row of an instruction. The target decides between spellings of the same thing only.
pub fn row_of(op: Opcode, target: Target) -> Row {
    match op {
        Opcode::Mov { ty } => row(format!(
            "mov.{}",
            if is_half(ty) || ty.bits() == 8 {
                ty_reg(ty)
            } else {
                ty.ptx()
            }
        ))
        .section("mov")
        .to(one(ty))
        .takes(&[Slot::Bits(ty.bits())]),
        Opcode::Special(s) => {
            let ty = if s == Special::GlobalTimer {
                Ty::U64
            } else {
                Ty::U32
            };
            let r = row(format!("mov.{ty}"))
                .section("Special Registers")
                .to(one(ty))
                .lit(special(s));
            match s {
                Special::ClusterRank | Special::ClusterSize => r.needs(7, 8, 90),
                _ => r,
            }
        }
        Opcode::SharedAddress => row("mov.u32")
            .section("mov")
            .to(one(Ty::U32))
            .takes(&[Slot::SharedName]),
        Opcode::LoadParam { ty } => row(format!("ld.param.{}", memory(ty)))
            .section("ld")
            .to(one(ty))
            .takes(&[Slot::Param]),
        Opcode::CvtaToGlobal => same("cvta.to.global.u64", Ty::U64, 1).section("cvta"),
        Opcode::Pack2x16 => row("mov.b32")
            .section("mov")
            .to(Group::One(Slot::Bits(32)))
            .from(Group::Many(Slot::Bits(16), 2)),
        Opcode::Unpack2x16 => row("mov.b32")
            .section("mov")
            .to(Group::Many(Slot::Bits(16), 2))
            .takes(&[Slot::Bits(32)]),
        Opcode::Pack2x32 => row("mov.b64")
            .section("mov")
            .to(Group::One(Slot::Bits(64)))
            .from(Group::Many(Slot::Bits(32), 2)),
        Opcode::Unpack2x32 => row("mov.b64")
            .section("mov")
            .to(Group::Many(Slot::Bits(32), 2))
            .takes(&[Slot::Bits(64)]),

        Opcode::Add { ty } => bf16_arith(same(rounded("add", ty), ty, 2), ty).section("add"),
        Opcode::Sub { ty } => bf16_arith(same(rounded("sub", ty), ty, 2), ty).section("sub"),
        Opcode::Mul { ty } if ty.is_int() => same(format!("mul.lo.{ty}"), ty, 2).section("mul"),
        Opcode::Mul { ty } => bf16_arith(same(rounded("mul", ty), ty, 2), ty).section("mul"),
        Opcode::MulHi { ty } => same(format!("mul.hi.{ty}"), ty, 2).section("mul"),
        Opcode::MulWide { ty } => row(format!("mul.wide.{ty}"))
            .section("mul")
            .to(one(wide(ty)))
            .takes(&[Slot::Is(ty); 2]),
        Opcode::MadLo { ty } => same(format!("mad.lo.{ty}"), ty, 3).section("mad"),
        Opcode::MadWide { ty } => row(format!("mad.wide.{ty}"))
            .section("mad")
            .to(one(wide(ty)))
            .takes(&[Slot::Is(ty), Slot::Is(ty), Slot::Is(wide(ty))]),
        Opcode::Div { ty } => same(rounded("div", ty), ty, 2).section("div"),
        Opcode::DivFull => same("div.full.f32", Ty::F32, 2).section("div"),
        Opcode::Rem { ty } => same(format!("rem.{ty}"), ty, 2).section("rem"),
        Opcode::Min { ty } => half_ampere(same(format!("min.{ty}"), ty, 2), ty).section("min"),
        Opcode::Max { ty } => half_ampere(same(format!("max.{ty}"), ty, 2), ty).section("max"),
        Opcode::Neg { ty } => {
            bf16_ampere(same(format!("neg.{}", signed(ty)), ty, 1), ty).section("neg")
        }
        Opcode::Abs { ty } => {
            let r = same(format!("abs.{}", signed(ty)), ty, 1);
            bf16_ampere(if is_half(ty) { r.needs(6, 5, 53) } else { r }, ty).section("abs")
        }
        Opcode::Fma { ty } => bf16_ampere(same(rounded("fma", ty), ty, 3), ty).section("fma"),
        Opcode::Approx { f, ty } => approx(f, ty),
        Opcode::SqrtRn { ty } => same(format!("sqrt.rn.{ty}"), ty, 1).section("sqrt"),
        Opcode::RcpRn { ty } => same(format!("rcp.rn.{ty}"), ty, 1).section("rcp"),

        Opcode::And { ty } => same(format!("and.{}", ty.ptx_bits()), ty, 2).section("and"),
        Opcode::Or { ty } => same(format!("or.{}", ty.ptx_bits()), ty, 2).section("or"),
        Opcode::Xor { ty } => same(format!("xor.{}", ty.ptx_bits()), ty, 2).section("xor"),
        Opcode::Not { ty } => same(format!("not.{}", ty.ptx_bits()), ty, 1).section("not"),
        Opcode::Shl { ty } => row(format!("shl.{}", ty.ptx_bits()))
            .section("shl")
            .to(one(ty))
            .takes(&[Slot::Is(ty), U32]),
        Opcode::Shr { ty } => row(format!("shr.{ty}"))
            .section("shr")
            .to(one(ty))
            .takes(&[Slot::Is(ty), U32]),
        Opcode::Bfe { ty } => {
            row(format!("bfe.{ty}"))
                .section("bfe")
                .to(one(ty))
                .takes(&[Slot::Is(ty), U32, U32])
        }
        Opcode::Bfi { ty } => row(format!("bfi.{}", ty.ptx_bits()))
            .section("bfi")
            .to(one(ty))
            .takes(&[Slot::Is(ty), Slot::Is(ty), U32, U32]),
        Opcode::Lop3 { lut } => same("lop3.b32", Ty::U32, 3)
            .section("lop3")
            .lit(format!("0x{lut:02X}")),
        Opcode::Prmt => same("prmt.b32", Ty::U32, 3).section("prmt"),
        Opcode::Shf { left } => same(
            if left {
                "shf.l.wrap.b32"
            } else {
                "shf.r.wrap.b32"
            },
            Ty::U32,
            3,
        )
        .section("shf"),
        Opcode::Popc { ty } => row(format!("popc.{}", ty.ptx_bits()))
            .section("popc")
            .to(one(Ty::U32))
            .takes(&[Slot::Is(ty)]),
        Opcode::Clz { ty } => row(format!("clz.{}", ty.ptx_bits()))
            .section("clz")
            .to(one(Ty::U32))
            .takes(&[Slot::Is(ty)]),
        Opcode::Dp4a { a_signed, b_signed } => {
            row(format!("dp4a.{}.{}", word(a_signed), word(b_signed)))
                .section("dp4a")
                .needs(6, 0, 61)
                .to(one(Ty::I32))
                .takes(&[U32, U32, Slot::Is(Ty::I32)])
        }

        Opcode::Setp { cmp: c, ty } => {
            let r = row(format!("setp.{}.{ty}", cmp(c, ty)))
                .section("setp")
                .to(one(Ty::Pred))
                .takes(&[Slot::Is(ty); 2]);
            if is_bf16(ty) { r.needs(7, 8, 90) } else { r }
        }
        Opcode::Selp { ty } => row(format!(
            "selp.{}",
            if is_half(ty) || ty.bits() == 8 {
                ty_reg(ty)
            } else {
                ty.ptx()
            }
        ))
        .section("selp")
        .to(one(ty))
        .takes(&[Slot::Is(ty), Slot::Is(ty), PRED]),
        Opcode::Cvt {
            to,
            from,
            round,
            sat,
        } => convert(to, from, round, sat),
        Opcode::CvtPack { ty } => row(format!("cvt.rn.{ty}.f32"))
            .section("cvt")
            .needs(7, 0, 80)
            .to(one(ty))
            .takes(&[Slot::Is(Ty::F32); 2]),

        Opcode::Ld {
            space: s,
            ty,
            vec,
            order: o,
            cache,
        } => {
            let hints: String = [
                (cache.nc, ".nc"),
                (cache.no_allocate, ".L1::no_allocate"),
                (cache.l2_128, ".L2::128B"),
            ]
            .iter()
            .filter(|(on, _)| *on)
            .map(|(_, text)| *text)
            .collect();
            let r = row(format!(
                "ld{}{}{hints}{}.{}",
                order(o),
                space(s),
                vector(vec),
                memory(ty)
            ))
            .section("ld")
            .to(group(Slot::Is(ty), vec))
            .takes(&[Slot::Address(s)]);
            let r = strong(r, o);
            if cache.no_allocate || cache.l2_128 {
                r.needs(7, 4, 75)
            } else {
                r
            }
        }
        Opcode::St {
            space: s,
            ty,
            vec,
            order: o,
        } => {
            let r = row(format!(
                "st{}{}{}.{}",
                order(o),
                space(s),
                vector(vec),
                memory(ty)
            ))
            .section("st")
            .takes(&[Slot::Address(s)])
            .from(group(Slot::Is(ty), vec));
            strong(r, o)
        }
        Opcode::Atom {
            space: s,
            f,
            ty,
            order: o,
        } => {
            let r = row(format!("atom{}{}{}", order(o), space(s), rmw(f, ty)))
                .section("atom")
                .to(one(ty))
                .takes(&[Slot::Address(s), Slot::Is(ty)]);
            strong(
                if f == Rmw::Cas {
                    r.takes(&[Slot::Is(ty)])
                } else {
                    r
                },
                o,
            )
        }
        Opcode::Red {
            space: s,
            f,
            ty,
            order: o,
        } => {
            let r = row(format!("red{}{}{}", order(o), space(s), rmw(f, ty)))
                .section("red")
                .takes(&[Slot::Address(s), Slot::Is(ty)]);
            strong(r, o)
        }
        Opcode::Fence(Fence::Membar(s)) => row(match s {
            Scope::Cta => "membar.cta",
            Scope::Gpu => "membar.gl",
            Scope::Sys => "membar.sys",
        })
        .section("membar / fence"),
        Opcode::Fence(Fence::AcqRel(s)) => row(format!("fence.acq_rel{}", scope(s)))
            .section("membar / fence")
            .needs(6, 0, 70),
        Opcode::Fence(Fence::ProxyAsync) => row("fence.proxy.async")
            .section("membar / fence")
            .needs(8, 0, 90),
        Opcode::Fence(Fence::MbarrierInit) => row("fence.mbarrier_init.release.cluster")
            .section("membar / fence")
            .needs(8, 0, 90),
        Opcode::PrefetchL2 => row("prefetch.global.L2")
            .section("prefetch")
            .takes(&[GLOBAL]),

        Opcode::BarSync => row("bar.sync").section("bar").lit("0"),
        Opcode::BarSyncN { id, threads } => row("bar.sync")
            .section("bar")
            .lit(id.to_string())
            .lit(threads.to_string()),
        Opcode::BarArrive { id, threads } => row("bar.arrive")
            .section("bar")
            .lit(id.to_string())
            .lit(threads.to_string()),
        Opcode::BarWarpSync => row("bar.warp.sync").section("bar.warp.sync").takes(&[U32]),
        Opcode::Shfl { mode, ty } => {
            let name = match mode {
                Shfl::Up => "up",
                Shfl::Down => "down",
                Shfl::Bfly => "bfly",
                Shfl::Idx => "idx",
            };
            row(format!("shfl.sync.{name}.b32"))
                .section("shfl.sync")
                .to(one(ty))
                .takes(&[Slot::Is(ty), U32, U32, U32])
        }
        Opcode::Vote { f } => {
            let (name, to) = match f {
                Vote::All => ("all.pred", Ty::Pred),
                Vote::Any => ("any.pred", Ty::Pred),
                Vote::Ballot => ("ballot.b32", Ty::U32),
            };
            row(format!("vote.sync.{name}"))
                .section("vote.sync")
                .to(one(to))
                .takes(&[PRED, U32])
        }
        Opcode::MatchAny => same("match.any.sync.b32", Ty::U32, 2)
            .section("match.sync")
            .needs(6, 0, 70),
        Opcode::Redux { f, ty } => row(format!("redux.sync{}", rmw(f, ty)))
            .section("redux.sync")
            .needs(7, 0, 80)
            .to(one(ty))
            .takes(&[Slot::Is(ty), U32]),
        Opcode::ActiveMask => row("activemask.b32")
            .section("activemask")
            .needs(6, 2, 50)
            .to(one(Ty::U32)),
        Opcode::ElectSync => row("elect.sync")
            .section("elect.sync")
            .needs(8, 0, 90)
            .to(one(Ty::U32))
            .to(one(Ty::Pred))
            .takes(&[U32]),

        Opcode::Mma(m) => mma(m),
        Opcode::Ldmatrix { num, trans } => row(matrix("ldmatrix", num, trans))
            .section("ldmatrix")
            .needs(6, 5, 75)
            .to(Group::Many(U32, usize::from(num)))
            .takes(&[SHARED]),
        Opcode::Stmatrix { num, trans } => row(matrix("stmatrix", num, trans))
            .section("stmatrix")
            .needs(7, 8, 90)
            .takes(&[SHARED])
            .from(Group::Many(U32, usize::from(num))),
        Opcode::Movmatrix => same("movmatrix.sync.aligned.m8n8.trans.b16", Ty::U32, 1)
            .section("movmatrix")
            .needs(7, 8, 75),

        Opcode::Wgmma(m) => wgmma(m),
        Opcode::WgmmaFence => row("wgmma.fence.sync.aligned")
            .section("wgmma.fence")
            .hopper_only(),
        Opcode::WgmmaCommit => row("wgmma.commit_group.sync.aligned")
            .section("wgmma.commit_group")
            .hopper_only(),
        Opcode::WgmmaWait { pending } => row("wgmma.wait_group.sync.aligned")
            .section("wgmma.wait_group")
            .hopper_only()
            .lit(pending.to_string()),
        Opcode::SetMaxNReg {
            registers,
            increase,
        } => row(format!(
            "setmaxnreg.{}.sync.aligned.u32",
            if increase { "inc" } else { "dec" }
        ))
        .section("setmaxnreg")
        .hopper_only()
        .lit(registers.to_string()),

        Opcode::CpAsync { bytes, bypass_l1 } => row(format!(
            "cp.async.{}.shared.global",
            if bypass_l1 { "cg" } else { "ca" }
        ))
        .section("cp.async")
        .needs(7, 0, 80)
        .takes(&[SHARED, GLOBAL])
        .lit(bytes.to_string())
        .takes(&[U32]),
        Opcode::CpAsyncCommit => row("cp.async.commit_group")
            .section("cp.async.commit_group")
            .needs(7, 0, 80),
        Opcode::CpAsyncWait { pending } => row("cp.async.wait_group")
            .section("cp.async.wait_group")
            .needs(7, 0, 80)
            .lit(pending.to_string()),
        Opcode::MbarrierInit => row("mbarrier.init.shared.b64")
            .section("mbarrier.init")
            .needs(7, 0, 80)
            .takes(&[SHARED, U32]),
        Opcode::MbarrierInval => row("mbarrier.inval.shared.b64")
            .section("mbarrier.inval")
            .needs(7, 0, 80)
            .takes(&[SHARED]),
        Opcode::MbarrierArrive => row("mbarrier.arrive.shared.b64")
            .section("mbarrier.arrive")
            .needs(7, 1, 80)
            .lit("_")
            .takes(&[SHARED]),
        Opcode::MbarrierArriveExpectTx => row("mbarrier.arrive.expect_tx.shared.b64")
            .section("mbarrier.arrive")
            .needs(8, 0, 90)
            .lit("_")
            .takes(&[SHARED, U32]),
        Opcode::MbarrierTryWait => row("mbarrier.try_wait.parity.shared.b64")
            .section("mbarrier.try_wait")
            .needs(7, 8, 90)
            .to(one(Ty::Pred))
            .takes(&[SHARED, U32]),
        Opcode::MbarrierTestWait => row("mbarrier.test_wait.parity.shared.b64")
            .section("mbarrier.test_wait")
            .needs(7, 1, 80)
            .to(one(Ty::Pred))
            .takes(&[SHARED, U32]),
        Opcode::CpAsyncBulk => {
            // The block-local spelling costs fewer registers on sm_100 and later but needs PTX
            // 8.6, which those targets imply and sm_90a does not.
            let cta = target.min_ptx() >= PtxVersion::new(8, 6);
            let to = if cta { "cta" } else { "cluster" };
            let r = row(format!(
                "cp.async.bulk.shared::{to}.global.mbarrier::complete_tx::bytes"
            ))
            .section("cp.async.bulk")
            .takes(&[SHARED, GLOBAL, U32, SHARED]);
            if cta {
                r.needs(8, 6, 90)
            } else {
                r.needs(8, 0, 90)
            }
        }
        Opcode::CpAsyncBulkMulticast => row(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster",
        )
        .section("cp.async.bulk")
        .needs(8, 0, 90)
        .takes(&[SHARED, GLOBAL, U32, SHARED, Slot::Is(Ty::U16)]),
        Opcode::CpAsyncBulkStore => row("cp.async.bulk.global.shared::cta.bulk_group")
            .section("cp.async.bulk")
            .needs(8, 0, 90)
            .takes(&[GLOBAL, SHARED, U32]),
        Opcode::CpAsyncBulkCommit => row("cp.async.bulk.commit_group")
            .section("cp.async.bulk.commit_group")
            .needs(8, 0, 90),
        Opcode::CpAsyncBulkWait { pending, read } => row(if read {
            "cp.async.bulk.wait_group.read"
        } else {
            "cp.async.bulk.wait_group"
        })
        .section("cp.async.bulk.wait_group")
        .needs(8, 0, 90)
        .lit(pending.to_string()),
        Opcode::ClusterArrive => row("barrier.cluster.arrive.aligned")
            .section("barrier.cluster")
            .needs(7, 8, 90),
        Opcode::ClusterWait => row("barrier.cluster.wait.aligned")
            .section("barrier.cluster")
            .needs(7, 8, 90),
        Opcode::Mapa => same("mapa.shared::cluster.u32", Ty::U32, 2)
            .section("mapa")
            .needs(7, 8, 90),
        Opcode::MbarrierArriveCluster => row("mbarrier.arrive.shared::cluster.b64")
            .section("mbarrier.arrive")
            .needs(8, 0, 90)
            .lit("_")
            .takes(&[SHARED]),
        Opcode::GridDepWait => row("griddepcontrol.wait")
            .section("griddepcontrol")
            .needs(7, 8, 90),
        Opcode::GridDepLaunch => row("griddepcontrol.launch_dependents")
            .section("griddepcontrol")
            .needs(7, 8, 90),

        Opcode::Nanosleep => row("nanosleep.u32")
            .section("nanosleep")
            .needs(6, 2, 70)
            .takes(&[U32]),
        Opcode::Trap => row("trap").section("trap"),
        Opcode::Exit => row("exit").section("exit"),
        Opcode::AssumeUniform => same("mov.pred", Ty::Pred, 1).section("mov"),
    }
}

/// Untyped suffix of the register a value of the type lives in.
fn ty_reg(ty: Ty) -> &'static str {
    if ty.bits() == 8 { "b16" } else { ty.ptx_bits() }
}

/// `neg` and `abs` know signed types only.
fn signed(ty: Ty) -> &'static str {
    match ty {
        Ty::U16 => "s16",
        Ty::U32 => "s32",
        Ty::U64 => "s64",
        ty => ty.ptx(),
    }
}

fn wide(ty: Ty) -> Ty {
    if ty.is_signed() { Ty::I64 } else { Ty::U64 }
}

fn bf16_arith(r: Row, ty: Ty) -> Row {
    if is_bf16(ty) { r.needs(7, 8, 90) } else { r }
}

fn bf16_ampere(r: Row, ty: Ty) -> Row {
    if is_bf16(ty) { r.needs(7, 0, 80) } else { r }
}

fn half_ampere(r: Row, ty: Ty) -> Row {
    if is_half(ty) { r.needs(7, 0, 80) } else { r }
}

fn strong(r: Row, o: Order) -> Row {
    if matches!(o, Order::Weak | Order::Volatile) {
        r
    } else {
        r.needs(6, 0, 70)
    }
}

/// The `.ftz` forms are single hardware operations; subnormal inputs and results become zero.
fn approx(f: Approx, ty: Ty) -> Row {
    let name = match f {
        Approx::Rcp => "rcp",
        Approx::Rsqrt => "rsqrt",
        Approx::Sqrt => "sqrt",
        Approx::Ex2 => "ex2",
        Approx::Lg2 => "lg2",
        Approx::Sin => "sin",
        Approx::Cos => "cos",
        Approx::Tanh => "tanh",
    };
    if ty == Ty::F32 && f != Approx::Tanh {
        same(format!("{name}.approx.ftz.f32"), ty, 1).section(name)
    } else {
        let r = same(format!("{name}.approx.{ty}"), ty, 1).section(name);
        if is_bf16(ty) {
            r.needs(7, 8, 90)
        } else {
            r.needs(7, 0, 75)
        }
    }
}

fn convert(to: Ty, from: Ty, round: Round, sat: bool) -> Row {
    let round = match round {
        Round::None => "",
        Round::Rn => ".rn",
        Round::Rz => ".rz",
        Round::Rni => ".rni",
        Round::Rzi => ".rzi",
        Round::Rmi => ".rmi",
        Round::Rpi => ".rpi",
    };
    let sat = if sat { ".sat" } else { "" };
    let r = row(format!("cvt{round}{sat}.{to}.{from}"))
        .section("cvt")
        .to(one(to))
        .takes(&[Slot::Is(from)]);
    match (to, from) {
        (Ty::Bf16, Ty::F32) => r.needs(7, 0, 80),
        _ if is_bf16(to) || is_bf16(from) => r.needs(7, 8, 90),
        _ => r,
    }
}

fn matrix(name: &str, num: u8, trans: bool) -> String {
    let trans = if trans { ".trans" } else { "" };
    format!("{name}.sync.aligned.m8n8.x{num}{trans}.shared.b16")
}

fn mma(m: Mma) -> Row {
    let (shape, types, major, minor, capability) = match m {
        Mma::M16n8k16F16 => ("m16n8k16", "f32.f16.f16.f32".to_owned(), 7, 0, 80),
        Mma::M16n8k16Bf16 => ("m16n8k16", "f32.bf16.bf16.f32".to_owned(), 7, 0, 80),
        Mma::M16n8k8F16 => ("m16n8k8", "f32.f16.f16.f32".to_owned(), 6, 5, 75),
        Mma::M16n8k8Tf32 => ("m16n8k8", "f32.tf32.tf32.f32".to_owned(), 7, 0, 80),
        Mma::M16n8k32Int8 { a_signed, b_signed } => (
            "m16n8k32",
            format!("s32.{}.{}.s32", int8(a_signed), int8(b_signed)),
            7,
            0,
            80,
        ),
        Mma::M8n8k16Int8 { a_signed, b_signed } => (
            "m8n8k16",
            format!("s32.{}.{}.s32", int8(a_signed), int8(b_signed)),
            6,
            5,
            75,
        ),
    };
    let (a, b, c) = m.fragments();
    let acc = Slot::Is(m.accumulator());
    row(format!("mma.sync.aligned.{shape}.row.col.{types}"))
        .section("mma")
        .needs(major, minor, capability)
        .to(Group::Many(acc, c))
        .from(Group::Many(U32, a))
        .from(Group::Many(U32, b))
        .from(Group::Many(acc, c))
}

/// Signs and transpositions are printed where the type has them.
fn wgmma(m: Wgmma) -> Row {
    let (ty, acc) = (m.ty.ptx(), m.accumulator());
    let shape = format!("m64n{}k{}", m.n, m.k());
    let r = row(format!(
        "wgmma.mma_async.sync.aligned.{shape}.{acc}.{ty}.{ty}"
    ))
    .section("wgmma.mma_async")
    .hopper_only()
    .to(Group::Many(Slot::Is(acc), m.accumulators()));
    let r = match m.a {
        WgmmaA::Registers => r.from(Group::Many(U32, 4)),
        WgmmaA::Shared { .. } => r.takes(&[Slot::Is(Ty::U64)]),
    };
    let mut r = r.takes(&[Slot::Is(Ty::U64), PRED]);
    if m.ty != WgmmaType::S8 {
        let sign = |negate| if negate { "-1" } else { "1" };
        r = r.lit(sign(m.negate_a)).lit(sign(m.negate_b));
    }
    if m.ty.bytes() == 2 {
        let bit = |set: bool| u32::from(set).to_string();
        if let WgmmaA::Shared { transpose } = m.a {
            r = r.lit(bit(transpose));
        }
        r = r.lit(bit(m.transpose_b));
    }
    r.from(Group::Again(Slot::Is(acc), m.accumulators()))
}
