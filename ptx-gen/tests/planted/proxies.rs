//! Bulk copies, which go through the async proxy, of bytes that ordinary instructions wrote.

use gannet_ptx_gen::build::{Builder, BulkCopy};
use gannet_ptx_gen::interp::{FaultKind, FaultSpace, LaunchArg, Memory};
use gannet_ptx_gen::ir::Kernel;
use gannet_ptx_gen::op::Fence;
use gannet_ptx_gen::target::Target;

use crate::{SHARED, finding, numbers, quiet, thread};

const FILE: &str = "planted/proxies.rs";

/// Asserts a missing fence at an address, after the write that a line emitted.
fn assert_unfenced(kind: &FaultKind, in_space: FaultSpace, expected: u64, write: u32) {
    let FaultKind::Proxy {
        space,
        address,
        what,
    } = kind
    else {
        panic!("{kind}")
    };
    assert_eq!((*space, *address), (in_space, expected), "{kind}");
    assert!(what.contains(&format!("{FILE}:{write}")), "{kind}");
}

/// What is wrong with [`scaled`].
#[derive(Clone, Copy, PartialEq)]
enum Mistake {
    None,
    /// No fence between the stores and the bulk copy.
    NoFence,
    /// The fence stands before the stores.
    EarlyFence,
    /// The array is overwritten while the copy still reads it.
    NoWait,
    /// The thread ends while the copy still reads the array.
    NoEnd,
}

/// Two tiles of 64 numbers doubled in shared memory, each sent out by one bulk copy.
fn scaled(mistake: Mistake) -> (Kernel, u32, u32) {
    let (mut store, mut copy) = (0, 0);
    let kernel = Kernel::new("scaled", Target::Sm90a, |k: &Builder| {
        k.block_size(64);
        let (x, out) = (k.input::<f32>("x"), k.output::<f32>("out"));
        let tile = k.shared::<f32>("tile", 64);
        let (zero, leader) = (k.constant(0u32), k.thread_x().eq(0));
        k.for_each(0, 2, 1, |n| {
            if mistake == Mistake::EarlyFence {
                k.fence(Fence::ProxyAsync);
            }
            let value = x.load(n * 64 + k.thread_x()) * 2.0;
            store = line!() + 1;
            tile.store(k.thread_x(), value);
            if !matches!(mistake, Mistake::NoFence | Mistake::EarlyFence) {
                k.fence(Fence::ProxyAsync);
            }
            k.barrier();
            k.if_(leader, || {
                copy = line!() + 1;
                k.bulk_store(256, out, n * 64, tile, zero);
                k.bulk_commit();
                if !matches!(mistake, Mistake::NoWait | Mistake::NoEnd) {
                    k.bulk_wait_read(0);
                }
            });
            k.barrier();
            if mistake == Mistake::NoEnd {
                k.if_(leader & n.eq(0), || k.bulk_wait_read(0));
                k.barrier();
            }
        });
    });
    (kernel, store, copy)
}

#[test]
fn stores_that_a_bulk_copy_does_not_see() {
    let mut memory = Memory::new();
    let (x, out) = (memory.alloc_from(&numbers(128)), memory.alloc(512));
    let args = [LaunchArg::U64(x), LaunchArg::U64(out)];
    for mistake in [Mistake::NoFence, Mistake::EarlyFence] {
        let (kernel, store, copy) = scaled(mistake);
        let place = thread((FILE, copy), 0);
        let kind = finding(&kernel, [1, 1, 1], &args, &memory, place);
        assert_unfenced(&kind, FaultSpace::Shared, SHARED, store);
    }
    quiet(&scaled(Mistake::None).0, [1, 1, 1], &args, &memory);
    let expected: Vec<f32> = numbers(128).iter().map(|v| v * 2.0).collect();
    assert_eq!(memory.read::<f32>(out, 128).unwrap(), expected);
}

#[test]
fn a_tile_overwritten_while_a_bulk_copy_reads_it() {
    let mut memory = Memory::new();
    let (x, out) = (memory.alloc_from(&numbers(128)), memory.alloc(512));
    let args = [LaunchArg::U64(x), LaunchArg::U64(out)];
    let (kernel, store, copy) = scaled(Mistake::NoWait);
    let place = thread((FILE, store), 0);
    let kind = finding(&kernel, [1, 1, 1], &args, &memory, place);
    let FaultKind::Race { address, what } = &kind else {
        panic!("{kind}")
    };
    assert_eq!(*address, SHARED);
    assert!(what.contains(&format!("{FILE}:{copy}")), "{kind}");
}

#[test]
fn a_thread_that_ends_before_its_bulk_copy_has_read() {
    let mut memory = Memory::new();
    let (x, out) = (memory.alloc_from(&numbers(128)), memory.alloc(512));
    let args = [LaunchArg::U64(x), LaunchArg::U64(out)];
    let (kernel, _, copy) = scaled(Mistake::NoEnd);
    let place = thread((FILE, copy), 0);
    let kind = finding(&kernel, [1, 1, 1], &args, &memory, place);
    assert!(
        matches!(&kind, FaultKind::Protocol(what) if what.contains("ends without waiting")),
        "{kind}"
    );
}

/// Writes a row to device memory, and brings it back by a bulk copy into an array that was cleared before. Planted:
/// one of the two fences is missing.
fn round_trip(row_fence: bool, array_fence: bool) -> (Kernel, [u32; 3]) {
    let (mut clear, mut write, mut copy) = (0, 0, 0);
    let kernel = Kernel::new("round_trip", Target::Sm90a, |k: &Builder| {
        k.block_size(64);
        let (row, out) = (k.in_out::<f32>("row"), k.output::<f32>("out"));
        let array = k.shared::<f32>("array", 128);
        let arrived = k.shared::<u64>("arrived", 1);
        let (i, zero) = (k.thread_x(), k.constant(0u32));
        k.if_(i.eq(0), || arrived.mbarrier_init(0, 1));
        clear = line!() + 1;
        array.store(i, 0.0);
        if array_fence {
            k.fence(Fence::ProxyAsync);
        }
        let value = i.cast::<f32>();
        write = line!() + 1;
        row.store(i, value);
        if row_fence {
            k.fence(Fence::ProxyAsync);
        }
        k.barrier();
        k.if_(i.eq(0), || {
            arrived.mbarrier_expect(0, 256);
            copy = line!() + 1;
            arrived.bulk_copy(
                0,
                BulkCopy {
                    dst: array,
                    to: zero,
                    src: row,
                    from: zero,
                    bytes: 256,
                },
            );
        });
        arrived.mbarrier_wait(0, 0);
        out.store(i, array.load(i ^ 63));
    });
    (kernel, [clear, write, copy])
}

#[test]
fn a_row_of_device_memory_that_a_bulk_copy_does_not_see() {
    let mut memory = Memory::new();
    let (row, out) = (memory.alloc(256), memory.alloc(256));
    let args = [LaunchArg::U64(row), LaunchArg::U64(out)];
    let (kernel, [_, write, copy]) = round_trip(false, true);
    let place = thread((FILE, copy), 0);
    let kind = finding(&kernel, [1, 1, 1], &args, &memory, place);
    assert_unfenced(&kind, FaultSpace::Global, row, write);
    quiet(&round_trip(true, true).0, [1, 1, 1], &args, &memory);
    let expected: Vec<f32> = (0..64).rev().map(|i| i as f32).collect();
    assert_eq!(memory.read::<f32>(out, 64).unwrap(), expected);
}

#[test]
fn an_array_cleared_under_a_bulk_copy() {
    let mut memory = Memory::new();
    let (row, out) = (memory.alloc(256), memory.alloc(256));
    let args = [LaunchArg::U64(row), LaunchArg::U64(out)];
    let (kernel, [clear, _, copy]) = round_trip(false, false);
    let place = thread((FILE, copy), 0);
    let kind = finding(&kernel, [1, 1, 1], &args, &memory, place);
    assert_unfenced(&kind, FaultSpace::Shared, SHARED, clear);
    // The later of the two fences serves both.
    quiet(&round_trip(true, false).0, [1, 1, 1], &args, &memory);
}
