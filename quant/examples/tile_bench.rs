//! How fast one core lays weights out in tiles for tensor cores: MB/s of stored blocks, and of tiles, beside
//! a plain copy. By the time on the CPU where the system tells it (Linux), so that what runs beside it does
//! not count.
//!
//! ```text
//! cargo run --release -p gannet-quant --example tile_bench
//! ```

use std::time::{Duration, Instant};

use gannet_quant::tile::TilePacker;
use gannet_quant::{Error, Format, Matrix, repack};

const ROWS: usize = 512;
const COLS: usize = 4096;

/// How long each way is measured.
const TIME: Duration = Duration::from_millis(400);

fn main() -> Result<(), Error> {
    println!(
        "{:7} {:>12} {:>12} {:>12} {:>12}",
        "format", "copy", "planes", "tiles", "of tiles"
    );
    for format in [
        Format::Q4_K,
        Format::Q5_K,
        Format::Q6_K,
        Format::Q8_0,
        Format::Q4_0,
        Format::F16,
        Format::BF16,
    ] {
        let mut stored = vec![0; ROWS * format.row_bytes(COLS).unwrap_or(0)];
        format.random(1, 0.02, &mut stored);
        let matrix = Matrix::new(format, ROWS, COLS, &stored)?;
        let packer = TilePacker::new(&matrix)?;
        let layout = packer.layout();
        let mut out = vec![0; layout.bytes()];
        let copy = rate(|| {
            out[..stored.len()].copy_from_slice(&stored);
            Ok(stored.len())
        })?;
        let mut rows = vec![0; repack::planes(format, ROWS, COLS)?.bytes];
        let bands = repack::BandPacker::new(&matrix)?;
        let planes = rate(|| {
            bands.pack(&(0..ROWS), &mut rows)?;
            Ok(stored.len())
        })?;
        let tiles = rate(|| {
            let (tiles, factors) = out.split_at_mut(layout.factors_offset());
            let blocks = tiles.chunks_exact_mut(layout.row_block_bytes());
            for (block, (tiles, factors)) in blocks.zip(factors.chunks_exact_mut(256)).enumerate() {
                packer.pack_row_block(block, tiles, factors)?;
            }
            Ok(stored.len())
        })?;
        let of_tiles = tiles * layout.bytes() as f64 / stored.len() as f64;
        println!("{format:7} {copy:12.0} {planes:12.0} {tiles:12.0} {of_tiles:12.0}");
    }
    Ok(())
}

/// MB/s of what `work` says it has read.
fn rate(mut work: impl FnMut() -> Result<usize, Error>) -> Result<f64, Error> {
    let begun = Instant::now();
    let now = || on_cpu().unwrap_or_else(|| begun.elapsed());
    let (start, mut bytes) = (now(), 0);
    while now() - start < TIME {
        bytes += work()?;
    }
    Ok(bytes as f64 / (now() - start).as_secs_f64() / 1e6)
}

/// How long this thread has run: the first number of Linux's `schedstat`, in nanoseconds.
fn on_cpu() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds = text.split_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds))
}
