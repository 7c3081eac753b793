//! Products of warpgroups with their registers or their shared memory taken away under them.
//!
//! What the verifier proves of registers, it refuses; the interpreter is then shown the same kernel unverified, since a
//! path that really runs is its business. What is in shared memory is the interpreter's alone.

use gannet_ptx_gen::build::{
    Accumulators, Builder, BulkCopy, LeftFactor, MatrixLayout, Shared, Swizzle, Var,
};
use gannet_ptx_gen::interp::{FaultKind, LaunchArg, Memory, Prepared};
use gannet_ptx_gen::ir::Kernel;
use gannet_ptx_gen::op::{Fence, Wgmma, WgmmaType};
use gannet_ptx_gen::target::Target;
use gannet_ptx_gen::verify::Error;
use half::f16;

use crate::{finding, found, quiet, thread};

const FILE: &str = "planted/products.rs";

/// One mistake in the use of a product's registers.
#[derive(Clone, Copy, PartialEq)]
enum Slip {
    Nothing,
    /// An accumulator is read before the wait.
    ReadsEarly,
    /// An accumulator is written before the wait.
    WritesEarly,
    /// A factor's register is set for the next step while this one is in flight.
    OverwritesFactor,
    /// The accumulators are set after the fence.
    NoFence,
    /// The factors' registers are set after the fence.
    NoFactorFence,
    /// The wait leaves the newest group in flight.
    WaitsForTooFew,
    /// The products are never committed.
    NoCommit,
    /// Nobody waits.
    NoWait,
}

/// d = 1 + a b, A in registers, B eight columns; a thread writes its four sums.
fn registers(slip: Slip) -> (Kernel, u32) {
    let mut line = 0;
    let kernel = Kernel::new("registers", Target::Sm90a, |k| {
        k.block_size(128);
        let (x, out) = (k.input::<u32>("x"), k.output::<f32>("out"));
        let tile = k.shared_aligned::<u32>("tile", 64, 1024);
        k.if_(k.thread_x().lt(64), || {
            tile.store(k.thread_x(), x.load(k.thread_x()));
        });
        k.fence(Fence::ProxyAsync);
        k.barrier();
        let b = tile.descriptor(0, MatrixLayout::rows(Swizzle::B32));
        let d = k.accumulators::<f32>(4);
        let a: [_; 4] = std::array::from_fn(|i| k.var(x.load(i as u32)));
        let m = Wgmma::from_registers(WgmmaType::F16, 8);
        let set = || (0..4).for_each(|i| d.set(i, 1.0));
        if slip != Slip::NoFence {
            set();
        }
        k.wgmma_fence();
        if slip == Slip::NoFence {
            set();
        }
        if slip == Slip::NoFactorFence {
            a[0].set(x.load(9));
        }
        if matches!(slip, Slip::NoFence | Slip::NoFactorFence) {
            line = line!() + 2;
        }
        k.wgmma(m, &d, LeftFactor::Variables(&a), b, true);
        match slip {
            Slip::NoCommit => {}
            _ => k.wgmma_commit(),
        }
        match slip {
            Slip::ReadsEarly => {
                line = line!() + 1;
                out.store(k.thread_x(), d.get(3));
            }
            Slip::WritesEarly => {
                line = line!() + 1;
                d.set(2, 5.0);
            }
            Slip::OverwritesFactor => {
                line = line!() + 1;
                a[1].set(x.load(8));
            }
            _ => {}
        }
        match slip {
            Slip::NoWait => {}
            Slip::WaitsForTooFew => k.wgmma_wait(1),
            _ => k.wgmma_wait(0),
        }
        if matches!(slip, Slip::WaitsForTooFew | Slip::NoCommit) {
            line = line!() + 4;
        }
        if slip != Slip::NoWait {
            let sum = d.get(0);
            out.store(k.thread_x() * 4, sum);
            (1..4).for_each(|i| out.store(k.thread_x() * 4 + i as u32, d.get(i)));
        }
    });
    (kernel, line)
}

/// A factor of ones.
fn ones(k: &Builder) -> [Var<'_, u32>; 4] {
    std::array::from_fn(|_| k.var(0x3c00_3c00u32))
}

fn buffers() -> (Memory, [LaunchArg; 2], u64) {
    let mut memory = Memory::new();
    let one = f16::from_f32(1.0);
    let x = memory.alloc_from(&[one; 128]);
    let out = memory.alloc(128 * 16);
    (memory, [x, out].map(LaunchArg::U64), out)
}

#[test]
fn registers_of_products_in_flight() {
    let (memory, args, out) = buffers();
    for slip in [
        Slip::ReadsEarly,
        Slip::WritesEarly,
        Slip::OverwritesFactor,
        Slip::WaitsForTooFew,
        Slip::NoCommit,
    ] {
        let (kernel, line) = registers(slip);
        match kernel.verify() {
            Err(Error::InFlight { at, .. }) => assert_eq!(at.line, line),
            other => panic!("{other:?}"),
        }
        let prepared = Prepared::unverified(&kernel).unwrap();
        let place = thread((FILE, line), 0);
        let kind = found(&prepared, &kernel, ([1; 3], &args), &memory, place);
        let open = slip == Slip::NoCommit;
        let said = if open { "not even" } else { "not waited" };
        assert!(
            matches!(&kind, FaultKind::InFlight(what) if what.contains(said)),
            "{kind}"
        );
    }
    let (kernel, _) = registers(Slip::NoWait);
    assert!(matches!(kernel.verify(), Err(Error::NeverWaited { .. })));
    let prepared = Prepared::unverified(&kernel).unwrap();
    let fault = prepared.launch([1; 3], &args, &memory, &crate::options());
    assert!(matches!(
        *fault.unwrap_err().kind,
        FaultKind::InFlight(what) if what.contains("ends")
    ));
    quiet(&registers(Slip::Nothing).0, [1; 3], &args, &memory);
    assert_eq!(memory.read::<f32>(out, 512).unwrap(), [17.0; 512]);
}

#[test]
fn registers_that_no_fence_orders() {
    let (memory, args, _) = buffers();
    for slip in [Slip::NoFence, Slip::NoFactorFence] {
        let (kernel, line) = registers(slip);
        match kernel.verify() {
            Err(Error::Unfenced { at, .. }) => assert_eq!(at.line, line),
            other => panic!("{other:?}"),
        }
        let prepared = Prepared::unverified(&kernel).unwrap();
        let place = thread((FILE, line), 0);
        let kind = found(&prepared, &kernel, ([1; 3], &args), &memory, place);
        assert!(matches!(&kind, FaultKind::Unfenced(_)), "{kind}");
    }
}

/// Sums of B's eight columns, B stored by the warpgroup itself. Planted: nothing hands it to the async proxy.
fn stored(planted: bool) -> (Kernel, u32) {
    let mut line = 0;
    let kernel = Kernel::new("stored", Target::Sm90a, |k| {
        k.block_size(128);
        let (x, out) = (k.input::<u32>("x"), k.output::<f32>("out"));
        let tile = k.shared_aligned::<u32>("tile", 64, 1024);
        k.if_(k.thread_x().lt(64), || {
            tile.store(k.thread_x(), x.load(k.thread_x()));
        });
        if !planted {
            k.fence(Fence::ProxyAsync);
        }
        k.barrier();
        let b = tile.descriptor(0, MatrixLayout::rows(Swizzle::B32));
        let (d, a) = (k.accumulators::<f32>(4), ones(k));
        let m = Wgmma::from_registers(WgmmaType::F16, 8);
        k.wgmma_fence();
        line = line!() + 1;
        k.wgmma(m, &d, LeftFactor::Variables(&a), b, false);
        k.wgmma_commit();
        k.wgmma_wait(0);
        (0..4).for_each(|i| out.store(k.thread_x() * 4 + i as u32, d.get(i)));
    });
    (kernel, line)
}

#[test]
fn a_factor_that_was_not_handed_to_the_async_proxy() {
    let (memory, args, out) = buffers();
    let (kernel, line) = stored(true);
    let kind = finding(&kernel, [1; 3], &args, &memory, thread((FILE, line), 0));
    assert!(
        matches!(&kind, FaultKind::Proxy { what, .. } if what.contains("fence.proxy.async")),
        "{kind}"
    );
    quiet(&stored(false).0, [1; 3], &args, &memory);
    assert_eq!(memory.read::<f32>(out, 512).unwrap(), [16.0; 512]);
}

/// One mistake in the use of a stage of shared memory.
#[derive(Clone, Copy, PartialEq)]
enum Ring {
    Right,
    /// The stage is given back before its product was waited for.
    FreedEarly,
    /// The product does not wait for the copy.
    ReadsUnfilled,
}

/// The sum of three B tiles' columns, copied one by one into a single stage by a producing warp of a second warpgroup.
fn ring(kind: Ring) -> (Kernel, u32, u32) {
    let (mut copy_line, mut product_line) = (0, 0);
    let rounds = 3u32;
    let kernel = Kernel::new("ring", Target::Sm90a, |k| {
        k.block_size(256);
        let (x, out) = (k.input::<u32>("x"), k.output::<f32>("out"));
        let tile = k.shared_aligned::<u32>("tile", 64, 1024);
        let (full, empty) = (k.shared::<u64>("full", 1), k.shared::<u64>("empty", 1));
        k.if_(k.thread_x().eq(0), || {
            full.mbarrier_init(0, 1);
            empty.mbarrier_init(0, 4);
        });
        k.barrier();
        let fill = || {
            for round in 0..rounds {
                if round > 0 {
                    empty.mbarrier_wait(0, (round - 1) % 2);
                }
                let (to, from) = (k.constant(0), k.constant(round * 64));
                full.mbarrier_expect(0, 256);
                copy_line = line!() + 1;
                full.bulk_copy(
                    0,
                    BulkCopy {
                        dst: tile,
                        to,
                        src: x,
                        from,
                        bytes: 256,
                    },
                );
            }
        };
        let multiply = || {
            let b = tile.descriptor(0, MatrixLayout::rows(Swizzle::B32));
            let (d, a) = (k.accumulators::<f32>(4), ones(k));
            let m = Wgmma::from_registers(WgmmaType::F16, 8);
            for round in 0..rounds {
                let free = || k.if_(k.lane().eq(0), || empty.mbarrier_arrive(0));
                if kind != Ring::ReadsUnfilled {
                    full.mbarrier_wait(0, round % 2);
                }
                k.wgmma_fence();
                product_line = line!() + 1;
                k.wgmma(m, &d, LeftFactor::Variables(&a), b, round > 0);
                k.wgmma_commit();
                if kind == Ring::FreedEarly {
                    free();
                    k.wgmma_wait(0);
                } else {
                    k.wgmma_wait(0);
                    free();
                }
            }
            let at = (k.thread_x() - 128) * 4;
            (0..4).for_each(|i| out.store(at + i as u32, d.get(i)));
        };
        k.if_else(
            k.thread_x().lt(128),
            || k.if_(k.thread_x().eq(0), fill),
            multiply,
        );
    });
    (kernel, copy_line, product_line)
}

#[test]
fn a_stage_copied_over_while_a_product_reads_it() {
    let mut memory = Memory::new();
    let x = memory.alloc_from(&[f16::from_f32(1.0); 3 * 128]);
    let out = memory.alloc(128 * 16);
    let args = [x, out].map(LaunchArg::U64);
    let (kernel, line, _) = ring(Ring::FreedEarly);
    // Which of the lanes that freed it is seen first is the schedule's: a product of some warp is still reading.
    let kind = finding(&kernel, [1; 3], &args, &memory, thread((FILE, line), 0));
    assert!(
        matches!(&kind, FaultKind::Race { what, .. } if what.contains("the read by warp")),
        "{kind}"
    );
    let (kernel, _, line) = ring(Ring::ReadsUnfilled);
    let kind = finding(&kernel, [1; 3], &args, &memory, thread((FILE, line), 128));
    assert!(
        matches!(&kind, FaultKind::Race { what, .. } if what.contains("copy still in flight")),
        "{kind}"
    );
    quiet(&ring(Ring::Right).0, [1; 3], &args, &memory);
    assert_eq!(memory.read::<f32>(out, 512).unwrap(), [48.0; 512]);
}

/// Two steps of a tile of 64-byte rows. Planted: the second one begins at the next row instead of the next 32 bytes,
/// or the tile itself does not begin at an atom.
fn steps(step: u32, start: impl Fn(&mut u32)) -> (Kernel, u32) {
    let (mut line, mut first) = (0, 0);
    start(&mut first);
    let kernel = Kernel::new("steps", Target::Sm90a, |k| {
        k.block_size(128);
        let (x, out) = (k.input::<u32>("x"), k.output::<f32>("out"));
        let tile: Shared<'_, u32> = k.shared_aligned("tile", 512, 1024);
        k.for_each(k.thread_x(), 512, 128, |i| tile.store(i, x.load(i % 64u32)));
        k.fence(Fence::ProxyAsync);
        k.barrier();
        let at = k.grid_x() * first;
        let b = tile.descriptor(at, MatrixLayout::rows(Swizzle::B64));
        let d: Accumulators<'_, f32> = k.accumulators(4);
        let a = ones(k);
        let m = Wgmma::from_registers(WgmmaType::F16, 8);
        k.wgmma_fence();
        for n in 0..2 {
            line = line!() + 1;
            k.wgmma(m, &d, LeftFactor::Variables(&a), b.advance(step * n), n > 0);
        }
        k.wgmma_commit();
        k.wgmma_wait(0);
        (0..4).for_each(|i| out.store(k.thread_x() * 4 + i as u32, d.get(i)));
    });
    (kernel, line)
}

#[test]
fn descriptors_that_leave_their_atoms() {
    let (memory, args, out) = buffers();
    for (kernel, line) in [steps(64, |_| {}), steps(32, |first| *first = 16)] {
        let kind = finding(&kernel, [1; 3], &args, &memory, thread((FILE, line), 0));
        assert!(
            matches!(&kind, FaultKind::Descriptor(what) if what.contains("into an atom")),
            "{kind}"
        );
    }
    quiet(&steps(32, |_| {}).0, [1; 3], &args, &memory);
    assert_eq!(memory.read::<f32>(out, 512).unwrap(), [32.0; 512]);
}

#[test]
#[should_panic(expected = "need an array aligned to 1024 bytes")]
fn atoms_in_an_array_that_does_not_keep_them_aligned() {
    let _ = Kernel::new("aligned", Target::Sm90a, |k| {
        let tile = k.shared::<u32>("tile", 512);
        let _ = tile.descriptor(0, MatrixLayout::rows(Swizzle::B128));
    });
}

#[test]
#[should_panic(expected = "no multiple of the atom's 1024")]
fn a_stride_between_atoms() {
    let layout = MatrixLayout {
        stride: 512,
        ..MatrixLayout::rows(Swizzle::B128)
    };
    let _ = Kernel::new("stride", Target::Sm90a, |k| {
        let tile = k.shared_aligned::<u32>("tile", 512, 1024);
        let _ = tile.descriptor(0, layout);
    });
}

/// Planted: the warps of a warpgroup multiply by different tiles.
fn split(planted: bool) -> (Kernel, u32) {
    let mut line = 0;
    let kernel = Kernel::new("split", Target::Sm90a, |k| {
        k.block_size(128);
        let (x, out) = (k.input::<u32>("x"), k.output::<f32>("out"));
        let tile = k.shared_aligned::<u32>("tile", 128, 1024);
        tile.store(k.thread_x(), x.load(k.thread_x() % 64u32));
        k.fence(Fence::ProxyAsync);
        k.barrier();
        let warp = k.warp();
        let first = if planted {
            (warp % 2u32) * 64
        } else {
            k.grid_x() * 64
        };
        let b = tile.descriptor(first, MatrixLayout::rows(Swizzle::B32));
        let (d, a) = (k.accumulators::<f32>(4), ones(k));
        k.wgmma_fence();
        let m = Wgmma::from_registers(WgmmaType::F16, 8);
        line = line!() + 1;
        k.wgmma(m, &d, LeftFactor::Variables(&a), b, false);
        k.wgmma_commit();
        k.wgmma_wait(0);
        (0..4).for_each(|i| out.store(k.thread_x() * 4 + i as u32, d.get(i)));
    });
    (kernel, line)
}

#[test]
fn warps_of_a_warpgroup_that_do_not_agree() {
    let (memory, args, _) = buffers();
    let (kernel, line) = split(true);
    let kind = finding(&kernel, [1; 3], &args, &memory, thread((FILE, line), 32));
    assert!(
        matches!(&kind, FaultKind::Protocol(what) if what.contains("equal descriptors")),
        "{kind}"
    );
    quiet(&split(false).0, [1; 3], &args, &memory);
}

/// Two products in flight on the same accumulators. Planted: of different types, which nothing orders.
fn shapes(planted: bool) -> (Kernel, u32) {
    let mut line = 0;
    let kernel = Kernel::new("shapes", Target::Sm90a, |k| {
        k.block_size(128);
        let (x, out) = (k.input::<u32>("x"), k.output::<f32>("out"));
        let tile = k.shared_aligned::<u32>("tile", 64, 1024);
        k.if_(k.thread_x().lt(64), || {
            tile.store(k.thread_x(), x.load(k.thread_x()));
        });
        k.fence(Fence::ProxyAsync);
        k.barrier();
        let b = tile.descriptor(0, MatrixLayout::rows(Swizzle::B32));
        let (d, a) = (k.accumulators::<f32>(4), ones(k));
        let m = Wgmma::from_registers(WgmmaType::F16, 8);
        let ty = if planted { WgmmaType::Bf16 } else { m.ty };
        k.wgmma_fence();
        k.wgmma(m, &d, LeftFactor::Variables(&a), b, false);
        let other = Wgmma { ty, ..m };
        line = line!() + 1;
        k.wgmma(other, &d, LeftFactor::Variables(&a), b, true);
        k.wgmma_commit();
        k.wgmma_wait(0);
        (0..4).for_each(|i| out.store(k.thread_x() * 4 + i as u32, d.get(i)));
    });
    (kernel, line)
}

#[test]
fn accumulators_of_two_kinds_of_products() {
    let (memory, args, out) = buffers();
    let (kernel, line) = shapes(true);
    match kernel.verify() {
        Err(Error::InFlight { at, .. }) => assert_eq!(at.line, line),
        other => panic!("{other:?}"),
    }
    let prepared = Prepared::unverified(&kernel).unwrap();
    let place = thread((FILE, line), 0);
    let kind = found(&prepared, &kernel, ([1; 3], &args), &memory, place);
    assert!(
        matches!(&kind, FaultKind::InFlight(what) if what.contains("another shape")),
        "{kind}"
    );
    quiet(&shapes(false).0, [1; 3], &args, &memory);
    assert_eq!(memory.read::<f32>(out, 512).unwrap(), [32.0; 512]);
}

/// Planted: three warps of four do the product.
fn three(planted: bool) -> (Kernel, u32) {
    let mut line = 0;
    let kernel = Kernel::new("three", Target::Sm90a, |k| {
        k.block_size(128);
        let (x, out) = (k.input::<u32>("x"), k.output::<f32>("out"));
        let tile = k.shared_aligned::<u32>("tile", 64, 1024);
        k.if_(k.thread_x().lt(64), || {
            tile.store(k.thread_x(), x.load(k.thread_x()));
        });
        k.fence(Fence::ProxyAsync);
        k.barrier();
        let b = tile.descriptor(0, MatrixLayout::rows(Swizzle::B32));
        let (d, a) = (k.accumulators::<f32>(4), ones(k));
        let m = Wgmma::from_registers(WgmmaType::F16, 8);
        let multiply = || {
            line = line!() + 1;
            k.wgmma_fence();
            k.wgmma(m, &d, LeftFactor::Variables(&a), b, false);
            k.wgmma_commit();
            k.wgmma_wait(0);
        };
        k.if_(k.thread_x().lt(if planted { 96 } else { 128 }), multiply);
        (0..4).for_each(|i| out.store(k.thread_x() * 4 + i as u32, d.get(i)));
    });
    (kernel, line)
}

#[test]
fn a_product_that_part_of_a_warpgroup_does() {
    let (memory, args, _) = buffers();
    let (kernel, line) = three(true);
    match kernel.verify() {
        Err(Error::Divergent { at, group, .. }) => {
            assert_eq!((at.line, group), (line, "warpgroup"));
        }
        other => panic!("{other:?}"),
    }
    let prepared = Prepared::unverified(&kernel).unwrap();
    let fault = prepared.launch([1; 3], &args, &memory, &crate::options());
    let fault = fault.unwrap_err();
    let words = "which the other warps of its warpgroup execute";
    assert!(
        matches!(&*fault.kind, FaultKind::Protocol(what) if what.contains(words)),
        "{fault}"
    );
    quiet(&three(false).0, [1; 3], &args, &memory);
}

/// Planted: half of B was never written.
fn half(planted: bool) -> (Kernel, u32) {
    let mut line = 0;
    let kernel = Kernel::new("half", Target::Sm90a, |k| {
        k.block_size(128);
        let (x, out) = (k.input::<u32>("x"), k.output::<f32>("out"));
        let tile = k.shared_aligned::<u32>("tile", 64, 1024);
        let words = if planted { 32 } else { 64 };
        k.if_(k.thread_x().lt(words), || {
            tile.store(k.thread_x(), x.load(k.thread_x()));
        });
        k.fence(Fence::ProxyAsync);
        k.barrier();
        let b = tile.descriptor(0, MatrixLayout::rows(Swizzle::B32));
        let (d, a) = (k.accumulators::<f32>(4), ones(k));
        let m = Wgmma::from_registers(WgmmaType::F16, 8);
        k.wgmma_fence();
        line = line!() + 1;
        k.wgmma(m, &d, LeftFactor::Variables(&a), b, false);
        k.wgmma_commit();
        k.wgmma_wait(0);
        (0..4).for_each(|i| out.store(k.thread_x() * 4 + i as u32, d.get(i)));
    });
    (kernel, line)
}

#[test]
fn a_factor_that_nobody_wrote() {
    let (memory, args, _) = buffers();
    let (kernel, line) = half(true);
    let kind = finding(&kernel, [1; 3], &args, &memory, thread((FILE, line), 0));
    assert!(
        matches!(&kind, FaultKind::Uninitialised { bytes: 16, .. }),
        "{kind}"
    );
    quiet(&half(false).0, [1; 3], &args, &memory);
}
