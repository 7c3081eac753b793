//! The queries that a warp of [`super::AttentionFlashSpec`] owns, from device memory to their outputs.

use super::AttentionFlashSpec;
use super::common::LOWEST;
use super::flash::QUERIES;
use crate::build::{Builder, Ptr, Shared, Val, Var};
use crate::kernels::KvType;
use crate::op::Rmw;

/// Exponent of the largest operand of queries, of a cache whose operands are f16.
const Q_EXPONENT: u32 = 14;

/// The running softmax of a row; the sum is the lane's own share.
pub(super) struct Softmax<'k> {
    pub(super) max: Var<'k, f32>,
    pub(super) sum: Var<'k, f32>,
}

/// A warp's 16 queries: a lane has elements of rows `lane / 4` and 8 further on.
pub(super) struct Rows<'k> {
    /// The lane's two rows, the keys they see, their softmaxes.
    row: [Val<'k, u32>; 2],
    pub(super) lengths: [Val<'k, u32>; 2],
    pub(super) softmax: [Softmax<'k>; 2],
    /// What products of each row are to be multiplied by: a power of two.
    pub(super) units: [Val<'k, f32>; 2],
    /// Queries as left operands: one or two terms of each 16 elements.
    q: Vec<Vec<[Val<'k, u32>; 4]>>,
    /// Where each lane left its own operands, if not in registers.
    parked: Option<Shared<'k, u32>>,
    /// Outputs as accumulators, one for each 8 elements.
    pub(super) out: Vec<[Var<'k, f32>; 4]>,
    /// First key that a row of the block sees, one past the last, and the least length.
    pub(super) start: Val<'k, u32>,
    pub(super) end: Val<'k, u32>,
    pub(super) shortest: Val<'k, u32>,
}

impl<'k> Rows<'k> {
    pub(super) fn new(
        spec: &AttentionFlashSpec,
        k: &'k Builder,
        q: Ptr<'k, f32>,
        lengths: Ptr<'k, u32>,
        first: Val<'k, u32>,
        n: Val<'k, u32>,
    ) -> Rows<'k> {
        let dim = spec.shape.head_dim;
        let lane = k.lane();
        // Every warp looks at all lengths of the block; past the end at the last row again.
        let found: Vec<_> = (0..QUERIES / 32)
            .map(|i| lengths.load((first + lane + 32 * i).min(n - 1)))
            .collect();
        let most = found.iter().skip(1).fold(found[0], |a, b| a.max(*b));
        let least = found.iter().skip(1).fold(found[0], |a, b| a.min(*b));
        let (end, shortest) = if spec.target.has_ampere() {
            (k.warp_redux(Rmw::Max, most), k.warp_redux(Rmw::Min, least))
        } else {
            let shortest = k.lanes_reduce(least, 32, |a, b| a.min(b));
            (k.warp_max(most), shortest)
        };
        let start = match spec.shape.window {
            Some(window) => shortest.max(window) - window,
            None => k.constant(0),
        };

        let (factor, base) = apart(spec.shape.factor());
        let row = [0, 8].map(|half| first + k.warp() * 16 + lane / 4 + half);
        let exists = row.map(|row| row.min(n - 1));
        let q_rows = exists.map(|row| {
            q.offset(row * (spec.shape.num_heads * dim))
                .offset(k.block_y() * dim + (lane % 4) * 2)
        });
        let zero = k.constant(0u32);
        let load = |row: Ptr<'k, f32>| -> Vec<[Val<'k, f32>; 2]> {
            let pairs = (0..dim / 8).map(|i| row.load_vec::<2>(8 * i));
            pairs.map(|pair| pair.map(|v| v * factor)).collect()
        };
        let mut loaded = q_rows.map(load);
        let units = std::array::from_fn(|half| {
            if spec.shape.kv_type == KvType::BF16 {
                return k.constant(base);
            }
            // Rows that f16 cannot hold are taken as so much less.
            let all = loaded[half].iter().flatten();
            let most = all.fold(k.constant(0f32), |m, v| m.max(v.abs()));
            let most = k.lanes_reduce(most, 4, |a, b| a.max(b));
            let power = most.bitcast::<u32>() & 0x7F80_0000u32;
            let power = power.max((127 + Q_EXPONENT) << 23);
            let down = k.constant((254 + Q_EXPONENT) << 23) - power;
            for pair in &mut loaded[half] {
                *pair = pair.map(|v| v * down.bitcast::<f32>());
            }
            (power - (Q_EXPONENT << 23)).bitcast::<f32>() * base
        });
        let q = (0..dim.div_ceil(16)).map(|step| {
            let pair = |half: usize, element: u32| {
                spec.terms(k, loaded[half][((16 * step + element) / 8) as usize])
            };
            let low = [pair(0, 0), pair(1, 0)];
            let high = match 16 * step + 8 == dim {
                true => [0, 1].map(|_| vec![zero; low[0].len()]),
                false => [pair(0, 8), pair(1, 8)],
            };
            let [[a, b], [c, d]] = [&low, &high];
            let term = |i: usize| [a[i], b[i], c[i], d[i]];
            (0..a.len()).map(term).collect()
        });
        Rows {
            row,
            lengths: exists.map(|row| lengths.load(row)),
            softmax: units.map(|unit| Softmax {
                // What is capped is multiplied before.
                max: k.var(match spec.shape.softcap {
                    None => (inverse_power(k, unit) * LOWEST).max(LOWEST),
                    Some(_) => k.constant(LOWEST),
                }),
                sum: k.var(0f32),
            }),
            q: q.collect(),
            parked: None,
            units,
            out: (0..dim / 8)
                .map(|_| std::array::from_fn(|_| k.var(0f32)))
                .collect(),
            start,
            end,
            shortest,
        }
    }

    /// Leaves the queries in shared memory. Each lane reads back only its own words.
    pub(super) fn park(&mut self, k: &'k Builder, to: Shared<'k, u32>) {
        for (step, q) in (0..).zip(self.q.iter().flatten()) {
            to.store_vec((k.thread_x() + step * k.threads()) * 4, *q);
        }
        self.parked = Some(to);
    }

    /// Elements `16 * step ..` of the queries, by term.
    pub(super) fn query(&self, k: &'k Builder, step: u32) -> Vec<[Val<'k, u32>; 4]> {
        let own = &self.q[step as usize];
        let Some(parked) = self.parked else {
            return own.clone();
        };
        let terms = own.len() as u32;
        let at = |term: u32| (k.thread_x() + (step * terms + term) * k.threads()) * 4;
        (0..terms).map(|term| parked.load_vec(at(term))).collect()
    }

    /// Divides by the sums and stores the rows that exist.
    pub(super) fn finish(
        &self,
        spec: &AttentionFlashSpec,
        k: &'k Builder,
        out: Ptr<'k, f32>,
        n: Val<'k, u32>,
    ) {
        let dim = spec.shape.head_dim;
        for (half, softmax) in self.softmax.iter().enumerate() {
            let sum = k.lanes_reduce(softmax.sum.get(), 4, |a, b| a + b);
            // The largest weight is 1, and that of a dead row zero: otherwise no score is a number that
            // f32 holds.
            let (dead, right) = (self.lengths[half].eq(0), sum.ge(1f32));
            let inverse = k.select(right, sum.rcp(), k.select(dead, 0f32, f32::NAN));
            let row = self.row[half];
            let out = out.offset(row * (spec.shape.num_heads * dim));
            let out = out.offset(k.block_y() * dim + (k.lane() % 4) * 2);
            k.if_(row.lt(n), || {
                for (j, sums) in (0u32..).zip(&self.out) {
                    let pair = [sums[2 * half].get(), sums[2 * half + 1].get()];
                    out.store_vec(8 * j, pair.map(|v| v * inverse));
                }
            });
        }
    }
}

/// What a query is multiplied by, and the power of two that its products are then multiplied by: one, but
/// where the factor is so small that f16 would hold little of the query.
fn apart(factor: f32) -> (f32, f32) {
    const LEAST: f32 = 1.0 / 1024.0;
    if factor >= LEAST {
        return (factor, 1.0);
    }
    // The power of two at or below it, and 2^-3, such that both have inverses.
    let power = f32::from_bits(factor.to_bits() & 0x7F80_0000).max(2f32.powi(-100)) * 8.0;
    (factor / power, power)
}

/// One over a power of two.
fn inverse_power<'k>(k: &'k Builder, power: Val<'k, f32>) -> Val<'k, f32> {
    (k.constant(254u32 << 23) - power.bitcast::<u32>()).bitcast()
}
