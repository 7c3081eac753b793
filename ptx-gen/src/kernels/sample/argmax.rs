//! Index of the largest element of each row; the lowest index on ties.
//!
//! | parameter | type | shape |
//! |---|---|---|
//! | logits | f32 | `[rows, vocab_size]` |
//! | out | u32 | `[rows]` |
//!
//! Grid `[rows, 1, 1]`. Reads `4 * rows * vocab_size` bytes. A row that holds NaN or plus infinity, or
//! nothing above minus infinity, gives [`NO_TOKEN`].

use super::row::{NO_TOKEN, Seen};
use crate::build::Val;
use crate::ir::{Kernel, Param};
use crate::target::Target;

/// An argmax over rows of `vocab_size` elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ArgmaxSpec {
    /// GPU to write for.
    pub target: Target,
    /// Elements of a row.
    pub vocab_size: u32,
}

/// Loads in flight a thread: one block reads a whole row, so latency is what it pays for.
const UNROLL: u32 = 4;

impl ArgmaxSpec {
    fn width(&self) -> u32 {
        if self.vocab_size.is_multiple_of(4) {
            4
        } else {
            1
        }
    }

    fn threads(&self) -> u32 {
        (self.vocab_size / self.width())
            .next_multiple_of(32)
            .clamp(32, 1024)
    }

    /// Blocks for `rows` rows.
    pub fn grid(&self, rows: u32) -> [u32; 3] {
        [rows, 1, 1]
    }

    /// Bytes moved for `rows` rows.
    pub fn bytes(&self, rows: u64) -> u64 {
        4 * rows * u64::from(self.vocab_size)
    }

    /// The parameters in launch order.
    pub fn params(&self) -> Vec<Param> {
        vec![Param::input::<f32>("logits"), Param::output::<u32>("out")]
    }

    /// The kernel, named after the size of a row.
    pub fn kernel(&self) -> Kernel {
        if self.width() == 4 {
            self.write::<4>()
        } else {
            self.write::<1>()
        }
    }

    fn write<const W: usize>(&self) -> Kernel {
        let ArgmaxSpec { target, vocab_size } = *self;
        let (width, threads) = (W as u32, self.threads());
        Kernel::new(format!("argmax_{vocab_size}"), target, |k| {
            k.doc(format!(
                "out[r] = index of the largest of logits[r, ..{vocab_size}], the lowest on ties; \
                 {NO_TOKEN:#x} where they are no numbers.\nGrid [rows, 1, 1]."
            ));
            k.block_size(threads);
            k.declare(self.params());
            let logits = k.bind::<f32>("logits").offset(k.block_x() * vocab_size);
            let out = k.bind::<u32>("out");
            let best = k.var(f32::NEG_INFINITY);
            let index = k.var(NO_TOKEN);
            let seen = Seen::new(k);
            // Indices grow within a thread, so a strict comparison keeps the lowest.
            let consider = |values: [Val<'_, f32>; W], at: Val<'_, u32>| {
                for (j, v) in values.into_iter().enumerate() {
                    seen.add(v);
                    let wins = v.gt(best.get());
                    index.set(k.select(wins, at + j as u32, index.get()));
                    best.set(k.select(wins, v, best.get()));
                }
            };
            let stride = threads * width;
            let whole = vocab_size / (stride * UNROLL) * (stride * UNROLL);
            let first = k.thread_x() * width;
            if whole > 0 {
                k.for_each(first, whole, stride * UNROLL, |i| {
                    let loaded: Vec<_> = (0..UNROLL)
                        .map(|u| (logits.load_vec::<W>(i + u * stride), i + u * stride))
                        .collect();
                    loaded
                        .into_iter()
                        .for_each(|(values, at)| consider(values, at));
                });
            }
            k.for_each(first + whole, vocab_size, stride, |i| {
                consider(logits.load_vec::<W>(i), i);
            });

            let (value, at) = seen.judge(best.get(), index.get());
            let (value, at) = k.warp_argmax(value, at);
            let warps = threads / 32;
            let values = k.shared::<f32>("values", warps);
            let indices = k.shared::<u32>("indices", warps);
            k.if_(k.lane().eq(0), || {
                values.store(k.warp(), value);
                indices.store(k.warp(), at);
            });
            k.barrier();
            k.if_(k.warp().eq(0), || {
                // Lanes without a warp take the last one's, which does not change the result.
                let lanes = warps.next_power_of_two();
                let from = k.lane().min(warps - 1);
                let (value, at) = (values.load(from), indices.load(from));
                let (_, at) = k.lanes_argmax(value, at, lanes);
                k.if_(k.lane().eq(0), || out.store(k.block_x(), at));
            });
        })
    }
}

pub(in crate::kernels) fn representative(target: Target) -> Vec<ArgmaxSpec> {
    [8192, 151_936, 331]
        .map(|vocab_size| ArgmaxSpec { target, vocab_size })
        .to_vec()
}
