//! What reading memory gives at most: the ceiling that a run's speed is a share of.

use std::hint::black_box;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::BenchRow;
use crate::Error;
use crate::settings::Settings;

/// Bytes a second that the memory of the device that weights are on gives to a plain read.
pub(super) fn read_ceiling(
    gpu: Option<usize>,
    weights: u64,
    settings: &Settings,
) -> Result<f64, Error> {
    match gpu {
        Some(index) => crate::exec::cuda::measure_read_ceiling(index, &settings.disk_cache),
        None => Ok(cpu_read_ceiling(weights)),
    }
}

/// The ceiling of a CPU, measured again after the rows were: where something slowed the machine down
/// while it was measured first, it is the better of both, and what a row read faster than both raises it,
/// too: the rows' shares are of the best that the machine gave. Both in `1e9` bytes a second.
pub(super) fn raised(before: f64, weights: u64, rows: &mut [BenchRow]) -> f64 {
    let measured = before.max(cpu_read_ceiling(weights) / 1e9);
    let rates = rows.iter().filter_map(|row| row.gb_per_second);
    let ceiling = rates.fold(measured, f64::max);
    for row in rows {
        row.share_of_ceiling = row.gb_per_second.map(|gb| gb / ceiling);
    }
    ceiling
}

/// The most bytes that the CPU's ceiling is measured with: no cache holds them.
const MOST_READ: u64 = 256 << 20;

/// Bytes a second of all threads reading as many bytes as a token reads of weights, over and over, as
/// generation does: weights that a cache holds are then held against what that cache gives. The best of
/// many passes, since anything else on the machine can only slow a pass down.
#[must_use]
pub fn cpu_read_ceiling(weights: u64) -> f64 {
    const MIN_PASSES: usize = 4;
    const MIN_TIME: Duration = Duration::from_millis(200);
    let words = (weights.clamp(1 << 20, MOST_READ) / 8) as usize;
    let buffer = vec![1u64; words];
    let piece = words.div_ceil(rayon::current_num_threads() * 4);
    let (began, mut passes, mut best) = (Instant::now(), 0, f64::INFINITY);
    while passes < MIN_PASSES || began.elapsed() < MIN_TIME {
        let start = Instant::now();
        let sum: u64 = buffer.par_chunks(piece).map(xor).reduce(|| 0, |a, b| a ^ b);
        black_box(sum);
        best = start.elapsed().as_secs_f64().min(best);
        passes += 1;
    }
    (words * 8) as f64 / best.max(1e-9)
}

/// Reads words by enough chains that only memory bounds it.
fn xor(words: &[u64]) -> u64 {
    const CHAINS: usize = 32;
    let mut sums = [0u64; CHAINS];
    let mut groups = words.chunks_exact(CHAINS);
    for group in &mut groups {
        for (sum, word) in sums.iter_mut().zip(group) {
            *sum ^= word;
        }
    }
    let rest = groups.remainder();
    sums.iter().chain(rest).fold(0, |a, &w| a ^ w)
}

#[cfg(test)]
mod tests {
    use super::super::BenchKind;
    use super::*;

    #[test]
    fn a_ceiling_that_was_too_low_is_raised_for_all_rows() {
        let mut row = BenchRow::new(BenchKind::Generate, 4, 0, vec![1.0]);
        row.gb_per_second = Some(0.5);
        let mut rows = [row, BenchRow::new(BenchKind::Prompt, 4, 0, vec![1.0])];
        let ceiling = raised(0.001, 1 << 20, &mut rows);
        assert!(ceiling > 0.1, "{ceiling}");
        assert_eq!(rows[0].share_of_ceiling, Some(0.5 / ceiling));
        assert_eq!(rows[1].share_of_ceiling, None);
        assert_eq!(raised(1e6, 1 << 20, &mut rows), 1e6);
        rows[0].gb_per_second = Some(1e7);
        assert_eq!(raised(1e6, 1 << 20, &mut rows), 1e7);
        assert_eq!(rows[0].share_of_ceiling, Some(1.0));
    }

    #[test]
    fn memory_can_be_read() {
        for weights in [0, 1, 7 << 20] {
            assert!(cpu_read_ceiling(weights) > 1e8);
        }
        let words: Vec<u64> = (0..1000).collect();
        assert_eq!(xor(&words), words.iter().fold(0, |a, &w| a ^ w));
    }
}
