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

use crate::build::{Builder, Ptr, Shared, Val, Var};
use crate::kernels::WeightFormat;
use crate::kernels::weights::WeightShape;
use crate::kernels::weights::geometry::{Geometry, Lane};
use crate::kernels::weights::unpack::Row;

/// A product whose sums may have to be computed again.
pub(super) struct Recompute<'k> {
    k: &'k Builder,
    geometry: Geometry,
    w: Ptr<'k, u8>,
    x: Ptr<'k, f32>,
    n: Val<'k, u32>,
}

/// Columns of a product, as it is computed again.
pub(super) struct Operands<'k> {
    pub(super) w: Ptr<'k, u8>,
    pub(super) x: Ptr<'k, f32>,
    /// Tokens.
    pub(super) n: Val<'k, u32>,
}

impl<'k> Recompute<'k> {
    /// The product of a matrix.
    pub(super) fn new(k: &'k Builder, matrix: WeightShape, of: Operands<'k>) -> Recompute<'k> {
        let WeightShape { format, rows, cols } = matrix;
        let geometry = Geometry {
            format,
            rows,
            cols,
            lanes: 32,
            width: Geometry::widest(format, cols),
        };
        Recompute {
            k,
            geometry,
            w: of.w,
            x: of.x,
            n: of.n,
        }
    }

    /// Whether weights of this format are multiplied in numbers that do not hold them all.
    pub(super) fn may_mend(k: &Builder, format: WeightFormat) -> bool {
        format != WeightFormat::F32 || !k.target().has_ampere()
    }

    /// Replaces those of a lane's sums that are not finite. `place` gives the row and the token of the
    /// sum of a number in a lane. With a `scratch` of the block's, which nobody uses any more, sums wait
    /// there: they leave few registers.
    pub(super) fn mend(
        &self,
        sums: &[&Var<'k, f32>],
        scratch: Option<Shared<'k, f32>>,
        place: impl Fn(Val<'k, u32>, Val<'k, u32>) -> (Val<'k, u32>, Val<'k, u32>),
    ) {
        let k = self.k;
        if !Recompute::may_mend(k, self.geometry.format) {
            return;
        }
        let is_finite = |v: Val<'k, f32>| v.abs().lt(f32::INFINITY);
        // 2^-60: numbers do not overflow in such a sum.
        const SMALL: f32 = f32::from_bits((127 - 60) << 23);
        let zero = k.constant(0f32);
        let seen = (sums.iter()).fold(zero, |seen, sum| sum.get().fma(SMALL, seen));
        k.if_(k.ballot(!is_finite(seen)).ne(0), || {
            let waiting = Waiting { k, sums, scratch };
            waiting.begin();
            k.for_each(0u32, sums.len() as u32, 1u32, |nth| {
                let own = waiting.get(nth);
                let spoilt = k.ballot(!is_finite(own));
                let mended = k.var(own);
                k.for_each(0u32, 32u32, 1u32, |lane| {
                    let (r, t) = place(nth, lane);
                    let is_spoilt = ((spoilt >> lane) & 1u32).ne(0);
                    k.if_(is_spoilt & r.lt(self.geometry.rows) & t.lt(self.n), || {
                        let dot = self.dot(r, t);
                        mended.update(|own| k.select(k.lane().eq(lane), dot, own));
                    });
                });
                waiting.set(nth, mended.get());
            });
            waiting.end();
        });
    }

    /// The product of a row and a token, in every lane of the warp.
    fn dot(&self, r: Val<'k, u32>, t: Val<'k, u32>) -> Val<'k, f32> {
        let (k, geometry) = (self.k, &self.geometry);
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

/// A lane's sums while they are looked at one by one.
struct Waiting<'k, 's> {
    k: &'k Builder,
    sums: &'s [&'s Var<'k, f32>],
    scratch: Option<Shared<'k, f32>>,
}

impl<'k> Waiting<'k, '_> {
    /// Where a sum waits.
    fn at(&self, nth: Val<'k, u32>) -> Val<'k, u32> {
        nth * self.k.threads() + self.k.thread_x()
    }

    fn begin(&self) {
        if let Some(scratch) = self.scratch {
            for (nth, sum) in (0u32..).zip(self.sums) {
                scratch.store(self.at(self.k.constant(nth)), sum.get());
            }
        }
    }

    fn end(&self) {
        if let Some(scratch) = self.scratch {
            for (nth, sum) in (0u32..).zip(self.sums) {
                sum.set(scratch.load(self.at(self.k.constant(nth))));
            }
        }
    }

    fn get(&self, nth: Val<'k, u32>) -> Val<'k, f32> {
        if let Some(scratch) = self.scratch {
            return scratch.load(self.at(nth));
        }
        let others = self.sums[1..].iter().zip(1u32..);
        others.fold(self.sums[0].get(), |own, (sum, i)| {
            self.k.select(nth.eq(i), sum.get(), own)
        })
    }

    fn set(&self, nth: Val<'k, u32>, value: Val<'k, f32>) {
        if let Some(scratch) = self.scratch {
            return scratch.store(self.at(nth), value);
        }
        for (sum, i) in self.sums.iter().zip(0u32..) {
            sum.update(|sum| self.k.select(nth.eq(i), value, sum));
        }
    }
}
