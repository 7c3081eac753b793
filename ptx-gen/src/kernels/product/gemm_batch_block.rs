//! A block of a batch's product: its loop over the columns, and how sums become outputs.
//!
//! Weights of the next turn are requested as soon as those of this one have been used, so that
//! always a half of a turn is on its way; activations of the next half are requested, rounded and
//! stored between the products of this one. What follows the loop: warps that share rows add their
//! sums through shared memory, blocks that share a tile theirs through device memory.

use std::collections::VecDeque;

use super::GemmBatchSpec;
use super::epilogue::Outputs;
use super::gemm_batch::{THREADS, TILE_ROWS, WARPS};
use super::gemm_batch_stage::{Chunk, Stage};
use super::recompute::{Product, Recompute, SMALL, is_finite};
use crate::build::{Builder, Pred, Ptr, Shared, Val, Var};
use crate::kernels::split::{multiply, products};
use crate::kernels::weights::WeightShape;
use crate::kernels::weights::fragments::{Half, Held, Loaded, Matrix, half_columns};
use crate::op::{Order, Rmw, Scope};

/// 16-byte loads of partial sums that a thread has in flight.
const IN_FLIGHT: u32 = 16;
/// Products between the request of a piece of x and its use.
const X_LEAD: u32 = 2;

/// The bit of a tile's counter that says that sums of an arriving block are not finite. The bits below
/// count blocks, of which there are fewer.
const SPOILT: u32 = 1 << 16;

/// The sums of eight tokens, by their number.
type Numbered<'k> = (u32, [Val<'k, f32>; 4]);

/// Sums by 16 rows of the warp, eight tokens and fragment.
type Sums<'k> = Vec<Vec<[Var<'k, f32>; 4]>>;

/// Where the parts of the columns meet.
pub(super) struct Parts<'k> {
    pub(super) partials: Ptr<'k, f32>,
    pub(super) counters: Ptr<'k, u32>,
}

/// What the weights of a turn are loaded to: each half, and what the halves share, by row.
struct Turn<'k> {
    halves: [Vec<Held<'k>>; 2],
    common: Vec<Held<'k>>,
}

/// A block, as one lane sees it.
pub(super) struct Block<'k> {
    k: &'k Builder,
    spec: GemmBatchSpec,
    n: Val<'k, u32>,
    matrix: Matrix<'k>,
    stage: Stage<'k>,
    /// The warp's share of the columns.
    group: Val<'k, u32>,
    /// First of the 16 rows whose sums the warp has in the end.
    warp_row: Val<'k, u32>,
    /// First of the lane's; the other is 8 further on.
    row: Val<'k, u32>,
}

fn set<'k>(held: &[Held<'k>], loaded: &[Loaded<'k>]) {
    held.iter().zip(loaded).for_each(|(to, v)| to.set(v));
}

impl<'k> Block<'k> {
    pub(super) fn new(
        k: &'k Builder,
        spec: GemmBatchSpec,
        w: Ptr<'k, u8>,
        x: Ptr<'k, f32>,
        n: Val<'k, u32>,
    ) -> Block<'k> {
        let groups = spec.groups();
        let (rows, g) = (spec.rows, k.lane() / 4);
        let (group, among) = match groups {
            1 => (k.constant(0), k.warp()),
            _ => (k.warp() / (WARPS / groups), k.warp() % (WARPS / groups)),
        };
        let warp_row = k.block_x() * TILE_ROWS + among * (16 * groups);
        let first = warp_row + g;
        let own: Vec<Val<'k, u32>> = (0..2 * groups)
            .map(|i| match rows.is_multiple_of(TILE_ROWS) {
                true => first + 8 * i,
                false => (first + 8 * i).min(rows - 1),
            })
            .collect();
        let shape = WeightShape {
            format: spec.format,
            rows,
            cols: spec.cols,
        };
        Block {
            k,
            spec,
            n,
            matrix: Matrix::new(k, shape, w, &own),
            stage: Stage::new(k, spec, x, n, group),
            group,
            warp_row: warp_row + group * 16,
            row: first + group * 16,
        }
    }

    /// The warp's block of weights of a turn.
    fn block(&self, turn: Val<'k, u32>) -> Val<'k, u32> {
        let groups = self.spec.groups();
        let block = turn * groups + self.group;
        self.matrix.existing(block, self.spec.turns() * groups)
    }

    /// Computes everything.
    pub(super) fn run(&self, outputs: &Outputs<'k>, parts: Option<&Parts<'k>>) {
        let (k, spec) = (self.k, self.spec);
        let per_split = spec.turns_per_split();
        let first = k.block_z() * per_split;
        let last = match spec.turns() {
            turns if turns == per_split * spec.splits => first + (per_split - 1),
            turns => (first + per_split).min(turns) - 1u32,
        };
        let block = self.block(first);
        let hold = |loaded: Vec<Loaded<'k>>| -> Vec<Held<'k>> {
            loaded.iter().map(|l| Held::new(k, l)).collect()
        };
        // All of the first turn is requested before anything is waited for.
        let (a, b) = (
            self.matrix.load_half(block, 0),
            self.matrix.load_common(block),
        );
        let c = self.matrix.load_half(block, 1);
        let turn = Turn {
            halves: [hold(a), hold(c)],
            common: hold(b),
        };
        k.wait_for_predecessor();
        let chunk = Chunk {
            turn: first,
            half: 0,
        };
        let pieces = self.stage.pieces();
        let loaded: Vec<_> = (0..pieces).map(|p| self.stage.load(chunk, p)).collect();
        for (p, loaded) in (0..).zip(loaded) {
            self.stage.store(chunk, p, loaded);
        }
        k.barrier();
        let sums: Sums<'k> = (0..spec.groups())
            .map(|_| {
                (0..spec.tokens / 8)
                    .map(|_| std::array::from_fn(|_| k.var(0f32)))
                    .collect()
            })
            .collect();
        if per_split > 1 {
            k.for_each(first, last, 1u32, |now| self.turn(&sums, &turn, now, true));
        }
        self.turn(&sums, &turn, last, false);
        let sums = self.of_groups(&sums);
        match parts {
            None => self.whole(&sums, outputs),
            Some(parts) => self.meet(&sums, outputs, parts),
        }
    }

    /// Both halves of a turn, with the loads of the next one if there is one.
    fn turn(&self, sums: &Sums<'k>, turn: &Turn<'k>, now: Val<'k, u32>, more: bool) {
        let next = now + 1u32;
        let common = turn.common.iter().map(|c| self.matrix.kept(c.get()));
        let common: Vec<Loaded<'k>> = common.collect();
        for half in 0..2u32 {
            if more && half == 1 {
                set(&turn.common, &self.matrix.load_common(self.block(next)));
            }
            let fill = match (half, more) {
                (0, _) => Some(Chunk { turn: now, half: 1 }),
                (_, true) => Some(Chunk {
                    turn: next,
                    half: 0,
                }),
                _ => None,
            };
            let own: Vec<Loaded<'k>> = turn.halves[half as usize].iter().map(Held::get).collect();
            let rows: Vec<_> = (own.iter().zip(&common))
                .map(|(own, common)| Half { half, own, common })
                .collect();
            self.multiply(sums, &rows, fill, || {
                if more {
                    let next = self.matrix.load_half(self.block(next), half);
                    set(&turn.halves[half as usize], &next);
                }
            });
            self.k.barrier();
        }
    }

    /// The products of a half of some rows, and meanwhile the filling of the other buffer. `reload` runs when
    /// the weights have been used.
    fn multiply(
        &self,
        sums: &Sums<'k>,
        rows: &[Half<'k, '_>],
        fill: Option<Chunk<'k>>,
        reload: impl FnOnce(),
    ) {
        let half = rows[0].half;
        let runs: Vec<_> = rows.iter().map(|row| self.matrix.runs(row)).collect();
        let units = half_columns(self.spec.format) / 16;
        let terms = self.spec.format.terms();
        let pieces = if fill.is_some() {
            self.stage.pieces()
        } else {
            0
        };
        let when = |p: u32| p * units.saturating_sub(X_LEAD).max(1) / pieces;
        let mut in_flight = VecDeque::new();
        let mut requested = 0;
        for unit in 0..units {
            if let Some(chunk) = fill {
                while requested < pieces && when(requested) == unit {
                    in_flight.push_back((unit, requested, self.stage.load(chunk, requested)));
                    requested += 1;
                }
                while let Some((at, p, loaded)) = in_flight.front().copied()
                    && at + X_LEAD <= unit
                {
                    self.stage.store(chunk, p, loaded);
                    in_flight.pop_front();
                }
            }
            // By row, then by term.
            let words: Vec<Vec<[Val<'k, u32>; 2]>> = (rows.iter().zip(&runs))
                .map(|(row, runs)| self.matrix.unit(row, runs, unit))
                .collect();
            for tile in 0..self.spec.tokens / 8 {
                let b = self.stage.fragment(half, unit, tile);
                for (sums, rows) in sums.iter().zip(words.chunks_exact(2)) {
                    let sum = &sums[tile as usize];
                    for &(of_a, of_b) in products(terms) {
                        let [first, second] = [rows[0][of_a], rows[1][of_a]];
                        let a = [first[0], second[0], first[1], second[1]];
                        let now = std::array::from_fn(|e| sum[e].get());
                        let next = multiply(self.k, terms, a, b[of_b], now);
                        sum.iter().zip(next).for_each(|(sum, v)| sum.set(v));
                    }
                }
            }
        }
        reload();
        if let Some(chunk) = fill {
            for (_, p, loaded) in in_flight {
                self.stage.store(chunk, p, loaded);
            }
        }
    }

    /// Adds what the groups of warps have of each row; each warp receives 16 rows.
    fn of_groups(&self, sums: &Sums<'k>) -> Vec<[Val<'k, f32>; 4]> {
        let k = self.k;
        let get = |sum: &[Var<'k, f32>; 4]| std::array::from_fn(|e| sum[e].get());
        let [first, second] = &sums[..] else {
            return sums[0].iter().map(get).collect();
        };
        let is_first = self.group.eq(0u32);
        let memory = self.stage.memory().cast::<f32>();
        let mut kept = Vec::new();
        for (i, (a, b)) in (0u32..).zip(first.iter().zip(second)) {
            let (a, b): ([_; 4], [_; 4]) = (get(a), get(b));
            kept.push(std::array::from_fn(|e| k.select(is_first, a[e], b[e])));
            let given: [_; 4] = std::array::from_fn(|e| k.select(is_first, b[e], a[e]));
            memory.store_vec((k.thread_x() + i * THREADS) * 4, given);
        }
        k.barrier();
        let partner = k.thread_x() ^ (THREADS / 2);
        let add = |(i, kept): (u32, [Val<'k, f32>; 4])| {
            let given: [_; 4] = memory.load_vec((partner + i * THREADS) * 4);
            std::array::from_fn(|e| kept[e] + given[e])
        };
        (0u32..).zip(kept).map(add).collect()
    }

    /// Stores the sums, of which each is whole.
    fn whole(&self, sums: &[[Val<'k, f32>; 4]], outputs: &Outputs<'k>) {
        let k = self.k;
        let numbered: Vec<Numbered<'k>> = (0..).zip(sums.iter().copied()).collect();
        let all: Vec<Val<'k, f32>> = sums.iter().flatten().copied().collect();
        if !self.may_mend() {
            return self.finish(&numbered, outputs);
        }
        k.if_else(
            k.ballot(self.spoilt(&all)).eq(0),
            || self.finish(&numbered, outputs),
            || {
                self.mend(all.len() as u32, outputs, &|nth| {
                    let others = (1u32..).zip(&all[1..]);
                    others.fold(all[0], |own, (i, sum)| k.select(nth.eq(i), *sum, own))
                });
            },
        );
    }

    /// Whether one of the sums is not finite.
    fn spoilt(&self, sums: &[Val<'k, f32>]) -> Val<'k, Pred> {
        let zero = self.k.constant(0f32);
        !is_finite(sums.iter().fold(zero, |seen, sum| sum.fma(SMALL, seen)))
    }

    /// Leaves the sums for the block of the tile that is the last to arrive, which adds all of them.
    ///
    /// Whoever arrives says before whether its sums are finite: the last one need not look at each.
    fn meet(&self, sums: &[[Val<'k, f32>; 4]], outputs: &Outputs<'k>, parts: &Parts<'k>) {
        let (k, spec) = (self.k, self.spec);
        let tile = k.block_y() * spec.row_tiles() + k.block_x();
        let each = sums.len() as u32 * THREADS;
        let start = |split: Val<'k, u32>| (tile * spec.splits + split) * each + k.thread_x();
        let own = start(k.block_z());
        for (i, sum) in (0u32..).zip(sums) {
            parts.partials.store_vec((own + i * THREADS) * 4, *sum);
        }
        let arrived: Shared<'k, u32> = k.shared("arrived", 1);
        if self.may_mend() {
            let all: Vec<Val<'k, f32>> = sums.iter().flatten().copied().collect();
            k.if_(self.spoilt(&all), || {
                let order = Order::Relaxed(Scope::Gpu);
                parts.counters.atomic(Rmw::Or, tile, SPOILT, order);
            });
        }
        k.barrier();
        k.if_(k.thread_x().eq(0u32), || {
            let order = Order::AcqRel(Scope::Gpu);
            arrived.store(0u32, parts.counters.atomic(Rmw::Add, tile, 1u32, order));
        });
        k.barrier();
        let arrived = arrived.load(0u32);
        k.if_((arrived % SPOILT).eq(spec.splits - 1), || {
            k.if_(k.thread_x().eq(0u32), || parts.counters.store(tile, 0u32));
            let first = start(k.constant(0u32));
            let total = |i: u32| {
                let part = |s: u32| -> [Val<'k, f32>; 4] {
                    parts
                        .partials
                        .load_vec4((first + (s * each + i * THREADS)) * 4)
                };
                let parts: Vec<_> = (0..spec.splits).map(part).collect();
                let add = |a: [Val<'k, f32>; 4], b: [Val<'k, f32>; 4]| {
                    std::array::from_fn(|e| a[e] + b[e])
                };
                parts.into_iter().reduce(add).unwrap_or(sums[0])
            };
            // No load passes the stores before it: so many are in flight, and registers suffice.
            let tiles: Vec<u32> = (0..sums.len() as u32).collect();
            let finish = || {
                for round in tiles.chunks((IN_FLIGHT / spec.splits).max(1) as usize) {
                    let totals: Vec<_> = round.iter().map(|i| (*i, total(*i))).collect();
                    self.finish(&totals, outputs);
                }
            };
            if !self.may_mend() {
                return finish();
            }
            // Added again in the same order: nothing waits in registers for what hardly ever happens.
            let again = |nth: Val<'k, u32>| {
                let sum = k.var(0f32);
                k.for_each(0u32, spec.splits, 1u32, |s| {
                    let at = (first + (s * each + (nth / 4) * THREADS)) * 4 + nth % 4;
                    let part: Val<'k, f32> = parts.partials.load(at);
                    sum.update(|sum| k.select(s.eq(0u32), part, sum + part));
                });
                sum.get()
            };
            k.if_else(arrived.eq(spec.splits - 1), finish, || {
                self.mend(4 * sums.len() as u32, outputs, &again);
            });
        });
    }

    /// Whether sums may have to be computed again.
    fn may_mend(&self) -> bool {
        Recompute::may_mend(self.k, self.spec.format)
    }

    /// Stores the `count` sums of a lane, of which some are not finite and computed again first.
    fn mend(&self, count: u32, outputs: &Outputs<'k>, sum: &dyn Fn(Val<'k, u32>) -> Val<'k, f32>) {
        let (k, spec) = (self.k, self.spec);
        let place = |nth: Val<'k, u32>, lane: Val<'k, u32>| {
            let (tile, side, e) = (nth / 4, (nth / 2) % 2, nth % 2);
            let token = k.block_y() * spec.tokens + tile * 8 + (lane % 4) * 2 + e;
            (self.warp_row + lane / 4 + side * 8, token)
        };
        // Loaded again: the loop has no registers to keep them in.
        let again = Recompute {
            k,
            product: Product::new(spec.format, spec.rows, spec.cols),
            w: k.bind("w"),
            x: k.bind("x"),
            n: k.bind_value("n"),
        };
        let store = |(r, t): (Val<'k, u32>, Val<'k, u32>), sum| {
            outputs.store(r, t * spec.rows + r, sum);
        };
        k.for_each(0u32, count, 1u32, |nth| {
            let sum = sum(nth);
            let (r, t) = place(nth, k.lane());
            let exists = r.lt(spec.rows) & t.lt(again.n);
            k.if_(exists & is_finite(sum), || store((r, t), sum));
            again.again(
                sum,
                |lane| place(nth, lane),
                |lane, at, dot| {
                    k.if_(k.lane().eq(lane), || store(at, dot));
                },
            );
        });
    }

    /// Adds bias and residual and stores the outputs that exist.
    fn finish(&self, sums: &[Numbered<'k>], outputs: &Outputs<'k>) {
        let (k, rows) = (self.k, self.spec.rows);
        let token = k.block_y() * self.spec.tokens + (k.lane() % 4) * 2;
        // What differs between the last block and the others is compared in all.
        let exists = |r: Val<'k, u32>, then: &dyn Fn()| match rows.is_multiple_of(TILE_ROWS) {
            true => then(),
            false => k.if_(r.lt(rows), then),
        };
        for side in 0..2u32 {
            let r = self.row + 8 * side;
            exists(r, &|| {
                let bias = outputs.bias.map(|b| b.load(r));
                for &(i, sum) in sums {
                    for e in 0..2u32 {
                        let (t, sum) = (token + (8 * i + e), sum[(2 * side + e) as usize]);
                        let biased = bias.map_or(sum, |bias| sum + bias);
                        k.if_(t.lt(self.n), || {
                            outputs.store_biased(t * rows + r, biased);
                        });
                    }
                }
            });
        }
    }
}
