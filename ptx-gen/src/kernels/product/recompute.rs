//! Sums of tensor cores that are not finite, computed again in f32.
//!
//! Tensor cores take 16 bits. What f16 cannot hold, of activations or of weights, becomes an infinity on
//! its way to them, and every sum that it belongs to an infinity or NaN: nothing but a sum says so, and
//! nothing is paid for it where no sum does but one FMA each. A warp then multiplies the row and the
//! token of every such sum as f32, lanes taking groups of columns in turn. What is not finite after that
//! is not in f32 either.
//!
//! Terms of bf16 have the range of f32: there is nothing to compute again of them.
//!
//! Whether a sum is computed again depends on its row and its token alone.

use crate::build::{Builder, Pred, Ptr, Shared, Val, Var};
use crate::kernels::WeightFormat;
use crate::kernels::weights::geometry::{Geometry, Lane};
use crate::kernels::weights::unpack::Row;

/// 2^-60: numbers times it do not overflow in a sum of them, and what is not finite stays so.
pub(super) const SMALL: f32 = f32::from_bits((127 - 60) << 23);

/// Whether it is neither infinite nor NaN.
pub(super) fn is_finite<'k>(v: Val<'k, f32>) -> Val<'k, Pred> {
    v.abs().lt(f32::INFINITY)
}

/// What is computed again: a matrix, as a lane walks along a row of it.
#[derive(Clone, Copy)]
pub(super) struct Product(Geometry);

impl Product {
    /// The product with a matrix of `rows` by `cols`.
    pub(super) fn new(format: WeightFormat, rows: u32, cols: u32) -> Product {
        Product(Geometry {
            format,
            rows,
            cols,
            lanes: 32,
            width: Geometry::widest(format, cols),
        })
    }
}

/// A product whose sums may have to be computed again.
pub(super) struct Recompute<'k> {
    pub(super) k: &'k Builder,
    pub(super) product: Product,
    pub(super) w: Ptr<'k, u8>,
    pub(super) x: Ptr<'k, f32>,
    /// Tokens.
    pub(super) n: Val<'k, u32>,
}

impl<'k> Recompute<'k> {
    /// Whether weights of this format are multiplied in numbers that do not hold them all.
    pub(super) fn may_mend(k: &Builder, format: WeightFormat) -> bool {
        format != WeightFormat::F32 || !k.target().has_ampere()
    }

    /// Replaces those of a lane's sums that are not finite. `place` gives the row and the token of the
    /// sum of a number in a lane. Sums wait in a `scratch` of the block's, which nobody uses any more:
    /// they leave few registers.
    pub(super) fn mend(
        &self,
        sums: &[&Var<'k, f32>],
        scratch: Shared<'k, f32>,
        place: impl Fn(Val<'k, u32>, Val<'k, u32>) -> (Val<'k, u32>, Val<'k, u32>),
    ) {
        let k = self.k;
        if !Recompute::may_mend(k, self.product.0.format) {
            return;
        }
        let zero = k.constant(0f32);
        let seen = (sums.iter()).fold(zero, |seen, sum| sum.get().fma(SMALL, seen));
        k.if_(k.ballot(!is_finite(seen)).ne(0), || {
            let at = |nth: Val<'k, u32>| nth * k.threads() + k.thread_x();
            for (nth, sum) in (0u32..).zip(sums) {
                scratch.store(at(k.constant(nth)), sum.get());
            }
            k.for_each(0u32, sums.len() as u32, 1u32, |nth| {
                let place = |lane| place(nth, lane);
                self.again(scratch.load(at(nth)), place, |lane, _, dot| {
                    k.if_(k.lane().eq(lane), || scratch.store(at(nth), dot));
                });
            });
            for (nth, sum) in (0u32..).zip(sums) {
                sum.set(scratch.load(at(k.constant(nth))));
            }
        });
    }

    /// Multiplies again those of a sum of each lane that are not finite. `place` gives the row and the token
    /// of the sum in a lane, and `give` gets the lane of a sum, its row and token, and what it is, in all lanes.
    pub(super) fn again(
        &self,
        sum: Val<'k, f32>,
        place: impl Fn(Val<'k, u32>) -> (Val<'k, u32>, Val<'k, u32>),
        give: impl Fn(Val<'k, u32>, (Val<'k, u32>, Val<'k, u32>), Val<'k, f32>),
    ) {
        let k = self.k;
        let spoilt = k.ballot(!is_finite(sum));
        k.for_each(0u32, 32u32, 1u32, |lane| {
            let (r, t) = place(lane);
            let is_spoilt = ((spoilt >> lane) & 1u32).ne(0);
            k.if_(is_spoilt & r.lt(self.product.0.rows) & t.lt(self.n), || {
                give(lane, (r, t), self.dot(r, t));
            });
        });
    }

    /// The product of a row and a token, in every lane of the warp.
    fn dot(&self, r: Val<'k, u32>, t: Val<'k, u32>) -> Val<'k, f32> {
        let (k, geometry) = (self.k, &self.product.0);
        let row = Row::new(k, *geometry, self.w, r);
        let x = self.x.offset(t * geometry.cols);
        let lane = Lane::new(k, geometry, k.lane(), geometry.lanes);
        let (ragged, in_row) = (geometry.ragged(), geometry.cols / 4);
        let sum = k.var(0f32);
        k.for_each(0u32, geometry.steps(), 1u32, |step| {
            let packet = row.load(&lane, step, ragged);
            let first = lane.unit + step * (geometry.step() / 4);
            for (i, (at, _)) in geometry.runs().iter().enumerate() {
                let run = row.run(&lane, &packet, i);
                for (unit, codes) in (0u32..).zip(&run.units) {
                    let u = first + (at + unit);
                    let values = match ragged {
                        false => x.load_vec4(u * 4),
                        // Past the row's end weights count as often as others, times zero.
                        true => {
                            let values = x.load_vec4(u.min(in_row - 1) * 4);
                            values.map(|v| k.select(u.lt(in_row), v, 0f32))
                        }
                    };
                    for (code, v) in codes.iter().zip(values) {
                        let scaled = run.scale.map_or(*code, |scale| *code * scale);
                        let weight = run.offset.map_or(scaled, |offset| scaled + offset);
                        sum.update(|sum| weight.fma(v, sum));
                    }
                }
            }
        });
        k.warp_sum(sum.get())
    }
}
