//! Activations as bytes: what an executor may make of a model that rounds the inputs of products so.

/// Activations that share a scale.
const BLOCK: usize = 32;

/// One of the ways to round: to the nearest step, or to either of the two that enclose a value, as
/// numbers of a seed decide, more often to the nearer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rounding {
    seed: u64,
}

impl Rounding {
    /// Seed 0 rounds to the nearest step.
    pub(super) fn new(seed: u64) -> Rounding {
        Rounding { seed }
    }

    /// What 8 bits hold of a row: of each block whole multiples of a 127th of its largest magnitude. All of
    /// a row of which that would lose too much.
    pub(super) fn round(self, row: &[f64]) -> Vec<f64> {
        if is_coarse(row) {
            return row.to_vec();
        }
        let mut rounded = Vec::with_capacity(row.len());
        for block in row.chunks(BLOCK) {
            let step = largest(block) / 127.0;
            rounded.extend(block.iter().map(|&x| match step > 1e-37 {
                true => self.whole(x / step) * step,
                false => 0.0,
            }));
        }
        rounded
    }

    fn whole(self, steps: f64) -> f64 {
        match self.seed {
            0 => steps.round_ties_even(),
            seed => (steps + share(seed ^ steps.to_bits()))
                .floor()
                .clamp(-127.0, 127.0),
        }
    }
}

/// A number from 0 to 1 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
fn share(word: u64) -> f64 {
    let mut z = word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

fn largest(block: &[f64]) -> f64 {
    block.iter().fold(0.0, |most, x| x.abs().max(most))
}

/// Whether rounding to the nearest step costs more than a hundredth of the squares of all values but the
/// largest ones, of which there may be one in every sixteenth block and four in any row.
fn is_coarse(row: &[f64]) -> bool {
    let (mut lost, mut others, mut most) = (0.0, 0.0, Vec::new());
    for block in row.chunks(BLOCK) {
        let mut squares: Vec<f64> = block.iter().map(|x| x * x).collect();
        squares.sort_by(f64::total_cmp);
        let top = squares.pop().unwrap_or_default();
        let rest: f64 = squares.iter().sum();
        lost += f64::min(top / (127.0 * 127.0 * 12.0) * squares.len() as f64, rest);
        others += rest;
        most.push(top);
    }
    most.sort_by(|a, b| b.total_cmp(a));
    let large = (most.len() / 16).max(4);
    others += most.iter().skip(large).sum::<f64>();
    lost > 1e-2 * others
}

#[test]
fn nearest_steps_err_by_half_of_one_and_others_by_less_than_one() {
    let row: Vec<f64> = (0..256)
        .map(|i| ((i * 37 % 101) as f64 - 50.0) / 7.0)
        .collect();
    for seed in 0..9 {
        let rounded = Rounding::new(seed).round(&row);
        let mut errors = 0.0;
        for (block, found) in row.chunks(BLOCK).zip(rounded.chunks(BLOCK)) {
            let step = largest(block) / 127.0;
            for (x, found) in block.iter().zip(found) {
                let most = if seed == 0 { 0.5 } else { 1.0 };
                assert!((x - found).abs() <= most * step * 1.000_001, "{x} {found}");
                errors += (x - found).powi(2) / step.powi(2);
            }
        }
        // A twelfth of a squared step, or a sixth.
        let mean = errors / 256.0 * if seed == 0 { 12.0 } else { 6.0 };
        assert!((0.7..1.3).contains(&mean), "{seed}: {mean}");
    }
    let mut large = row.clone();
    large[77] = 1e6;
    assert_eq!(Rounding::new(0).round(&large), large);
}
