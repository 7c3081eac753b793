//! The list of instruction forms: every [`Opcode`] with its fields run through the values that change its spelling.
//!
//! The one list that tests of the instruction table work from; a new instruction adds its forms here. A test holds
//! it to naming every variant of [`Opcode`].

use std::collections::HashSet;

use crate::ir::Ty;
use crate::op::{
    Approx, Cache, Cmp, Fence, Mma, Opcode, Order, Rmw, Round, Scope, Shfl, Space, Special, Vote,
};

const INTS: [Ty; 6] = [Ty::U16, Ty::I16, Ty::U32, Ty::I32, Ty::U64, Ty::I64];
const FLOATS: [Ty; 6] = [Ty::F16, Ty::Bf16, Ty::F32, Ty::F64, Ty::F16x2, Ty::Bf16x2];
const SCOPES: [Scope; 3] = [Scope::Cta, Scope::Gpu, Scope::Sys];

/// Every instruction form, with its fields run through the values that change its spelling.
#[must_use]
pub fn forms() -> Vec<Opcode> {
    let mut ops = Vec::new();
    let all = || INTS.into_iter().chain(FLOATS);
    for ty in all().chain([Ty::Pred, Ty::U8]) {
        ops.push(Opcode::Mov { ty });
    }
    for axis in 0..3 {
        ops.extend(
            [
                Special::Tid(axis),
                Special::Ntid(axis),
                Special::Ctaid(axis),
                Special::Nctaid(axis),
            ]
            .map(Opcode::Special),
        );
    }
    ops.extend(
        [
            Special::Laneid,
            Special::Warpid,
            Special::Smid,
            Special::Clock,
            Special::GlobalTimer,
            Special::ClusterRank,
            Special::ClusterSize,
        ]
        .map(Opcode::Special),
    );
    ops.extend([Opcode::SharedAddress, Opcode::CvtaToGlobal]);
    for ty in [Ty::U32, Ty::I32, Ty::U64, Ty::I64, Ty::F32, Ty::F64] {
        ops.push(Opcode::LoadParam { ty });
    }
    ops.extend([
        Opcode::Pack2x16,
        Opcode::Unpack2x16,
        Opcode::Pack2x32,
        Opcode::Unpack2x32,
    ]);
    for ty in all() {
        ops.extend([
            Opcode::Add { ty },
            Opcode::Sub { ty },
            Opcode::Mul { ty },
            Opcode::Min { ty },
            Opcode::Max { ty },
        ]);
        ops.extend([Opcode::Neg { ty }, Opcode::Abs { ty }]);
    }
    for ty in INTS {
        ops.extend([
            Opcode::MulHi { ty },
            Opcode::MadLo { ty },
            Opcode::Div { ty },
            Opcode::Rem { ty },
        ]);
        ops.extend([
            Opcode::And { ty },
            Opcode::Or { ty },
            Opcode::Xor { ty },
            Opcode::Not { ty },
            Opcode::Shl { ty },
            Opcode::Shr { ty },
        ]);
    }
    for ty in [Ty::U32, Ty::I32] {
        ops.extend([Opcode::MulWide { ty }, Opcode::MadWide { ty }]);
    }
    for ty in [Ty::U32, Ty::I32, Ty::U64, Ty::I64] {
        ops.extend([
            Opcode::Bfe { ty },
            Opcode::Bfi { ty },
            Opcode::Popc { ty },
            Opcode::Clz { ty },
        ]);
    }
    for ty in [Ty::F32, Ty::F64] {
        ops.extend([
            Opcode::Div { ty },
            Opcode::SqrtRn { ty },
            Opcode::RcpRn { ty },
        ]);
    }
    ops.extend(FLOATS.map(|ty| Opcode::Fma { ty }));
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
        ops.push(Opcode::Approx { f, ty: Ty::F32 });
    }
    for f in [Approx::Ex2, Approx::Tanh] {
        ops.extend([Ty::F16, Ty::F16x2].map(|ty| Opcode::Approx { f, ty }));
    }
    let ty = Ty::Pred;
    ops.extend([
        Opcode::DivFull,
        Opcode::And { ty },
        Opcode::Or { ty },
        Opcode::Xor { ty },
        Opcode::Not { ty },
    ]);
    ops.extend([
        Opcode::Lop3 { lut: 0x96 },
        Opcode::Prmt,
        Opcode::Shf { left: true },
        Opcode::Shf { left: false },
    ]);
    for (a_signed, b_signed) in [(false, false), (false, true), (true, false), (true, true)] {
        ops.push(Opcode::Dp4a { a_signed, b_signed });
        ops.push(Opcode::Mma(Mma::M16n8k32Int8 { a_signed, b_signed }));
        ops.push(Opcode::Mma(Mma::M8n8k16Int8 { a_signed, b_signed }));
    }
    for cmp in [Cmp::Lt, Cmp::Le, Cmp::Eq, Cmp::Ne, Cmp::Ge, Cmp::Gt] {
        ops.extend(
            INTS.into_iter()
                .chain([Ty::F16, Ty::Bf16, Ty::F32, Ty::F64])
                .map(|ty| Opcode::Setp { cmp, ty }),
        );
    }
    ops.extend(all().chain([Ty::U8]).map(|ty| Opcode::Selp { ty }));
    ops.extend(conversions());
    ops.extend([
        Opcode::CvtPack { ty: Ty::F16x2 },
        Opcode::CvtPack { ty: Ty::Bf16x2 },
    ]);
    ops.extend(memory());
    ops.extend(SCOPES.map(|s| Opcode::Fence(Fence::Membar(s))));
    ops.extend(SCOPES.map(|s| Opcode::Fence(Fence::AcqRel(s))));
    ops.extend([
        Opcode::Fence(Fence::ProxyAsync),
        Opcode::Fence(Fence::MbarrierInit),
        Opcode::PrefetchL2,
    ]);
    ops.extend([
        Opcode::BarSync,
        Opcode::BarSyncN { id: 1, threads: 64 },
        Opcode::BarArrive { id: 1, threads: 64 },
        Opcode::BarWarpSync,
    ]);
    for mode in [Shfl::Up, Shfl::Down, Shfl::Bfly, Shfl::Idx] {
        ops.extend([Ty::U32, Ty::F32, Ty::F16x2].map(|ty| Opcode::Shfl { mode, ty }));
    }
    ops.extend([Vote::All, Vote::Any, Vote::Ballot].map(|f| Opcode::Vote { f }));
    for f in [Rmw::Add, Rmw::Min, Rmw::Max, Rmw::And, Rmw::Or, Rmw::Xor] {
        ops.extend([Ty::U32, Ty::I32].map(|ty| Opcode::Redux { f, ty }));
    }
    ops.extend([
        Opcode::MatchAny,
        Opcode::ActiveMask,
        Opcode::ElectSync,
        Opcode::Movmatrix,
    ]);
    ops.extend(
        [
            Mma::M16n8k16F16,
            Mma::M16n8k16Bf16,
            Mma::M16n8k8F16,
            Mma::M16n8k8Tf32,
        ]
        .map(Opcode::Mma),
    );
    for num in [1, 2, 4] {
        for trans in [false, true] {
            ops.extend([
                Opcode::Ldmatrix { num, trans },
                Opcode::Stmatrix { num, trans },
            ]);
        }
    }
    for (bytes, bypass_l1) in [(4, false), (8, false), (16, false), (16, true)] {
        ops.push(Opcode::CpAsync { bytes, bypass_l1 });
    }
    ops.extend([
        Opcode::CpAsyncCommit,
        Opcode::CpAsyncWait { pending: 1 },
        Opcode::CpAsyncBulk,
        Opcode::CpAsyncBulkStore,
        Opcode::CpAsyncBulkCommit,
        Opcode::CpAsyncBulkWait {
            pending: 1,
            read: false,
        },
        Opcode::CpAsyncBulkWait {
            pending: 0,
            read: true,
        },
    ]);
    ops.extend([
        Opcode::MbarrierInit,
        Opcode::MbarrierInval,
        Opcode::MbarrierArrive,
        Opcode::MbarrierArriveExpectTx,
    ]);
    ops.extend([
        Opcode::MbarrierTryWait,
        Opcode::MbarrierTestWait,
        Opcode::GridDepWait,
        Opcode::GridDepLaunch,
    ]);
    ops.extend([
        Opcode::Nanosleep,
        Opcode::Trap,
        Opcode::Exit,
        Opcode::AssumeUniform,
    ]);
    ops.extend(super::warpgroup::forms());
    // The runs above overlap where two fields take their usual values.
    let mut seen = HashSet::new();
    ops.retain(|op| seen.insert(*op));
    ops
}

fn conversions() -> Vec<Opcode> {
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
                ops.push(Opcode::Cvt {
                    to,
                    from,
                    round: *round,
                    sat: false,
                });
                if narrows(to, from) {
                    ops.push(Opcode::Cvt {
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

fn memory() -> Vec<Opcode> {
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
                ops.push(Opcode::St {
                    space,
                    ty,
                    vec,
                    order: Order::Weak,
                });
                ops.push(Opcode::Ld {
                    space,
                    ty,
                    vec,
                    order: Order::Weak,
                    cache: Cache::default(),
                });
                if space == Space::Global {
                    ops.extend([streaming, read_only].map(|cache| Opcode::Ld {
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
        let ld = |order| Opcode::Ld {
            space,
            ty,
            vec: 1,
            order,
            cache: Cache::default(),
        };
        let st = |order| Opcode::St {
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
                ops.push(Opcode::Atom {
                    space,
                    f: Rmw::Add,
                    ty,
                    order,
                });
            }
            ops.extend(
                [Order::Relaxed(s), Order::Release(s)].map(|order| Opcode::Red {
                    space,
                    f: Rmw::Add,
                    ty,
                    order,
                }),
            );
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
                ops.push(Opcode::Atom {
                    space,
                    f,
                    ty,
                    order,
                });
                if !matches!(f, Rmw::Exch | Rmw::Cas) {
                    ops.push(Opcode::Red {
                        space,
                        f,
                        ty,
                        order,
                    });
                }
            }
        }
        ops.extend([
            Opcode::Atom {
                space,
                f: Rmw::Add,
                ty: Ty::F32,
                order,
            },
            Opcode::Red {
                space,
                f: Rmw::Add,
                ty: Ty::F32,
                order,
            },
        ]);
    }
    ops
}
