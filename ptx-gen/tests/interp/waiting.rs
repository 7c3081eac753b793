//! Asynchronous copies: they arrive when they are waited for, and not before.

use gannet_ptx_gen::interp::{FaultKind, LaunchArg, Memory, Options};
use gannet_ptx_gen::ir::{Imm, Ty};
use gannet_ptx_gen::op::{Cache, Cmp, Opcode, Order, Space};

use crate::asm::{Asm, at, in_shared, run, with_options};

const LD_SHARED: Opcode = Opcode::Ld {
    space: Space::Shared,
    ty: Ty::U32,
    vec: 1,
    order: Order::Weak,
    cache: Cache {
        nc: false,
        no_allocate: false,
        l2_128: false,
    },
};

#[test]
fn copies_land_group_by_group() {
    // Two groups of 16 bytes a lane; after wait_group 1 only the first has landed.
    let mut a = Asm::new(32);
    let (input, output) = (a.pointer(), a.pointer());
    let s = a.shared(1024);
    let tid = a.tid();
    let base = a.get(Opcode::SharedAddress, Ty::U32, &[in_shared(s, 0)]);
    let cell = a.get(
        Opcode::MadLo { ty: Ty::U32 },
        Ty::U32,
        &[tid.into(), Imm::u32(16).into(), base.into()],
    );
    let from = a.get(
        Opcode::MadWide { ty: Ty::U32 },
        Ty::U64,
        &[tid.into(), Imm::u32(16).into(), input.into()],
    );
    let to = a.get(
        Opcode::MadWide { ty: Ty::U32 },
        Ty::U64,
        &[tid.into(), Imm::u32(16).into(), output.into()],
    );
    let copy = Opcode::CpAsync {
        bytes: 16,
        bypass_l1: true,
    };
    a.emit(copy, &[], &[at(cell, 0), at(from, 0), Imm::u32(16).into()]);
    a.emit(Opcode::CpAsyncCommit, &[], &[]);
    a.emit(copy, &[], &[at(cell, 512), at(from, 0), Imm::u32(4).into()]);
    a.emit(Opcode::CpAsyncCommit, &[], &[]);
    a.emit(Opcode::CpAsyncWait { pending: 1 }, &[], &[]);
    let first = a.get(LD_SHARED, Ty::U32, &[at(cell, 12)]);
    let early = a.get(LD_SHARED, Ty::U32, &[at(cell, 512)]);
    a.emit(Opcode::CpAsyncWait { pending: 0 }, &[], &[]);
    let second = a.get(LD_SHARED, Ty::U32, &[at(cell, 512)]);
    let filled = a.get(LD_SHARED, Ty::U32, &[at(cell, 516)]);
    for (n, x) in [first, early, second, filled].into_iter().enumerate() {
        a.store(Ty::U32, to, 4 * n as i32, x);
    }
    let mut memory = Memory::new();
    let (input, output) = (
        memory.alloc_from(&(0..128u32).collect::<Vec<_>>()),
        memory.alloc(512),
    );
    // The race detector would refuse the early read; what it reads matters here.
    let options = Options {
        races: false,
        track_shared: false,
        ..Options::default()
    };
    let args = [LaunchArg::U64(input), LaunchArg::U64(output)];
    with_options(&a.finish(), &args, &memory, &options).expect("no fault");
    let words: Vec<u32> = memory.read(output, 128).expect("in bounds");
    for lane in 0..32u32 {
        let expected = [4 * lane + 3, u32::MAX, 4 * lane, 0];
        assert_eq!(
            words[4 * lane as usize..4 * lane as usize + 4],
            expected,
            "lane {lane}"
        );
    }
}

/// Thread 0 starts a bulk copy of 256 bytes and every thread waits for it, announcing `announced` bytes.
fn bulk(announced: u32) -> Asm {
    let mut a = Asm::new(64);
    let (input, output) = (a.pointer(), a.pointer());
    let (data, barrier) = (a.shared(256), a.shared(8));
    let tid = a.tid();
    let leader = a.get(
        Opcode::Setp {
            cmp: Cmp::Eq,
            ty: Ty::U32,
        },
        Ty::Pred,
        &[tid.into(), Imm::u32(0).into()],
    );
    a.if_else(
        leader,
        |a| {
            a.emit(
                Opcode::MbarrierInit,
                &[],
                &[in_shared(barrier, 0), Imm::u32(1).into()],
            )
        },
        |_| {},
    );
    a.emit(Opcode::BarSync, &[], &[]);
    a.if_else(
        leader,
        |a| {
            a.emit(
                Opcode::MbarrierArriveExpectTx,
                &[],
                &[in_shared(barrier, 0), Imm::u32(announced).into()],
            );
            let bytes = Imm::u32(256).into();
            a.emit(
                Opcode::CpAsyncBulk,
                &[],
                &[
                    in_shared(data, 0),
                    at(input, 0),
                    bytes,
                    in_shared(barrier, 0),
                ],
            );
        },
        |_| {},
    );
    a.repeat(|a| {
        let done = a.get(
            Opcode::MbarrierTryWait,
            Ty::Pred,
            &[in_shared(barrier, 0), Imm::u32(0).into()],
        );
        a.get(Opcode::Not { ty: Ty::Pred }, Ty::Pred, &[done.into()])
    });
    let base = a.get(Opcode::SharedAddress, Ty::U32, &[in_shared(data, 0)]);
    let cell = a.get(
        Opcode::MadLo { ty: Ty::U32 },
        Ty::U32,
        &[tid.into(), Imm::u32(4).into(), base.into()],
    );
    let x = a.get(LD_SHARED, Ty::U32, &[at(cell, 0)]);
    let to = a.element(output, tid);
    a.store(Ty::U32, to, 0, x);
    a
}

#[test]
fn a_bulk_copy_completes_its_mbarrier() {
    let values: Vec<u32> = (1000..1064).collect();
    let mut memory = Memory::new();
    let (input, output) = (memory.alloc_from(&values), memory.alloc(256));
    run(&bulk(256).finish(), &[input, output], &memory).expect("no fault");
    assert_eq!(memory.read::<u32>(output, 64).expect("in bounds"), values);
}

#[test]
fn announcing_the_wrong_number_of_bytes_never_completes() {
    let mut memory = Memory::new();
    let (input, output) = (memory.alloc_zeroed(256), memory.alloc(256));
    let fault = run(&bulk(512).finish(), &[input, output], &memory).expect_err("a fault");
    assert!(matches!(*fault.kind, FaultKind::Deadlock { .. }), "{fault}");
}

#[test]
fn an_mbarrier_must_be_initialised() {
    let mut a = Asm::new(1);
    let barrier = a.shared(8);
    a.emit(Opcode::MbarrierArrive, &[], &[in_shared(barrier, 0)]);
    let fault = run(&a.finish(), &[], &Memory::new()).expect_err("a fault");
    assert!(matches!(*fault.kind, FaultKind::Protocol(_)), "{fault}");
}
