//! What the memory of a device gives to a plain read, in the run whose speeds are held against it.

use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;

use crate::Error;
use crate::exec::ExecutorKind;
use crate::settings::Settings;

/// Bytes a second that the device's memory gives to a plain read.
pub(super) fn read_ceiling(executor: ExecutorKind, settings: &Settings) -> Result<f64, Error> {
    match settings.device.gpu() {
        Some(index) if executor.is_gpu() => {
            crate::exec::cuda::measure_read_ceiling(index, &settings.disk_cache)
        }
        _ => Ok(cpu_read_ceiling()),
    }
}

/// Bytes a second of all threads reading a buffer that no cache holds whole; the best of a few
/// passes, since anything else on the machine can only slow a pass down.
#[must_use]
pub fn cpu_read_ceiling() -> f64 {
    const WORDS: usize = (256 << 20) / 8;
    const PASSES: usize = 4;
    let buffer = vec![1u64; WORDS];
    let piece = WORDS.div_ceil(rayon::current_num_threads() * 4);
    let best = (0..PASSES)
        .map(|_| {
            let start = Instant::now();
            let sum: u64 = buffer
                .par_chunks(piece)
                .map(|words| words.iter().fold(0, |a, &w| a ^ w))
                .reduce(|| 0, |a, b| a ^ b);
            black_box(sum);
            start.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min);
    (WORDS * 8) as f64 / best.max(1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_can_be_read() {
        assert!(cpu_read_ceiling() > 1e8);
    }
}
