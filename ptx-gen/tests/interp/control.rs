//! Divergence, loops, exits, barriers and blocks that wait for each other.

use gannet_ptx_gen::interp::{LaunchArg, Memory, Options, launch};
use gannet_ptx_gen::ir::{Imm, Operand, Ty};
use gannet_ptx_gen::op::{Cache, Cmp, Opcode, Order, Rmw, Scope, Space, Special};

use crate::asm::{Asm, at, in_shared, run};

const U32: Ty = Ty::U32;

/// Runs a kernel whose thread `i` writes word `i`, on one block.
pub(crate) fn outputs(a: Asm, extra: &[u64], threads: u32) -> Vec<u32> {
    let kernel = a.finish();
    let mut memory = Memory::new();
    let out = memory.alloc(4 * u64::from(threads));
    let args: Vec<u64> = [out].iter().chain(extra).copied().collect();
    run(&kernel, &args, &memory).expect("no fault");
    memory.read(out, threads as usize).expect("in bounds")
}

#[test]
fn nested_branches_in_a_loop_of_uneven_length() {
    // acc = 0; i = 0; do { if tid & 1 { if i & 1 { acc += 10 } else { acc += 1 } } else { acc += 100 }; i++ }
    // while i <= tid
    let mut a = Asm::new(40);
    let out = a.pointer();
    let tid = a.tid();
    let acc = a.var(U32, Imm::u32(0));
    let i = a.var(U32, Imm::u32(0));
    let low = a.get(
        Opcode::And { ty: U32 },
        U32,
        &[tid.into(), Imm::u32(1).into()],
    );
    let odd = a.get(
        Opcode::Setp {
            cmp: Cmp::Ne,
            ty: U32,
        },
        Ty::Pred,
        &[low.into(), Imm::u32(0).into()],
    );
    let add = |a: &mut Asm, to, n| {
        a.emit(
            Opcode::Add { ty: U32 },
            &[to],
            &[to.into(), Imm::u32(n).into()],
        )
    };
    a.repeat(|a| {
        a.if_else(
            odd,
            |a| {
                let low = a.get(
                    Opcode::And { ty: U32 },
                    U32,
                    &[i.into(), Imm::u32(1).into()],
                );
                let odd = a.get(
                    Opcode::Setp {
                        cmp: Cmp::Ne,
                        ty: U32,
                    },
                    Ty::Pred,
                    &[low.into(), Imm::u32(0).into()],
                );
                a.if_else(odd, |a| add(a, acc, 10), |a| add(a, acc, 1));
            },
            |a| add(a, acc, 100),
        );
        add(a, i, 1);
        a.get(
            Opcode::Setp {
                cmp: Cmp::Le,
                ty: U32,
            },
            Ty::Pred,
            &[i.into(), tid.into()],
        )
    });
    let address = a.element(out, tid);
    a.store(U32, address, 0, acc);
    let expected: Vec<u32> = (0..40u32)
        .map(|t| {
            if t % 2 == 0 {
                100 * (t + 1)
            } else {
                t.div_ceil(2) * 11
            }
        })
        .collect();
    assert_eq!(outputs(a, &[], 40), expected);
}

#[test]
fn exited_threads_stay_out_and_barriers_do_not_wait_for_them() {
    let mut a = Asm::new(96);
    let out = a.pointer();
    let tid = a.tid();
    let address = a.element(out, tid);
    a.store(U32, address, 0, Imm::u32(1));
    // The last warp leaves whole.
    let gone = a.get(
        Opcode::Setp {
            cmp: Cmp::Ge,
            ty: U32,
        },
        Ty::Pred,
        &[tid.into(), Imm::u32(64).into()],
    );
    a.emit_if(Some((gone, true)), Opcode::Exit, &[], &[]);
    a.emit(Opcode::BarSync, &[], &[]);
    // Odd threads leave inside a branch.
    let low = a.get(
        Opcode::And { ty: U32 },
        U32,
        &[tid.into(), Imm::u32(1).into()],
    );
    let odd = a.get(
        Opcode::Setp {
            cmp: Cmp::Eq,
            ty: U32,
        },
        Ty::Pred,
        &[low.into(), Imm::u32(1).into()],
    );
    a.if_else(odd, |a| a.emit(Opcode::Exit, &[], &[]), |_| {});
    a.store(U32, address, 0, Imm::u32(2));
    let expected: Vec<u32> = (0..96)
        .map(|t| if t < 64 && t % 2 == 0 { 2 } else { 1 })
        .collect();
    assert_eq!(outputs(a, &[], 96), expected);
}

#[test]
fn block_reduction_through_shared_memory() {
    // Tree reduction of tid over 256 threads, one barrier a level.
    let mut a = Asm::new(256);
    let out = a.pointer();
    let s = a.shared(1024);
    let tid = a.tid();
    let base = a.get(Opcode::SharedAddress, U32, &[in_shared(s, 0)]);
    let mine = a.get(
        Opcode::MadLo { ty: U32 },
        U32,
        &[tid.into(), Imm::u32(4).into(), base.into()],
    );
    let st = Opcode::St {
        space: Space::Shared,
        ty: U32,
        vec: 1,
        order: Order::Weak,
    };
    let ld = Opcode::Ld {
        space: Space::Shared,
        ty: U32,
        vec: 1,
        order: Order::Weak,
        cache: Cache::default(),
    };
    a.emit(st, &[], &[at(mine, 0), tid.into()]);
    let step = a.var(U32, Imm::u32(128));
    a.repeat(|a| {
        a.emit(Opcode::BarSync, &[], &[]);
        let active = a.get(
            Opcode::Setp {
                cmp: Cmp::Lt,
                ty: U32,
            },
            Ty::Pred,
            &[tid.into(), step.into()],
        );
        a.if_else(
            active,
            |a| {
                let other = a.get(
                    Opcode::MadLo { ty: U32 },
                    U32,
                    &[step.into(), Imm::u32(4).into(), mine.into()],
                );
                let x = a.get(ld, U32, &[at(mine, 0)]);
                let y = a.get(ld, U32, &[at(other, 0)]);
                let sum = a.get(Opcode::Add { ty: U32 }, U32, &[x.into(), y.into()]);
                a.emit(st, &[], &[at(mine, 0), sum.into()]);
            },
            |_| {},
        );
        a.emit(
            Opcode::Shr { ty: U32 },
            &[step],
            &[step.into(), Imm::u32(1).into()],
        );
        a.get(
            Opcode::Setp {
                cmp: Cmp::Gt,
                ty: U32,
            },
            Ty::Pred,
            &[step.into(), Imm::u32(0).into()],
        )
    });
    a.emit(Opcode::BarSync, &[], &[]);
    let total = a.get(ld, U32, &[in_shared(s, 0)]);
    let address = a.element(out, tid);
    a.store(U32, address, 0, total);
    assert_eq!(outputs(a, &[], 256), vec![255 * 128; 256]);
}

#[test]
fn producers_arrive_and_consumers_wait_at_a_named_barrier() {
    let mut a = Asm::new(64);
    let out = a.pointer();
    let s = a.shared(128);
    let tid = a.tid();
    let lane = a.get(Opcode::Special(Special::Laneid), U32, &[]);
    let base = a.get(Opcode::SharedAddress, U32, &[in_shared(s, 0)]);
    let cell = a.get(
        Opcode::MadLo { ty: U32 },
        U32,
        &[lane.into(), Imm::u32(4).into(), base.into()],
    );
    let consumer = a.get(
        Opcode::Setp {
            cmp: Cmp::Lt,
            ty: U32,
        },
        Ty::Pred,
        &[tid.into(), Imm::u32(32).into()],
    );
    let address = a.element(out, tid);
    a.if_else(
        consumer,
        |a| {
            a.emit(Opcode::BarSyncN { id: 1, threads: 64 }, &[], &[]);
            let ld = Opcode::Ld {
                space: Space::Shared,
                ty: U32,
                vec: 1,
                order: Order::Weak,
                cache: Cache::default(),
            };
            let x = a.get(ld, U32, &[at(cell, 0)]);
            a.store(U32, address, 0, x);
        },
        |a| {
            let st = Opcode::St {
                space: Space::Shared,
                ty: U32,
                vec: 1,
                order: Order::Weak,
            };
            a.emit(st, &[], &[at(cell, 0), tid.into()]);
            a.emit(Opcode::BarArrive { id: 1, threads: 64 }, &[], &[]);
            a.store(U32, address, 0, Imm::u32(0));
        },
    );
    let expected: Vec<u32> = (0..64).map(|t| if t < 32 { t + 32 } else { 0 }).collect();
    assert_eq!(outputs(a, &[], 64), expected);
}

#[test]
fn atomics_count_every_lane_and_blocks_may_wait_for_each_other() {
    // Each block adds its threads to word 0; then thread 0 of each spins until all blocks have.
    let blocks = 20;
    let mut a = Asm::new(64);
    let out = a.pointer();
    let add = Opcode::Red {
        space: Space::Global,
        f: Rmw::Add,
        ty: U32,
        order: Order::Relaxed(Scope::Gpu),
    };
    a.emit(add, &[], &[at(out, 0), Imm::u32(1).into()]);
    a.repeat(|a| {
        let order = Order::Acquire(Scope::Gpu);
        let ld = Opcode::Ld {
            space: Space::Global,
            ty: U32,
            vec: 1,
            order,
            cache: Cache::default(),
        };
        let seen = a.get(ld, U32, &[at(out, 0)]);
        a.get(
            Opcode::Setp {
                cmp: Cmp::Lt,
                ty: U32,
            },
            Ty::Pred,
            &[seen.into(), Imm::u32(64 * blocks).into()],
        )
    });
    a.emit(add, &[], &[at(out, 4), Imm::u32(1).into()]);
    let kernel = a.finish();
    let mut memory = Memory::new();
    let out = memory.alloc_zeroed(8);
    let stats = launch(
        &kernel,
        [blocks, 1, 1],
        &[LaunchArg::U64(out)],
        &memory,
        &Options::default(),
    )
    .expect("no fault");
    assert_eq!(stats.blocks, u64::from(blocks));
    assert_eq!(
        memory.read::<u32>(out, 2).expect("in bounds"),
        [64 * blocks; 2]
    );
}

#[test]
fn a_seed_shuffles_the_warps_and_barriers_still_hold() {
    // The first lane of each warp takes a ticket; after a barrier every thread reads the number of tickets taken.
    let mut a = Asm::new(256);
    let out = a.pointer();
    let s = a.shared(4);
    let tid = a.tid();
    let lane = a.get(Opcode::Special(Special::Laneid), U32, &[]);
    let zero = |a: &mut Asm, x| {
        let test = Opcode::Setp {
            cmp: Cmp::Eq,
            ty: U32,
        };
        a.get(test, Ty::Pred, &[Operand::Reg(x), Imm::u32(0).into()])
    };
    let (thread_0, lane_0) = (zero(&mut a, tid), zero(&mut a, lane));
    let st = Opcode::St {
        space: Space::Shared,
        ty: U32,
        vec: 1,
        order: Order::Weak,
    };
    a.emit_if(
        Some((thread_0, true)),
        st,
        &[],
        &[in_shared(s, 0), Imm::u32(0).into()],
    );
    a.emit(Opcode::BarSync, &[], &[]);
    let order = Order::Relaxed(Scope::Cta);
    let take = Opcode::Atom {
        space: Space::Shared,
        f: Rmw::Add,
        ty: U32,
        order,
    };
    let ticket = a.var(U32, Imm::u32(0));
    a.emit_if(
        Some((lane_0, true)),
        take,
        &[ticket],
        &[in_shared(s, 0), Imm::u32(1).into()],
    );
    a.emit(Opcode::BarSync, &[], &[]);
    let ld = Opcode::Ld {
        space: Space::Shared,
        ty: U32,
        vec: 1,
        order: Order::Weak,
        cache: Cache::default(),
    };
    let taken = a.get(ld, U32, &[in_shared(s, 0)]);
    let address = a.element(out, tid);
    a.store(U32, address, 0, taken);
    let store = Opcode::St {
        space: Space::Global,
        ty: U32,
        vec: 1,
        order: Order::Weak,
    };
    a.emit_if(
        Some((lane_0, true)),
        store,
        &[],
        &[at(address, 1024), ticket.into()],
    );
    let kernel = a.finish();
    let tickets = |shuffle| {
        let mut memory = Memory::new();
        let out = memory.alloc(2048);
        let options = Options {
            shuffle,
            ..Options::default()
        };
        launch(
            &kernel,
            [1, 1, 1],
            &[LaunchArg::U64(out)],
            &memory,
            &options,
        )
        .expect("no fault");
        let words: Vec<u32> = memory.read(out, 512).expect("in bounds");
        assert_eq!(words[..256], [8; 256]);
        words[256..].iter().copied().step_by(32).collect::<Vec<_>>()
    };
    assert_eq!(tickets(None), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(tickets(Some(1)), tickets(Some(1)), "reproducible");
    assert!((1..9).any(|seed| tickets(Some(seed)) != tickets(None)));
}

#[test]
fn block_indices_cover_the_grid() {
    let mut a = Asm::new(1);
    let out = a.pointer();
    let mut index = a.get(Opcode::Special(Special::Ctaid(2)), U32, &[]);
    for axis in [1, 0] {
        let n = a.get(Opcode::Special(Special::Nctaid(axis)), U32, &[]);
        let at = a.get(Opcode::Special(Special::Ctaid(axis)), U32, &[]);
        index = a.get(
            Opcode::MadLo { ty: U32 },
            U32,
            &[index.into(), n.into(), at.into()],
        );
    }
    let address = a.element(out, index);
    a.store(U32, address, 0, index);
    let kernel = a.finish();
    let mut memory = Memory::new();
    let out = memory.alloc(4 * 30);
    launch(
        &kernel,
        [2, 3, 5],
        &[LaunchArg::U64(out)],
        &memory,
        &Options::default(),
    )
    .expect("no fault");
    assert_eq!(
        memory.read::<u32>(out, 30).expect("in bounds"),
        (0..30).collect::<Vec<u32>>()
    );
}
