//! Threads of a block that touch the same shared bytes with nothing between them.

use gannet_ptx_gen::interp::{FaultKind, LaunchArg, Memory};
use gannet_ptx_gen::ir::Kernel;
use gannet_ptx_gen::target::Target;

use crate::{SHARED, finding, numbers, quiet, thread};

const FILE: &str = "planted/sharing.rs";

/// Asserts a race at an address, with a statement that the message names as the other side.
fn assert_race(kind: &FaultKind, expected: u64, other: u32) {
    let FaultKind::Race { address, what } = kind else {
        panic!("{kind}")
    };
    assert_eq!(*address, expected, "{kind}");
    assert!(what.contains(&format!("{FILE}:{other}")), "{kind}");
}

/// Transposes four tiles of 8 x 8 numbers through one array. Planted: before the next tile only
/// the warp waits, and overwrites what other warps still read.
fn transpose(planted: bool) -> (Kernel, u32, u32) {
    let (mut store, mut load) = (0, 0);
    let kernel = Kernel::new("transpose", Target::Sm80, |k| {
        k.block_size(64);
        let (x, out) = (k.input::<f32>("x"), k.output::<f32>("out"));
        let tile = k.shared::<f32>("tile", 8 * 9);
        let (row, column) = (k.thread_x() / 8, k.thread_x() % 8);
        k.for_each(0, 4, 1, |n| {
            let value = x.load(n * 64 + k.thread_x());
            store = line!() + 1;
            tile.store(row * 9 + column, value);
            k.barrier();
            load = line!() + 1;
            let turned = tile.load(column * 9 + row);
            out.store(n * 64 + k.thread_x(), turned);
            if planted {
                k.warp_barrier();
            } else {
                k.barrier();
            }
        });
    });
    (kernel, store, load)
}

#[test]
fn a_tile_overwritten_while_other_warps_read_it() {
    let mut memory = Memory::new();
    let (x, out) = (memory.alloc_from(&numbers(256)), memory.alloc(1024));
    let args = [LaunchArg::U64(x), LaunchArg::U64(out)];
    let (kernel, store, load) = transpose(true);
    // Warp 0 is a tile ahead when warp 1 reads row 4 of columns 0 to 3, which warp 0 writes.
    let place = thread((FILE, load), 32);
    let kind = finding(&kernel, [1, 1, 1], &args, &memory, place);
    assert_race(&kind, SHARED + 4 * 4, store);
    quiet(&transpose(false).0, [1, 1, 1], &args, &memory);
    let (x, out) = (numbers(256), memory.read::<f32>(out, 256).unwrap());
    for (n, value) in out.iter().enumerate() {
        let (tile, row, column) = (n / 64, n / 8 % 8, n % 8);
        assert_eq!(*value, x[tile * 64 + column * 8 + row]);
    }
}

/// Exchanges neighbours of a warp through shared memory. Planted: no barrier of the warp, for lanes run in lockstep.
fn neighbours(planted: bool) -> (Kernel, u32, u32) {
    let (mut store, mut load) = (0, 0);
    let kernel = Kernel::new("neighbours", Target::Sm80, |k| {
        k.block_size(32);
        let x = k.in_out::<f32>("x");
        let cells = k.shared::<f32>("cells", 32);
        let value = x.load(k.lane());
        store = line!() + 1;
        cells.store(k.lane(), value);
        if !planted {
            k.warp_barrier();
        }
        load = line!() + 1;
        let other = cells.load(k.lane() ^ 1);
        x.store(k.lane(), other);
    });
    (kernel, store, load)
}

#[test]
fn lanes_that_trust_in_lockstep() {
    let mut memory = Memory::new();
    let x = memory.alloc_from(&numbers(32));
    let (kernel, store, load) = neighbours(true);
    let place = thread((FILE, load), 0);
    let kind = finding(&kernel, [1, 1, 1], &[LaunchArg::U64(x)], &memory, place);
    assert_race(&kind, SHARED + 4, store);
    memory.write(x, &numbers(32)).unwrap();
    quiet(
        &neighbours(false).0,
        [1, 1, 1],
        &[LaunchArg::U64(x)],
        &memory,
    );
    let expected: Vec<f32> = (0..32).map(|i| numbers(32)[i ^ 1]).collect();
    assert_eq!(memory.read::<f32>(x, 32).unwrap(), expected);
}

/// Counts values in 8 buckets. Planted: no barrier between clearing and counting.
fn histogram(planted: bool) -> (Kernel, u32, u32) {
    let (mut clear, mut add) = (0, 0);
    let kernel = Kernel::new("histogram", Target::Sm80, |k| {
        k.block_size(64);
        let (x, out) = (k.input::<u32>("x"), k.output::<u32>("out"));
        let buckets = k.shared::<u32>("buckets", 8);
        k.if_(k.thread_x().lt(8), || {
            clear = line!() + 1;
            buckets.store(k.thread_x(), 0);
        });
        if !planted {
            k.barrier();
        }
        let value = x.load(k.thread_x());
        add = line!() + 1;
        buckets.atomic(gannet_ptx_gen::op::Rmw::Add, value % 8, 1);
        k.barrier();
        k.if_(k.thread_x().lt(8), || {
            out.store(k.thread_x(), buckets.load(k.thread_x()))
        });
    });
    (kernel, clear, add)
}

#[test]
fn counting_in_buckets_that_are_being_cleared() {
    let mut memory = Memory::new();
    let values: Vec<u32> = (0..64).map(|i| i / 8 + 1).collect();
    let (x, out) = (memory.alloc_from(&values), memory.alloc(32));
    let args = [LaunchArg::U64(x), LaunchArg::U64(out)];
    let (kernel, clear, add) = histogram(true);
    // Thread 0 counts a 1 in the bucket that thread 1 clears.
    let place = thread((FILE, add), 0);
    let kind = finding(&kernel, [1, 1, 1], &args, &memory, place);
    assert_race(&kind, SHARED + 4, clear);
    quiet(&histogram(false).0, [1, 1, 1], &args, &memory);
    assert_eq!(memory.read::<u32>(out, 8).unwrap(), [8; 8]);
}
