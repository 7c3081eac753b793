//! Barriers that part of a block reaches, and waits that never end.

use gannet_ptx_gen::build::BulkCopy;
use gannet_ptx_gen::interp::{FaultKind, LaunchArg, Memory, Prepared};
use gannet_ptx_gen::ir::Kernel;
use gannet_ptx_gen::op::Opcode;
use gannet_ptx_gen::target::Target;
use gannet_ptx_gen::verify::Error;

use crate::{finding, found, numbers, quiet, thread};

const FILE: &str = "planted/barriers.rs";

/// Rotates the first n of a block's numbers. Planted: the barrier stands inside the bounds check.
fn rotate(planted: bool) -> (Kernel, u32, u32) {
    let (mut branch, mut barrier) = (0, 0);
    let kernel = Kernel::new("rotate", Target::Sm80, |k| {
        k.block_size(64);
        let (x, n) = (k.in_out::<f32>("x"), k.scalar::<u32>("n"));
        let tile = k.shared::<f32>("tile", 64);
        let i = k.thread_x();
        let inside = i.lt(n);
        let read = || {
            let next = i + 1;
            x.store(i, tile.load(next.select(next.lt(n), 0)));
        };
        if planted {
            branch = line!() + 1;
            k.if_(inside, || {
                tile.store(i, x.load(i));
                barrier = line!() + 1;
                k.barrier();
                read();
            });
        } else {
            k.if_(inside, || tile.store(i, x.load(i)));
            k.barrier();
            k.if_(inside, read);
        }
    });
    (kernel, branch, barrier)
}

#[test]
fn a_barrier_inside_a_bounds_check() {
    let (kernel, branch, barrier) = rotate(true);
    match kernel.verify() {
        Err(Error::Divergent {
            kernel,
            at,
            group,
            cause,
            ..
        }) => {
            assert_eq!((&*kernel, group), ("rotate", "block"));
            assert!(at.file.ends_with(FILE) && at.line == barrier, "{at}");
            assert_eq!(cause.line, branch);
        }
        other => panic!("{other:?}"),
    }
    // What the verifier keeps from happening: 16 lanes of warp 1 wait for the other 16.
    let mut memory = Memory::new();
    let x = memory.alloc_from(&numbers(64));
    let args = [LaunchArg::U64(x), LaunchArg::U32(48)];
    let prepared = Prepared::unverified(&kernel).unwrap();
    let place = thread((FILE, barrier), 32);
    let kind = found(&prepared, &kernel, ([1, 1, 1], &args), &memory, place);
    let (active, needed) = (0xffff, u32::MAX);
    assert_eq!(kind, FaultKind::Divergent { active, needed });
    memory.write(x, &numbers(64)).unwrap();
    quiet(&rotate(false).0, [1, 1, 1], &args, &memory);
    let mut expected = numbers(64);
    expected[..48].rotate_left(3);
    assert_eq!(memory.read::<f32>(x, 64).unwrap(), expected);
}

/// Halves numbers until a block's largest is below 1. Planted: the end is vouched for from each thread's own number.
fn halve(planted: bool) -> (Kernel, u32) {
    let mut line = 0;
    let kernel = Kernel::new("halve", Target::Sm80, |k| {
        k.block_size(32);
        let x = k.in_out::<f32>("x");
        let value = k.var(x.load(k.thread_x()));
        k.loop_while(|| {
            value.set(value.get() * 0.5);
            let largest = k.block_max(value.get());
            let again = if planted { value.get() } else { largest };
            line = line!() + 1;
            k.assume_uniform(again.ge(1.0))
        });
        x.store(k.thread_x(), value.get());
    });
    (kernel, line)
}

#[test]
fn a_false_claim_of_uniformity() {
    let mut memory = Memory::new();
    let input: Vec<f32> = (0..32).map(|i| if i == 5 { 9.0 } else { 1.0 }).collect();
    let x = memory.alloc_from(&input);
    let (kernel, line) = halve(true);
    let place = thread((FILE, line), 5);
    let kind = finding(&kernel, [1, 1, 1], &[LaunchArg::U64(x)], &memory, place);
    assert!(
        matches!(&kind, FaultKind::Protocol(what) if what.contains("true in lanes 0x00000020")),
        "{kind}"
    );
    memory.write(x, &input).unwrap();
    quiet(&halve(false).0, [1, 1, 1], &[LaunchArg::U64(x)], &memory);
    // Four halvings in the first run and one in each of the others.
    let expected: Vec<f32> = input.iter().map(|v| v / 64.0).collect();
    assert_eq!(memory.read::<f32>(x, 32).unwrap(), expected);
}

/// Warp 0 loads, warp 1 stores; two named barriers pass the tile on and back. Planted: the producer announces a full
/// tile at the barrier of empty ones.
fn named(planted: bool) -> (Kernel, u32) {
    let mut line = 0;
    let kernel = Kernel::new("named", Target::Sm80, |k| {
        let (full, empty, threads) = (1, 2, 64);
        k.block_size(64);
        let (x, out) = (k.input::<f32>("x"), k.output::<f32>("out"));
        let tile = k.shared::<f32>("tile", 32);
        let arrive = |id| {
            k.inst(Opcode::BarArrive { id, threads }, &[], &[]);
        };
        let produce = || {
            k.for_each(0, 4, 1, |n| {
                tile.store(k.lane(), x.load(n * 32 + k.lane()));
                arrive(if planted { empty } else { full });
                k.barrier_n(empty, threads);
            });
        };
        let consume = || {
            k.for_each(0, 4, 1, |n| {
                line = line!() + 1;
                k.barrier_n(full, threads);
                out.store(n * 32 + k.lane(), tile.load(k.lane()));
                arrive(empty);
            });
        };
        k.if_else(k.thread_x().lt(32), produce, consume);
    });
    (kernel, line)
}

#[test]
fn a_named_barrier_that_nobody_completes() {
    let mut memory = Memory::new();
    let (x, out) = (memory.alloc_from(&numbers(128)), memory.alloc(512));
    let args = [LaunchArg::U64(x), LaunchArg::U64(out)];
    let (kernel, line) = named(true);
    // A barrier of all threads at which half of them never arrive: the verifier refuses it.
    match kernel.verify() {
        Err(Error::Divergent { at, .. }) => assert_eq!(at.line, line),
        other => panic!("{other:?}"),
    }
    let prepared = Prepared::unverified(&kernel).unwrap();
    let place = thread((FILE, line), 32);
    // The producer counts itself twice at the wrong barrier and runs to its end; the consumer waits for ever.
    let kind = found(&prepared, &kernel, ([1, 1, 1], &args), &memory, place);
    assert!(
        matches!(&kind, FaultKind::Deadlock { waiting } if waiting == "warp 1 at barrier 1"),
        "{kind}"
    );
    quiet(&named(false).0, [1, 1, 1], &args, &memory);
    assert_eq!(memory.read::<f32>(out, 128).unwrap(), numbers(128));
}

/// Adds up a row that a bulk copy brings. Planted: the mbarrier is told of too many bytes.
fn announced(planted: bool) -> (Kernel, u32) {
    let mut line = 0;
    let kernel = Kernel::new("announced", Target::Sm90a, |k| {
        k.block_size(64);
        let (x, out) = (k.input::<f32>("x"), k.output::<f32>("out"));
        let row = k.shared::<f32>("row", 64);
        let arrived = k.shared::<u64>("arrived", 1);
        let zero = k.constant(0u32);
        k.if_(k.thread_x().eq(0), || arrived.mbarrier_init(0, 1));
        k.barrier();
        k.if_(k.thread_x().eq(0), || {
            arrived.mbarrier_expect(0, if planted { 512 } else { 256 });
            arrived.bulk_copy(
                0,
                BulkCopy {
                    dst: row,
                    to: zero,
                    src: x,
                    from: zero,
                    bytes: 256,
                },
            );
        });
        line = line!() + 1;
        arrived.mbarrier_wait(0, 0);
        let sum = k.block_sum(row.load(k.thread_x()));
        k.if_(k.thread_x().eq(0), || out.store(0, sum));
    });
    (kernel, line)
}

#[test]
fn an_mbarrier_that_waits_for_bytes_nobody_sends() {
    let mut memory = Memory::new();
    let (x, out) = (memory.alloc_from(&numbers(64)), memory.alloc(4));
    let args = [LaunchArg::U64(x), LaunchArg::U64(out)];
    let (kernel, line) = announced(true);
    let place = thread((FILE, line), 0);
    let kind = finding(&kernel, [1, 1, 1], &args, &memory, place);
    assert!(
        matches!(&kind, FaultKind::Deadlock { waiting } if waiting.contains("warp 1 polling")),
        "{kind}"
    );
    quiet(&announced(false).0, [1, 1, 1], &args, &memory);
    let expected: f32 = numbers(64).iter().sum();
    assert_eq!(memory.read::<f32>(out, 1).unwrap(), [expected]);
}
