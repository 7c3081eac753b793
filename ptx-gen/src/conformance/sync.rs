//! Barriers, fences, asynchronous copies, mbarriers, special registers: forms whose whole effect is on when and
//! whether other instructions happen.
//!
//! Each is put where data depends on it: threads exchange values across a barrier, read what a copy was to bring. A
//! fence, a prefetch or a programmatic dependency must at least execute and leave data as it is.

use super::asm::{Asm, SLOT, at};
use super::inputs::{self, Random};
use super::{Case, blank};
use crate::ir::{Imm, Operand, Reg, Ty};
use crate::op::{Cmp, Fence, Opcode, Space, Special};
use crate::target::Target;

const BLOCKS: u32 = 16;
const THREADS: u32 = 64;

/// Input, output and the thread's slot in both.
struct Io {
    input: Reg,
    from: Reg,
    to: Reg,
}

fn io(a: &mut Asm, input_stride: u32) -> Io {
    let (input, output) = (a.param(Ty::U64), a.param(Ty::U64));
    let index = a.index();
    Io {
        input,
        from: a.global(input, index, input_stride),
        to: a.global(output, index, SLOT),
    }
}

fn finish(a: Asm, op: Opcode, target: Target, stride: u32) -> Case {
    let mut case = blank(op, target, a.finish());
    let n = (BLOCKS * case.kernel.threads()) as usize;
    let mut random = Random::new(&format!("{op:?}"));
    case.grid = [BLOCKS, 1, 1];
    case.inputs = vec![inputs::bytes(n * stride as usize, &mut random)];
    case.output = vec![0; n * SLOT as usize];
    case
}

/// Launch-defined registers as they are; the others within their ranges.
pub(super) fn special(which: Special, op: Opcode, target: Target) -> Case {
    let size = [8, 4, 2];
    let mut a = Asm::new(target, size);
    let output = a.param(Ty::U64);
    let mut linear = Imm::u32(0).into();
    // The thread's number in the whole grid, x fastest.
    let axes = [0, 1, 2].map(|n| (Special::Ctaid(n), Special::Nctaid(n)));
    let inner = [0, 1, 2].map(|n| (Special::Tid(n), Special::Ntid(n)));
    for (at, extent) in axes.iter().rev().chain(inner.iter().rev()) {
        let (at, extent) = (a.special(*at), a.special(*extent));
        let next = a.get(
            Opcode::MadLo { ty: Ty::U32 },
            Ty::U32,
            &[linear, extent.into(), at.into()],
        );
        linear = next.into();
    }
    let Operand::Reg(linear) = linear else {
        return blank(op, target, a.finish());
    };
    let to = a.global(output, linear, SLOT);
    let (value, what, note) = match which {
        Special::Warpid => (
            bounded(&mut a, op, 64),
            "less than 64",
            "PTX calls the value volatile: only its range is compared",
        ),
        Special::Smid => (
            bounded(&mut a, op, 1024),
            "less than 1024",
            "PTX gives no order of multiprocessors: only the range is compared",
        ),
        Special::Clock => (
            ordered(&mut a, op, Ty::U32),
            "a later reading is not earlier",
            "cycles are the machine's own: only their order is compared",
        ),
        Special::GlobalTimer => (
            ordered(&mut a, op, Ty::U64),
            "a later reading is not earlier",
            "time is the machine's own: only its order is compared",
        ),
        which => (a.special(which), "the value in every thread", ""),
    };
    a.store(Space::Global, Ty::U32, to, 0, value);
    let mut case = blank(op, target, a.finish());
    case.grid = [3, 5, 2];
    case.output = vec![0; 64 * 30 * SLOT as usize];
    case.coverage = format!("1920 threads: {what}");
    case.note = note;
    case
}

/// 1 where the register is below a bound.
fn bounded(a: &mut Asm, op: Opcode, bound: u32) -> Reg {
    let x = a.get(op, Ty::U32, &[]);
    let holds = a.test(Cmp::Lt, x, bound);
    picked(a, holds)
}

/// 1 where a second reading is at or after a first one.
fn ordered(a: &mut Asm, op: Opcode, ty: Ty) -> Reg {
    let (first, second) = (a.get(op, ty, &[]), a.get(op, ty, &[]));
    let passed = a.get(Opcode::Sub { ty }, ty, &[second.into(), first.into()]);
    let signed = if ty == Ty::U32 { Ty::I32 } else { Ty::I64 };
    let zero = Imm {
        ty: signed,
        bits: 0,
    };
    let setp = Opcode::Setp {
        cmp: Cmp::Ge,
        ty: signed,
    };
    let holds = a.get(setp, Ty::Pred, &[passed.into(), zero.into()]);
    picked(a, holds)
}

fn picked(a: &mut Asm, holds: Reg) -> Reg {
    let pick = [Imm::u32(1).into(), Imm::u32(0).into(), holds.into()];
    a.get(Opcode::Selp { ty: Ty::U32 }, Ty::U32, &pick)
}

/// Threads' slots in shared memory: the thread's own, and another's.
fn places(a: &mut Asm, threads: u32, mask: u32, stride: u32) -> (Reg, Reg) {
    let array = a.shared(threads * stride);
    let (base, tid) = (a.shared_base(array), a.tid());
    let other = a.word(Opcode::Xor { ty: Ty::U32 }, tid, mask);
    (a.local(base, tid, stride), a.local(base, other, stride))
}

/// A barrier, or a fence before one, between a store and another thread's load.
pub(super) fn exchange(op: Opcode, target: Target) -> Case {
    let in_warp = op == Opcode::BarWarpSync;
    let mut a = Asm::new(target, [THREADS, 1, 1]);
    let io = io(&mut a, SLOT);
    // Across the whole block, or within a warp.
    let mask = if in_warp { 31 } else { THREADS - 1 };
    let (mine, theirs) = places(&mut a, THREADS, mask, SLOT);
    let value = a.load(Space::Global, Ty::U64, io.from, 0);
    a.store(Space::Shared, Ty::U64, mine, 0, value);
    match op {
        Opcode::BarWarpSync => a.emit(op, &[], &[Imm::u32(u32::MAX).into()]),
        _ => a.emit(op, &[], &[]),
    }
    if matches!(op, Opcode::Fence(_)) {
        a.barrier();
    }
    let back = a.load(Space::Shared, Ty::U64, theirs, 0);
    a.store(Space::Global, Ty::U64, io.to, 0, back);
    let mut case = finish(a, op, target, SLOT);
    case.coverage = "1024 threads: values exchanged across it".into();
    case
}

/// One warp stores and arrives, the other waits and loads.
pub(super) fn produce(id: u8, threads: u16, op: Opcode, target: Target) -> Case {
    let mut a = Asm::new(target, [u32::from(threads), 1, 1]);
    let io = io(&mut a, SLOT);
    let (mine, theirs) = places(&mut a, u32::from(threads), 32, SLOT);
    let value = a.load(Space::Global, Ty::U64, io.from, 0);
    let tid = a.tid();
    let producer = a.test(Cmp::Lt, tid, 32);
    a.branch(
        producer,
        |a| {
            a.store(Space::Shared, Ty::U64, mine, 0, value);
            a.emit(op, &[], &[]);
        },
        |a| {
            a.emit(Opcode::BarSyncN { id, threads }, &[], &[]);
            let back = a.load(Space::Shared, Ty::U64, theirs, 0);
            a.store(Space::Global, Ty::U64, io.to, 0, back);
        },
    );
    let mut case = finish(a, op, target, SLOT);
    case.coverage = "16 blocks: a warp produces, a warp consumes".into();
    case
}

/// Forms that must execute and change nothing.
pub(super) fn harmless(op: Opcode, target: Target) -> Case {
    let mut a = Asm::new(target, [THREADS, 1, 1]);
    let io = io(&mut a, SLOT);
    let value = a.load(Space::Global, Ty::U64, io.from, 0);
    match op {
        Opcode::PrefetchL2 => a.emit(op, &[], &[at(io.from, 0)]),
        Opcode::Nanosleep => {
            let word = a.load(Space::Global, Ty::U32, io.from, 0);
            let time = a.word(Opcode::And { ty: Ty::U32 }, word, 0x3ff);
            a.emit(op, &[], &[time.into()]);
        }
        _ => a.emit(op, &[], &[]),
    }
    a.store(Space::Global, Ty::U64, io.to, 0, value);
    let mut case = finish(a, op, target, SLOT);
    case.coverage = "1024 threads: executes, data stays".into();
    case.note = match op {
        Opcode::GridDepWait | Opcode::GridDepLaunch => "launched without a dependency",
        _ => "",
    };
    case
}

/// Every thread traps.
pub(super) fn trap(op: Opcode, target: Target) -> Case {
    let mut a = Asm::new(target, [32, 1, 1]);
    let output = a.param(Ty::U64);
    a.emit(op, &[], &[]);
    let tid = a.tid();
    let to = a.global(output, tid, SLOT);
    a.store(Space::Global, Ty::U64, to, 0, output);
    let mut case = blank(op, target, a.finish());
    case.output = vec![0; 32 * SLOT as usize];
    case.coverage = "1 launch".into();
    case.note = "ends a GPU's context, so it runs last";
    case
}

/// Threads with an odd input end before they store.
pub(super) fn exit(op: Opcode, target: Target) -> Case {
    let mut a = Asm::new(target, [THREADS, 1, 1]);
    let io = io(&mut a, SLOT);
    let value = a.load(Space::Global, Ty::U64, io.from, 0);
    let word = a.load(Space::Global, Ty::U32, io.from, 0);
    let bit = a.word(Opcode::And { ty: Ty::U32 }, word, 1);
    let odd = a.test(Cmp::Ne, bit, 0);
    a.branch(odd, |a| a.emit(op, &[], &[]), |_| {});
    a.store(Space::Global, Ty::U64, io.to, 0, value);
    let mut case = finish(a, op, target, SLOT);
    case.coverage = "1024 threads: about half end".into();
    case
}

/// A predicate that is the same in a block, and differs between blocks.
pub(super) fn uniform(op: Opcode, target: Target) -> Case {
    let mut a = Asm::new(target, [THREADS, 1, 1]);
    let io = io(&mut a, SLOT);
    let block = a.special(Special::Ctaid(0));
    let from = a.global(io.input, block, SLOT);
    let word = a.load(Space::Global, Ty::U32, from, 0);
    let bit = a.word(Opcode::And { ty: Ty::U32 }, word, 1);
    let odd = a.test(Cmp::Ne, bit, 0);
    let claimed = a.get(op, Ty::Pred, &[odd.into()]);
    a.store(Space::Global, Ty::Pred, io.to, 0, claimed);
    let mut case = finish(a, op, target, SLOT);
    case.coverage = "16 blocks: both values".into();
    case
}

/// `cp.async`: as many bytes of each thread's 16 as its operand says, committed, waited for, read by another thread.
pub(super) fn copy(bytes: u8, op: Opcode, target: Target) -> Case {
    let bytes = u32::from(bytes);
    let mut a = Asm::new(target, [THREADS, 1, 1]);
    let (input, sizes, output) = (a.param(Ty::U64), a.param(Ty::U64), a.param(Ty::U64));
    let index = a.index();
    let from = a.global(input, index, 16);
    let to = a.global(output, index, 16);
    let at_size = a.global(sizes, index, 4);
    let size = a.load(Space::Global, Ty::U32, at_size, 0);
    let (mine, theirs) = places(&mut a, THREADS, THREADS - 1, 16);
    let (mine2, _) = places(&mut a, THREADS, THREADS - 1, 16);
    let copy = match op {
        Opcode::CpAsync { .. } => op,
        _ => Opcode::CpAsync {
            bytes: 16,
            bypass_l1: true,
        },
    };
    a.emit(copy, &[], &[at(mine, 0), at(from, 0), size.into()]);
    a.emit(Opcode::CpAsyncCommit, &[], &[]);
    if let Opcode::CpAsyncWait { pending: 1.. } = op {
        // A newer group stays in flight.
        a.emit(copy, &[], &[at(mine2, 0), at(from, 0), size.into()]);
        a.emit(Opcode::CpAsyncCommit, &[], &[]);
        a.emit(op, &[], &[]);
    } else {
        a.emit(Opcode::CpAsyncWait { pending: 0 }, &[], &[]);
    }
    a.barrier();
    for n in 0..bytes as i32 / 4 {
        let word = a.load(Space::Shared, Ty::U32, theirs, 4 * n);
        a.store(Space::Global, Ty::U32, to, 4 * n, word);
    }
    a.emit(Opcode::CpAsyncWait { pending: 0 }, &[], &[]);
    let mut case = finish(a, op, target, 16);
    let n = BLOCKS * THREADS;
    let mut random = Random::new(&format!("{op:?} sizes"));
    let size = |random: &mut Random| match random.below(2) {
        0 => bytes,
        _ => random.below(u64::from(bytes) + 1) as u32,
    };
    let sizes: Vec<u8> = (0..n)
        .flat_map(|_| size(&mut random).to_le_bytes())
        .collect();
    case.output = vec![0; 16 * n as usize];
    case.inputs.push(sizes);
    case.coverage = "1024 threads: whole and zero-filled copies".into();
    case
}

/// Thread 0 makes an mbarrier that expects `count` arrivals; the block waits until it exists.
fn made(a: &mut Asm, count: u32) -> (Operand, Reg, Reg) {
    let barrier = a.shared(16);
    let (base, tid) = (a.shared_base(barrier), a.tid());
    let first = a.test(Cmp::Eq, tid, 0);
    let place = at(base, 0);
    a.branch(
        first,
        |a| a.emit(Opcode::MbarrierInit, &[], &[place, Imm::u32(count).into()]),
        |_| {},
    );
    a.barrier();
    (place, base, first)
}

/// All threads store, arrive and wait for each other at an mbarrier, twice with another one in its place.
pub(super) fn mbarrier(wait: Opcode, op: Opcode, target: Target) -> Case {
    let mut a = Asm::new(target, [THREADS, 1, 1]);
    let io = io(&mut a, SLOT);
    let (mine, theirs) = places(&mut a, THREADS, THREADS - 1, SLOT);
    let value = a.load(Space::Global, Ty::U64, io.from, 0);
    let (barrier, _, first) = made(&mut a, THREADS);
    a.store(Space::Shared, Ty::U64, mine, 0, value);
    // Two phases of one barrier.
    let mut back = value;
    for phase in 0..2 {
        a.emit(Opcode::MbarrierArrive, &[], &[barrier]);
        a.until(|a| a.get(wait, Ty::Pred, &[barrier, Imm::u32(phase).into()]));
        if phase == 0 {
            back = a.load(Space::Shared, Ty::U64, theirs, 0);
        }
    }
    a.barrier();
    a.branch(
        first,
        |a| a.emit(Opcode::MbarrierInval, &[], &[barrier]),
        |_| {},
    );
    a.store(Space::Global, Ty::U64, io.to, 0, back);
    let mut case = finish(a, op, target, SLOT);
    case.coverage = "16 blocks: values exchanged across two phases".into();
    case
}

/// Thread 0 announces and issues a bulk copy; all threads wait for it and read it.
pub(super) fn bulk(op: Opcode, target: Target) -> Case {
    let mut a = Asm::new(target, [THREADS, 1, 1]);
    let io = io(&mut a, SLOT);
    let array = a.shared(THREADS * SLOT);
    let (barrier, _, first) = made(&mut a, 1);
    let (base, tid) = (a.shared_base(array), a.tid());
    let mine = a.local(base, tid, SLOT);
    let bytes: Operand = Imm::u32(THREADS * SLOT).into();
    a.branch(
        first,
        |a| {
            a.emit(Opcode::Fence(Fence::MbarrierInit), &[], &[]);
            a.emit(Opcode::MbarrierArriveExpectTx, &[], &[barrier, bytes]);
            a.emit(
                Opcode::CpAsyncBulk,
                &[],
                &[at(base, 0), at(io.from, 0), bytes, barrier],
            );
        },
        |_| {},
    );
    a.until(|a| {
        a.get(
            Opcode::MbarrierTryWait,
            Ty::Pred,
            &[barrier, Imm::u32(0).into()],
        )
    });
    let back = a.load(Space::Shared, Ty::U64, mine, 0);
    a.store(Space::Global, Ty::U64, io.to, 0, back);
    let mut case = finish(a, op, target, SLOT);
    case.coverage = "16 blocks: 512 bytes copied".into();
    case
}

/// The block fills shared memory, hands it to the async proxy, and thread 0 copies it out.
pub(super) fn bulk_store(op: Opcode, target: Target) -> Case {
    let mut a = Asm::new(target, [THREADS, 1, 1]);
    let io = io(&mut a, SLOT);
    let array = a.shared(THREADS * SLOT);
    let (base, tid) = (a.shared_base(array), a.tid());
    let mine = a.local(base, tid, SLOT);
    let value = a.load(Space::Global, Ty::U64, io.from, 0);
    a.store(Space::Shared, Ty::U64, mine, 0, value);
    a.emit(Opcode::Fence(Fence::ProxyAsync), &[], &[]);
    a.barrier();
    let first = a.test(Cmp::Eq, tid, 0);
    let wait = match op {
        Opcode::CpAsyncBulkWait { .. } => op,
        _ => Opcode::CpAsyncBulkWait {
            pending: 0,
            read: false,
        },
    };
    a.branch(
        first,
        |a| {
            let bytes = Imm::u32(THREADS * SLOT).into();
            let operands = [at(io.to, 0), at(base, 0), bytes];
            a.emit(Opcode::CpAsyncBulkStore, &[], &operands);
            a.emit(Opcode::CpAsyncBulkCommit, &[], &[]);
            a.emit(wait, &[], &[]);
            let all = Opcode::CpAsyncBulkWait {
                pending: 0,
                read: true,
            };
            if wait != all {
                a.emit(all, &[], &[]);
            }
        },
        |_| {},
    );
    let mut case = finish(a, op, target, SLOT);
    case.coverage = "16 blocks: 512 bytes copied".into();
    case
}
