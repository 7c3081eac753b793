//! Products with activations that a block rounds while staging them: to f16 or to 8 bits.
//!
//! Neighbouring columns of a token share a scale. [`Arithmetic::F16x2`]: the columns of a run (4 to
//! 32, by format and width) that of the largest magnitude's exponent, a power of two, so that no column exceeds
//! 2 and nothing overflows however large the activations are; columns are then rounded to f16.
//! [`Arithmetic::Dp4a`]: 32 columns the largest magnitude over 127; columns are rounded to the
//! nearest integer, to even if there are two.
//!
//! Shared memory holds of each token the columns of a chunk and, behind all tokens' columns, an
//! entry for each run of columns that a lane multiplies at once: the scale and, where the format
//! wants it, the sum of the run's rounded activations times [`Meeting::sums`]. Both lie in the
//! order in which lanes read them: a lane's group in pieces of 16 bytes, and of a step first every
//! lane's first piece, then every lane's second one. So no two lanes collide.
//!
//! A run's product is summed as [`Arithmetic`] says and multiplied by the scale in f32; from
//! there on sums are f32, run by run in the order of the columns.

use super::dot::{Dot, InFlight, Running, STAGE_BATCH, Tiling};
use super::variant::Arithmetic;
use crate::build::{Builder, F16x2, Shared, Val};
use crate::kernels::WeightFormat;
use crate::kernels::weights::codes::{Codes, Meeting, PackedRun, runs};

/// Columns that share a scale of integers, in units of four.
const SCALE_UNITS: u32 = 8;
/// Products that are summed in f16.
const HALF_SUM: usize = 8;
/// `1.5 * 2^23`: the f32 of these bits plus an integer below `2^22` has that integer in its low bits.
const ROUND: u32 = 0x4B40_0000;
/// A magnitude that stands for all smaller ones, so that its inverse is finite.
const LEAST: f32 = f32::from_bits((127 - 100) << 23);

/// Where things lie in shared memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Layout {
    meeting: Meeting,
    format: WeightFormat,
    lanes: u32,
    /// Groups in 16 bytes of weights.
    parts: u32,
    /// Columns of a lane's group.
    group: u32,
    /// Runs of a group, and units of four columns of each.
    runs: u32,
    run_units: u32,
}

impl Layout {
    pub(super) fn new(tiling: &Tiling) -> Layout {
        let geometry = &tiling.geometry;
        let runs = geometry.runs();
        Layout {
            meeting: Meeting::new(geometry.format, tiling.arithmetic),
            format: geometry.format,
            lanes: geometry.lanes,
            parts: geometry.parts(),
            group: geometry.group(),
            runs: runs.len() as u32,
            run_units: runs[0].1,
        }
    }

    /// Words of a step's columns.
    fn column_words(&self) -> u32 {
        self.lanes * self.group * self.meeting.bytes / 4
    }

    /// Words of an entry.
    fn entry_words(&self) -> u32 {
        1 + u32::from(self.meeting.sums.is_some())
    }

    /// Words of a step of one token.
    pub(super) fn step_words(&self) -> u32 {
        self.column_words() + self.lanes * self.runs * self.entry_words()
    }

    /// Words of a unit of four columns.
    fn unit_words(&self) -> u32 {
        self.meeting.bytes
    }

    /// Words that a lane reads at once: 4, or all of a shorter run.
    fn piece_words(&self) -> u32 {
        (self.run_units * self.unit_words()).min(4)
    }

    /// Whose group unit `u` belongs to, counting groups through all steps, and as its how
    /// manieth unit.
    fn owner<'k>(&self, u: Val<'k, u32>) -> (Val<'k, u32>, Val<'k, u32>) {
        let (parts, each) = (self.parts, self.run_units);
        match self.format {
            WeightFormat::Q4_0 if parts > 1 => (
                (u / 8) * parts + (u / each) % parts,
                ((u / 4) % 2) * each + u % each,
            ),
            WeightFormat::Q4K | WeightFormat::Q5K => (
                (u / 16) * (2 * parts) + (u / each) % (2 * parts),
                ((u / 8) % 2) * each + u % each,
            ),
            WeightFormat::Q6K => (
                (u / 32) * (4 * parts) + ((u / 8) % 2) * (2 * parts) + (u / each) % (2 * parts),
                ((u / 16) % 2) * each + u % each,
            ),
            _ => (u / (self.group / 4), u % (self.group / 4)),
        }
    }

    /// First word of unit `own` of a group.
    fn unit<'k>(&self, group: Val<'k, u32>, own: Val<'k, u32>) -> Val<'k, u32> {
        let (step, lane) = (group / self.lanes, group % self.lanes);
        let each = self.piece_words() / self.unit_words();
        let piece = ((own / each) * self.lanes + lane) * self.piece_words();
        step * self.column_words() + piece + (own % each) * self.unit_words()
    }

    /// First word of the entry of a group's run.
    fn entry<'k>(&self, group: Val<'k, u32>, run: Val<'k, u32>) -> Val<'k, u32> {
        let (step, lane) = (group / self.lanes, group % self.lanes);
        (step * (self.lanes * self.runs) + run * self.lanes + lane) * self.entry_words()
    }
}

/// A token's columns and entries.
struct Staged<'k> {
    columns: Shared<'k, u32>,
    entries: Shared<'k, f32>,
}

impl<'k> Staged<'k> {
    fn new(dot: &Dot<'k>, layout: &Layout, token: u32) -> Staged<'k> {
        let tiling = &dot.tiling;
        let columns = tiling.chunk_steps * layout.column_words();
        let entries = tiling.chunk_steps * (layout.step_words() - layout.column_words());
        let stage = dot.stage.cast::<u32>();
        Staged {
            columns: stage.at(token * columns),
            entries: dot.stage.at(tiling.tokens * columns + token * entries),
        }
    }
}

/// Rounds and stages the activations of `count` steps from step `first` on, of which the last
/// `past` units lie past the row's end and become zeros. What a short chunk leaves of the stage
/// may be overwritten.
pub(super) fn stage<'k>(dot: &Dot<'k>, first: Val<'k, u32>, count: u32, past: u32) {
    let Dot { k, tiling, .. } = dot;
    let layout = Layout::new(tiling);
    let (geometry, threads) = (&tiling.geometry, k.threads());
    let step_units = geometry.step() / 4;
    let (units, room, in_row) = (
        count * step_units,
        tiling.chunk_steps * step_units,
        geometry.cols / 4,
    );
    let first = first * step_units;
    let batch = units.div_ceil(threads).min(STAGE_BATCH);
    let turns = units.div_ceil(threads * batch);
    for (token, row) in (0u32..).zip(&dot.tokens) {
        let x = dot.x.offset(*row * geometry.cols);
        let staged = Staged::new(dot, &layout, token);
        k.for_each(0u32, units, threads * batch, |base| {
            let load = |i: u32| {
                let u = base + (k.thread_x() + i * threads);
                // In every turn, all units of this load are below `end`.
                let end = (turns - 1) * threads * batch + (i + 1) * threads;
                let at = match end > units - past {
                    false => first + u,
                    true => (first + u).min(in_row - 1),
                };
                (u, end, x.load_vec4(at * 4))
            };
            let loads: Vec<_> = (0..batch).map(load).collect();
            for (u, end, mut v) in loads {
                if past > 0 && end > units - past {
                    let inside = (first + u).lt(in_row);
                    v = v.map(|v| v.select(inside, 0f32));
                }
                let rounded = Rounded::new(k, tiling.arithmetic, &layout, v);
                let store = || rounded.store(k, &layout, &staged, u);
                if end > room {
                    k.if_(u.lt(room), store);
                } else {
                    store();
                }
            }
        });
    }
    k.barrier();
}

/// Four columns, rounded.
struct Rounded<'k> {
    words: Vec<Val<'k, u32>>,
    scale: Val<'k, f32>,
    /// Sum over the run, in the run's first unit.
    sum: Option<Val<'k, f32>>,
}

impl<'k> Rounded<'k> {
    /// Every lane of the warp must run it: neighbouring lanes have neighbouring units.
    fn new(
        k: &'k Builder,
        arithmetic: Arithmetic,
        layout: &Layout,
        v: [Val<'k, f32>; 4],
    ) -> Rounded<'k> {
        let [a, b, c, d] = v;
        // Magnitudes compare like their bits, and NaN comes out on top.
        let magnitude = |v: Val<'k, f32>| v.abs().bitcast::<u32>();
        let largest = |a: Val<'k, u32>, b| a.max(b);
        let own = v.map(magnitude).into_iter().reduce(largest);
        let own = own.unwrap_or(k.constant(0));
        let units = match arithmetic {
            Arithmetic::Dp4a => SCALE_UNITS,
            _ => layout.run_units,
        };
        let most = k.lanes_reduce(own, units, largest);
        if arithmetic == Arithmetic::Dp4a {
            let most = most.max(LEAST.to_bits()).bitcast::<f32>();
            let inverse = most.rcp_exact() * 127.0;
            let code = |v: Val<'k, f32>| v.fma(inverse, f32::from_bits(ROUND)).bitcast::<u32>();
            // The low bytes of four words.
            let pair = |a: Val<'k, f32>, b| code(a).prmt(code(b), 0x0040u32);
            let word = pair(a, b).prmt(pair(c, d), 0x5410u32);
            let scale = most * (1.0 / 127.0);
            let sum = layout.meeting.sums.map(|factor| {
                let ones = k.constant(0x0101_0101u32);
                let sum = sum_in_first(k, k.dp4a(word, ones, 0), layout.run_units);
                sum.cast::<f32>() * scale * factor
            });
            return Rounded {
                words: vec![word],
                scale,
                sum,
            };
        }
        // Of zero and what is below 2^-126 the scale is zero.
        let exponent = most & 0x7F80_0000;
        let inverse = (k.constant(254u32 << 23) - exponent).bitcast::<f32>();
        let scale = exponent.bitcast::<f32>();
        let [a, b, c, d] = v.map(|v| v * inverse);
        let pairs = match layout.meeting.permuted {
            true => [k.pack_f16(a, c), k.pack_f16(b, d)],
            false => [k.pack_f16(a, b), k.pack_f16(c, d)],
        };
        let sum = layout.meeting.sums.map(|factor| {
            let [low, high] = pairs.map(halves_sum);
            sum_in_first(k, low + high, layout.run_units) * scale * factor
        });
        Rounded {
            words: pairs.map(|pair| pair.bitcast()).to_vec(),
            scale,
            sum,
        }
    }

    fn store(&self, k: &'k Builder, layout: &Layout, staged: &Staged<'k>, u: Val<'k, u32>) {
        let (group, own) = layout.owner(u);
        let at = layout.unit(group, own);
        match self.words[..] {
            [one] => staged.columns.store(at, one),
            [one, two] => staged.columns.store_vec(at, [one, two]),
            _ => {}
        }
        k.if_((own % layout.run_units).eq(0), || {
            let run = match layout.runs {
                1 => k.constant(0),
                _ => own / layout.run_units,
            };
            let at = layout.entry(group, run);
            match self.sum {
                Some(sum) => staged.entries.store_vec(at, [self.scale, sum]),
                None => staged.entries.store(at, self.scale),
            }
        });
    }
}

/// Both halves' sum, in f32.
fn halves_sum(pair: Val<'_, F16x2>) -> Val<'_, f32> {
    let [low, high] = pair.unpack();
    low.cast::<f32>() + high.cast::<f32>()
}

/// The sum over every `lanes` neighbouring lanes, in the first of them.
fn sum_in_first<'k, T>(k: &'k Builder, mut value: Val<'k, T>, lanes: u32) -> Val<'k, T>
where
    T: crate::build::Word + crate::build::Num,
{
    let mut distance = lanes / 2;
    while distance > 0 {
        value = value + k.shfl_down(value, distance);
        distance /= 2;
    }
    value
}

/// Multiplies the packets in `buffer` with the activations of `step`, counted in the chunk.
pub(super) fn step<'k>(running: &Running<'k, '_>, step: Val<'k, u32>, buffer: u32) {
    let (dot, lane) = (running.dot, &running.lane);
    let (k, tiling) = (dot.k, &dot.tiling);
    let layout = Layout::new(tiling);
    let packets = running.packets[buffer as usize].iter().map(InFlight::get);
    let rows: Vec<Vec<PackedRun>> = packets
        .map(|packet| runs(k, &tiling.geometry, tiling.arithmetic, lane, &packet))
        .collect();
    let index = k.thread_x() % layout.lanes;
    let (words, pieces) = (
        layout.run_units * layout.unit_words(),
        layout.run_units * layout.unit_words() / layout.piece_words(),
    );
    for run in 0..layout.runs {
        for token in 0..tiling.tokens {
            let staged = Staged::new(dot, &layout, token);
            let mut x = Vec::with_capacity(words as usize);
            for piece in 0..pieces {
                let at = index * layout.piece_words()
                    + step * layout.column_words()
                    + (run * pieces + piece) * layout.lanes * layout.piece_words();
                match layout.piece_words() {
                    4 => x.extend(staged.columns.load_vec::<4>(at)),
                    2 => x.extend(staged.columns.load_vec::<2>(at)),
                    _ => x.push(staged.columns.load(at)),
                }
            }
            let at = index * layout.entry_words()
                + step * (layout.lanes * layout.runs * layout.entry_words())
                + run * layout.lanes * layout.entry_words();
            let (scale, sum) = match layout.meeting.sums {
                None => (staged.entries.load(at), None),
                Some(_) => {
                    let [scale, sum] = staged.entries.load_vec(at);
                    (scale, Some(sum))
                }
            };
            for (runs, sums) in rows.iter().zip(&running.sums) {
                let run = &runs[run as usize];
                let product = product(k, &run.codes, &x);
                let acc = &sums[token as usize];
                let before = acc.get();
                acc.set(match (run.scale, sum) {
                    (None, _) => scale.fma(product, before),
                    (Some(d), Some(sum)) => {
                        let own = match layout.meeting.centred {
                            true => scale.fma(product, sum),
                            false => scale * product,
                        };
                        let scaled = d.fma(own, before);
                        run.offset.map_or(scaled, |offset| offset.fma(sum, scaled))
                    }
                    (Some(d), None) => d.fma(scale * product, before),
                });
            }
        }
    }
}

/// The product of a run's codes and its activations, without scales.
fn product<'k>(k: &'k Builder, codes: &Codes<'k>, x: &[Val<'k, u32>]) -> Val<'k, f32> {
    match codes {
        Codes::Bytes(codes) => {
            // Summed onto the bits of an f32, which then needs no conversion.
            let start = k.constant(ROUND as i32);
            let sum = codes
                .iter()
                .zip(x)
                .fold(start, |sum, (w, x)| k.dp4a(*w, *x, sum));
            sum.bitcast::<f32>() + -f32::from_bits(ROUND)
        }
        Codes::Halves(codes) => {
            let x: Vec<_> = x.iter().map(|x| x.bitcast::<F16x2>()).collect();
            let parts = codes.chunks(HALF_SUM).zip(x.chunks(HALF_SUM));
            let part = |(w, x): (&[Val<'k, F16x2>], &[Val<'k, F16x2>])| {
                let first = w[0] * x[0];
                let rest = w[1..].iter().zip(&x[1..]);
                halves_sum(rest.fold(first, |sum, (w, x)| w.fma(*x, sum)))
            };
            let sums: Vec<_> = parts.map(part).collect();
            sums[1..].iter().fold(sums[0], |sum, part| sum + *part)
        }
        Codes::Floats(weights) => {
            let x = x
                .iter()
                .flat_map(|x| x.unpack_f16())
                .map(|x| x.cast::<f32>());
            let mut products = weights.iter().zip(x);
            let zero = k.constant(0f32);
            let first = products.next().map_or(zero, |(w, x)| *w * x);
            products.fold(first, |sum, (w, x)| w.fma(x, sum))
        }
    }
}
