//! Rows of activations of which 8 bits hold too little.
//!
//! A block's scale is its largest magnitude over 127. Where a few activations are so much larger than
//! the others, little or nothing is left of those in their blocks, however much they weigh in a
//! product. Such rows are multiplied as f32.
//!
//! The squares of what rounding leaves sum to no more than 1.7e-4 of those of the largest values. That
//! is too much only where these count for little in a product, since their weights are small, and
//! few of them are that large: both has been seen of a few values in a row, never of one in each block.
//!
//! Always holds: whether a row is one depends on its own numbers alone.

#![allow(unsafe_code)]

use super::activations::BLOCK;
use super::isa::Isa;

/// What rounding may cost the activations beside the large ones, as a share of their squares.
const LIMIT: f64 = 1e-2;

/// The mean square of what rounding to whole steps leaves of a value, in squares of the largest of its
/// block.
const STEP: f64 = 1.0 / (127.0 * 127.0 * 12.0);

/// One block of so many may have a large value, which is none of those that keep their precision. More
/// are what a row consists of.
const BLOCKS_PER_LARGE: usize = 16;

/// So many large values there may be in any row.
const MIN_LARGE: usize = 4;

/// Whether a row, which has been quantised with `scales`, is multiplied as f32 rather than so.
pub(super) fn is_in(isa: Isa, row: &[f32], scales: &[f32]) -> bool {
    let squares = match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` beyond `Portable` only exists where the machine has its features.
        Isa::Avx512 => unsafe { super::avx512::squares(row, scales) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { super::avx2::squares(row, scales) },
        Isa::Portable => squares(row, scales),
    };
    // What is no number, the quantised product says.
    !squares.largest.is_nan() && !squares.are_ordinary() && is_coarse(row)
}

/// The squares of a row, and those of the largest value of each of its blocks.
#[derive(Clone, Copy)]
pub(super) struct Squares {
    all: f32,
    largest: f32,
}

impl Squares {
    /// Whether [`is_coarse`] cannot hold, even if the largest value of each block were a large one. So
    /// are nearly all rows, and this costs next to nothing.
    fn are_ordinary(self) -> bool {
        // Where f32 holds squares. A thousandth is more than its sums err by, or scales.
        let is_held = self.all > 1e-25 && self.all < 1e30;
        let least = 1.001 + STEP / LIMIT * (BLOCK - 1) as f64;
        is_held && f64::from(self.all) > least * f64::from(self.largest)
    }
}

/// The body that each instruction set compiles for itself. The order of its sums is the same.
#[inline(always)]
pub(super) fn squares(row: &[f32], scales: &[f32]) -> Squares {
    Squares {
        all: sum_of_squares::<64>(row),
        largest: 127.0 * 127.0 * sum_of_squares::<16>(scales),
    }
}

/// In `LANES` sums, which vectorise.
#[inline(always)]
fn sum_of_squares<const LANES: usize>(values: &[f32]) -> f32 {
    let (lines, rest) = values.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for line in lines {
        for (sum, x) in sums.iter_mut().zip(line) {
            *sum += x * x;
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *sum += x * x;
    }
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
        half /= 2;
    }
    sums[0]
}

/// Whether rounding to 127 steps of each block's largest costs the others more than [`LIMIT`].
fn is_coarse(row: &[f32]) -> bool {
    let blocks = row.as_chunks::<BLOCK>().0;
    let (mut lost, mut others) = (0.0, 0.0);
    let mut largest = Vec::with_capacity(blocks.len());
    for block in blocks {
        let (rest, most) = split(block);
        // All there was, where that is less than a step.
        lost += (most * STEP * (BLOCK - 1) as f64).min(rest);
        others += rest;
        largest.push(most);
    }
    // The largest values of blocks are others as well, but for the large ones.
    let large = MIN_LARGE.max(blocks.len() / BLOCKS_PER_LARGE);
    if large < largest.len() {
        largest.select_nth_unstable_by(large, |a, b| b.total_cmp(a));
        others += largest[large..].iter().sum::<f64>();
    }
    lost > LIMIT * others
}

/// The squares of a block but for the largest, and that.
fn split(block: &[f32; BLOCK]) -> (f64, f64) {
    let squares = block.map(|x| f64::from(x) * f64::from(x));
    let (mut rest, mut most) = (0.0, 0.0);
    for square in squares {
        // What is not above the largest, or was it before.
        rest += f64::min(square, most);
        most = f64::max(square, most);
    }
    (rest, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 32 blocks without a large value.
    fn ordinary() -> Vec<f32> {
        let value = |i: usize| ((i * 37 % 101) as f32 - 50.0) / 25.0;
        (0..32 * BLOCK).map(value).collect()
    }

    /// What all instruction sets say of a row.
    fn is_found(row: &[f32]) -> bool {
        let of_block = |block: &[f32]| block.iter().fold(0f32, |a, b| a.max(b.abs()));
        let scales: Vec<f32> = row.chunks(BLOCK).map(|b| of_block(b) / 127.0).collect();
        let mut found = Isa::available()
            .into_iter()
            .map(|isa| is_in(isa, row, &scales));
        let is = found.next().unwrap();
        assert!(found.all(|other| other == is), "instruction sets differ");
        is
    }

    #[test]
    fn rows_with_one_far_above_the_others_are_found() {
        let with = |value: f32| {
            let mut row = ordinary();
            row[400] = value;
            row
        };
        for value in [0.0, 8.0, -20.0, 1e2] {
            assert!(!is_found(&with(value)), "{value}");
        }
        for value in [3e3, -1e5, 65_520.0, 1e19, -1e30, f32::MAX] {
            assert!(is_found(&with(value)), "{value}");
        }
        // Whatever the size of all of them.
        for factor in [1e-30, 1e-15, 1e15, 1e30f32] {
            for (value, is) in [(20.0, false), (1e4, true)] {
                let row: Vec<f32> = with(value).iter().map(|x| x * factor).collect();
                assert_eq!(is_found(&row), is, "{value} times {factor}");
            }
        }
    }

    #[test]
    fn one_large_value_beside_nothing_loses_nothing() {
        for value in [0.0, 1e-40, 1.0, 1e30] {
            let mut row = vec![0.0; 16 * BLOCK];
            row[5] = value;
            assert!(!is_found(&row), "{value}");
        }
    }

    #[test]
    fn a_few_large_values_are_found_and_many_are_the_row() {
        for (blocks, most) in [(2, 2), (4, 4), (32, 4), (64, 4), (160, 10), (592, 37)] {
            for large in [most / 2, most, 2 * most] {
                let mut row: Vec<f32> = ordinary()
                    .into_iter()
                    .cycle()
                    .take(blocks * BLOCK)
                    .collect();
                let is_few = large <= most;
                for i in 0..large.min(blocks) {
                    row[i * BLOCK + i % BLOCK] = if i % 2 == 0 { 1e5 } else { -1e5 };
                }
                assert_eq!(
                    is_found(&row),
                    is_few || blocks <= MIN_LARGE,
                    "{large} in {blocks}"
                );
            }
        }
    }

    #[test]
    fn what_is_taken_for_ordinary_is() {
        // Rows ever closer to the limit, with a few large values and with one in each block.
        let mut passed = 0;
        for (i, value) in (0..400).map(|i| (i, 1.03f32.powi(i))) {
            for each in [1, 4, 32] {
                let mut row = ordinary();
                for block in 0..32 / each {
                    row[block * each * BLOCK + i as usize % BLOCK] = value;
                }
                let scales: Vec<f32> = (row.chunks(BLOCK))
                    .map(|b| b.iter().fold(0f32, |a, b| a.max(b.abs())) / 127.0)
                    .collect();
                if squares(&row, &scales).are_ordinary() {
                    passed += 1;
                    assert!(!is_coarse(&row), "{value} in each {each}");
                }
            }
        }
        assert!(passed > 300, "{passed}");
    }
}
