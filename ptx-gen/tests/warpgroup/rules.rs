//! What the verifier refuses of warpgroups, each with the twin that it lets pass.

use gannet_ptx_gen::build::{
    Accumulators, Builder, Descriptor, LeftFactor, MatrixLayout, Swizzle, Val,
};
use gannet_ptx_gen::ir::Kernel;
use gannet_ptx_gen::op::{Wgmma, WgmmaType};
use gannet_ptx_gen::target::Target;
use gannet_ptx_gen::verify::{Error, registers_of};

fn build(threads: u32, blocks: Option<u32>, body: impl FnOnce(&Builder)) -> Result<(), Error> {
    Kernel::new("rules", Target::Sm90a, |k| {
        k.block_size(threads);
        if let Some(blocks) = blocks {
            k.min_blocks(blocks);
        }
        body(k);
    })
    .verify()
}

/// A product of `n` columns under whatever flow the caller makes.
fn product(k: &Builder, n: u16, at: impl FnOnce(&dyn Fn())) {
    let tile = k.shared_aligned::<u32>("tile", 2048, 1024);
    let b: Descriptor<'_> = tile.descriptor(0, MatrixLayout::rows(Swizzle::B32));
    let d: Accumulators<'_, f32> = k.accumulators(usize::from(n) / 2);
    let m = Wgmma::from_shared(WgmmaType::F16, n);
    at(&|| {
        k.wgmma_fence();
        k.wgmma(m, &d, LeftFactor::Shared(b), b, false);
        k.wgmma_commit();
        k.wgmma_wait(0);
    });
}

fn refused(result: &Result<(), Error>, words: &str) {
    match result {
        Err(e) if e.to_string().contains(words) => {}
        other => panic!("expected {words:?}: {other:?}"),
    }
}

#[test]
fn a_launch_must_hold_the_operands_of_one_product() {
    let needs = |m| registers_of(m);
    assert_eq!(needs(Wgmma::from_registers(WgmmaType::F16, 128)), 94);
    assert_eq!(needs(Wgmma::from_shared(WgmmaType::F16, 256)), 154);
    let with = |threads, blocks, n| build(threads, Some(blocks), |k| product(k, n, |p| p()));
    refused(&with(384, 2, 128), "need 90 registers a thread");
    refused(&with(512, 1, 256), "need 154 registers a thread");
    assert_eq!(with(384, 1, 128), Ok(()));
    assert_eq!(with(384, 1, 256), Ok(()));
    assert_eq!(with(384, 2, 64), Ok(()));
}

#[test]
fn launch_registers_are_those_of_ptxas() {
    // By trial with ptxas 13.0: threads, blocks and "Used .. registers" of a kernel with setmaxnreg.
    let trials = [
        (384, 1, 168),
        (288, 1, 168),
        (384, 2, 80),
        (288, 2, 96),
        (512, 1, 128),
        (640, 1, 96),
        (128, 3, 168),
    ];
    for (threads, blocks, registers) in trials {
        let kernel = Kernel::new("launch", Target::Sm90a, |k| {
            k.block_size(threads);
            k.min_blocks(blocks);
        });
        assert_eq!(
            kernel.launch_registers(),
            Some(registers),
            "{threads} x {blocks}"
        );
    }
}

#[test]
fn a_launch_has_no_more_registers_than_are_asked_for() {
    for (threads, asked, registers) in [(256, 232, 232), (384, 104, 104), (384, 232, 168)] {
        let kernel = Kernel::new("launch", Target::Sm90a, |k| {
            k.block_size(threads);
            k.min_blocks(1);
            k.fewer_registers(40);
            k.more_registers(asked);
        });
        assert_eq!(kernel.launch_registers(), Some(registers));
    }
}

/// Two consumers take registers and a producer gives some up.
fn exchange(k: &Builder, consumers: u16, producer: u16) {
    k.if_else(
        k.thread_x().lt(256),
        || k.more_registers(consumers),
        || k.fewer_registers(producer),
    );
}

#[test]
fn registers_come_from_the_blocks_own() {
    let with =
        |blocks, consumers, producer| build(384, blocks, |k| exchange(k, consumers, producer));
    assert_eq!(with(Some(1), 232, 40), Ok(()));
    assert_eq!(with(Some(2), 104, 32), Ok(()));
    refused(&with(Some(1), 240, 40), "240 + 240 + 40");
    refused(&with(Some(2), 112, 32), "a launch gives 80 each");
    refused(&with(None, 232, 40), "ignored by ptxas");
    refused(&with(Some(1), 236, 40), "multiple of 8");
    refused(&with(Some(1), 232, 16), "from 24 to 256");
    // By the warp's number, as kernels do it.
    let by_warp = |consumers| {
        build(384, Some(1), |k| {
            k.if_else(
                k.warp().ge(4),
                || k.more_registers(consumers),
                || k.fewer_registers(40),
            );
        })
    };
    assert_eq!(by_warp(232), Ok(()));
    refused(&by_warp(240), "40 + 240 + 240");
}

#[test]
fn a_warpgroup_acts_as_one() {
    let under = |n: u32| {
        build(256, None, |k| {
            product(k, 8, |p| k.if_(k.thread_x().lt(n), p))
        })
    };
    assert_eq!(under(128), Ok(()));
    for n in [32, 64, 192] {
        refused(&under(n), "not every thread of the warpgroup");
    }
    let by_group = build(256, None, |k| {
        product(k, 8, |p| k.if_((k.warp() / 4).eq(1), p));
    });
    assert_eq!(by_group, Ok(()));
    let by_data = build(256, None, |k| {
        let x = k.input::<u32>("x");
        product(k, 8, |p| k.if_(x.load(k.thread_x()).eq(0), p));
    });
    refused(&by_data, "not every thread of the warpgroup");
    let by_block = build(256, None, |k| {
        let x = k.input::<u32>("x");
        product(k, 8, |p| k.if_(x.load(k.block_x()).eq(0), p));
    });
    assert_eq!(by_block, Ok(()));
    refused(
        &build(96, None, |k| product(k, 8, |p| p())),
        "multiple of 128 threads",
    );
}

#[test]
fn barriers_are_not_passed_by_because_of_what_was_loaded() {
    #[derive(Clone, Copy)]
    enum Cond {
        Lane,
        Warp,
        Loaded,
        LoadedByBlock,
    }
    let with = |cond, act: fn(&Builder)| {
        build(128, None, |k| {
            let x = k.input::<u32>("x");
            let holds = match cond {
                Cond::Lane => k.lane().eq(0),
                Cond::Warp => k.warp().eq(1),
                Cond::Loaded => x.load(k.warp()).eq(0),
                Cond::LoadedByBlock => x.load(k.block_x()).eq(0),
            };
            k.if_(holds, || act(k));
        })
    };
    let arrive = |k: &Builder| k.shared::<u64>("full", 1).mbarrier_arrive(0);
    let expect = |k: &Builder| k.shared::<u64>("full", 1).mbarrier_expect(0, 128);
    let wait = |k: &Builder| k.shared::<u64>("full", 1).mbarrier_wait(0, 0);
    for act in [arrive, expect, wait] {
        for cond in [Cond::Lane, Cond::Warp, Cond::LoadedByBlock] {
            assert_eq!(with(cond, act), Ok(()));
        }
        refused(&with(Cond::Loaded, act), "may be skipped by some threads");
    }
    let named = |k: &Builder| k.barrier_n(1, 64);
    let arrival = |k: &Builder| k.barrier_arrive(1, 64);
    for act in [named, arrival] {
        assert_eq!(with(Cond::Warp, act), Ok(()));
        let skipped = with(Cond::Loaded, act);
        refused(&skipped, "may be skipped by some threads");
    }
}

#[test]
fn products_across_turns_of_a_loop() {
    // A is set for the next step while `leaves` groups may be in flight, in one of two fragments.
    let pipeline = |leaves: u8| {
        build(128, None, |k| {
            let x = k.input::<u32>("x");
            let tile = k.shared_aligned::<u32>("tile", 64, 1024);
            let b = tile.descriptor(0, MatrixLayout::rows(Swizzle::B32));
            let d = k.accumulators::<f32>(4);
            let fragment = || std::array::from_fn::<_, 4, _>(|_| k.var(0u32));
            let a = [fragment(), fragment()];
            let m = Wgmma::from_registers(WgmmaType::F16, 8);
            let set = |stage: usize, i: Val<'_, u32>| {
                a[stage].iter().for_each(|v| v.set(x.load(i)));
            };
            set(0, k.constant(0));
            k.for_each(0, k.grid_x(), 2, |i| {
                for (stage, factor) in a.iter().enumerate() {
                    k.wgmma_fence();
                    k.wgmma(m, &d, LeftFactor::Variables(factor), b, true);
                    k.wgmma_commit();
                    k.wgmma_wait(leaves);
                    set(stage ^ 1, i + stage as u32);
                }
            });
            k.wgmma_wait(0);
        })
    };
    assert_eq!(pipeline(0), Ok(()));
    assert_eq!(pipeline(1), Ok(()));
    let late = pipeline(2);
    assert!(matches!(late, Err(Error::InFlight { .. })), "{late:?}");
    let one = build(128, None, |k| {
        let x = k.input::<u32>("x");
        let tile = k.shared_aligned::<u32>("tile", 64, 1024);
        let b = tile.descriptor(0, MatrixLayout::rows(Swizzle::B32));
        let d = k.accumulators::<f32>(4);
        let m = Wgmma::from_registers(WgmmaType::F16, 8);
        k.for_each(0, k.grid_x(), 1, |i| {
            let a: [_; 4] = std::array::from_fn(|n| x.load(i + n as u32));
            k.wgmma_fence();
            k.wgmma(m, &d, LeftFactor::Values(a), b, true);
            k.wgmma_commit();
        });
        k.wgmma_wait(0);
    });
    assert!(matches!(one, Err(Error::InFlight { .. })), "{one:?}");
}

#[test]
fn a_cluster_waits_as_one() {
    let with = |blocks: u32, under: fn(&Builder)| {
        build(64, None, |k| {
            k.cluster(blocks);
            under(k);
        })
    };
    let always = |k: &Builder| k.cluster_barrier();
    let of_rank = |k: &Builder| k.if_(k.cluster_rank().eq(0), || k.cluster_barrier());
    let of_block = |k: &Builder| k.if_(k.block_x().lt(3), || k.cluster_barrier());
    let of_grid = |k: &Builder| k.if_(k.grid_x().gt(3), || k.cluster_barrier());
    for blocks in [1, 2, 8] {
        assert_eq!(with(blocks, always), Ok(()));
        assert_eq!(with(blocks, of_grid), Ok(()));
    }
    for under in [of_rank, of_block] {
        assert_eq!(with(1, under), Ok(()));
        refused(&with(2, under), "not every thread of the cluster");
    }
    refused(&with(16, always), "8 are portable");
    let older = Kernel::new("older", Target::Sm89, |k| k.cluster(2)).verify();
    refused(&older, "clusters, which sm_89 has not");
}

#[test]
fn only_sm_90a_has_warpgroups() {
    let of = |target| {
        Kernel::new("target", target, |k| {
            k.block_size(128);
            k.wgmma_fence();
        })
        .verify()
    };
    assert_eq!(of(Target::Sm90a), Ok(()));
    for target in [Target::Sm89, Target::Sm100, Target::Sm120] {
        refused(&of(target), "needs sm_90a alone and PTX 8.0");
    }
}
