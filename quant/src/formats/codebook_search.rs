//! Finding codes and scales for the formats with codebooks.
//!
//! Eight weights at a time take the entry of the least error of all: the error of an entry is the sum of
//! two halves, which two small tables hold, so that a whole codebook is two reads and an addition an entry.
//! Scales are searched as elsewhere: some about the natural one, each with its least-squares fit, then the
//! multiples that the format has; `d` is fitted last, for the codes that were found.
//!
//! ggml's quantisers search further (they also move single weights between entries); what holds here is in
//! the test of round trips.

use super::error_weights::{Group, Weighted};
use super::grids::{Grid, bits_of};
use super::scale_search::{TINY, inverse_of};
use crate::scalar::LeF16;

/// Eight weights as codes.
#[derive(Clone, Copy, Default)]
pub(super) struct Octet {
    /// Index of the entry; of two entries of four.
    pub(super) index: [u16; 2],
    /// Minuses, a bit each. For codebooks with signs of their own: 1 if the values are lower.
    pub(super) signs: u8,
    /// The codes.
    pub(super) values: [i8; 8],
    /// The error, in units of the scale.
    pub(super) cost: f32,
}

/// How a format makes scales of `d`: `d * unit * (2 s + 1)`.
pub(super) struct Scales {
    /// `s` is below this.
    pub(super) count: u8,
    pub(super) unit: f32,
    /// The code of the largest magnitude.
    pub(super) extreme: f32,
    /// Multiples of `extreme / peak` to try.
    pub(super) shrinks: &'static [f32],
}

/// A super-block as codes.
pub(super) struct Found<const GROUPS: usize> {
    pub(super) d: LeF16,
    /// `s` of each group.
    pub(super) scales: [u8; GROUPS],
    pub(super) octets: [Octet; 32],
}

impl Group<'_> {
    /// The octets of a group of at most 32 weights, times `inverse`.
    pub(super) fn octets(
        &self,
        inverse: f32,
        nearest: impl Fn(&[f32; 8], &[f32; 8]) -> Octet,
    ) -> [Octet; 4] {
        let (x, w) = (self.x.as_chunks::<8>().0, self.w.as_chunks::<8>().0);
        let mut octets = [Octet::default(); 4];
        for (octet, (x, w)) in octets.iter_mut().zip(x.iter().zip(w)) {
            *octet = nearest(&x.map(|v| v * inverse), w);
        }
        octets
    }

    /// `sum(w x q)`, `sum(w q^2)` of the codes of a group.
    fn products(&self, octets: &[Octet; 4]) -> [f64; 2] {
        let codes = octets.iter().flat_map(|octet| octet.values);
        let terms = self.x.iter().zip(self.w).zip(codes);
        terms.fold([0.0; 2], |[xq, qq], ((&x, &w), q)| {
            let (x, w, q) = (f64::from(x), f64::from(w), f64::from(q));
            [xq + w * x * q, qq + w * q * q]
        })
    }
}

/// The nearest entry to `x` whose values are `levels + shift`, and its error.
fn nearest_entry<const N: usize, const DIM: usize, const LEVELS: usize>(
    grid: &Grid<N, DIM>,
    levels: [i8; LEVELS],
    shift: f32,
    x: &[f32; DIM],
    w: &[f32; DIM],
) -> (usize, f32) {
    let bits = bits_of::<DIM>();
    // Errors of each half of an entry, by its packed levels.
    let mut halves = [[0.0f32; 256]; 2];
    for (half, table) in halves.iter_mut().enumerate() {
        let mut filled = 1;
        for k in 0..DIM / 2 {
            let (x, w) = (x[half * DIM / 2 + k], w[half * DIM / 2 + k]);
            // What stands in the table so far are the errors of the values before this one.
            for (l, &level) in levels.iter().enumerate().rev() {
                let e = f32::from(level) + shift - x;
                for i in 0..filled {
                    table[l * filled + i] = table[i] + w * e * e;
                }
            }
            filled <<= bits;
        }
    }
    let (half_bits, mut best) = (bits * DIM / 2, (0, f32::INFINITY));
    for (n, &packed) in grid.packed.iter().enumerate() {
        let packed = usize::from(packed);
        let low = packed & ((1 << half_bits) - 1);
        let cost = halves[0][low & 255] + halves[1][(packed >> half_bits) & 255];
        if cost < best.1 {
            best = (n, cost);
        }
    }
    best
}

/// Magnitudes and minuses of eight numbers. With `even`, an odd number of minuses is mended where that
/// costs least: the number becomes as much below zero as it was above, or the reverse.
fn split_signs(x: &[f32; 8], w: &[f32; 8], even: bool) -> ([f32; 8], u8) {
    let signs = (0..8).fold(0u8, |signs, k| signs | u8::from(x[k] < 0.0) << k);
    let mut magnitudes = x.map(f32::abs);
    if !even || signs.count_ones().is_multiple_of(2) {
        return (magnitudes, signs);
    }
    let cost = |k: &usize| w[*k] * x[*k] * x[*k];
    let least = (0..8)
        .min_by(|a, b| cost(a).total_cmp(&cost(b)))
        .unwrap_or(0);
    magnitudes[least] = -magnitudes[least];
    (magnitudes, signs ^ 1 << least)
}

fn apply_signs(values: [i8; 8], signs: u8) -> [i8; 8] {
    std::array::from_fn(|k| match signs >> k & 1 {
        0 => values[k],
        _ => -values[k],
    })
}

/// Eight weights from a codebook of eight magnitudes.
pub(super) fn nearest_with_signs<const N: usize, const LEVELS: usize>(
    grid: &Grid<N, 8>,
    levels: [i8; LEVELS],
    x: &[f32; 8],
    w: &[f32; 8],
    even: bool,
) -> Octet {
    let (magnitudes, signs) = split_signs(x, w, even);
    let (n, cost) = nearest_entry(grid, levels, 0.0, &magnitudes, w);
    Octet {
        index: [n as u16, 0],
        signs,
        values: apply_signs(grid.entry(n), signs),
        cost,
    }
}

/// Eight weights from a codebook of four magnitudes.
pub(super) fn nearest_halves<const N: usize, const LEVELS: usize>(
    grid: &Grid<N, 4>,
    levels: [i8; LEVELS],
    x: &[f32; 8],
    w: &[f32; 8],
    even: bool,
) -> Octet {
    let (magnitudes, signs) = split_signs(x, w, even);
    let (x, w) = (magnitudes.as_chunks::<4>().0, w.as_chunks::<4>().0);
    let (first, cost) = nearest_entry(grid, levels, 0.0, &x[0], &w[0]);
    let (second, more) = nearest_entry(grid, levels, 0.0, &x[1], &w[1]);
    let (a, b) = (grid.entry(first), grid.entry(second));
    let values = std::array::from_fn(|k| if k < 4 { a[k] } else { b[k - 4] });
    Octet {
        index: [first as u16, second as u16],
        signs,
        values: apply_signs(values, signs),
        cost: cost + more,
    }
}

/// Eight weights from a codebook of signed values, all one higher or lower.
pub(super) fn nearest_shifted<const N: usize, const LEVELS: usize>(
    grid: &Grid<N, 8>,
    levels: [i8; LEVELS],
    x: &[f32; 8],
    w: &[f32; 8],
    is_lower: bool,
) -> Octet {
    let shift = if is_lower { -1 } else { 1 };
    let (n, cost) = nearest_entry(grid, levels, f32::from(shift), x, w);
    Octet {
        index: [n as u16, 0],
        signs: u8::from(is_lower),
        values: grid.entry(n).map(|v| v + shift),
        cost,
    }
}

/// The scale of the least error of those tried, any positive number; 0 for a group of zeros.
fn free_scale(
    group: Group<'_>,
    scales: &Scales,
    nearest: &impl Fn(Group<'_>, f32) -> [Octet; 4],
) -> f32 {
    let peak = group.x.iter().fold(0.0f32, |peak, v| peak.max(v.abs()));
    if peak < TINY {
        return 0.0;
    }
    let mut best = (0.0, 0.0);
    let mut consider = |inverse: f32| {
        let [xq, qq] = group.products(&nearest(group, inverse));
        // The error left after the least-squares scale is sum(w x^2) less the gain.
        if qq > 0.0 && xq > 0.0 && xq * xq / qq > best.0 {
            best = (xq * xq / qq, (xq / qq) as f32);
        }
        best.1
    };
    let mut fitted = 0.0;
    for shrink in scales.shrinks {
        fitted = consider(scales.extreme * shrink / peak);
    }
    for _ in 0..2 {
        fitted = consider(inverse_of(fitted));
    }
    best.1
}

/// The codes of a super-block of 256 weights.
pub(super) fn search<const GROUPS: usize>(
    x: &[f32],
    importance: Option<&[f32]>,
    scales: &Scales,
    nearest: impl Fn(Group<'_>, f32) -> [Octet; 4],
) -> Found<GROUPS> {
    let block = Weighted::new(x, importance);
    let len = x.len() / GROUPS;
    let wanted: [f32; GROUPS] =
        std::array::from_fn(|g| free_scale(block.group(len * g, len), scales, &nearest));
    let largest = wanted.iter().fold(0.0f32, |a, &b| a.max(b));
    let most = f32::from(2 * scales.count - 1) * scales.unit;
    let d = LeF16::finite(block.unscaled(largest / most));
    let step = block.scaled(d.get()) * scales.unit;
    let mut found = Found {
        d,
        scales: [0; GROUPS],
        octets: [Octet::default(); 32],
    };
    let [mut xq, mut qq] = [0.0; 2];
    for (g, &wanted) in wanted.iter().enumerate() {
        let group = block.group(len * g, len);
        let (s, octets) = nearest_scale(group, wanted, step, scales.count, &nearest);
        found.scales[g] = s;
        found.octets[len / 8 * g..][..len / 8].copy_from_slice(&octets[..len / 8]);
        let (multiple, [x, q]) = (f64::from(2 * s + 1), group.products(&octets));
        xq += multiple * x;
        qq += multiple * multiple * q;
    }
    if xq > 0.0 && qq > 0.0 && step > 0.0 {
        found.d = LeF16::finite(block.unscaled((xq / qq) as f32 / scales.unit));
    }
    found
}

/// Of the scales `step * (2 s + 1)` about `wanted`, the one of the least error, with its codes.
fn nearest_scale(
    group: Group<'_>,
    wanted: f32,
    step: f32,
    count: u8,
    nearest: &impl Fn(Group<'_>, f32) -> [Octet; 4],
) -> (u8, [Octet; 4]) {
    let natural = (wanted * inverse_of(step) - 1.0) * 0.5;
    let natural = natural.round().clamp(0.0, f32::from(count - 1)) as u8;
    let mut best = (f32::INFINITY, 0, [Octet::default(); 4]);
    for s in natural.saturating_sub(1)..=(natural + 1).min(count - 1) {
        let scale = step * f32::from(2 * s + 1);
        let octets = nearest(group, inverse_of(scale));
        let cost: f32 = octets.iter().map(|octet| octet.cost).sum();
        // A scale of zero rounds all to zero, whatever the codes.
        if cost * scale * scale < best.0 {
            best = (cost * scale * scale, s, octets);
        }
    }
    (best.1, best.2)
}
