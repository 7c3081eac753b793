//! What products read and give, rounded: what an executor that rounds so may make of a model.

/// Activations that share a scale.
const BLOCK: usize = 32;

/// A way to round. Ways of other seeds are as coarse.
#[derive(Debug, Clone, Copy)]
pub enum Rounding {
    /// To bytes, of products with weights in blocks. Seed 0 rounds to the nearest step; others to either of
    /// the two that enclose a value, more often to the nearer.
    Bytes(u64),
    /// By up to a share of each value, of all products: what they read, and their sums with a bias.
    Share(u64, f64),
}

impl Rounding {
    /// Whether it is of products with weights in blocks, or with those that are floats.
    pub(super) fn is_of(self, is_packed: bool) -> bool {
        is_packed || matches!(self, Rounding::Share(..))
    }

    /// A row as it is multiplied.
    pub(super) fn round(self, row: &[f64]) -> Vec<f64> {
        match self {
            Rounding::Bytes(seed) => to_bytes(row, seed),
            Rounding::Share(..) => self.round_output(row.to_vec()),
        }
    }

    /// What comes of it.
    pub(super) fn round_output(self, mut row: Vec<f64>) -> Vec<f64> {
        if let Rounding::Share(seed, most) = self {
            let off = |x: f64| most * (2.0 * share(seed ^ x.to_bits()) - 1.0);
            row.iter_mut().for_each(|x| *x *= 1.0 + off(*x));
        }
        row
    }
}

/// What 8 bits hold of a row: of each block whole multiples of a 127th of its largest magnitude. All of a
/// row of which that would lose too much.
fn to_bytes(row: &[f64], seed: u64) -> Vec<f64> {
    if is_coarse(row) {
        return row.to_vec();
    }
    let whole = |steps: f64| match seed {
        0 => steps.round_ties_even(),
        _ => (steps + share(seed ^ steps.to_bits()))
            .floor()
            .clamp(-127.0, 127.0),
    };
    let mut rounded = Vec::with_capacity(row.len());
    for block in row.chunks(BLOCK) {
        let step = largest(block) / 127.0;
        rounded.extend(block.iter().map(|&x| match step > 1e-37 {
            true => whole(x / step) * step,
            false => 0.0,
        }));
    }
    rounded
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
        let rounded = Rounding::Bytes(seed).round(&row);
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
    assert_eq!(Rounding::Bytes(0).round(&large), large);
    let moved = Rounding::Share(3, 1e-3).round(&row);
    let errors = row
        .iter()
        .zip(&moved)
        .map(|(x, found)| (x - found).abs() / x.abs().max(1e-9));
    let most = errors.fold(0.0, f64::max);
    assert!((5e-4..=1.001e-3).contains(&most), "{most}");
}
