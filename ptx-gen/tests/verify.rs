//! The verifier: each rule broken once, and the shapes of real kernels that it must let pass.

// Helpers of tests are tests; the lint knows functions marked so only.
#![allow(clippy::unwrap_used)]

use gannet_ptx_gen::build::{Builder, F16x2};
use gannet_ptx_gen::ir::{Imm, Inst, Kernel, Loc, Operand, Reg, RegInfo, Stmt, Ty};
use gannet_ptx_gen::op::{Opcode, Space};
use gannet_ptx_gen::target::Target;
use gannet_ptx_gen::verify::Error;
use half::f16;

fn build(target: Target, body: impl FnOnce(&Builder)) -> Kernel {
    Kernel::new("test", target, |k| {
        k.block_size(64);
        body(k);
    })
}

fn verify(body: impl FnOnce(&Builder)) -> Result<(), Error> {
    build(Target::Sm80, body).verify()
}

/// A kernel whose only instruction is the given one, on registers of the given types.
fn single(op: Opcode, dst: &[Ty], src: &[Operand], regs: &[Ty]) -> Kernel {
    let mut k = build(Target::Sm80, |_| {});
    k.regs = regs
        .iter()
        .chain(dst)
        .map(|ty| RegInfo {
            ty: *ty,
            mutable: false,
        })
        .collect();
    for (i, ty) in regs.iter().enumerate() {
        let zero = Operand::Imm(Imm { ty: *ty, bits: 0 });
        k.body.push(inst(
            Opcode::Mov { ty: *ty },
            vec![Reg(i as u32)],
            vec![zero],
        ));
    }
    let dst = (0..dst.len())
        .map(|i| Reg((regs.len() + i) as u32))
        .collect();
    k.body.push(inst(op, dst, src.to_vec()));
    k
}

fn inst(op: Opcode, dst: Vec<Reg>, src: Vec<Operand>) -> Stmt {
    Stmt::Inst(Inst {
        op,
        dst,
        src,
        guard: None,
        loc: Loc::here(),
    })
}

#[test]
fn refuses_operands_of_the_wrong_type() {
    let regs = [Ty::F32, Ty::U32];
    let src = [Operand::Reg(Reg(0)), Operand::Reg(Reg(1))];
    let error = single(Opcode::Add { ty: Ty::F32 }, &[Ty::F32], &src, &regs)
        .verify()
        .unwrap_err();
    assert!(matches!(error, Error::Operand { index: 2, .. }), "{error}");
    assert!(error.to_string().contains("tests/verify.rs"), "{error}");
}

#[test]
fn lets_signedness_differ() {
    let src = [Operand::Reg(Reg(0)), Operand::Reg(Reg(1))];
    let kernel = single(
        Opcode::Add { ty: Ty::U32 },
        &[Ty::I32],
        &src,
        &[Ty::I32, Ty::U32],
    );
    assert_eq!(kernel.verify(), Ok(()));
}

#[test]
fn refuses_the_wrong_number_of_operands_and_impossible_types() {
    let one = [Operand::Reg(Reg(0))];
    let short = single(Opcode::Add { ty: Ty::F32 }, &[Ty::F32], &one, &[Ty::F32]);
    assert!(matches!(short.verify(), Err(Error::Form { .. })));
    let two = [Operand::Reg(Reg(0)), Operand::Reg(Reg(0))];
    let bytes = single(Opcode::Add { ty: Ty::U8 }, &[Ty::U8], &two, &[Ty::U8]);
    assert!(matches!(bytes.verify(), Err(Error::Form { .. })));
}

#[test]
fn refuses_constants_that_ptxas_refuses() {
    for ty in [Ty::F16, Ty::Bf16, Ty::F16x2, Ty::Bf16x2] {
        let src = [Operand::Reg(Reg(0)), Operand::Imm(Imm { ty, bits: 0x3c00 })];
        for op in [Opcode::Add { ty }, Opcode::Min { ty }, Opcode::Max { ty }] {
            let kernel = on_hopper(single(op, &[ty], &src, &[ty]));
            assert!(
                matches!(kernel.verify(), Err(Error::Operand { index: 2, .. })),
                "{op:?}"
            );
        }
        let chosen = [
            src[1],
            src[0],
            Operand::Imm(Imm {
                ty: Ty::Pred,
                bits: 1,
            }),
        ];
        let kernel = on_hopper(single(Opcode::Selp { ty }, &[ty], &chosen, &[ty]));
        assert_eq!(kernel.verify(), Ok(()), "{ty} may be chosen");
    }
}

fn on_hopper(mut kernel: Kernel) -> Kernel {
    kernel.target = Target::Sm90a;
    kernel
}

#[test]
fn the_builder_moves_such_constants_into_registers() {
    let kernel = build(Target::Sm80, |k| {
        let x = k.in_out::<F16x2>("x");
        let (zero, one) = (f16::from_f32(0.0), f16::from_f32(1.0));
        let value = x.load(0).max(F16x2(zero, zero)).min(F16x2(one, one));
        x.store(0, value.fma(value, F16x2(one, one)));
    });
    let text = kernel.ptx().unwrap();
    assert!(!text.contains("f16x2 %r2, %r1, 0x"), "{text}");
    assert!(text.contains("mov.b32 %r"), "{text}");
}

#[test]
fn bounds_on_registers_are_printed_and_checked() {
    let kernel = |blocks| build(Target::Sm80, |k| k.min_blocks(blocks));
    let text = kernel(2).ptx().unwrap();
    assert!(
        text.contains(".reqntid 64, 1, 1\n.minnctapersm 2\n"),
        "{text}"
    );
    for blocks in [0, 33] {
        assert!(
            matches!(kernel(blocks).verify(), Err(Error::Kernel { .. })),
            "{blocks}"
        );
    }
}

#[test]
fn refuses_a_named_barrier_that_part_of_the_block_never_meets() {
    let wait = |k: &Builder| k.barrier_n(1, 64);
    let arrive = |k: &Builder| {
        let op = Opcode::BarArrive { id: 1, threads: 64 };
        k.inst(op, &[], &[]);
    };
    assert_divergent(verify(|k| k.if_(k.thread_x().lt(32), || wait(k))), "block");
    let split = |k: &Builder| k.if_else(k.thread_x().lt(32), || wait(k), || arrive(k));
    assert_eq!(verify(split), Ok(()));
    assert_divergent(
        verify(|k| k.if_else(k.thread_x().lt(8), || wait(k), || arrive(k))),
        "warp",
    );
}

#[test]
fn refuses_addresses_and_operands_out_of_their_slots() {
    // An address where a value belongs, a value where an address belongs, and a parameter as memory.
    let address = |base| {
        let offset = 0;
        Operand::Addr(gannet_ptx_gen::ir::Address { base, offset })
    };
    use gannet_ptx_gen::ir::Base;
    let (order, cache) = (gannet_ptx_gen::op::Order::Weak, Default::default());
    let load = |space| Opcode::Ld {
        space,
        ty: Ty::U32,
        vec: 1,
        order,
        cache,
    };
    let cases = [
        (Opcode::Neg { ty: Ty::I32 }, address(Base::Reg(Reg(0)))),
        (load(Space::Global), Operand::Reg(Reg(1))),
        (load(Space::Global), address(Base::Reg(Reg(0)))),
        (load(Space::Shared), address(Base::Reg(Reg(1)))),
        (load(Space::Shared), address(Base::Shared(0))),
        (load(Space::Global), address(Base::Param(0))),
        (Opcode::Neg { ty: Ty::I32 }, Operand::Reg(Reg(99))),
    ];
    for (op, src) in cases {
        let kernel = single(op, &[Ty::U32], &[src], &[Ty::U32, Ty::U64]);
        assert!(
            matches!(kernel.verify(), Err(Error::Operand { .. })),
            "{op:?} of {src:?}"
        );
    }
}

#[test]
fn refuses_an_address_of_the_other_space() {
    let kernel = Kernel::new("test", Target::Sm80, |k| {
        let tile = k.shared::<f32>("tile", 4);
        let address = tile.address(k.thread_x());
        let Operand::Reg(base) = address.operand() else {
            panic!("a register")
        };
        let address = gannet_ptx_gen::ir::Address {
            base: gannet_ptx_gen::ir::Base::Reg(base),
            offset: 0,
        };
        let (order, cache) = (gannet_ptx_gen::op::Order::Weak, Default::default());
        let op = Opcode::Ld {
            space: Space::Global,
            ty: Ty::F32,
            vec: 1,
            order,
            cache,
        };
        k.inst(op, &[Ty::F32], &[Operand::Addr(address)]);
    });
    assert!(matches!(kernel.verify(), Err(Error::Operand { .. })));
}

#[test]
fn refuses_instructions_that_the_target_lacks() {
    let error = build(Target::Sm75, |k| k.cp_async_commit())
        .verify()
        .unwrap_err();
    assert!(matches!(error, Error::Target { needs: 80, .. }), "{error}");
}

#[test]
fn refuses_a_value_assigned_on_one_path_only() {
    let result = verify(|k| {
        let out = k.output::<u32>("out");
        let mut escaped = None;
        k.if_(k.block_x().eq(0), || {
            escaped = Some(k.scalar::<u32>("n") + 1)
        });
        out.store(0, escaped.unwrap());
    });
    assert!(matches!(result, Err(Error::Unassigned { .. })));
}

#[test]
fn accepts_a_value_assigned_in_a_loop_body() {
    let result = verify(|k| {
        let out = k.output::<u32>("out");
        let mut last = None;
        let i = k.var(0u32);
        k.loop_while(|| {
            let next = i.get() * 3 + 1;
            last = Some(next);
            i.set(next);
            next.lt(100)
        });
        out.store(0, last.unwrap());
    });
    assert_eq!(result, Ok(()));
}

#[test]
fn refuses_a_second_assignment() {
    let mut k = single(Opcode::BarSync, &[], &[], &[Ty::U32]);
    let again = k.body[0].clone();
    k.body.push(again);
    assert!(matches!(k.verify(), Err(Error::Reassigned { .. })));
}

fn assert_divergent(result: Result<(), Error>, expected: &str) {
    match result {
        Err(Error::Divergent { group, .. }) => assert_eq!(group, expected),
        other => panic!("divergence of the {expected} expected, got {other:?}"),
    }
}

#[test]
fn refuses_barriers_in_divergent_flow() {
    assert_divergent(
        verify(|k| k.if_(k.thread_x().lt(7), || k.barrier())),
        "block",
    );
    assert_divergent(verify(|k| k.if_(k.warp().eq(0), || k.barrier())), "block");
    // The trip count depends on the thread.
    assert_divergent(
        verify(|k| k.for_each(k.thread_x(), 100, 64, |_| k.barrier())),
        "block",
    );
    // So it does when it comes from memory that differs by thread.
    assert_divergent(
        verify(|k| {
            let n = k.input::<u32>("n").load(k.thread_x());
            k.for_each(0, n, 1, |_| k.barrier());
        }),
        "block",
    );
}

#[test]
fn refuses_barriers_on_a_condition_that_a_divergent_branch_decided() {
    let result = verify(|k| {
        let flag = k.var(0u32);
        k.if_(k.lane().eq(0), || flag.set(1));
        k.if_(flag.get().eq(1), || k.barrier());
    });
    assert_divergent(result, "block");
}

#[test]
fn refuses_barriers_on_a_condition_of_the_previous_turn() {
    // In the first turn the flag is uniform; the loop carries the divergence back.
    let result = verify(|k| {
        let flag = k.var(0u32);
        k.for_each(0, 10, 1, |_| {
            k.if_(flag.get().eq(1), || k.barrier());
            flag.set(k.thread_x() % 2);
        });
    });
    assert_divergent(result, "block");
}

#[test]
fn refuses_barriers_after_some_threads_ended() {
    let result = verify(|k| {
        k.exit_if(k.thread_x().ge(40));
        k.barrier();
    });
    assert_divergent(result, "block");
    let result = verify(|k| {
        k.if_(k.block_x().eq(0), || k.exit_if(k.thread_x().ge(40)));
        k.barrier();
    });
    assert_divergent(result, "block");
}

#[test]
fn refuses_warp_instructions_in_flow_that_splits_the_warp() {
    let result = verify(|k| {
        let out = k.output::<f32>("out");
        k.if_(k.thread_x().lt(40), || {
            out.store(k.thread_x(), k.warp_sum(out.load(k.thread_x())))
        });
    });
    assert_divergent(result, "warp");
}

#[test]
fn accepts_uniform_flow_in_its_common_shapes() {
    let result = verify(|k| {
        let (x, out) = (k.input::<u32>("x"), k.output::<u32>("out"));
        let n = k.scalar::<u32>("n");
        // Parameters, block indices and loads at uniform addresses.
        k.exit_if(k.block_x().ge(n));
        let length = x.load(k.block_x());
        k.for_each(0, length, 64, |i| {
            k.barrier();
            let row = i + k.thread_x();
            k.if_(row.lt(length), || out.store(row, row));
            k.barrier();
        });
        // Whole warps.
        k.for_each(k.warp(), length, 2, |i| {
            let sum = k.warp_sum(x.load(i * 32 + k.lane()));
            k.if_(k.lane().eq(0), || out.store(i, sum));
        });
        k.if_(k.thread_x().lt(32), || {
            out.store(0, k.warp_max(x.load(k.thread_x())))
        });
        // A claim where the verifier cannot know.
        let found = k.block_max(x.load(k.thread_x()));
        k.if_(k.assume_uniform(found.gt(3)), || k.barrier());
    });
    assert_eq!(result, Ok(()));
}

/// Nothing that the launch in front may still see, or that lets the next one start, comes before every
/// thread has waited.
#[test]
fn refuses_what_comes_before_the_wait_for_the_launch_in_front() {
    let verify = |body: &dyn Fn(&Builder)| build(Target::Sm90a, |k| body(k)).verify();
    let refused = |body: &dyn Fn(&Builder), op: &str| {
        let found = verify(body);
        assert!(
            matches!(&found, Err(Error::Early { op: found, .. }) if &**found == op),
            "{op}: {found:?}"
        );
    };
    let store = |k: &Builder| {
        k.output::<u32>("out").store(k.thread_x(), 1);
        k.wait_for_predecessor();
    };
    refused(&store, "st.global.u32");
    let add = |k: &Builder| {
        k.if_(k.thread_x().eq(0), || {
            k.in_out::<u32>("out").atomic_add(0, 1);
        });
        k.wait_for_predecessor();
    };
    refused(&add, "atom.relaxed.gpu.global.add.u32");
    let exit = |k: &Builder| {
        k.exit_if(k.thread_x().ge(32));
        k.wait_for_predecessor();
    };
    refused(&exit, "exit");
    let some = |k: &Builder| k.if_(k.thread_x().lt(32), || k.wait_for_predecessor());
    refused(&some, "griddepcontrol.wait");
    // The builder makes loads above the wait plain ones; of the read-only path they would not be early.
    let constant = |k: &Builder| {
        let x = k.input::<u32>("x").read_only();
        let out = k.output::<u32>("out");
        let first = x.load(k.thread_x());
        k.wait_for_predecessor();
        out.store(k.thread_x(), first + x.load(k.thread_x() + 1));
    };
    let mut kernel = build(Target::Sm90a, constant);
    let text = kernel.ptx().unwrap();
    let (above, below) = text.split_once("griddepcontrol.wait").unwrap();
    assert!(above.contains("ld.global.u32") && below.contains("ld.global.nc.u32"));
    let load = kernel.body.iter_mut().find_map(|stmt| match stmt {
        Stmt::Inst(inst) => match &mut inst.op {
            Opcode::Ld { space, cache, .. } if *space == Space::Global => Some(cache),
            _ => None,
        },
        _ => None,
    });
    load.unwrap().nc = true;
    let found = kernel.verify();
    assert!(matches!(&found, Err(Error::Early { op, .. }) if &**op == "ld.global.nc.u32"));
    // Loads, shared memory, barriers and letting the launch behind start may; and who does not say where waits at the start.
    let early = |k: &Builder| {
        let (x, out) = (k.input::<u32>("x"), k.output::<u32>("out"));
        let stage = k.shared::<u32>("stage", 64);
        k.launch_dependents();
        stage.store(k.thread_x(), x.load(k.thread_x()));
        k.barrier();
        k.wait_for_predecessor();
        out.store(k.thread_x(), stage.load(k.thread_x()));
    };
    assert_eq!(verify(&early), Ok(()));
    let silent = |k: &Builder| k.output::<u32>("out").store(k.thread_x(), 1);
    assert_eq!(verify(&silent), Ok(()));
    for (target, starts_early) in [(Target::Sm90a, true), (Target::Sm89, false)] {
        assert_eq!(build(target, silent).starts_early(), starts_early);
        assert_eq!(build(target, early).hands_over(), starts_early);
        assert!(!build(target, silent).hands_over());
    }
}

#[test]
fn refuses_more_shared_memory_than_there_is() {
    let fixed = verify(|k| {
        let tile = k.shared::<u8>("tile", 49 << 10);
        tile.cast::<u32>().store(0, 1);
    });
    assert!(matches!(fixed, Err(Error::Kernel { .. })));
    let dynamic = |target| {
        build(target, |k| {
            k.dynamic_shared::<u8>("ring", 100 << 10)
                .cast::<u32>()
                .store(0, 1);
        })
    };
    assert_eq!(dynamic(Target::Sm80).verify(), Ok(()));
    assert!(matches!(
        dynamic(Target::Sm86).verify(),
        Err(Error::Kernel { .. })
    ));
}

#[test]
fn refuses_misaligned_and_outside_constant_addresses() {
    let misaligned = verify(|k| {
        k.shared::<f32>("tile", 16).load_vec::<4>(2);
    });
    assert!(matches!(misaligned, Err(Error::Form { .. })));
    let outside = verify(|k| {
        k.shared::<f32>("tile", 16).load(16);
    });
    assert!(matches!(outside, Err(Error::Form { .. })));
}

#[test]
fn refuses_illegal_names_and_blocks() {
    for name in ["", "7up", "a.b", "tab le"] {
        assert!(
            Kernel::new(name, Target::Sm80, |_| {}).verify().is_err(),
            "{name:?}"
        );
    }
    let twice = verify(|k| {
        k.scalar::<u32>("n");
        k.scalar::<u32>("n");
    });
    assert!(twice.is_err());
    assert!(
        Kernel::new("big", Target::Sm80, |k| k.block_size(1056))
            .verify()
            .is_err()
    );
}

#[test]
fn the_register_estimate_sees_what_is_alive_together() {
    let kernel = |n: u32| {
        build(Target::Sm80, |k| {
            let (x, out) = (k.input::<f32>("x"), k.output::<f32>("out"));
            let all: Vec<_> = (0..n).map(|i| x.load(i)).collect();
            let sum = all.iter().skip(1).fold(all[0], |a, b| a + *b);
            out.store(0, sum);
        })
    };
    let (few, many) = (
        kernel(4).register_estimate(),
        kernel(64).register_estimate(),
    );
    assert!((64..90).contains(&many) && few < 20, "{few} and {many}");
}
