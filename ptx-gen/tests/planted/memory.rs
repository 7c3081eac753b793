//! Accesses outside an allocation, misaligned ones, and reads of what nothing wrote.

use gannet_ptx_gen::interp::{FaultKind, FaultSpace, LaunchArg, Memory};
use gannet_ptx_gen::ir::Kernel;
use gannet_ptx_gen::target::Target;
use gannet_ptx_gen::verify::Error;

use crate::{Place, SHARED, finding, numbers, quiet, thread};

const FILE: &str = "planted/memory.rs";

/// x[i] *= 2, i < n. Planted: `<=`.
fn ragged_tail(planted: bool) -> (Kernel, u32) {
    let mut line = 0;
    let kernel = Kernel::new("ragged_tail", Target::Sm80, |k| {
        k.block_size(64);
        let (x, n) = (k.in_out::<f32>("x"), k.scalar::<u32>("n"));
        let i = k.block_x() * 64 + k.thread_x();
        let exists = if planted { i.le(n) } else { i.lt(n) };
        k.if_(exists, || {
            line = line!() + 1;
            x.store(i, x.load(i) * 2.0);
        });
    });
    (kernel, line)
}

#[test]
fn one_element_past_a_ragged_tail() {
    let input = numbers(150);
    let mut memory = Memory::new();
    let x = memory.alloc_from(&input);
    let args = [LaunchArg::U64(x), LaunchArg::U32(150)];
    let (kernel, line) = ragged_tail(true);
    let place = Place {
        block: [2, 0, 0],
        ..thread((FILE, line), 22)
    };
    let kind = finding(&kernel, [3, 1, 1], &args, &memory, place);
    assert!(
        matches!(kind, FaultKind::OutOfBounds { space: FaultSpace::Global, address, bytes: 4, .. } if address == x + 600),
        "{kind}"
    );
    memory.write(x, &input).unwrap();
    quiet(&ragged_tail(false).0, [3, 1, 1], &args, &memory);
    // The twin ran three times.
    let expected: Vec<f32> = input.iter().map(|v| v * 8.0).collect();
    assert_eq!(memory.read::<f32>(x, 150).unwrap(), expected);
}

/// Writes one key of `dim` elements a block into a cache of pages that a table names. Planted: the place in the page
/// is the position itself.
fn paged_write(planted: bool) -> (Kernel, u32) {
    let (dim, page_len, mut line) = (32, 4, 0);
    let kernel = Kernel::new("paged_write", Target::Sm80, |k| {
        k.block_size(dim);
        let (key, cache) = (k.input::<f32>("key"), k.output::<f32>("cache"));
        let (table, positions) = (k.input::<u32>("table"), k.input::<u32>("positions"));
        let position = positions.load(k.block_x());
        let page = table.load(position / page_len);
        let slot = if planted {
            position
        } else {
            position % page_len
        };
        let value = key.load(k.block_x() * dim + k.thread_x());
        line = line!() + 1;
        cache.store((page * page_len + slot) * dim + k.thread_x(), value);
    });
    (kernel, line)
}

#[test]
fn a_key_written_past_its_page() {
    let keys = numbers(96);
    let mut memory = Memory::new();
    let cache = memory.alloc_zeroed(3 * 4 * 32 * 4);
    let args = [
        LaunchArg::U64(memory.alloc_from(&keys)),
        LaunchArg::U64(cache),
        LaunchArg::U64(memory.alloc_from(&[2u32, 0, 1])),
        LaunchArg::U64(memory.alloc_from(&[3u32, 5, 9])),
    ];
    // Block 1 writes page 0, slot 5, which is inside; block 2 page 1, slot 9, which is not.
    let (kernel, line) = paged_write(true);
    let place = Place {
        block: [2, 0, 0],
        ..thread((FILE, line), 0)
    };
    let kind = finding(&kernel, [3, 1, 1], &args, &memory, place);
    assert!(
        matches!(kind, FaultKind::OutOfBounds { address, .. } if address == cache + 13 * 128),
        "{kind}"
    );
    quiet(&paged_write(false).0, [3, 1, 1], &args, &memory);
    for (block, row) in [(0, 2 * 4 + 3), (1, 1), (2, 4 + 1)] {
        let stored = memory.read::<f32>(cache + row * 128, 32).unwrap();
        assert_eq!(stored, keys[block * 32..block * 32 + 32]);
    }
}

/// Reverses 128 numbers through shared memory. Planted: the array holds 120.
fn short_tile(planted: bool) -> (Kernel, u32) {
    let mut line = 0;
    let kernel = Kernel::new("short_tile", Target::Sm80, |k| {
        k.block_size(128);
        let x = k.in_out::<f32>("x");
        let tile = k.shared::<f32>("tile", if planted { 120 } else { 128 });
        let value = x.load(k.thread_x());
        line = line!() + 1;
        tile.store(k.thread_x(), value);
        k.barrier();
        x.store(k.thread_x(), tile.load(k.constant(127u32) - k.thread_x()));
    });
    (kernel, line)
}

#[test]
fn a_tile_too_small() {
    let mut memory = Memory::new();
    let args = [LaunchArg::U64(memory.alloc_from(&numbers(128)))];
    let (kernel, line) = short_tile(true);
    let place = thread((FILE, line), 120);
    let kind = finding(&kernel, [1, 1, 1], &args, &memory, place);
    assert!(
        matches!(kind, FaultKind::OutOfBounds { space: FaultSpace::Shared, address, .. } if address == SHARED + 480),
        "{kind}"
    );
    quiet(&short_tile(false).0, [1, 1, 1], &args, &memory);
    let LaunchArg::U64(x) = args[0] else {
        unreachable!()
    };
    let reversed: Vec<f32> = numbers(128).into_iter().rev().collect();
    assert_eq!(memory.read::<f32>(x, 128).unwrap(), reversed);
}

/// Sums rows of 6 numbers, one a thread, the first four by a vector. Planted: rows are not padded to 8.
fn vector_rows(planted: bool) -> (Kernel, u32) {
    let mut line = 0;
    let kernel = Kernel::new("vector_rows", Target::Sm80, |k| {
        k.block_size(32);
        let (w, out) = (k.input::<f32>("w"), k.output::<f32>("out"));
        let stride = if planted { 6 } else { 8 };
        let row = w.offset(k.thread_x() * stride);
        line = line!() + 1;
        let [a, b, c, d] = row.load_vec4(0);
        let [e, f] = row.load_vec::<2>(4);
        out.store(k.thread_x(), a + b + c + d + e + f);
    });
    (kernel, line)
}

#[test]
fn a_vector_across_its_alignment() {
    let mut memory = Memory::new();
    let (w, out) = (memory.alloc_from(&numbers(256)), memory.alloc(128));
    let args = [LaunchArg::U64(w), LaunchArg::U64(out)];
    let (kernel, line) = vector_rows(true);
    let place = thread((FILE, line), 1);
    let kind = finding(&kernel, [1, 1, 1], &args, &memory, place);
    assert!(
        matches!(kind, FaultKind::Misaligned { address, bytes: 16, align: 16, .. } if address == w + 24),
        "{kind}"
    );
    quiet(&vector_rows(false).0, [1, 1, 1], &args, &memory);
    let rows = numbers(256);
    let expected: Vec<f32> = rows.chunks(8).map(|r| r[..6].iter().sum()).collect();
    assert_eq!(memory.read::<f32>(out, 32).unwrap(), expected);
}

/// Merges the partial sums of `splits` blocks. Planted: one split too many.
fn merge(planted: bool) -> (Kernel, u32) {
    let mut line = 0;
    let kernel = Kernel::new("merge", Target::Sm80, |k| {
        k.block_size(32);
        let (parts, out) = (k.input::<f32>("parts"), k.output::<f32>("out"));
        let splits = k.scalar::<u32>("splits");
        let end = if planted { splits + 1 } else { splits };
        let sum = k.var(0f32);
        k.for_each(0, end, 1, |split| {
            line = line!() + 1;
            sum.set(sum.get() + parts.load(split * 32 + k.thread_x()));
        });
        out.store(k.thread_x(), sum.get());
    });
    (kernel, line)
}

#[test]
fn a_partial_sum_that_no_block_wrote() {
    let mut memory = Memory::new();
    // Room for four splits, of which three were written.
    let parts = memory.alloc_poisoned(4 * 128);
    memory.write(parts, &numbers(96)).unwrap();
    let out = memory.alloc(128);
    let args = [
        LaunchArg::U64(parts),
        LaunchArg::U64(out),
        LaunchArg::U32(3),
    ];
    let (kernel, line) = merge(true);
    let place = thread((FILE, line), 0);
    let kind = finding(&kernel, [1, 1, 1], &args, &memory, place);
    let address = parts + 3 * 128;
    let (space, bytes) = (FaultSpace::Global, 4);
    assert_eq!(
        kind,
        FaultKind::Uninitialised {
            space,
            address,
            bytes
        }
    );
    quiet(&merge(false).0, [1, 1, 1], &args, &memory);
    let n = numbers(96);
    let expected: Vec<f32> = (0..32).map(|i| n[i] + n[i + 32] + n[i + 64]).collect();
    assert_eq!(memory.read::<f32>(out, 32).unwrap(), expected);
}

/// The sum of 128 numbers, by warps and then across them. Planted: lanes without a warp read as well.
fn block_sum(planted: bool) -> (Kernel, u32) {
    let mut line = 0;
    let kernel = Kernel::new("block_sum", Target::Sm80, |k| {
        k.block_size(128);
        let (x, out) = (k.input::<f32>("x"), k.output::<f32>("out"));
        let partial = k.shared::<f32>("partial", 32);
        let sum = k.warp_sum(x.load(k.thread_x()));
        k.if_(k.lane().eq(0), || partial.store(k.warp(), sum));
        k.barrier();
        k.if_(k.thread_x().lt(32), || {
            let zero = k.constant(0f32);
            let part = if planted {
                line = line!() + 1;
                partial.load(k.lane())
            } else {
                k.if_value(k.lane().lt(4), || partial.load(k.lane()), || zero)
            };
            let total = k.warp_sum(part);
            k.if_(k.lane().eq(0), || out.store(0, total));
        });
    });
    (kernel, line)
}

#[test]
fn a_partial_sum_of_a_warp_that_is_not_there() {
    let mut memory = Memory::new();
    let out = memory.alloc(4);
    let args = [
        LaunchArg::U64(memory.alloc_from(&numbers(128))),
        LaunchArg::U64(out),
    ];
    let (kernel, line) = block_sum(true);
    let place = thread((FILE, line), 4);
    let kind = finding(&kernel, [1, 1, 1], &args, &memory, place);
    let (space, address, bytes) = (FaultSpace::Shared, SHARED + 16, 4);
    assert_eq!(
        kind,
        FaultKind::Uninitialised {
            space,
            address,
            bytes
        }
    );
    quiet(&block_sum(false).0, [1, 1, 1], &args, &memory);
    let expected: f32 = numbers(128).iter().sum();
    assert_eq!(memory.read::<f32>(out, 1).unwrap(), [expected]);
}

/// out[i] = x[i] where a mask is set, else 0. Planted: the register has a value on one side only.
fn masked(planted: bool) -> (Kernel, u32) {
    let mut line = 0;
    let kernel = Kernel::new("masked", Target::Sm80, |k| {
        k.block_size(32);
        let (x, mask) = (k.input::<f32>("x"), k.scalar::<u32>("mask"));
        let out = k.output::<f32>("out");
        let wanted = ((mask >> k.lane()) & 1).eq(1);
        let mut value = None;
        if planted {
            k.if_(wanted, || value = Some(x.load(k.lane())));
        } else {
            let zero = k.constant(0f32);
            value = Some(k.if_value(wanted, || x.load(k.lane()), || zero));
        }
        line = line!() + 1;
        out.store(k.lane(), value.unwrap());
    });
    (kernel, line)
}

#[test]
fn a_register_that_one_path_leaves_unwritten() {
    let (kernel, line) = masked(true);
    match kernel.verify() {
        Err(Error::Unassigned { kernel, at }) => {
            assert_eq!(&*kernel, "masked");
            assert!(at.file.ends_with(FILE) && at.line == line, "{at}");
        }
        other => panic!("{other:?}"),
    }
    let mut memory = Memory::new();
    let (x, out) = (memory.alloc_from(&numbers(32)), memory.alloc(128));
    let args = [LaunchArg::U64(x), LaunchArg::U32(0xff), LaunchArg::U64(out)];
    quiet(&masked(false).0, [1, 1, 1], &args, &memory);
    let mut expected = numbers(32);
    expected[8..].fill(0.0);
    assert_eq!(memory.read::<f32>(out, 32).unwrap(), expected);
}

/// x -= max(x), in place. Planted: x is loaded through the read-only path again after it was stored.
fn in_place(planted: bool) -> (Kernel, u32) {
    let mut line = 0;
    let kernel = Kernel::new("in_place", Target::Sm80, |k| {
        k.block_size(64);
        let x = k.in_out::<f32>("x");
        let largest = k.block_max(x.load(k.thread_x()));
        x.store(k.thread_x(), x.load(k.thread_x()) - largest);
        k.barrier();
        let again = if planted { x.read_only() } else { x };
        line = line!() + 1;
        let other = again.load(k.thread_x() ^ 32);
        k.barrier();
        x.store(k.thread_x(), other);
    });
    (kernel, line)
}

#[test]
fn a_read_only_load_of_what_the_kernel_wrote() {
    let mut memory = Memory::new();
    let x = memory.alloc_from(&numbers(64));
    let (kernel, line) = in_place(true);
    let place = thread((FILE, line), 0);
    let kind = finding(&kernel, [1, 1, 1], &[LaunchArg::U64(x)], &memory, place);
    assert!(
        matches!(kind, FaultKind::ReadOnly { address, bytes: 4 } if address == x + 128),
        "{kind}"
    );
    memory.write(x, &numbers(64)).unwrap();
    quiet(&in_place(false).0, [1, 1, 1], &[LaunchArg::U64(x)], &memory);
    // An odd number of turns: the halves end up exchanged, and the largest is 0.
    let expected: Vec<f32> = (0..64).map(|i| numbers(64)[i ^ 32] - 30.0).collect();
    assert_eq!(memory.read::<f32>(x, 64).unwrap(), expected);
}
