//! Speed of the CPU products, against the memory read speed measured in the same run.
//!
//! Run with `cargo run --release -p gannet-quant --example matmul_bench [FORMAT..]`. Decode rows
//! (n = 1) are about bytes, prompt rows about operations. Matrices are larger than the caches
//! that belong to a core, as those of a real model are; each figure is the best of several runs.

use std::hint::black_box;
use std::time::{Duration, Instant};

use gannet_quant::{Format, Matrix, cpu};
use rayon::prelude::*;

/// Bytes of weights that one measurement walks through.
const WEIGHT_BYTES: usize = 256 << 20;

fn main() {
    let mut formats = Vec::new();
    for name in std::env::args().skip(1) {
        let Some(format) = Format::from_name(&name) else {
            eprintln!("{name}: no such format; formats are {:?}", Format::ALL);
            std::process::exit(2);
        };
        formats.push(format);
    }
    if formats.is_empty() {
        formats = Format::ALL.to_vec();
    }
    let ceiling = read_ceiling();
    println!(
        "{}, {} threads, memory reads {ceiling:.1} GB/s",
        cpu::isa(),
        rayon::current_num_threads()
    );
    println!(
        "{:8} {:5} {:>9} {:>4} {:>10} {:>9} {:>9} {:>8}",
        "format", "mode", "shape", "n", "us", "GFLOP/s", "GB/s", "ceiling"
    );
    // On one of rayon's threads, as an engine would.
    rayon::scope(|_| {
        formats
            .into_iter()
            .for_each(|format| report_all(format, ceiling))
    });
}

fn report_all(format: Format, ceiling: f64) {
    for n in [1, 4, 32, 128] {
        report("fast", format, (1536, 1536), n, ceiling, cpu::matmul_fast);
    }
    for n in [1, 128] {
        report("exact", format, (1536, 1536), n, ceiling, cpu::matmul_exact);
    }
    // A small model's products: what they cost beside the arithmetic.
    report("fast", format, (256, 256), 1, ceiling, cpu::matmul_fast);
    report("fast", format, (1024, 256), 1, ceiling, cpu::matmul_fast);
}

type Product = fn(&Matrix<'_>, &[f32], usize, &mut [f32]);

/// Prints one line. Products with few tokens walk through many matrices, as decoding does: those
/// of 1536 x 1536 come from memory, the small ones from the caches.
fn report(
    mode: &str,
    format: Format,
    (rows, cols): (usize, usize),
    n: usize,
    ceiling: f64,
    product: Product,
) {
    let Some(row_bytes) = format.row_bytes(cols) else {
        return;
    };
    let count = if rows <= 1024 {
        64
    } else if n == 1 {
        WEIGHT_BYTES / (rows * row_bytes)
    } else {
        4
    };
    let mut data = vec![0; count * rows * row_bytes];
    format.random(1, 0.02, &mut data);
    let matrices: Vec<Matrix<'_>> = data
        .chunks_exact(rows * row_bytes)
        .map(|data| Matrix {
            format,
            rows,
            cols,
            data,
        })
        .collect();
    let x: Vec<f32> = (0..n * cols)
        .map(|i| ((i * 37 % 101) as f32 - 50.0) / 25.0)
        .collect();
    let mut out = vec![0.0; n * rows];
    let time = best(|| matrices.iter().for_each(|w| product(w, &x, n, &mut out)));
    let each = time.as_secs_f64() / count as f64;
    let gflops = 2.0 * (rows * cols * n) as f64 / each / 1e9;
    let gbs = (rows * row_bytes) as f64 / each / 1e9;
    println!(
        "{:8} {mode:5} {:>9} {n:4} {:10.1} {gflops:9.1} {gbs:9.2} {:7.0}%",
        format.name(),
        format!("{rows}x{cols}"),
        each * 1e6,
        100.0 * gbs / ceiling
    );
}

/// The best of several runs, at most about a second in all.
fn best(mut run: impl FnMut()) -> Duration {
    run();
    let (begin, mut best) = (Instant::now(), Duration::MAX);
    for _ in 0..20 {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed());
        if begin.elapsed() > Duration::from_secs(1) {
            break;
        }
    }
    best
}

/// GB/s that all threads together read from memory.
fn read_ceiling() -> f64 {
    let data = vec![1u64; WEIGHT_BYTES / 8];
    let part = data.len() / (8 * rayon::current_num_threads());
    let sum = |part: &[u64]| part.iter().fold(0u64, |a, b| a.wrapping_add(*b));
    let time = best(|| {
        black_box(
            data.par_chunks(part)
                .map(sum)
                .reduce(|| 0, u64::wrapping_add),
        );
    });
    WEIGHT_BYTES as f64 / time.as_secs_f64() / 1e9
}
