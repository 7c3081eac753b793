//! How fast one core quantises: millions of weights a second, and MB/s of BF16 that they come from. By the
//! time on the CPU where the system tells it (Linux), so that what runs beside it does not count.
//!
//! ```text
//! cargo run --release -p gannet-quant --example quantize_bench
//! ```

use std::time::{Duration, Instant};

use gannet_quant::{Error, Format};

const COLS: usize = 4096;
const ROWS: usize = 64;

/// How long each format is measured.
const TIME: Duration = Duration::from_millis(300);

fn main() -> Result<(), Error> {
    let mut stored = vec![0; Format::BF16.row_bytes(COLS * ROWS).unwrap_or(0)];
    Format::BF16.random(1, 0.02, &mut stored);
    let importance: Vec<f32> = (0..COLS).map(|i| 1.0 + (i % 7) as f32).collect();
    println!(
        "{:7} {:>10} {:>12} {:>14}",
        "format", "Mweights/s", "MB/s of BF16", "with importance"
    );
    for format in [
        Format::Q8_0,
        Format::Q4_0,
        Format::Q3_K,
        Format::Q4_K,
        Format::Q5_K,
        Format::Q6_K,
        Format::IQ4_XS,
    ] {
        let plain = rate(&stored, format, |x, out| format.quantize(x, out))?;
        let weighted = rate(&stored, format, |x, out| {
            format.quantize_weighted(x, &importance, out)
        })?;
        println!(
            "{format:7} {plain:10.1} {:12.1} {:14.1}",
            2.0 * plain,
            2.0 * weighted
        );
    }
    Ok(())
}

/// Millions of weights a second, dequantised from BF16 and quantised.
fn rate(
    stored: &[u8],
    format: Format,
    quantize: impl Fn(&[f32], &mut [u8]) -> Result<(), Error>,
) -> Result<f64, Error> {
    let mut x = vec![0.0; COLS];
    let mut out = vec![0; format.row_bytes(COLS).unwrap_or(0)];
    let begun = Instant::now();
    let now = || on_cpu().unwrap_or_else(|| begun.elapsed());
    let (start, mut weights) = (now(), 0);
    while now() - start < TIME {
        for row in stored.chunks_exact(2 * COLS) {
            Format::BF16.dequantize(row, &mut x)?;
            quantize(&x, &mut out)?;
            weights += COLS;
        }
    }
    Ok(weights as f64 / (now() - start).as_secs_f64() / 1e6)
}

/// How long this thread has run: the first number of Linux's `schedstat`, in nanoseconds.
fn on_cpu() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds = text.split_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds))
}
