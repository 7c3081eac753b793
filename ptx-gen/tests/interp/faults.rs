//! Broken kernels and what they are told.

use gannet_ptx_gen::interp::{Fault, FaultKind, LaunchArg, Memory, Options, launch};
use gannet_ptx_gen::ir::{Imm, Ty};
use gannet_ptx_gen::op::{Cache, Cmp, Opcode, Order, Space};

use crate::asm::{Asm, at, in_shared, run, with_options};

fn refused(a: Asm, args: &[u64], memory: &Memory) -> Fault {
    run(&a.finish(), args, memory).expect_err("a fault")
}

#[test]
fn out_of_bounds_names_thread_line_and_allocation() {
    let mut a = Asm::new(96);
    let out = a.pointer();
    let tid = a.tid();
    let address = a.element(out, tid);
    let line = line!() + 1;
    a.store(Ty::U32, address, 0, tid);
    let mut memory = Memory::new();
    let out = memory.alloc(4 * 70);
    let fault = refused(a, &[out], &memory);
    let site = fault.site.as_ref().expect("a site");
    assert_eq!((site.thread, site.block), ([70, 0, 0], [0, 0, 0]));
    assert_eq!(site.kernel, "test");
    assert_eq!(site.instruction, "st.global.u32");
    assert!(
        site.source.ends_with(&format!("faults.rs:{line}")),
        "{}",
        site.source
    );
    let FaultKind::OutOfBounds {
        address, bytes: 4, ..
    } = *fault.kind
    else {
        panic!("{fault}")
    };
    assert_eq!(address, out + 280);
    assert!(
        fault
            .to_string()
            .contains("0 bytes past the end of the allocation of 280 bytes"),
        "{fault}"
    );
}

#[test]
fn null_and_misaligned_addresses() {
    let mut memory = Memory::new();
    let buffer = memory.alloc_zeroed(64);
    let vector = |offset| {
        let mut a = Asm::new(1);
        let p = a.pointer();
        let dst: Vec<_> = (0..4).map(|_| a.reg(Ty::U32)).collect();
        let cache = Cache::default();
        let ld = Opcode::Ld {
            space: Space::Global,
            ty: Ty::U32,
            vec: 4,
            order: Order::Weak,
            cache,
        };
        a.emit(ld, &dst, &[at(p, offset)]);
        a
    };
    assert!(matches!(
        *refused(vector(0), &[0], &memory).kind,
        FaultKind::OutOfBounds { address: 0, .. }
    ));
    assert!(matches!(
        *refused(vector(8), &[buffer], &memory).kind,
        FaultKind::Misaligned { align: 16, .. }
    ));
    assert!(matches!(
        *refused(vector(64), &[buffer], &memory).kind,
        FaultKind::OutOfBounds { .. }
    ));
    assert!(matches!(
        *refused(vector(-16), &[buffer], &memory).kind,
        FaultKind::OutOfBounds { .. }
    ));
    assert!(run(&vector(48).finish(), &[buffer], &memory).is_ok());
}

#[test]
fn unwritten_memory_is_noticed_where_it_is_tracked() {
    let read = || {
        let mut a = Asm::new(4);
        let p = a.pointer();
        let tid = a.tid();
        let address = a.element(p, tid);
        a.load(Ty::U32, address);
        a
    };
    let mut memory = Memory::new();
    let tracked = memory.alloc_poisoned(16);
    memory.write(tracked, &[1u32, 2]).expect("in bounds");
    let fault = refused(read(), &[tracked], &memory);
    assert!(
        matches!(*fault.kind, FaultKind::Uninitialised { address, .. } if address == tracked + 8),
        "{fault}"
    );
    let plain = memory.alloc(16);
    assert!(run(&read().finish(), &[plain], &memory).is_ok());
    assert_eq!(memory.read::<u32>(plain, 1).expect("in bounds"), [u32::MAX]);

    let mut a = Asm::new(4);
    let s = a.shared(16);
    let ld = Opcode::Ld {
        space: Space::Shared,
        ty: Ty::U32,
        vec: 1,
        order: Order::Weak,
        cache: Cache::default(),
    };
    a.get(ld, Ty::U32, &[in_shared(s, 4)]);
    let options = Options {
        track_shared: true,
        ..Options::default()
    };
    let fault = with_options(&a.finish(), &[], &memory, &options).expect_err("a fault");
    assert!(
        matches!(*fault.kind, FaultKind::Uninitialised { bytes: 4, .. }),
        "{fault}"
    );
}

#[test]
fn shared_memory_ends_where_it_ends() {
    let mut a = Asm::new(32);
    let s = a.shared(64);
    let tid = a.tid();
    let base = a.get(Opcode::SharedAddress, Ty::U32, &[in_shared(s, 0)]);
    let cell = a.get(
        Opcode::MadLo { ty: Ty::U32 },
        Ty::U32,
        &[tid.into(), Imm::u32(4).into(), base.into()],
    );
    a.emit(
        Opcode::St {
            space: Space::Shared,
            ty: Ty::U32,
            vec: 1,
            order: Order::Weak,
        },
        &[],
        &[at(cell, 0), tid.into()],
    );
    let fault = refused(a, &[], &Memory::new());
    assert_eq!(fault.site.expect("a site").thread, [16, 0, 0]);
}

#[test]
fn divergent_barriers_and_shuffles() {
    let half = |op: Opcode, src: fn() -> Vec<gannet_ptx_gen::ir::Operand>| {
        let mut a = Asm::new(32);
        let tid = a.tid();
        let low = a.get(
            Opcode::Setp {
                cmp: Cmp::Lt,
                ty: Ty::U32,
            },
            Ty::Pred,
            &[tid.into(), Imm::u32(16).into()],
        );
        a.if_else(
            low,
            |a| {
                let dst: Vec<_> = if op == Opcode::BarSync {
                    vec![]
                } else {
                    vec![a.reg(Ty::U32)]
                };
                a.emit(op, &dst, &src());
            },
            |_| {},
        );
        refused(a, &[], &Memory::new())
    };
    let fault = half(Opcode::BarSync, Vec::new);
    assert_eq!(
        *fault.kind,
        FaultKind::Divergent {
            active: 0xffff,
            needed: u32::MAX
        }
    );
    let shuffle = Opcode::Shfl {
        mode: gannet_ptx_gen::op::Shfl::Bfly,
        ty: Ty::U32,
    };
    let fault = half(shuffle, || {
        [1, 1, 31, u32::MAX].map(|x| Imm::u32(x).into()).to_vec()
    });
    assert!(
        matches!(*fault.kind, FaultKind::Divergent { active: 0xffff, .. }),
        "{fault}"
    );
}

#[test]
fn a_barrier_that_some_warps_never_reach_is_a_deadlock() {
    let mut a = Asm::new(64);
    let tid = a.tid();
    let low = a.get(
        Opcode::Setp {
            cmp: Cmp::Lt,
            ty: Ty::U32,
        },
        Ty::Pred,
        &[tid.into(), Imm::u32(32).into()],
    );
    let wait = |id| move |a: &mut Asm| a.emit(Opcode::BarSyncN { id, threads: 64 }, &[], &[]);
    a.if_else(low, wait(1), wait(2));
    let fault = refused(a, &[], &Memory::new());
    let FaultKind::Deadlock { waiting } = &*fault.kind else {
        panic!("{fault}")
    };
    assert_eq!(waiting, "warp 0 at barrier 1, warp 1 at barrier 2");
}

#[test]
fn an_endless_loop_ends() {
    let mut a = Asm::new(32);
    let yes = a.get(
        Opcode::Mov { ty: Ty::Pred },
        Ty::Pred,
        &[crate::asm::imm(Ty::Pred, 1)],
    );
    a.repeat(|a| {
        a.tid();
        yes
    });
    let options = Options {
        max_steps: 1_000_000,
        ..Options::default()
    };
    let fault = with_options(&a.finish(), &[], &Memory::new(), &options).expect_err("a fault");
    assert!(
        matches!(*fault.kind, FaultKind::StepLimit { .. }),
        "{fault}"
    );
}

#[test]
fn arguments_must_fit_the_parameters() {
    let kernel = || {
        let mut a = Asm::new(32);
        a.pointer();
        a.finish()
    };
    let memory = Memory::new();
    let with =
        |grid, args: &[LaunchArg]| launch(&kernel(), grid, args, &memory, &Options::default());
    assert!(with([1, 1, 1], &[LaunchArg::U64(0)]).is_ok());
    for (grid, args, word) in [
        ([1, 1, 1], vec![], "1 parameters, but 0 arguments"),
        ([1, 1, 1], vec![LaunchArg::U32(0)], "parameter p0 is u64"),
        ([1, 1, 1], vec![LaunchArg::F64(0.0)], "parameter p0 is u64"),
        ([0, 1, 1], vec![LaunchArg::U64(0)], "empty"),
        ([1, 65536, 1], vec![LaunchArg::U64(0)], "larger than"),
    ] {
        let fault = with(grid, &args).expect_err("a fault");
        assert!(fault.to_string().contains(word), "{fault}");
    }
}

#[test]
fn a_trap_is_a_fault_of_its_lane() {
    let mut a = Asm::new(32);
    let tid = a.tid();
    let seven = a.get(
        Opcode::Setp {
            cmp: Cmp::Eq,
            ty: Ty::U32,
        },
        Ty::Pred,
        &[tid.into(), Imm::u32(7).into()],
    );
    a.emit_if(Some((seven, true)), Opcode::Trap, &[], &[]);
    let fault = refused(a, &[], &Memory::new());
    assert_eq!(*fault.kind, FaultKind::Trap);
    assert_eq!(fault.site.expect("a site").thread, [7, 0, 0]);
}
