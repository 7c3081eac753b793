//! Matrix times the tokens of a batch on tensor cores:
//! `out[t, r] = sum_c w[r, c] * x[t, c] (+ bias[r]) (+ residual[t, r])` for `t < n`.
//!
//! | parameter | type | shape |
//! |---|---|---|
//! | w | planes of the format, see [`super::WeightFormat`] | `[rows, cols]` |
//! | x | f32 | `[n, cols]` |
//! | out | f32; may be `residual` | `[n, rows]` |
//! | bias | f32, with `spec.bias` | `[rows]` |
//! | residual | f32, with `spec.residual` | `[n, rows]` |
//! | partials | f32, with `spec.splits > 1` | [`GemmBatchSpec::scratch_bytes`], any content |
//! | counters | u32, with `spec.splits > 1` | [`GemmBatchSpec::counters`], zero before and after |
//! | n | u32 | tokens, at least 1; `n * max(rows, cols)` below 2^32 |
//!
//! Grid `[ceil(rows / 128), ceil(n / tokens), splits]`. x is rounded to f16 (what exceeds f16
//! becomes its largest value), sums are f32. A weight is rounded to f16 once, from `code * scale`
//! or `code * scale + offset`, in which scale and offset have themselves been rounded to f16: that
//! is exact but for F32, BF16, Q6_K (`d * scale`) and Q4_K, Q5_K (`d * scale`, `-dmin * min`). A
//! result depends neither on `n` nor on the other tokens, nor on `tokens`.
//!
//! [`super::GemmSpec`] unpacks weights to shared memory, which pays where many tokens share them.
//! Here the bytes of the weights are what takes time. Each is read once, to the registers of the
//! lane that multiplies it; only the activations go through shared memory. A block owns 128 rows
//! and a part of the columns, and what it reads of x is then no more than what it reads of w. Of
//! its 8 warps, those that read narrow formats have 32 rows each, and two of them share rows and
//! divide columns: they read half as many fragments of x. Parts of the columns are added by the
//! block that is the last of a tile to finish, always in the same order.

use super::WeightFormat;
use super::gemm_batch_stage::{Chunk, Stage};
use super::gemm_batch_unpack::{Held, Loaded, Matrix, RUN_UNITS, half_columns};
use crate::build::{Builder, Ptr, Shared, Val, Var};
use crate::ir::Kernel;
use crate::op::{Order, Rmw, Scope};
use crate::target::Target;

/// A product of one shape with up to a number of tokens a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GemmBatchSpec {
    /// GPU to write for: sm_80 or later.
    pub target: Target,
    /// Format of the weights.
    pub format: WeightFormat,
    /// Output features.
    pub rows: u32,
    /// Input features, a multiple of 32.
    pub cols: u32,
    /// Tokens of a block: 8, 16, 32 or 64.
    pub tokens: u32,
    /// Parts into which the columns are divided among blocks; see [`GemmBatchSpec::splits_for`].
    pub splits: u32,
    /// Whether a bias is added.
    pub bias: bool,
    /// Whether a residual is added.
    pub residual: bool,
}

/// Threads of a block.
pub(super) const THREADS: u32 = 256;
const WARPS: u32 = THREADS / 32;
/// Rows of a block: 16 for each warp.
const TILE_ROWS: u32 = 16 * WARPS;
/// Parts of the columns at most: one thread adds them.
const MAX_SPLITS: u32 = 16;
/// 16-byte loads of partial sums that a thread has in flight.
const IN_FLIGHT: u32 = 16;
/// Products between the request of a piece of x and its use.
const X_LEAD: u32 = 2;

type Sums<'k> = Vec<Vec<[Var<'k, f32>; 4]>>;

impl GemmBatchSpec {
    /// Warps that share rows and divide columns. So many times 16 rows are a warp's.
    pub(super) fn groups(&self) -> u32 {
        match self.format {
            WeightFormat::Q4_0 | WeightFormat::Q8_0 | WeightFormat::Q4K => 2,
            _ => 1,
        }
    }

    /// Columns of a turn of a block's loop.
    pub(super) fn turn(&self) -> u32 {
        2 * half_columns(self.format) * self.groups()
    }

    fn turns(&self) -> u32 {
        self.cols.div_ceil(self.turn())
    }

    /// Turns of a block; the last part of the columns may have fewer.
    fn turns_per_split(&self) -> u32 {
        self.turns().div_ceil(self.splits)
    }

    /// The same product divided into as many parts as give about `blocks` blocks a tile of tokens.
    #[must_use]
    pub fn splits_for(mut self, blocks: u32) -> GemmBatchSpec {
        let wanted = blocks / self.row_tiles();
        let most = self.turns().clamp(1, MAX_SPLITS);
        self.splits = wanted.clamp(1, most);
        self.splits = self.turns().div_ceil(self.turns_per_split());
        self
    }

    fn row_tiles(&self) -> u32 {
        self.rows.div_ceil(TILE_ROWS)
    }

    /// Whether the kernel covers the shape.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        self.format.check(self.rows, self.cols)?;
        if !self.target.has_ampere() {
            return Err("products of a batch need tensor cores of sm_80 or later".to_owned());
        }
        if !self.cols.is_multiple_of(32) {
            return Err(format!(
                "a product over {} columns; tensor cores take multiples of 32",
                self.cols
            ));
        }
        if !matches!(self.tokens, 8 | 16 | 32 | 64) {
            return Err(format!(
                "{} tokens a block; 8, 16, 32 and 64 are supported",
                self.tokens
            ));
        }
        let fits = (1..=MAX_SPLITS).contains(&self.splits)
            && self.turns().div_ceil(self.turns_per_split()) == self.splits;
        if !fits {
            return Err(format!(
                "{} columns in {} parts; each must have some, and {MAX_SPLITS} are the most",
                self.cols, self.splits
            ));
        }
        Ok(())
    }

    /// Blocks for `tokens` tokens.
    pub fn grid(&self, tokens: u32) -> [u32; 3] {
        [self.row_tiles(), tokens.div_ceil(self.tokens), self.splits]
    }

    /// Bytes of partial sums for `tokens` tokens.
    pub fn scratch_bytes(&self, tokens: u32) -> usize {
        if self.splits == 1 {
            return 0;
        }
        let sums = self.grid(tokens).iter().product::<u32>() * TILE_ROWS * self.tokens;
        4 * sums as usize
    }

    /// Counters for `tokens` tokens: one a tile.
    pub fn counters(&self, tokens: u32) -> usize {
        let [x, y, z] = self.grid(tokens);
        if z == 1 { 0 } else { (x * y) as usize }
    }

    /// Bytes moved for `tokens` tokens, each operand counted once.
    pub fn bytes(&self, tokens: u64) -> u64 {
        let (rows, cols) = (u64::from(self.rows), u64::from(self.cols));
        let outputs = rows * tokens * (1 + u64::from(self.residual));
        let bias = if self.bias { rows } else { 0 };
        self.format.bytes(self.rows, self.cols) + 4 * (cols * tokens + outputs + bias)
    }

    /// Operations on `tokens` tokens.
    pub fn flops(&self, tokens: u64) -> u64 {
        2 * tokens * u64::from(self.rows) * u64::from(self.cols)
    }

    /// The kernel, named after all that its text depends on.
    pub fn kernel(&self) -> Kernel {
        let GemmBatchSpec { rows, cols, .. } = *self;
        let format = self.format.name();
        let mut name = format!(
            "gemm_batch_{format}_{rows}x{cols}_t{}_s{}",
            self.tokens, self.splits
        );
        let mut formula = "out[t, r] = sum_c w[r, c] * x[t, c]".to_owned();
        if self.bias {
            name += "_bias";
            formula += " + bias[r]";
        }
        if self.residual {
            name += "_add";
            formula += " + residual[t, r]";
        }
        Kernel::new(name, self.target, |k| {
            k.doc(format!(
                "{formula}, t < n; w is {format} [{rows}, {cols}].\n\
                 Grid [ceil({rows} / {TILE_ROWS}), ceil(n / {}), {}].",
                self.tokens, self.splits
            ));
            k.block_size(THREADS);
            // 64 tokens' sums do not leave registers for two.
            k.min_blocks(if self.tokens * self.groups() > 64 {
                1
            } else {
                2
            });
            let (w, x) = (k.input::<u8>("w"), k.input::<f32>("x"));
            let out = Outputs {
                out: k.output("out"),
                bias: self.bias.then(|| k.input::<f32>("bias").read_only()),
                residual: self.residual.then(|| k.input::<f32>("residual")),
            };
            let parts = (self.splits > 1).then(|| Parts {
                partials: k.in_out("partials"),
                counters: k.in_out("counters"),
            });
            let n = k.scalar::<u32>("n");
            Block::new(k, *self, w, x, n).run(out, parts.as_ref());
        })
    }
}

/// Where results go, and what is added to them.
struct Outputs<'k> {
    out: Ptr<'k, f32>,
    bias: Option<Ptr<'k, f32>>,
    residual: Option<Ptr<'k, f32>>,
}

/// Where the parts of the columns meet.
struct Parts<'k> {
    partials: Ptr<'k, f32>,
    counters: Ptr<'k, u32>,
}

/// What the weights of a turn are loaded to: each half, and what the halves share, by row.
struct Turn<'k> {
    halves: [Vec<Held<'k>>; 2],
    common: Vec<Held<'k>>,
}

struct Block<'k> {
    k: &'k Builder,
    spec: GemmBatchSpec,
    n: Val<'k, u32>,
    matrix: Matrix<'k>,
    stage: Stage<'k>,
    /// The warp's share of the columns.
    group: Val<'k, u32>,
    /// First row whose sums the lane has in the end; the other is 8 further on.
    row: Val<'k, u32>,
}

fn set<'k>(held: &[Held<'k>], loaded: &[Loaded<'k>]) {
    held.iter().zip(loaded).for_each(|(to, v)| to.set(v));
}

impl<'k> Block<'k> {
    fn new(
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
        let first = k.block_x() * TILE_ROWS + among * (16 * groups) + g;
        let own: Vec<Val<'k, u32>> = (0..2 * groups)
            .map(|i| match rows.is_multiple_of(TILE_ROWS) {
                true => first + 8 * i,
                false => (first + 8 * i).min(rows - 1),
            })
            .collect();
        Block {
            k,
            spec,
            n,
            matrix: Matrix::new(k, spec.format, (rows, spec.cols), w, &own),
            stage: Stage::new(k, spec, x, n, group),
            group,
            row: first + group * 16,
        }
    }

    /// The warp's block of weights of a turn.
    fn block(&self, turn: Val<'k, u32>) -> Val<'k, u32> {
        let groups = self.spec.groups();
        let block = turn * groups + self.group;
        self.matrix.existing(block, self.spec.turns() * groups)
    }

    fn run(&self, outputs: Outputs<'k>, parts: Option<&Parts<'k>>) {
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
            None => self.finish(&(0..).zip(sums).collect::<Vec<_>>(), &outputs),
            Some(parts) => self.meet(sums, &outputs, parts),
        }
    }

    /// Both halves of a turn, with the loads of the next one if there is one.
    fn turn(&self, sums: &Sums<'k>, turn: &Turn<'k>, now: Val<'k, u32>, more: bool) {
        let next = now + 1u32;
        for half in 0..2u32 {
            let fill = match (half, more) {
                (0, _) => Some(Chunk { turn: now, half: 1 }),
                (_, true) => Some(Chunk {
                    turn: next,
                    half: 0,
                }),
                _ => None,
            };
            let own: Vec<Loaded<'k>> = turn.halves[half as usize].iter().map(Held::get).collect();
            let common: Vec<Loaded<'k>> = turn.common.iter().map(Held::get).collect();
            self.multiply(sums, half, (&own, &common), fill, || {
                if more {
                    let block = self.block(next);
                    if half == 1 {
                        set(&turn.common, &self.matrix.load_common(block));
                    }
                    let to = &turn.halves[half as usize];
                    set(to, &self.matrix.load_half(block, half));
                }
            });
            self.k.barrier();
        }
    }

    /// The products of a half, and meanwhile the filling of the other buffer. `reload` runs when
    /// the weights have been used.
    fn multiply(
        &self,
        sums: &Sums<'k>,
        half: u32,
        (own, common): (&[Loaded<'k>], &[Loaded<'k>]),
        fill: Option<Chunk<'k>>,
        reload: impl FnOnce(),
    ) {
        let rows = || own.iter().zip(common);
        let mut runs = Vec::new();
        let units = half_columns(self.spec.format) / 16;
        let pieces = if fill.is_some() {
            self.stage.pieces()
        } else {
            0
        };
        let when = |p: u32| p * units.saturating_sub(X_LEAD).max(1) / pieces;
        let mut in_flight = std::collections::VecDeque::new();
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
            let place = (half, unit);
            if unit.is_multiple_of(RUN_UNITS) {
                let run = unit / RUN_UNITS;
                let of_row = |(o, c)| self.matrix.run((half, run), o, c);
                runs = rows().map(of_row).collect();
            }
            let words: Vec<[Val<'k, u32>; 2]> = rows()
                .zip(&runs)
                .map(|((o, c), r)| self.matrix.unit(place, o, c, r))
                .collect();
            for tile in 0..self.spec.tokens / 8 {
                let b = self.stage.fragment(half, unit, tile);
                for (sums, rows) in sums.iter().zip(words.chunks_exact(2)) {
                    let a = [rows[0][0], rows[1][0], rows[0][1], rows[1][1]];
                    let sum = &sums[tile as usize];
                    let next = self.k.mma_f16(a, b, std::array::from_fn(|e| sum[e].get()));
                    sum.iter().zip(next).for_each(|(sum, v)| sum.set(v));
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

    /// Leaves the sums for the block of the tile that is the last to arrive, which adds all of them.
    fn meet(&self, sums: Vec<[Val<'k, f32>; 4]>, outputs: &Outputs<'k>, parts: &Parts<'k>) {
        let (k, spec) = (self.k, self.spec);
        let tile = k.block_y() * spec.row_tiles() + k.block_x();
        let each = sums.len() as u32 * THREADS;
        let start = |split: Val<'k, u32>| (tile * spec.splits + split) * each + k.thread_x();
        let own = start(k.block_z());
        for (i, sum) in (0u32..).zip(&sums) {
            parts.partials.store_vec((own + i * THREADS) * 4, *sum);
        }
        let arrived: Shared<'k, u32> = k.shared("arrived", 1);
        k.barrier();
        k.if_(k.thread_x().eq(0u32), || {
            let order = Order::AcqRel(Scope::Gpu);
            arrived.store(0u32, parts.counters.atomic(Rmw::Add, tile, 1u32, order));
        });
        k.barrier();
        k.if_(arrived.load(0u32).eq(spec.splits - 1), || {
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
            for round in tiles.chunks((IN_FLIGHT / spec.splits).max(1) as usize) {
                let totals: Vec<_> = round.iter().map(|i| (*i, total(*i))).collect();
                self.finish(&totals, outputs);
            }
        });
    }

    /// Adds bias and residual and stores the outputs that exist.
    /// The sums come with the number of their eight tokens.
    fn finish(&self, sums: &[(u32, [Val<'k, f32>; 4])], outputs: &Outputs<'k>) {
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
                        let t = token + (8 * i + e);
                        k.if_(t.lt(self.n), || {
                            let mut v = sum[(2 * side + e) as usize];
                            let at = t * rows + r;
                            if let Some(bias) = bias {
                                v = v + bias;
                            }
                            if let Some(residual) = outputs.residual {
                                v = v + residual.load(at);
                            }
                            outputs.out.store(at, v);
                        });
                    }
                }
            });
        }
    }
}

pub(super) fn representative(target: Target) -> Vec<GemmBatchSpec> {
    let spec = |format, rows, cols, tokens| {
        GemmBatchSpec {
            target,
            format,
            rows,
            cols,
            tokens,
            splits: 1,
            bias: false,
            residual: false,
        }
        .splits_for(264)
    };
    let mut specs: Vec<GemmBatchSpec> = WeightFormat::ALL
        .map(|format| spec(format, 4096, 4096, 32))
        .to_vec();
    specs.extend([8, 16, 64].map(|tokens| spec(WeightFormat::Q4K, 4096, 14336, tokens)));
    specs.push(spec(WeightFormat::Q6K, 1536, 8960, 64));
    specs.push(GemmBatchSpec {
        bias: true,
        residual: true,
        ..spec(WeightFormat::Q4K, 1000, 1280, 32)
    });
    specs.retain(|spec| spec.check().is_ok());
    specs
}
