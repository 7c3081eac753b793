//! How the queries of a block of [`super::AttentionDecodeSpec`] become left operands in shared
//! memory: loaded, turned by the angles of the row where the kernel is to do so, scaled to a
//! common exponent and divided into rounded values and rounded rests.

use super::decode_block::{Block, WARPS, operands};
use super::decode_tiles::steps;
use crate::build::{Ptr, Shared, Val};
use crate::kernels::elementwise::rope::{turn_halves, turn_pairs};
use crate::kernels::split::{split_bf16, split_f16};
use crate::kernels::{KvType, RopeKind};

/// Exponent of the power of two below or at a head's largest query element, once scaled.
const Q_EXPONENT: u32 = 14;

/// Neighbouring elements of a query that are a lane's in one step: 4, 2 or 1.
struct Columns<'k> {
    at: Val<'k, u32>,
    width: u32,
}

impl<'k> Block<'k, '_> {
    /// Leaves the angles of the row in shared memory.
    pub(super) fn stage_angles(&self, angles: Ptr<'k, f32>) -> Shared<'k, f32> {
        let (k, dim) = (self.k, self.spec.shape.head_dim);
        let staged = k.shared::<f32>("turn", dim);
        k.for_each(k.thread_x() * 4, dim, k.threads() * 4, |i| {
            staged.store_vec(i, angles.load_vec4(i));
        });
        k.barrier();
        staged
    }

    /// The lane's elements of each of its heads, four to a step.
    pub(super) fn queries(
        &self,
        q: Ptr<'k, f32>,
        angles: Option<Shared<'k, f32>>,
    ) -> Vec<Vec<[Val<'k, f32>; 4]>> {
        let (spec, k) = (self.spec, self.k);
        let lane = k.lane();
        let columns: Vec<Columns<'k>> = (steps(spec).into_iter())
            .map(|(piece, i)| Columns {
                at: lane % 4 * piece.width + (piece.offset + 4 * i),
                width: piece.width.min(4),
            })
            .collect();
        let zero = k.constant(0f32);
        let found: Vec<Vec<_>> = (0..spec.own_heads())
            .map(|half| {
                let row = k.block_x() * spec.shape.num_heads + self.head(lane / 4 + 8 * half);
                let q = q.offset(row * spec.shape.head_dim);
                let load = |columns: &Columns<'k>| match columns.width {
                    4 => q.load_vec4(columns.at),
                    2 => {
                        let [a, b] = q.load_vec::<2>(columns.at);
                        [a, b, zero, zero]
                    }
                    _ => [q.load(columns.at), zero, zero, zero],
                };
                columns.iter().map(load).collect()
            })
            .collect();
        let Some((kind, angles)) = spec.rope.zip(angles) else {
            return found;
        };
        let turned = |row: &Vec<[Val<'k, f32>; 4]>| -> Vec<_> {
            let half = columns.len() / 2;
            // Angles of pairs from an element on, a cosine and a sine each.
            let pairs = |pairs: u32, at: Val<'k, u32>| match pairs {
                0 => [zero; 4],
                1 => {
                    let [cos, sin] = angles.load_vec::<2>(at);
                    [cos, sin, zero, zero]
                }
                _ => angles.load_vec::<4>(at),
            };
            (columns.iter().enumerate())
                .map(|(n, columns_of)| match kind {
                    RopeKind::Interleaved => {
                        turn_pairs(row[n], pairs(columns_of.width / 2, columns_of.at))
                    }
                    RopeKind::Neox => {
                        let low = columns[n % half].at * 2;
                        let width = columns_of.width;
                        let by = [0, 2].map(|i| pairs(width.saturating_sub(i), low + 2 * i));
                        let by = by.to_vec();
                        let signed = |sin: Val<'k, f32>| if n < half { -sin } else { sin };
                        turn_halves(row[n], row[(n + half) % columns.len()], &by, signed)
                    }
                })
                .collect()
        };
        found.iter().map(turned).collect()
    }

    /// A pair of values as the sum of two pairs of 16 bits: rounded, and the rounded rests.
    pub(super) fn two(&self, a: Val<'k, f32>, b: Val<'k, f32>) -> [Val<'k, u32>; 2] {
        match self.spec.shape.kv_type {
            KvType::BF16 => split_bf16(self.k, [a, b]),
            _ => split_f16(self.k, [a, b]),
        }
    }

    /// Leaves the queries as left operands in shared memory, and gives what the products of each of
    /// the lane's heads are to be multiplied by.
    pub(super) fn stage(
        &self,
        found: &[Vec<[Val<'k, f32>; 4]>],
        to: Shared<'k, u32>,
    ) -> Vec<Val<'k, f32>> {
        let (spec, k) = (self.spec, self.k);
        let factor = spec.shape.factor();
        let mut units = Vec::new();
        let scaled: Vec<Vec<[Val<'k, f32>; 4]>> = found
            .iter()
            .map(|row| {
                let zero = k.constant(0f32);
                let most = row.iter().flatten().fold(zero, |m, v| m.max(v.abs()));
                let most = k.lanes_reduce(most, 4, |a, b| a.max(b)) * factor.abs();
                // Its power of two, such that the two factors exist as f32.
                let power = most.bitcast::<u32>() & 0x7F80_0000u32;
                let power = power.max((Q_EXPONENT + 1) << 23);
                units.push((power - (Q_EXPONENT << 23)).bitcast::<f32>());
                let up = (k.constant((254 + Q_EXPONENT) << 23) - power).bitcast::<f32>() * factor;
                row.iter().map(|v| v.map(|v| v * up)).collect()
            })
            .collect();
        for step in 0..scaled[0].len() as u32 {
            // Each step is one warp's to write.
            k.if_(k.warp().eq(step % WARPS), || {
                let rows: Vec<_> = scaled
                    .iter()
                    .map(|row| {
                        let [a, b, c, d] = row[step as usize];
                        [self.two(a, b), self.two(c, d)]
                    })
                    .collect();
                for (i, operand) in (0..).zip(operands(&rows)) {
                    let at = k.lane() + (step * spec.own_heads() + i) * 32;
                    to.store_vec::<4>(at * 4, operand);
                }
            });
        }
        units
    }
}
