//! Whole kernels written with the builder, against the same computation in Rust.

use gannet_ptx_gen::interp::{FaultKind, LaunchArg, Memory, Options, launch};
use gannet_ptx_gen::ir::Kernel;
use gannet_ptx_gen::target::Target;
use half::f16;

#[test]
fn softmax_of_rows() {
    let dim = 300u32;
    let kernel = Kernel::new("softmax", Target::Sm80, |k| {
        k.block_size(128);
        let x = k.in_out::<f32>("x");
        let x = x.offset(k.block_x() * dim);
        let most = k.var(f32::NEG_INFINITY);
        k.for_each(k.thread_x(), dim, 128u32, |i| {
            most.set(most.get().max(x.load(i)))
        });
        let most = k.block_max(most.get());
        let sum = k.var(0f32);
        k.for_each(k.thread_x(), dim, 128u32, |i| {
            let e = (x.load(i) - most).exp();
            x.store(i, e);
            sum.set(sum.get() + e);
        });
        let scale = k.block_sum(sum.get()).rcp();
        k.for_each(k.thread_x(), dim, 128u32, |i| x.store(i, x.load(i) * scale));
    });
    let rows = 5;
    let x: Vec<f32> = (0..rows * dim)
        .map(|i| ((i * 37) % 101) as f32 * 0.1 - 5.0)
        .collect();
    let mut memory = Memory::new();
    let at = memory.alloc_from(&x);
    launch(
        &kernel,
        [rows, 1, 1],
        &[LaunchArg::U64(at)],
        &memory,
        &Options::default(),
    )
    .expect("no fault");
    let y: Vec<f32> = memory.read(at, x.len()).expect("in bounds");
    for (x, y) in x.chunks(dim as usize).zip(y.chunks(dim as usize)) {
        let most = x.iter().fold(f32::MIN, |a, b| a.max(*b));
        let e: Vec<f64> = x.iter().map(|x| f64::from(x - most).exp()).collect();
        let sum: f64 = e.iter().sum();
        for (e, y) in e.iter().zip(y) {
            assert!((e / sum - f64::from(*y)).abs() < 1e-7, "{} {y}", e / sum);
        }
    }
}

/// `c[16, 8] = a[16, k] * b[8, k]^T` by one warp: copies of the next slice in flight while one is multiplied.
fn product(depth: u32, waits: bool) -> Kernel {
    Kernel::new("product", Target::Sm80, |k| {
        k.block_size(32);
        let (a, b) = (k.input::<f16>("a"), k.input::<f16>("b"));
        let c = k.output::<f32>("c");
        // Two stages of 16 x 16 of A and 8 x 16 of B.
        let (sa, sb) = (
            k.shared_aligned::<f16>("sa", 512, 16),
            k.shared_aligned::<f16>("sb", 256, 16),
        );
        let lane = k.thread_x();
        let (row, half) = (lane / 2, lane % 2 * 8);
        let fetch = |slice: u32| {
            let (stage, from) = (slice % 2, slice * 16);
            k.cp_async(
                16,
                sa,
                row * 16 + half + stage * 256,
                a,
                row * depth + half + from,
            );
            k.if_(lane.lt(16u32), || {
                k.cp_async(
                    16,
                    sb,
                    row * 16 + half + stage * 128,
                    b,
                    row * depth + half + from,
                );
            });
            k.cp_async_commit();
        };
        let mut acc = [0f32; 4].map(|x| k.constant(x));
        fetch(0);
        for slice in 0..depth / 16 {
            let last = slice + 1 == depth / 16;
            if !last {
                fetch(slice + 1);
            }
            if waits {
                k.cp_async_wait(if last { 0 } else { 1 });
            }
            k.barrier();
            let stage = slice % 2;
            // A's four matrices: rows 0-7 and 8-15 of columns 0-7, then of columns 8-15.
            let a_row = sa.ldmatrix::<4>(lane % 16 * 16 + lane / 16 * 8 + stage * 256);
            let b_row = sb.ldmatrix::<2>(lane % 8 * 16 + lane / 8 % 2 * 8 + stage * 128);
            acc = k.mma_f16(a_row, b_row, acc);
            k.barrier();
        }
        let (g, t) = (lane / 4, lane % 4);
        for (i, v) in acc.into_iter().enumerate() {
            let (down, right) = (8 * (i as u32 / 2), i as u32 % 2);
            c.store((g + down) * 8 + t * 2 + right, v);
        }
    })
}

fn run_product(waits: bool) -> Result<Vec<f32>, gannet_ptx_gen::interp::Fault> {
    let depth = 64;
    let a: Vec<f16> = (0..16 * depth)
        .map(|i| f16::from_f32((i % 7) as f32 - 3.0))
        .collect();
    let b: Vec<f16> = (0..8 * depth)
        .map(|i| f16::from_f32((i % 5) as f32 - 2.0))
        .collect();
    let mut memory = Memory::new();
    let args = [
        memory.alloc_from(&a),
        memory.alloc_from(&b),
        memory.alloc(512),
    ];
    let kernel = product(depth, waits);
    launch(
        &kernel,
        [1, 1, 1],
        &args.map(LaunchArg::U64),
        &memory,
        &Options::default(),
    )?;
    let c: Vec<f32> = memory.read(args[2], 128)?;
    for (i, found) in c.iter().enumerate() {
        let (row, col) = (i / 8 * depth as usize, i % 8 * depth as usize);
        let pairs = a[row..row + depth as usize]
            .iter()
            .zip(&b[col..col + depth as usize]);
        let expected: f32 = pairs.map(|(x, y)| x.to_f32() * y.to_f32()).sum();
        assert_eq!(*found, expected, "element {i}");
    }
    Ok(c)
}

#[test]
fn a_pipelined_matrix_product() {
    run_product(true).expect("no fault");
    let fault = run_product(false).expect_err("its copies are never waited for");
    assert!(fault.to_string().contains("in flight"), "{fault}");
}

#[test]
fn loops_of_a_different_length_in_each_thread() {
    // Steps of the Collatz sequence from thread + 1 to 1.
    let kernel = Kernel::new("collatz", Target::Sm75, |k| {
        k.block_size(96);
        let out = k.output::<u32>("out");
        let (n, steps) = (k.var(k.thread_x() + 1), k.var(0u32));
        k.while_(
            || n.get().ne(1u32),
            || {
                k.if_else(
                    (n.get() & 1u32).eq(0u32),
                    || n.set(n.get() / 2),
                    || n.set(n.get() * 3 + 1),
                );
                steps.set(steps.get() + 1);
            },
        );
        out.store(k.thread_x(), steps.get());
    });
    let mut memory = Memory::new();
    let out = memory.alloc(4 * 96);
    launch(
        &kernel,
        [1, 1, 1],
        &[LaunchArg::U64(out)],
        &memory,
        &Options::default(),
    )
    .expect("no fault");
    let steps = |mut n: u32| {
        let mut steps = 0;
        while n != 1 {
            n = if n.is_multiple_of(2) {
                n / 2
            } else {
                3 * n + 1
            };
            steps += 1;
        }
        steps
    };
    let expected: Vec<u32> = (1..=96).map(steps).collect();
    assert_eq!(memory.read::<u32>(out, 96).expect("in bounds"), expected);
}

#[test]
fn the_read_only_path_may_not_read_what_the_launch_wrote() {
    // Reversing in place, 256 elements by 256 threads: half of the loads come after the other half's stores.
    let reverse = |read_only: bool| {
        Kernel::new("reverse", Target::Sm80, |k| {
            k.block_size(256);
            let (x, y) = (k.input::<f32>("x"), k.output::<f32>("y"));
            let x = if read_only { x.read_only() } else { x };
            let i = k.thread_x();
            y.store(i, x.load(k.constant(255u32) - i));
        })
    };
    let run = |kernel: &Kernel, in_place: bool| {
        let mut memory = Memory::new();
        let x = memory.alloc_zeroed(1024);
        let y = if in_place { x } else { memory.alloc(1024) };
        launch(
            kernel,
            [1, 1, 1],
            &[LaunchArg::U64(x), LaunchArg::U64(y)],
            &memory,
            &Options::default(),
        )
    };
    assert!(run(&reverse(true), false).is_ok());
    assert!(run(&reverse(false), true).is_ok());
    let fault = run(&reverse(true), true).expect_err("a fault");
    assert!(
        matches!(*fault.kind, FaultKind::ReadOnly { bytes: 4, .. }),
        "{fault}"
    );
}
