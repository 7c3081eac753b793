//! The list of instruction forms: every [`Op`] with its fields run through the values that change its spelling.
//!
//! The one list that tests of the instruction table work from; a new instruction adds its forms here. A test holds
//! it to naming every variant of [`Op`].

use std::collections::HashSet;

use crate::ir::Ty;
use crate::op::{
    Approx, Cache, Cmp, Fence, Mma, Op, Order, Rmw, Round, Scope, Shfl, Space, Special, Vote,
};

const INTS: [Ty; 6] = [Ty::U16, Ty::I16, Ty::U32, Ty::I32, Ty::U64, Ty::I64];
const FLOATS: [Ty; 6] = [Ty::F16, Ty::Bf16, Ty::F32, Ty::F64, Ty::F16x2, Ty::Bf16x2];
const SCOPES: [Scope; 3] = [Scope::Cta, Scope::Gpu, Scope::Sys];

/// Every instruction form, with its fields run through the values that change its spelling.
#[must_use]
pub fn forms() -> Vec<Op> {
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
    ops.extend([Op::SharedAddress, Op::CvtaToGlobal]);
    for ty in [Ty::U32, Ty::I32, Ty::U64, Ty::I64, Ty::F32, Ty::F64] {
        ops.push(Op::LoadParam { ty });
    }
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
        Op::BarSyncN { id: 1, threads: 64 },
        Op::BarArrive { id: 1, threads: 64 },
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
    // The runs above overlap where two fields take their usual values.
    let mut seen = HashSet::new();
    ops.retain(|op| seen.insert(*op));
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
