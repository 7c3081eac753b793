//! Rows of activations of which 8 bits hold too little.
//!
//! A block's scale is its largest magnitude over 127. Where one activation is so much larger than the
//! others, little or nothing is left of these, however much they weigh in a product. Such rows are
//! multiplied as f32.
//!
//! Always holds: whether a row is one depends on its own numbers alone.

/// What rounding may cost the activations beside the largest of their blocks, as a share of their squares.
const LIMIT: f64 = 1e-2;

/// The rows of `x`, `[n, cols]`, that are multiplied as f32 rather than in blocks of `block` with a scale.
pub(super) fn rows(x: &[f32], cols: usize, block: usize) -> Vec<usize> {
    let rows = x.chunks_exact(cols).enumerate();
    rows.filter(|(_, row)| is_one(row, block))
        .map(|(t, _)| t)
        .collect()
}

/// Whether rounding to 127 steps of each block's largest costs the others more than [`LIMIT`].
fn is_one(row: &[f32], block: usize) -> bool {
    let blocks = row.chunks_exact(block);
    let (mut lost, mut others) = (0.0, 0.0);
    for block in blocks {
        let (rest, most) = squares(block);
        others += rest;
        // The mean square of what rounding to whole steps leaves, or all there was.
        let step = most / (127.0 * 127.0 * 12.0);
        lost += (step * (block.len() - 1) as f64).min(rest);
    }
    // False for NaN: that is the quantised product's to say.
    lost > LIMIT * others
}

/// The sum of the squares of a block but for the largest, and that.
fn squares(block: &[f32]) -> (f64, f64) {
    let (mut sums, mut largest) = ([0f32; 16], [0f32; 16]);
    for line in block.chunks_exact(16) {
        for ((sum, most), x) in sums.iter_mut().zip(&mut largest).zip(line) {
            let square = x * x;
            *sum += square;
            *most = if square > *most { square } else { *most };
        }
    }
    let sum: f64 = sums.iter().map(|&s| f64::from(s)).sum();
    let most = f64::from(largest.iter().fold(0f32, |a, b| a.max(*b)));
    // Where little is left beside the largest, or f32 holds no squares, the others alone.
    if sum.is_finite() && sum - most > 1e-5 * most {
        return (sum - most, most);
    }
    let square = |x: &f32| f64::from(*x) * f64::from(*x);
    let most = block.iter().map(square).fold(0.0, f64::max);
    let mut is_first = true;
    let others = block.iter().map(square).filter(|s| {
        let is_largest = *s == most && is_first;
        is_first &= !is_largest;
        !is_largest
    });
    (others.sum(), most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_with_one_far_above_the_others_are_found() {
        let ordinary: Vec<f32> = (0..512)
            .map(|i| ((i * 37 % 101) as f32 - 50.0) / 25.0)
            .collect();
        let with = |at: usize, value: f32| {
            let mut row = ordinary.clone();
            row[at] = value;
            row
        };
        for block in [32, 256] {
            for value in [0.0, 8.0, -20.0] {
                assert!(!is_one(&with(77, value), block), "{value} {block}");
            }
            for value in [3e3, -1e5, 1e30, f32::MAX] {
                assert!(is_one(&with(400, value), block), "{value} {block}");
            }
            assert!(!is_one(&[0.0; 512], block));
            assert!(!is_one(&with(3, f32::NAN), block));
        }
        let all = [
            ordinary.clone(),
            with(9, 1e6),
            ordinary.clone(),
            with(511, -1e6),
        ]
        .concat();
        assert_eq!(rows(&all, 512, 256), [1, 3]);
        // One large value beside nothing loses nothing.
        let mut alone = [0.0; 512];
        alone[5] = 1e6;
        assert!(!is_one(&alone, 256));
    }
}
