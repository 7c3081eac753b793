//! The race detector: what it must report, and correct programs that it must leave alone.

use gannet_ptx_gen::interp::{Fault, FaultKind, InterpStats, LaunchArg, Memory, Options};
use gannet_ptx_gen::ir::{Imm, Operand, Reg, Ty};
use gannet_ptx_gen::op::{Cache, Cmp, Opcode, Order, Rmw, Scope, Space};

use crate::asm::{Asm, at, in_shared, with_options};

const U32: Ty = Ty::U32;

fn ld(ty: Ty) -> Opcode {
    let cache = Cache::default();
    Opcode::Ld {
        space: Space::Shared,
        ty,
        vec: 1,
        order: Order::Weak,
        cache,
    }
}

fn st(ty: Ty) -> Opcode {
    Opcode::St {
        space: Space::Shared,
        ty,
        vec: 1,
        order: Order::Weak,
    }
}

fn verdict(a: Asm, args: &[u64], memory: &Memory) -> Result<InterpStats, Fault> {
    let args: Vec<LaunchArg> = args.iter().map(|a| LaunchArg::U64(*a)).collect();
    with_options(&a.finish(), &args, memory, &Options::default())
}

fn raced(outcome: Result<InterpStats, Fault>) -> bool {
    match outcome {
        Ok(_) => false,
        Err(fault) if matches!(*fault.kind, FaultKind::Race { .. }) => true,
        Err(fault) => panic!("{fault}"),
    }
}

/// The address of word `tid ^ flip` of a shared array.
fn cell(a: &mut Asm, array: u32, tid: Reg, flip: u32) -> Reg {
    let base = a.get(Opcode::SharedAddress, U32, &[in_shared(array, 0)]);
    let index = a.get(
        Opcode::Xor { ty: U32 },
        U32,
        &[tid.into(), Imm::u32(flip).into()],
    );
    a.get(
        Opcode::MadLo { ty: U32 },
        U32,
        &[index.into(), Imm::u32(4).into(), base.into()],
    )
}

/// Every thread stores a word, `sync` happens, every thread loads the word of thread `tid ^ flip`.
fn exchange(flip: u32, sync: Option<(Opcode, Vec<Operand>)>) -> bool {
    let mut a = Asm::new(64);
    let s = a.shared(256);
    let tid = a.tid();
    let (mine, other) = (cell(&mut a, s, tid, 0), cell(&mut a, s, tid, flip));
    a.emit(st(U32), &[], &[at(mine, 0), tid.into()]);
    if let Some((op, src)) = sync {
        a.emit(op, &[], &src);
    }
    a.get(ld(U32), U32, &[at(other, 0)]);
    let options = Options {
        track_shared: false,
        ..Options::default()
    };
    raced(with_options(&a.finish(), &[], &Memory::new(), &options))
}

#[test]
fn only_a_block_barrier_orders_warps() {
    let warp_sync = || Some((Opcode::BarWarpSync, vec![Imm::u32(u32::MAX).into()]));
    assert!(exchange(32, None));
    assert!(exchange(32, warp_sync()));
    assert!(!exchange(32, Some((Opcode::BarSync, vec![]))));
    // Within a warp, lockstep is no order.
    assert!(exchange(1, None));
    assert!(!exchange(1, warp_sync()));
    assert!(!exchange(0, None), "a thread is ordered with itself");
}

#[test]
fn a_race_names_both_lines() {
    let mut a = Asm::new(64);
    let s = a.shared(256);
    let tid = a.tid();
    let (mine, other) = (cell(&mut a, s, tid, 0), cell(&mut a, s, tid, 32));
    a.emit(st(U32), &[], &[at(mine, 0), tid.into()]);
    let stored = line!() - 1;
    a.emit(st(U32), &[], &[at(other, 0), tid.into()]);
    let fault = verdict(a, &[], &Memory::new()).expect_err("a race");
    let text = fault.to_string();
    assert!(text.contains(&format!("races.rs:{stored}")), "{text}");
    assert!(text.contains(&format!("races.rs:{}", stored + 2)), "{text}");
}

/// Two rounds of write, barrier, read; `second` adds the barrier that the reuse of the array needs.
fn reuse(second: bool) -> bool {
    let mut a = Asm::new(64);
    let s = a.shared(256);
    let tid = a.tid();
    let (mine, other) = (cell(&mut a, s, tid, 0), cell(&mut a, s, tid, 32));
    let i = a.var(U32, Imm::u32(0));
    a.repeat(|a| {
        a.emit(st(U32), &[], &[at(mine, 0), tid.into()]);
        a.emit(Opcode::BarSync, &[], &[]);
        a.get(ld(U32), U32, &[at(other, 0)]);
        if second {
            a.emit(Opcode::BarSync, &[], &[]);
        }
        a.emit(
            Opcode::Add { ty: U32 },
            &[i],
            &[i.into(), Imm::u32(1).into()],
        );
        a.get(
            Opcode::Setp {
                cmp: Cmp::Lt,
                ty: U32,
            },
            Ty::Pred,
            &[i.into(), Imm::u32(3).into()],
        )
    });
    raced(verdict(a, &[], &Memory::new()))
}

#[test]
fn a_tile_may_not_be_overwritten_while_others_read_it() {
    assert!(reuse(false));
    assert!(!reuse(true));
}

#[test]
fn neighbouring_halves_are_not_one_cell() {
    let mut a = Asm::new(64);
    let s = a.shared(128);
    let tid = a.tid();
    let base = a.get(Opcode::SharedAddress, U32, &[in_shared(s, 0)]);
    let mine = a.get(
        Opcode::MadLo { ty: U32 },
        U32,
        &[tid.into(), Imm::u32(2).into(), base.into()],
    );
    let half = Operand::Imm(Imm {
        ty: Ty::U16,
        bits: 7,
    });
    a.emit(st(Ty::U16), &[], &[at(mine, 0), half]);
    a.get(ld(Ty::U16), Ty::U16, &[at(mine, 0)]);
    assert!(!raced(verdict(a, &[], &Memory::new())));
}

/// All threads add to a counter that thread 0 has set.
fn count(barrier: bool) -> bool {
    let mut a = Asm::new(64);
    let s = a.shared(4);
    let tid = a.tid();
    let first = a.get(
        Opcode::Setp {
            cmp: Cmp::Eq,
            ty: U32,
        },
        Ty::Pred,
        &[tid.into(), Imm::u32(0).into()],
    );
    a.emit_if(
        Some((first, true)),
        st(U32),
        &[],
        &[in_shared(s, 0), Imm::u32(0).into()],
    );
    if barrier {
        a.emit(Opcode::BarSync, &[], &[]);
    }
    let order = Order::Relaxed(Scope::Cta);
    let add = Opcode::Red {
        space: Space::Shared,
        f: Rmw::Add,
        ty: U32,
        order,
    };
    a.emit(add, &[], &[in_shared(s, 0), Imm::u32(1).into()]);
    a.emit(add, &[], &[in_shared(s, 0), Imm::u32(1).into()]);
    raced(verdict(a, &[], &Memory::new()))
}

#[test]
fn atomics_do_not_race_with_each_other() {
    assert!(!count(true));
    assert!(count(false));
}

#[test]
fn a_copy_in_flight_may_not_be_read() {
    for (waits, sync) in [(false, true), (true, false), (true, true)] {
        let mut a = Asm::new(32);
        let input = a.pointer();
        let s = a.shared(128);
        let tid = a.tid();
        let (mine, other) = (cell(&mut a, s, tid, 0), cell(&mut a, s, tid, 1));
        let from = a.element(input, tid);
        let copy = Opcode::CpAsync {
            bytes: 4,
            bypass_l1: false,
        };
        a.emit(copy, &[], &[at(mine, 0), at(from, 0), Imm::u32(4).into()]);
        a.emit(Opcode::CpAsyncCommit, &[], &[]);
        if waits {
            a.emit(Opcode::CpAsyncWait { pending: 0 }, &[], &[]);
        }
        if sync {
            a.emit(Opcode::BarSync, &[], &[]);
        }
        a.get(ld(U32), U32, &[at(other, 0)]);
        let mut memory = Memory::new();
        let input = memory.alloc_zeroed(128);
        // Without tracking: the race itself must be seen.
        let options = Options {
            track_shared: false,
            ..Options::default()
        };
        let outcome = with_options(&a.finish(), &[LaunchArg::U64(input)], &memory, &options);
        assert_eq!(
            raced(outcome),
            !(waits && sync),
            "wait {waits}, barrier {sync}"
        );
    }
}

/// A ring of one stage: warp 0 fills it by bulk copies, warp 1 sums it, `rounds` times.
fn ring(waits_for_empty: bool, init_barrier: bool) -> Result<Vec<u32>, Fault> {
    let rounds = 4;
    let mut a = Asm::new(64);
    let (input, output) = (a.pointer(), a.pointer());
    let (data, full, empty) = (a.shared(128), a.shared(8), a.shared(8));
    let tid = a.tid();
    let first = a.get(
        Opcode::Setp {
            cmp: Cmp::Eq,
            ty: U32,
        },
        Ty::Pred,
        &[tid.into(), Imm::u32(0).into()],
    );
    let producer = a.get(
        Opcode::Setp {
            cmp: Cmp::Lt,
            ty: U32,
        },
        Ty::Pred,
        &[tid.into(), Imm::u32(32).into()],
    );
    a.emit_if(
        Some((first, true)),
        Opcode::MbarrierInit,
        &[],
        &[in_shared(full, 0), Imm::u32(1).into()],
    );
    a.emit_if(
        Some((first, true)),
        Opcode::MbarrierInit,
        &[],
        &[in_shared(empty, 0), Imm::u32(32).into()],
    );
    if init_barrier {
        a.emit(Opcode::BarSync, &[], &[]);
    }
    let wait = |a: &mut Asm, barrier, parity: Reg| {
        a.repeat(|a| {
            let done = a.get(
                Opcode::MbarrierTryWait,
                Ty::Pred,
                &[in_shared(barrier, 0), parity.into()],
            );
            a.get(Opcode::Not { ty: Ty::Pred }, Ty::Pred, &[done.into()])
        });
    };
    let rounds_of = |a: &mut Asm, body: &dyn Fn(&mut Asm, Reg)| {
        let i = a.var(U32, Imm::u32(0));
        a.repeat(|a| {
            body(a, i);
            a.emit(
                Opcode::Add { ty: U32 },
                &[i],
                &[i.into(), Imm::u32(1).into()],
            );
            a.get(
                Opcode::Setp {
                    cmp: Cmp::Lt,
                    ty: U32,
                },
                Ty::Pred,
                &[i.into(), Imm::u32(rounds).into()],
            )
        });
    };
    let sum = a.var(U32, Imm::u32(0));
    let mine = cell(&mut a, data, tid, 32);
    a.if_else(
        producer,
        |a| {
            rounds_of(a, &|a, i| {
                let flipped = a.get(
                    Opcode::Xor { ty: U32 },
                    U32,
                    &[i.into(), Imm::u32(1).into()],
                );
                let parity = a.get(
                    Opcode::And { ty: U32 },
                    U32,
                    &[flipped.into(), Imm::u32(1).into()],
                );
                if waits_for_empty {
                    wait(a, empty, parity);
                }
                let guard = Some((first, true));
                let bytes: Operand = Imm::u32(128).into();
                a.emit_if(
                    guard,
                    Opcode::MbarrierArriveExpectTx,
                    &[],
                    &[in_shared(full, 0), bytes],
                );
                let from = a.get(
                    Opcode::MadWide { ty: U32 },
                    Ty::U64,
                    &[i.into(), bytes, input.into()],
                );
                let copy = [in_shared(data, 0), at(from, 0), bytes, in_shared(full, 0)];
                a.emit_if(guard, Opcode::CpAsyncBulk, &[], &copy);
            });
        },
        |a| {
            rounds_of(a, &|a, i| {
                let parity = a.get(
                    Opcode::And { ty: U32 },
                    U32,
                    &[i.into(), Imm::u32(1).into()],
                );
                wait(a, full, parity);
                let x = a.get(ld(U32), U32, &[at(mine, 0)]);
                a.emit(Opcode::Add { ty: U32 }, &[sum], &[sum.into(), x.into()]);
                a.emit(Opcode::MbarrierArrive, &[], &[in_shared(empty, 0)]);
            });
            let to = a.element(output, tid);
            a.store(U32, to, -128, sum);
        },
    );
    let mut memory = Memory::new();
    let values: Vec<u32> = (0..32 * rounds).collect();
    let (input, output) = (memory.alloc_from(&values), memory.alloc(128));
    verdict(a, &[input, output], &memory)?;
    memory.read(output, 32)
}

#[test]
fn a_ring_of_bulk_copies_is_ordered_by_its_mbarriers() {
    let expected: Vec<u32> = (0..32).map(|l| 4 * l + 32 * 6).collect();
    assert_eq!(ring(true, true).expect("no fault"), expected);
    let overrun = ring(false, true).expect_err("a fault");
    assert!(
        matches!(
            *overrun.kind,
            FaultKind::Race { .. } | FaultKind::Protocol(_)
        ),
        "{overrun}"
    );
    let early = ring(true, false).expect_err("a fault");
    assert!(
        matches!(*early.kind, FaultKind::Race { .. } | FaultKind::Protocol(_)),
        "{early}"
    );
}
