//! The inner part of matrix-vector products: rows of weights times rows of activations.
//!
//! A warp holds `32 / lanes` slots of `lanes` lanes; a slot works on `rows_per_slot` rows at once.
//! Lanes take groups of 16, 8 or 4 bytes in turn (see [`crate::kernels::weights::unpack`]). Activations are staged in shared
//! memory a chunk of columns at a time, units of four columns swizzled so that lanes do not collide;
//! for formats with minima the sums of a run's columns lie behind them. The first packets of weights
//! are requested before the first chunk is staged, and from then on `depth` packets a row are in
//! flight.
//!
//! Every lane adds its products in the order of the columns, in f32 with one rounding an FMA, and
//! lanes are summed in a fixed tree. The order depends on format, columns, lanes a row and bytes a
//! group alone: not on the number of tokens, of rows a slot, or on how activations are staged.
//!
//! That is [`Arithmetic::F32`]. The others walk in the same way over the same packets;
//! [`super::dot_packed`] stages and multiplies for them.

use super::dot_packed::{self, Layout};
use super::variant::{Arithmetic, GemvVariant, Shape};
use crate::build::{Builder, Ptr, Shared, Val, Var};
use crate::kernels::WeightFormat;
use crate::kernels::weights::geometry::{Geometry, Lane};
use crate::kernels::weights::unpack::{Packet, Row};

/// Static shared memory to stage activations in, in f32.
const STAGE_FLOATS: u32 = 12 << 10;
/// Loads of activations in flight a thread.
pub(super) const STAGE_BATCH: u32 = 8;

/// How a product is spread over a block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Tiling {
    pub(super) geometry: Geometry,
    pub(super) arithmetic: Arithmetic,
    pub(super) warps: u32,
    /// Rows of one matrix that a slot works on at once.
    pub(super) rows_per_slot: u32,
    pub(super) tokens: u32,
    /// Packets a row in flight.
    pub(super) depth: u32,
    /// Steps whose activations are in shared memory at once.
    pub(super) chunk_steps: u32,
}

impl Tiling {
    /// The tiling of a product of some shape in a variant.
    pub(super) fn new(shape: &Shape, variant: GemvVariant) -> Tiling {
        let geometry = Geometry {
            format: shape.format,
            rows: shape.rows,
            cols: shape.cols,
            lanes: variant.lanes,
            width: variant.width,
        };
        Tiling::staged(geometry, &variant, shape.matrices, shape.tokens)
    }

    /// The tiling of a second product over the same rows, in another format.
    pub(super) fn beside(&self, format: WeightFormat) -> Tiling {
        let cols = self.geometry.cols;
        // Each the widest, or both as wide as was asked for.
        let width = match self.geometry.width == Geometry::widest(self.geometry.format, cols) {
            true => Geometry::widest(format, cols),
            false => self.geometry.width,
        };
        let geometry = Geometry {
            format,
            width,
            ..self.geometry
        };
        let variant = GemvVariant {
            arithmetic: self.arithmetic,
            lanes: geometry.lanes,
            width,
            warps: self.warps,
            rows_per_slot: self.rows_per_slot,
        };
        Tiling::staged(geometry, &variant, 1, self.tokens)
    }

    /// Completes a tiling with what fits registers and shared memory.
    fn staged(geometry: Geometry, variant: &GemvVariant, matrices: u32, tokens: u32) -> Tiling {
        let GemvVariant {
            arithmetic,
            warps,
            rows_per_slot,
            ..
        } = *variant;
        let in_flight = match geometry.format {
            WeightFormat::F32 | WeightFormat::F16 | WeightFormat::BF16 | WeightFormat::Q4_0 => 8,
            // Sums and activations take fewer registers.
            WeightFormat::Q8_0 | WeightFormat::Q4K if arithmetic != Arithmetic::F32 => 8,
            _ => 4,
        };
        let steps = geometry.steps();
        let mut tiling = Tiling {
            geometry,
            arithmetic,
            warps,
            rows_per_slot,
            tokens,
            depth: 1,
            chunk_steps: 1,
        };
        let chunk = match arithmetic {
            Arithmetic::F32 => {
                let run = 4 * geometry.run_units();
                let with_sum = run + u32::from(geometry.has_minima());
                STAGE_FLOATS * run / (with_sum * tokens) / geometry.step()
            }
            _ => STAGE_FLOATS / (tokens * Layout::new(&tiling).step_words()),
        };
        let depth = (in_flight / (rows_per_slot * matrices)).clamp(1, chunk.min(steps));
        tiling.depth = depth;
        tiling.chunk_steps = if steps <= chunk {
            steps
        } else {
            chunk / depth * depth
        };
        tiling
    }

    /// Threads of a block.
    pub(super) fn threads(&self) -> u32 {
        32 * self.warps
    }

    /// Keeps ptxas from spilling where it would, to fit more blocks on a multiprocessor: for the most part in
    /// products whose rows of activations are staged in more than two parts. Found by trial with ptxas 13.0, for
    /// sm_80 and sm_90a.
    pub(super) fn bound_registers(&self, k: &Builder) {
        use WeightFormat::{BF16, F16, Q4K, Q5K, Q6K};
        if self.arithmetic != Arithmetic::F32 {
            if self.spills_in_bounds() {
                return;
            }
            // 128 registers a thread, and twice as many for several tokens or small blocks.
            let most = if self.tokens == 1 { 16 } else { 8 };
            return k.min_blocks((most / self.warps).clamp(1, 4));
        }
        let parts = self.geometry.steps().div_ceil(self.chunk_steps);
        match (self.geometry.format, self.tokens, self.rows_per_slot) {
            (Q4K | Q5K, 2, 1) if self.warps == 4 && parts > 1 => return k.min_blocks(4),
            (_, 8, _) if self.geometry.width == 4 => return k.min_blocks(1),
            _ if parts <= 2 => return,
            _ => {}
        }
        match (self.geometry.format, self.tokens) {
            (F16 | BF16, 4) if self.rows_per_slot == 1 => k.min_blocks(2),
            (Q4K | Q5K | Q6K, 2) | (Q6K, 4) if self.rows_per_slot > 1 => k.min_blocks(1),
            _ => {}
        }
    }

    /// Whether ptxas spills a product of narrow activations in the bounds of registers that others
    /// are given, and does not when it is given none. By trial, as the bounds.
    fn spills_in_bounds(&self) -> bool {
        use WeightFormat::{Q4_0, Q4K, Q6K};
        let (format, lanes) = (self.geometry.format, self.geometry.lanes);
        let (steps, ragged) = (self.geometry.steps(), self.geometry.ragged());
        let long = steps > 2 * self.depth;
        match (self.arithmetic, self.tokens, self.rows_per_slot) {
            (_, 1, 4) => true,
            (Arithmetic::Dp4a, 1, 2) => long && format == Q4_0,
            (Arithmetic::Dp4a, 1, 1) if long && lanes == 16 => match format {
                Q4K => !ragged,
                Q6K => ragged,
                _ => false,
            },
            (Arithmetic::F16x2, 1, 1) => long && lanes == 16 && format == Q4K && self.warps == 12,
            (Arithmetic::F16x2, 8, 1) => steps.div_ceil(self.chunk_steps) == 2,
            _ => false,
        }
    }

    /// Rows of a matrix that a block computes.
    pub(super) fn rows_per_block(&self) -> u32 {
        self.warps * (32 / self.geometry.lanes) * self.rows_per_slot
    }

    fn chunk_cols(&self) -> u32 {
        self.chunk_steps * self.geometry.step()
    }

    /// Shared memory that the product needs, in f32.
    pub(super) fn shared_floats(&self) -> u32 {
        if self.arithmetic != Arithmetic::F32 {
            return self.tokens * self.chunk_steps * Layout::new(self).step_words();
        }
        let cols = self.chunk_cols();
        let sums = if self.geometry.has_minima() {
            cols / 4 / self.geometry.run_units()
        } else {
            0
        };
        self.tokens * (cols + sums)
    }
}

/// The products of a slot's rows: `[row][token]`, in the slot's first lane only.
pub(super) type Products<'k> = Vec<Vec<Val<'k, f32>>>;

/// Computes the products of rows with activations.
pub(super) struct Dot<'k> {
    pub(super) k: &'k Builder,
    pub(super) tiling: Tiling,
    /// `[n, cols]`.
    pub(super) x: Ptr<'k, f32>,
    /// Rows of `x` to take, `tiling.tokens` of them, all existing.
    pub(super) tokens: Vec<Val<'k, u32>>,
    /// At least `tiling.shared_floats()`.
    pub(super) stage: Shared<'k, f32>,
}

/// A packet that is on its way.
pub(super) struct InFlight<'k> {
    words: Vec<Var<'k, u32>>,
    halves: Vec<Var<'k, half::f16>>,
}

impl<'k> InFlight<'k> {
    fn new(k: &'k Builder, packet: &Packet<'k>) -> InFlight<'k> {
        InFlight {
            words: packet.words.iter().map(|w| k.var(*w)).collect(),
            halves: packet.halves.iter().map(|h| k.var(*h)).collect(),
        }
    }

    fn set(&self, packet: &Packet<'k>) {
        let words = self.words.iter().zip(&packet.words);
        words.for_each(|(var, w)| var.set(*w));
        let halves = self.halves.iter().zip(&packet.halves);
        halves.for_each(|(var, h)| var.set(*h));
    }

    pub(super) fn get(&self) -> Packet<'k> {
        Packet {
            words: self.words.iter().map(|v| v.get()).collect(),
            halves: self.halves.iter().map(|v| v.get()).collect(),
        }
    }
}

/// State of a product under way.
pub(super) struct Running<'k, 'a> {
    pub(super) dot: &'a Dot<'k>,
    pub(super) lane: Lane<'k>,
    rows: &'a [Row<'k>],
    /// By buffer, then row.
    pub(super) packets: Vec<Vec<InFlight<'k>>>,
    /// By row, then token.
    pub(super) sums: Vec<Vec<Var<'k, f32>>>,
    /// By the low three bits of a run's first unit, for those that occur: where unit `i` of the run
    /// lies in the stage in step 0, in f32, without the rest of the run's first unit. For
    /// activations in f32.
    units: Vec<Vec<Val<'k, u32>>>,
}

impl<'k> Dot<'k> {
    /// The products of `rows` with every token. Holds barriers; the stage is free afterwards once
    /// the block has met again.
    pub(super) fn products(&self, rows: &[Row<'k>]) -> Products<'k> {
        let Tiling {
            geometry,
            depth,
            chunk_steps,
            ..
        } = self.tiling;
        let k = self.k;
        let lane = Lane::new(k, &geometry, k.thread_x() % geometry.lanes, geometry.lanes);
        let steps = geometry.steps();
        let packets = (0..depth)
            .map(|step| {
                let clamp = geometry.ragged() && step + 1 == steps;
                let load = |row: &Row<'k>| row.load(&lane, k.constant(step), clamp);
                rows.iter()
                    .map(|row| InFlight::new(k, &load(row)))
                    .collect()
            })
            .collect();
        // Weights are nobody's output: they are on their way before the activations exist.
        k.wait_for_predecessor();
        let key = geometry.swizzle(k, lane.unit, geometry.step() / 4);
        let unit = |i: u32| (lane.unit + (key ^ i)) * 4;
        let units = |first: u32| (first..first + geometry.run_units()).map(unit).collect();
        let running = Running {
            dot: self,
            rows,
            packets,
            sums: (rows.iter())
                .map(|_| self.tokens.iter().map(|_| k.var(0f32)).collect())
                .collect(),
            units: low_firsts(&geometry).into_iter().map(units).collect(),
            lane,
        };
        let whole_chunks = (steps - 1) / chunk_steps;
        let rest = steps - whole_chunks * chunk_steps;
        // After the last whole chunk, buffer `j` fetches step `j` of the rest.
        let may_end = |j: u32| j >= rest || (geometry.ragged() && j + 1 == rest);
        k.for_each(0u32, whole_chunks, 1u32, |chunk| {
            let first = chunk * chunk_steps;
            self.stage(first, chunk_steps, 0);
            k.for_each(0u32, chunk_steps, depth, |step| {
                for j in 0..depth {
                    running.step(step + j, j);
                    running.fetch(first + step + (j + depth), j, may_end(j));
                }
            });
            k.barrier();
        });
        let first = whole_chunks * chunk_steps;
        let past = steps * geometry.step() - geometry.cols;
        self.stage(k.constant(first), rest, past / 4);
        running.finish(first, rest);
        let total = |sum: &Var<'k, f32>| sum_in_first_lane(k, sum.get(), geometry.lanes);
        let sums = running.sums.iter();
        sums.map(|row| row.iter().map(total).collect()).collect()
    }

    /// Copies the activations of `count` steps from step `first` on, of which the last `past` units
    /// lie past the row's end and become zeros. What a short chunk leaves of the stage may be
    /// overwritten.
    fn stage(&self, first: Val<'k, u32>, count: u32, past: u32) {
        if self.tiling.arithmetic != Arithmetic::F32 {
            return dot_packed::stage(self, first, count, past);
        }
        let Dot { k, tiling, .. } = self;
        let (geometry, threads) = (tiling.geometry, k.threads());
        let chunk = tiling.chunk_cols();
        let (units, in_row) = (count * (geometry.step() / 4), geometry.cols / 4);
        let exist = units - past;
        let first = first * (geometry.step() / 4);
        let batch = units.div_ceil(threads).min(STAGE_BATCH);
        let turns = units.div_ceil(threads * batch);
        for (token, row) in (0u32..).zip(&self.tokens) {
            let x = self.x.offset(*row * geometry.cols);
            let stage = self.stage.at(token * chunk);
            let run_units = geometry.run_units();
            let sums = tiling.tokens * chunk + token * (chunk / 4 / run_units);
            let sums = self.stage.at(sums);
            k.for_each(0u32, units, threads * batch, |base| {
                let load = |i: u32| {
                    let u = base + (k.thread_x() + i * threads);
                    // In every turn, all units of this load are below `end`.
                    let end = (turns - 1) * threads * batch + (i + 1) * threads;
                    let at = match end > exist {
                        false => first + u,
                        true => (first + u).min(in_row - 1),
                    };
                    (u, end, x.load_vec4(at * 4))
                };
                let loads: Vec<_> = (0..batch).map(load).collect();
                for (u, end, mut v) in loads {
                    if past > 0 && end > exist {
                        let inside = (first + u).lt(in_row);
                        v = v.map(|v| v.select(inside, 0f32));
                    }
                    let in_stage = (end > chunk / 4).then(|| u.lt(chunk / 4));
                    let store = || stage.store_vec((u ^ geometry.swizzle(k, u, end)) * 4, v);
                    match in_stage {
                        Some(in_stage) => k.if_(in_stage, store),
                        None => store(),
                    }
                    if geometry.has_minima() {
                        let [a, b, c, d] = v;
                        let sum = sum_in_first_lane(k, (a + b) + (c + d), run_units);
                        let has_sum = (u % run_units).eq(0);
                        let speaks = in_stage.map_or(has_sum, |in_stage| in_stage & has_sum);
                        k.if_(speaks, || sums.store(u / run_units, sum));
                    }
                }
            });
        }
        k.barrier();
    }
}

/// The low three bits of the first units of runs: what swizzling may change. One entry where all
/// runs agree.
fn low_firsts(geometry: &Geometry) -> Vec<u32> {
    let mut firsts: Vec<u32> = geometry.runs().iter().map(|(at, _)| at % 8).collect();
    firsts.dedup();
    firsts
}

/// The sum over every `lanes` neighbouring lanes, in the first of them: a tree of fixed order. What
/// the others receive is the sum of nothing in particular.
fn sum_in_first_lane<'k>(k: &'k Builder, mut value: Val<'k, f32>, lanes: u32) -> Val<'k, f32> {
    let mut distance = lanes / 2;
    while distance > 0 {
        value = value + k.shfl_down(value, distance);
        distance /= 2;
    }
    value
}

impl<'k> Running<'k, '_> {
    /// Runs the last `count` steps, from step `first`, whose activations are staged.
    fn finish(&self, first: u32, count: u32) {
        let (k, depth) = (self.dot.k, self.dot.tiling.depth);
        // Full rounds but the last fetch what exists; the rest is written out.
        let rounds = (count / depth).saturating_sub(1);
        let ragged = self.dot.tiling.geometry.ragged();
        let may_end = |j: u32| ragged && count.is_multiple_of(depth) && j + 1 == depth;
        k.for_each(0u32, rounds * depth, depth, |step| {
            for j in 0..depth {
                self.step(step + j, j);
                self.fetch(step + (first + j + depth), j, may_end(j));
            }
        });
        for step in rounds * depth..count {
            let buffer = step % depth;
            self.step(k.constant(step), buffer);
            if step + depth < count {
                let ends = ragged && step + depth + 1 == count;
                self.fetch(k.constant(first + step + depth), buffer, ends);
            }
        }
    }

    /// Requests the packets of `step`; `clamp` when it may reach past the row.
    fn fetch(&self, step: Val<'k, u32>, buffer: u32, clamp: bool) {
        for (row, packet) in self.rows.iter().zip(&self.packets[buffer as usize]) {
            packet.set(&row.load(&self.lane, step, clamp));
        }
    }

    /// Multiplies the packets in `buffer` with the activations of `step`, counted in the chunk.
    fn step(&self, step: Val<'k, u32>, buffer: u32) {
        if self.dot.tiling.arithmetic != Arithmetic::F32 {
            return dot_packed::step(self, step, buffer);
        }
        let tiling = &self.dot.tiling;
        let geometry = &tiling.geometry;
        let chunk = tiling.chunk_cols();
        let packets: Vec<Packet> = self.packets[buffer as usize]
            .iter()
            .map(InFlight::get)
            .collect();
        let column = step * geometry.step();
        let in_step = |units: &Vec<Val<'k, u32>>| units.iter().map(|u| *u + column).collect();
        let units: Vec<Vec<_>> = self.units.iter().map(in_step).collect();
        let run_units = geometry.run_units();
        for (r, (at, _)) in geometry.runs().iter().enumerate() {
            let units = &units[r.min(units.len() - 1)];
            let runs: Vec<_> = (self.rows.iter().zip(&packets))
                .map(|(row, packet)| row.run(&self.lane, packet, r))
                .collect();
            for token in 0..tiling.tokens {
                let stage = self.dot.stage.at(token * chunk + at / 8 * 32);
                let x: Vec<_> = units.iter().map(|u| stage.load_vec::<4>(*u)).collect();
                let sum = geometry.has_minima().then(|| {
                    let sums = tiling.tokens * chunk + token * (chunk / 4 / run_units);
                    let sums = self.dot.stage.at(sums);
                    let in_step = geometry.step() / 4 / run_units;
                    sums.load(self.lane.unit / run_units + step * in_step + at / run_units)
                });
                for (run, sums) in runs.iter().zip(&self.sums) {
                    let acc = &sums[token as usize];
                    let before = acc.get();
                    let start = match run.scale {
                        None => before,
                        Some(_) => run.units[0][0] * x[0][0],
                    };
                    let products = (run.units.iter().flatten().zip(x.iter().flatten()))
                        .skip(usize::from(run.scale.is_some()));
                    let dot = products.fold(start, |sum, (w, x)| w.fma(*x, sum));
                    let scaled = run.scale.map_or(dot, |scale| scale.fma(dot, before));
                    acc.set(match (run.offset, sum) {
                        (Some(offset), Some(sum)) => offset.fma(sum, scaled),
                        _ => scaled,
                    });
                }
            }
        }
    }
}
