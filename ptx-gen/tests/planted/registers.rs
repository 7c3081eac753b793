//! Registers that a block does not have, and what it shares with the other blocks of its cluster.

use gannet_ptx_gen::build::BulkCopy;
use gannet_ptx_gen::interp::{FaultKind, LaunchArg, Memory, Prepared};
use gannet_ptx_gen::ir::Kernel;
use gannet_ptx_gen::op::Fence;
use gannet_ptx_gen::target::Target;

use crate::{finding, found, quiet, thread};

const FILE: &str = "planted/registers.rs";

/// A producer gives up registers, two consumers take them, of 168 a thread.
/// Planted: the consumer asks for more than the producer leaves.
fn exchange(consumer: u16) -> (Kernel, u32) {
    let mut line = 0;
    let kernel = Kernel::new("exchange", Target::Sm90a, |k| {
        k.block_size(384);
        k.min_blocks(1);
        let out = k.output::<u32>("out");
        k.if_else(
            k.thread_x().lt(128),
            || k.fewer_registers(40),
            || {
                line = line!() + 1;
                k.more_registers(consumer);
                out.store(k.thread_x(), 1);
            },
        );
    });
    (kernel, line)
}

#[test]
fn more_registers_than_the_block_has() {
    let mut memory = Memory::new();
    let args = [LaunchArg::U64(memory.alloc(384 * 4))];
    let (kernel, line) = exchange(240);
    let prepared = Prepared::unverified(&kernel).unwrap();
    // Seven warps have theirs; the last one waits.
    let place = thread((FILE, line), 352);
    let kind = found(&prepared, &kernel, ([1; 3], &args), &memory, place);
    assert!(
        matches!(&kind, FaultKind::Deadlock { waiting } if waiting.contains("for registers")),
        "{kind}"
    );
    quiet(&exchange(232).0, [1; 3], &args, &memory);
}

/// One mistake in a cluster.
#[derive(Clone, Copy, PartialEq)]
enum Slip {
    Nothing,
    /// The other block's mbarrier is used before it was made.
    NoBarrier,
    /// A block ends while the other may still reach it.
    EndsEarly,
    /// One block's barrier is never filled.
    OneBlock,
    /// The copy is read without its mbarrier.
    ReadsUnfilled,
}

/// The first block of a cluster copies 32 numbers to both; each says so to the other before it stores them.
fn multicast(slip: Slip) -> (Kernel, [u32; 4]) {
    let (mut copy, mut arrive, mut wait, mut read) = (0, 0, 0, 0);
    let kernel = Kernel::new("multicast", Target::Sm90a, |k| {
        k.block_size(32);
        k.cluster(2);
        let (x, out) = (k.input::<u32>("x"), k.output::<u32>("out"));
        let data = k.shared::<u32>("data", 32);
        let (full, done) = (k.shared::<u64>("full", 1), k.shared::<u64>("done", 1));
        let first = k.thread_x().eq(0);
        let make = || {
            full.mbarrier_init(0, 1);
            done.mbarrier_init(0, 1);
            k.fence(Fence::MbarrierInit);
            full.mbarrier_expect(0, 128);
        };
        if slip == Slip::NoBarrier {
            k.if_(k.cluster_rank().eq(0) & first, make);
        } else {
            k.if_(first, make);
        }
        k.cluster_barrier();
        k.if_(first & k.cluster_rank().eq(0), || {
            let what = BulkCopy {
                dst: data,
                to: k.constant(0),
                src: x,
                from: k.constant(0),
                bytes: 128,
            };
            copy = line!() + 1;
            full.bulk_copy_multicast(0, what, if slip == Slip::OneBlock { 1u16 } else { 3u16 });
        });
        if slip != Slip::ReadsUnfilled {
            full.mbarrier_wait(0, 0);
        }
        read = line!() + 1;
        let value = data.load(k.thread_x());
        if slip == Slip::EndsEarly {
            k.exit_if(k.cluster_rank().eq(0));
        }
        arrive = line!() + 1;
        k.if_(first, || done.mbarrier_arrive_in(k.cluster_rank() ^ 1, 0));
        if slip != Slip::EndsEarly {
            wait = line!() + 1;
            done.mbarrier_wait(0, 0);
            out.store(k.block_x() * 32 + k.thread_x(), value);
            k.cluster_barrier();
        }
    });
    (kernel, [copy, arrive, wait, read])
}

#[test]
fn blocks_of_a_cluster_reach_each_other() {
    let mut memory = Memory::new();
    let x = memory.alloc_from(&(0..32u32).collect::<Vec<_>>());
    let out = memory.alloc(128 * 4);
    let args = [x, out].map(LaunchArg::U64);
    quiet(&multicast(Slip::Nothing).0, [4, 1, 1], &args, &memory);
    let expected: Vec<u32> = (0..128).map(|i| i % 32).collect();
    assert_eq!(memory.read::<u32>(out, 128).unwrap(), expected);

    let run = |slip| {
        let (kernel, lines) = multicast(slip);
        let prepared = Prepared::new(&kernel).unwrap_or_else(|e| panic!("{e}"));
        let fault = prepared.launch([2, 1, 1], &args, &memory, &crate::options());
        (fault.unwrap_err(), lines)
    };
    let check = |slip, which: usize, words: &str| {
        let (fault, lines) = run(slip);
        let site = fault.site.as_ref().unwrap();
        let place = format!("{FILE}:{}", lines[which]);
        assert!(site.source.ends_with(&place), "{place}: {fault}");
        assert!(fault.to_string().contains(words), "{fault}");
    };
    check(Slip::NoBarrier, 0, "no mbarrier was initialised");
    check(Slip::EndsEarly, 1, "has ended");
    check(Slip::OneBlock, 2, "deadlock");
    check(Slip::ReadsUnfilled, 3, "copy still in flight");
}

/// Planted: the grid is not made of clusters, or a wait has no arrival.
#[test]
fn clusters_that_cannot_be() {
    let mut memory = Memory::new();
    let x = memory.alloc_from(&[0u32; 32]);
    let args = [x, memory.alloc(128 * 4)].map(LaunchArg::U64);
    let (kernel, _) = multicast(Slip::Nothing);
    let prepared = Prepared::new(&kernel).unwrap_or_else(|e| panic!("{e}"));
    let fault = prepared.launch([3, 1, 1], &args, &memory, &crate::options());
    let fault = fault.unwrap_err();
    assert!(
        fault.to_string().contains("clusters of 2 blocks"),
        "{fault}"
    );

    let mut line = 0;
    let kernel = Kernel::new("unarrived", Target::Sm90a, |k| {
        k.block_size(32);
        k.cluster(2);
        line = line!() + 1;
        k.cluster_wait();
    });
    let kind = finding(&kernel, [2, 1, 1], &[], &memory, thread((FILE, line), 0));
    assert!(
        matches!(&kind, FaultKind::Protocol(what) if what.contains("without an arrival")),
        "{kind}"
    );
}
